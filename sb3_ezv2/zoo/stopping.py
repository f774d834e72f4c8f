"""What ends a run from outside: Ctrl-C, SIGTERM, SIGHUP and, on Windows, Ctrl-Break.

While the run learns, the first signal lets the present step come to its end, so that no step and no update is cut in
two. If that takes long, or at a second signal, the run is interrupted where it stands. While files are saved, signals
wait until the files stand.
"""

import _thread
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
PATIENCE = 5.0
"""Seconds that a step may take to come to its end."""
AGAIN = 2.0
"""Seconds between further attempts: an exception that is raised inside a destructor goes no further."""


class Stopped(KeyboardInterrupt):
    """A signal ends the command.

    :param number: of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stopper:
    """Receives signals inside ``with``; those that the process ignores, as under ``nohup``, stay ignored.

    Outside :meth:`learning` and :meth:`saving`, a signal raises :class:`Stopped`. After one has ended the run, further
    ones change nothing until the process is over.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the first signal."""
        self._may_end_step = self._must_wait = False
        self._over = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stopper":
        if threading.current_thread() is threading.main_thread():  # only there signals can be received
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for number, handler in self._before.items():
            # An ignored signal stays so while Python shuts down; a handler of Python's would not.
            signal.signal(number, handler if self.received is None else signal.SIG_IGN)
        self._before.clear()

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Inside, the first signal sets :attr:`received`, and interrupts only what does not end by itself.

        From its end on, when there is something to save, signals are noted and nothing else.
        """
        self._may_end_step = True
        try:
            yield
        finally:
            self._must_wait = True
            self._may_end_step = False
            self._over.set()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Inside, signals are noted and nothing else."""
        self._must_wait = True
        self._over.set()
        try:
            yield
        finally:
            self._must_wait = self.received is not None

    def _receive(self, number: int, frame: object) -> None:
        is_first = self.received is None
        if is_first:
            self.received = number
        if self._must_wait:
            _say("the command ends when the files stand")
        elif is_first and self._may_end_step:
            _say(f"{signal.Signals(number).name}: the run is saved after this step")
            self._over.clear()
            threading.Thread(target=self._insist, args=(number,), daemon=True).start()
        else:
            raise Stopped(self.received or number)

    def _insist(self, number: int) -> None:
        """Send the signal again until the step is over."""
        seconds = PATIENCE
        while not self._over.wait(seconds):
            seconds = AGAIN
            if hasattr(signal, "pthread_kill"):  # also ends a system call that waits
                signal.pthread_kill(threading.main_thread().ident or 0, number)
            else:
                _thread.interrupt_main()


class StopAfterStep(BaseCallback):
    """Ends learning after the step in which a signal came.

    :param stopper: that receives signals
    """

    def __init__(self, stopper: Stopper) -> None:
        super().__init__()
        self.stopper = stopper

    def _on_step(self) -> bool:
        return self.stopper.received is None


@contextmanager
def workers_without_ctrl_c() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C, which a terminal sends to them as well: the run stops them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether an error is, or comes from, Ctrl-C: inside a compiled function that surfaces as ``SystemError``."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _say(text: str) -> None:
    """Write a line to the standard error stream, as a signal handler may: ``print`` could have been interrupted."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:
        pass  # the terminal is gone
