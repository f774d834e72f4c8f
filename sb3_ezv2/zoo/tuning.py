"""What several processes need to tune together: trials of killed workers are tried again."""

import inspect
import json
import os
import socket
import warnings
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from optuna.trial import TrialState

from sb3_ezv2.common.processes import is_alive

HEARTBEAT_SECONDS = 20
"""Between two signs of life that a worker leaves in a database."""
WORKER = "worker"
"""Name under which a trial stores who runs it."""


def open_storage(storage: str) -> BaseStorage:
    """Optuna's storage: a journal for a file that ends in ``.log``, otherwise the address of a database.

    A line that a killed worker left unfinished at the end of a journal is removed, before the next line joins it.

    :raises ValueError: if it cannot be opened, or a journal is damaged
    """
    if not storage.endswith(".log"):
        try:
            return optuna.storages.get_storage(_database(storage))
        except Exception as error:  # of the database's library
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise ValueError(f"--storage {storage} cannot be opened: {reason}") from error
    path = Path(storage)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Windows lets nobody but administrators make the links of the other lock.
    lock = JournalFileOpenLock(storage) if os.name == "nt" else JournalFileSymlinkLock(storage)
    if path.exists():
        lock.acquire()
        try:
            check_journal(path)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(storage, lock_obj=lock))


def _database(address: str) -> RDBStorage | str:
    """A database in which workers give signs of life; what is no database as it is.

    So trials come back whose worker was on another machine: when the next trial starts after three intervals.
    """
    if "://" not in address or address.startswith(("redis", "grpc")):
        return address
    names = inspect.signature(RDBStorage.__init__).parameters  # another name since Optuna 5
    callback = (
        "heartbeat_stale_trial_callback" if "heartbeat_stale_trial_callback" in names else "failed_trial_callback"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return RDBStorage(
            address,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=3 * HEARTBEAT_SECONDS,
            **{callback: queue_again},
        )


def queue_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue the parameters of a trial that was left behind for the next free worker."""
    study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def check_journal(path: Path) -> None:
    """Remove the unfinished line at the end of a journal, and refuse one that is damaged elsewhere.

    :param path: of the journal, which nobody else may write now
    :raises ValueError: naming the file, the line and the remedy
    """
    if not path.is_file():
        raise ValueError(f"--storage {path} is not a file")
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            os.truncate(path, path.stat().st_size - len(line))
            print(f"{path}: the last line was cut short when a worker was killed, and is removed")
            return
        try:
            is_entry = isinstance(json.loads(line), dict)
        except ValueError:
            is_entry = False
        if not is_entry:
            raise ValueError(
                f"{path} is damaged in line {number}, most likely because a worker was killed while it wrote. Stop all "
                f"workers, keep a copy of the file, and {remedy(line, number)}"
            )


def remedy(line: bytes, number: int) -> str:
    """What to do about a damaged line: often the entry that was written after an unfinished one is whole."""
    start = line.find(b'{"op_code"', 1)
    try:
        if start > 0 and isinstance(json.loads(line[start:]), dict):
            return (
                f"remove the first {start} bytes of that line, which are an unfinished entry; the rest of it is whole"
            )
    except ValueError:
        pass
    return f"keep what stands before it: head -n {number - 1}"


def claim(trial: optuna.Trial) -> None:
    """Note in a trial which process runs it."""
    trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")


def is_dead(worker: str) -> bool:
    """Whether a worker was a process of this machine and runs no longer.

    Nothing is known about other machines; their workers count as alive.
    """
    host, _, process = worker.rpartition(":")
    if host != socket.gethostname():
        return False
    return not is_alive(int(process))


def rescue_trials(study: optuna.Study) -> list[int]:
    """End the trials that a killed worker left running, and queue their parameters for the next free worker.

    :param study: to be looked through
    :return: numbers of the rescued trials
    """
    rescued = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if is_dead(trial.user_attrs.get(WORKER, ":")):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):
                continue  # another worker was faster
            queue_again(study, trial)
            rescued.append(trial.number)
    return rescued
