"""Callbacks that keep what cannot be collected again."""

import os
import uuid

from stable_baselines3.common.callbacks import BaseCallback

from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.journal import JournalWriter, check_synchronous


class TransitionJournal(BaseCallback):
    """Writes every step to an SQLite database, which ``replay_buffer.add_journal(path)`` reads back.

    A step whose callback has returned survives whatever ends the process, ``kill -9`` included. Observations are those
    of the replay buffer, hence those before ``VecNormalize``; a frame of a stack is written once. A journal that is
    there already is continued. One process at a time writes to a journal; any number may read it meanwhile.

    :param path: of the database; folders that are missing are made
    :param synchronous: SQLite's setting: ``"NORMAL"`` keeps every step when the process dies, but a power loss may cost
        the newest ones; ``"FULL"`` waits for the disk at every step and keeps them then too
    :param verbose: 1 says where the journal is
    :raises ValueError: when training begins, if the algorithm has no ``TrajectoryReplayBuffer``, or ``path`` holds
        something else or a journal of other spaces
    :raises OSError: if the journal cannot be written
    """

    def __init__(self, path: str | os.PathLike, synchronous: str = "NORMAL", verbose: int = 0) -> None:
        super().__init__(verbose)
        check_synchronous(synchronous)
        self.path = os.fspath(path)
        self.synchronous = synchronous
        self._writer: JournalWriter | None = None

    def _on_training_start(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if not isinstance(buffer, TrajectoryReplayBuffer):
            raise ValueError(
                f"TransitionJournal writes what a TrajectoryReplayBuffer stores, {type(self.model).__name__} has "
                f"{type(buffer).__name__}; use it with EfficientZeroV2"
            )
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        if self._writer is None or self._writer.buffer is not buffer:
            self._on_training_end()
            self._writer = JournalWriter(self.path, buffer, self.synchronous)
        self._writer.begin(getattr(self.model, "run_id", None) or uuid.uuid4().hex)
        if self.verbose > 0:
            print(f"Journal of every step: {self.path}")

    def _on_step(self) -> bool:
        assert self._writer is not None
        self._writer.write(self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        if self._writer is not None:
            self._writer.end()
