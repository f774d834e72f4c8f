"""What several processes need to tune together: trials of killed workers are tried again."""

import os
import socket
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

WORKER = "worker"
"""Name under which a trial stores who runs it."""


def open_storage(storage: str) -> str | BaseStorage:
    """Optuna's storage: a journal for a file that ends in ``.log``, otherwise the address of a database."""
    if not storage.endswith(".log"):
        return storage
    Path(storage).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(storage))


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
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


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
            study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})
            rescued.append(trial.number)
    return rescued
