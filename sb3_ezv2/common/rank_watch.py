"""Which rank keeps the others waiting, and what it is doing."""

import atexit
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PATIENCE = 5.0
"""Seconds that a rank waits before it ends because of an error that another one reports: torchrun ends all ranks as
soon as one of them has ended, and the report must come first."""
MOST_SECONDS = 5.0
"""Between two signs of life at most."""
BEATS = 4
"""Signs of life within the time that ranks wait for one another, at least."""


class RankError(RuntimeError):
    """Another rank is gone, or does not answer."""


class Store(Protocol):
    """What all ranks reach: a ``torch.distributed.Store``."""

    def set(self, key: str, value: str, /) -> None:
        """Write a value."""

    def get(self, key: str, /) -> bytes:
        """Read a value."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a number and return it."""

    def check(self, keys: list[str], /) -> bool:
        """Whether all of them have been written."""


class Watch:
    """Tells the other ranks what this one is doing, and reads what they say.

    A thread writes it every few seconds to the store where the ranks met, so that nothing waits for it.

    :param rank: of this process
    :param size: number of ranks
    """

    store: Store | None = None

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._doing = ("starting", time.time())
        self._is_waiting = False
        self._timeout = MOST_SECONDS
        self._ended = threading.Event()

    def enter(self, doing: str) -> None:
        """Note what this rank does from now on."""
        self._doing = (doing, time.time())

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While this rank waits for the others."""
        self._is_waiting = True
        yield
        self._is_waiting = False

    def begin(self, store: Store, timeout: float) -> None:
        """Begin to tell, until this process ends.

        A thread inside PyTorch while the interpreter shuts down would abort the process, so the end waits for it.

        :param store: that all ranks reach
        :param timeout: seconds that ranks wait for one another
        """
        self.store, self._timeout = store, timeout
        thread = threading.Thread(target=self._tell, args=(store,), daemon=True)
        thread.start()
        atexit.register(self._end, thread)

    def _end(self, thread: threading.Thread) -> None:
        self._ended.set()
        thread.join(MOST_SECONDS)

    @property
    def _interval(self) -> float:
        return min(MOST_SECONDS, self._timeout / BEATS)

    def _tell(self, store: Store) -> None:
        while not self._ended.is_set():
            doing, since = self._doing
            try:
                store.set(f"doing/{self.rank}", json.dumps([time.time(), doing, since, self._is_waiting]))
            except RuntimeError:
                return  # the store is gone, and the run with it
            self._ended.wait(self._interval)

    def explained(self, error: RuntimeError) -> RankError:
        """An error of ``torch.distributed`` with the rank that it comes from, where that can be told.

        :param error: that ended a wait
        """
        if not ("timed out" in str(error).lower() or "timeout" in str(error).lower()):
            time.sleep(PATIENCE)  # torchrun, which knows more, ends this rank meanwhile
            return RankError(f"rank {self.rank}: another rank has ended or cannot be reached any more")
        if self.store is not None and self.store.add("reported", 1) > 1:
            time.sleep(PATIENCE)  # another rank says the same
        late = self._late()
        who = "; ".join(late) or "all ranks wait, but not for the same thing"
        return RankError(f"rank {self.rank} has waited for {self._timeout:g} seconds: {who}")

    def _late(self) -> list[str]:
        """What is known of the ranks that do not wait."""
        found = []
        for rank in range(self.size):
            if rank == self.rank:
                continue
            told = self._read(rank)
            if told is None:
                found.append(f"rank {rank} has never been heard of")
                continue
            heard, doing, since, is_waiting = told
            silent = time.time() - heard > 3 * self._interval
            if silent or not is_waiting:
                last = f", last heard of {time.time() - heard:.0f} s ago" if silent else ""
                found.append(f"rank {rank} has been {doing} for {heard - since:.0f} s{last}")
        return found

    def _read(self, rank: int) -> tuple[float, str, float, bool] | None:
        key = f"doing/{rank}"
        try:
            if self.store is None or not self.store.check([key]):
                return None
            heard, doing, since, is_waiting = json.loads(self.store.get(key))
        except (RuntimeError, ValueError):
            return None
        return heard, doing, since, is_waiting
