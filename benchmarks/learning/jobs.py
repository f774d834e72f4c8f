"""Several runs side by side, each a process of its own with one thread, which can be stopped and continued together.

Every process that has started runs keeps a file with the numbers of its own process and of the runs' in
:data:`PROCESSES`; :func:`pause` stops whatever is in these files with ``SIGSTOP``, :func:`resume` continues it with
``SIGCONT``. A number counts only with the time at which its process began, so one that the system has given to another
process is left alone. Linux and other systems with ``/proc``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.records import write_text

ROOT = Path(__file__).parents[2]
PROCESSES = Path(tempfile.gettempdir()) / f"ezv2-suite-{os.getuid()}"
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")}
POLL_SECONDS = 0.2


def began(pid: int) -> str:
    """When a process began, in the system's ticks; empty if there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]


class Processes:
    """The file that names this process and its runs while they last.

    :param folder: of the file
    """

    def __init__(self, folder: Path = PROCESSES) -> None:
        self.path = folder / f"{os.getpid()}.json"
        self.running: list[tuple[int, str]] = [(os.getpid(), began(os.getpid()))]

    def add(self, pid: int) -> None:
        """Name a run."""
        self.running.append((pid, began(pid)))
        self._write()

    def remove(self, pid: int) -> None:
        """A run has ended."""
        self.running = [each for each in self.running if each[0] != pid]
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(self.running))

    def close(self) -> None:
        """Nothing runs any more."""
        self.path.unlink(missing_ok=True)


def named_processes(folder: Path = PROCESSES) -> list[list[int]]:
    """Living processes of every file, the one that starts runs first; files of which none lives are removed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        alive = [pid for pid, start in json.loads(path.read_text()) if start and began(pid) == start]
        if alive:
            found.append(alive)
        else:
            path.unlink(missing_ok=True)
    return found


def _send(sign: signal.Signals, pids: Sequence[int]) -> int:
    n_reached = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
            n_reached += 1
    return n_reached


def pause(folder: Path = PROCESSES) -> int:
    """Stop all processes, first those that would start further runs; how many there are."""
    return sum(_send(signal.SIGSTOP, pids) for pids in named_processes(folder))


def resume(folder: Path = PROCESSES) -> int:
    """Continue all processes; how many there are."""
    return sum(_send(signal.SIGCONT, pids[::-1]) for pids in named_processes(folder))


def environment() -> dict[str, str]:
    """Of a run: one thread, and this repository on the path."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": path}


def run_all(
    commands: Mapping[Path, Sequence[str]], n_jobs: int, folder: Path = PROCESSES
) -> Iterator[tuple[Path, int]]:
    """Run modules of Python side by side; what one prints goes to its file.

    :param commands: arguments of the interpreter, by the file for what is printed
    :param n_jobs: processes at a time
    :param folder: see :data:`PROCESSES`
    :return: file and exit code of every process when it ends
    """
    waiting = list(commands.items())
    running: dict[Path, subprocess.Popen[bytes]] = {}
    processes = Processes(folder)
    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                log, command = waiting.pop(0)
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("wb") as output:
                    running[log] = subprocess.Popen(
                        [sys.executable, *command], stdout=output, stderr=subprocess.STDOUT, env=environment()
                    )
                processes.add(running[log].pid)
            ended = [(log, process) for log, process in running.items() if process.poll() is not None]
            for log, process in ended:
                del running[log]
                processes.remove(process.pid)
                yield log, process.returncode
            if not ended:
                time.sleep(POLL_SECONDS)
    finally:
        for process in running.values():
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a stopped process ends only when it goes on
        for process in running.values():
            process.wait()
        processes.close()
