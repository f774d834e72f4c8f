"""Reads a journal, whole or damaged, as the steps that the replay buffer once stored.

Every row is used only with the right checksum. A damaged row costs its own transition and the next one of its
environment, whose state before is not known any more; what comes after is read.
"""

import math
import os
import sqlite3
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from gymnasium import spaces

from sb3_ezv2.common.action_masks import MASKS, unpack
from sb3_ezv2.common.actions import action_kind_of
from sb3_ezv2.common.plain_spaces import space_from_plain
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.replay.journal_format import (
    NO_FRAME,
    JournaledBuffer,
    Transition,
    described_parts,
    frame_checksum,
    read_description,
    run_checksum,
)
from sb3_ezv2.replay.write_ahead_log import find_damage

LARGEST_ID = 2**62
NOWHERE = -1


class JournalStep(NamedTuple):
    """One step of every environment, as ``TrajectoryReplayBuffer.add`` takes it."""

    begins: bool  # whether it does not go on where the step before it ended
    observations: ObservationArrays  # [n_envs, ...]
    next_observations: ObservationArrays  # [n_envs, ...]
    actions: np.ndarray  # [n_envs] or [n_envs, action_dim]
    rewards: np.ndarray  # [n_envs], float32
    dones: np.ndarray  # [n_envs]
    infos: list[dict[str, Any]]


class JournalSummary(NamedTuple):
    """What was read from a journal."""

    n_transitions: int  # all environments together
    run_id: str | None  # of the last step, None if there is none
    step: int  # num_timesteps of the last step, 0 if there is none
    damage: tuple[str, ...]  # what was not as it should be, in words; empty if the journal is whole


class JournalReader:
    """Reads one journal; nothing is written to the database.

    :param path: of the journal; a write-ahead log beside it (``-wal``) belongs to it
    :param buffer: replay buffer that the steps are meant for
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is no journal, one of other spaces, or damaged where it describes itself
    """

    def __init__(self, path: str | os.PathLike, buffer: JournaledBuffer) -> None:
        self.path = os.fspath(path)
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no journal {self.path}")
        self.n_envs = buffer.n_envs
        self.observation_spaces = buffer.parts()
        self.action_kind = action_kind_of(buffer.action_space)
        self.action_layout = (buffer.actions.dtype, buffer.actions.shape[2:])
        self.n_transitions = 0
        self.last: tuple[int, int] | None = None  # run and step
        self.n_lost = 0  # steps
        self.damage = find_damage(self.path)
        # Without a log nobody writes: SQLite then needs no further files, and the folder may be read-only.
        self._has_log = Path(f"{self.path}-wal").exists()
        mode = "mode=ro" if self._has_log else "mode=ro&immutable=1"
        self._connection = sqlite3.connect(f"file:{quote(os.path.abspath(self.path))}?{mode}", uri=True)
        try:
            self._open(buffer)
        except BaseException:
            self._connection.close()
            raise
        n_frames = sum(part.n_stack for part in self.parts)
        self._frame = lru_cache(maxsize=4 * self.n_envs * n_frames)(self._read_frame)

    def _open(self, buffer: JournaledBuffer) -> None:
        try:
            for setting in ("trusted_schema = OFF", "cell_size_check = ON", "query_only = ON"):
                self._connection.execute(f"PRAGMA {setting}")
            self.parts = described_parts(read_description(self._connection, self.path), buffer, self.path)
            rows = self._connection.execute("SELECT id, run_id, started, crc FROM runs ORDER BY id").fetchall()
            (mode,) = self._connection.execute("PRAGMA journal_mode").fetchone()
        except sqlite3.Error as error:
            raise ValueError(f"the journal {self.path} is damaged or cannot be read: {error}") from error
        self.runs = {row[0]: row[1] for row in rows if run_checksum(*row[:3]) == row[3]}
        if self._has_log and mode != "wal":
            self._note("its header does not say that it has a write-ahead log")

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def summary(self) -> JournalSummary:
        """What has been read so far."""
        run_id, step = (None, 0) if self.last is None else (self.runs.get(self.last[0]), self.last[1])
        lost = [f"{self.n_lost} steps are damaged or follow on a damaged one"] if self.n_lost else []
        return JournalSummary(self.n_transitions, run_id, step, (*self.damage, *lost))

    def steps(self, after: tuple[str, int] | None = None) -> Iterator[JournalStep]:
        """Intact steps, in the order in which they were stored.

        :param after: ``(run_id, step)`` of a checkpoint; only what was stored later is read, be it of that run or of
            those that were written after it. ``None`` for everything
        :raises ValueError: if the journal knows no such run
        """
        start = 0 if after is None else self._number_after(*after)
        before: list[ObservationArrays | None] = [None] * self.n_envs
        following, goes_on = (
            NOWHERE,
            False,
        )  # the step whose beginning is known, and whether the one before it was whole
        expected = start
        # The step before the first one gives the observations that it begins from.
        for number, group in groupby(self._rows(max(start - 1, 0)), lambda row: (row.id - 1) // self.n_envs):
            rows = list(group)
            if number != following:
                before, goes_on = [None] * self.n_envs, False
            step, before = self._decoded(rows, before, begins=not goes_on)
            following, goes_on = number + 1, step is not None or number < start
            if number < start:
                continue
            self.n_lost += number - expected + (step is None)
            expected = number + 1
            if step is not None:
                self.n_transitions += self.n_envs
                self.last = rows[0].run, rows[0].step
                yield step
        self.n_lost += max(self._n_steps() - expected, 0)

    # -- places ----------------------------------------------------------------------------------------------------

    def _number_after(self, run_id: str, step: int) -> int:
        """Number, from 0, of the first step of all environments after a place in a run."""
        runs = [number for number, name in self.runs.items() if name == run_id]
        if not runs:
            raise ValueError(
                f"after={(run_id, step)!r}: the journal {self.path} has only the runs "
                f"{sorted(set(self.runs.values()))}; use after=None to read it from its beginning"
            )
        marks = ", ".join("?" * len(runs))
        try:
            earlier = self._connection.execute(
                f"SELECT * FROM transitions WHERE step <= ? AND run IN ({marks}) ORDER BY id DESC", (step, *runs)
            )
            found = next((row.id for row in map(checked, earlier) if row is not None), None)
            if found is not None:
                return (found - 1) // self.n_envs + 1
            beginnings = self._connection.execute(f"SELECT * FROM transitions WHERE run IN ({marks}) ORDER BY id", runs)
            found = next((row.id for row in map(checked, beginnings) if row is not None), None)
            return self._n_steps() if found is None else (found - 1) // self.n_envs
        except sqlite3.Error as error:
            raise ValueError(
                f"after={(run_id, step)!r} cannot be found in the journal {self.path}, which is damaged: {error}; use "
                "after=None to read what is whole of all of it"
            ) from error

    def _n_steps(self) -> int:
        """Steps of all environments ever written, as far as the database knows."""
        try:
            (last,) = self._connection.execute("SELECT ifnull(max(id), 0) FROM transitions").fetchone()
        except sqlite3.Error as error:
            self._note(str(error))
            return 0
        return last // self.n_envs

    def _note(self, damage: str) -> None:
        if damage not in self.damage:
            self.damage.append(damage)

    # -- rows ------------------------------------------------------------------------------------------------------

    def _rows(self, first_step: int) -> Iterator[Transition]:
        """Rows with the right checksum, by rising number; unreadable pages of the database are jumped over."""
        first, jump = first_step * self.n_envs + 1, 0
        while first <= LARGEST_ID:
            try:
                for values in self._connection.execute("SELECT * FROM transitions WHERE id >= ? ORDER BY id", (first,)):
                    row = checked(values)
                    if row is not None and row.id >= first:
                        first, jump = row.id + 1, 0
                        yield row
                return
            except sqlite3.Error as error:
                self._note(str(error))
                jump = max(2 * jump, 1)
                first += jump

    def _decoded(
        self, rows: list[Transition], before: list[ObservationArrays | None], begins: bool
    ) -> tuple[JournalStep | None, list[ObservationArrays | None]]:
        """The step of some rows, ``None`` if something of it is missing, and the newest observations after it.

        :param rows: of one step of all environments, by environment
        :param before: newest observations before it, as far as they are known
        :param begins: whether the step before it is missing
        """
        following: list[ObservationArrays | None] = [None] * self.n_envs
        newest, firsts, actions = list(following), list(before), []
        for row in rows:
            env = (row.id - 1) % self.n_envs
            if row.first_observation is not None:
                firsts[env] = self._observation(row.first_observation)
                begins = True
            following[env] = newest[env] = self._observation(row.next_observation)
            if row.reset_observation is not None:
                newest[env] = self._observation(row.reset_observation)
            action = self._action(row)
            if action is not None:
                actions.append(action)
        known = [observation for observation in (*firsts, *following, *newest) if observation is not None]
        if len(known) < 3 * self.n_envs or len(actions) < self.n_envs:
            return None, newest
        first, after, last = (known[i * self.n_envs : (i + 1) * self.n_envs] for i in range(3))
        infos: list[dict[str, Any]] = [
            {"terminal_observation": after[row.env], "TimeLimit.truncated": bool(row.truncated)}
            if row.terminated or row.truncated
            else {}
            for row in rows
        ]
        rewards = np.array([row.reward for row in rows], np.float32)
        dones = np.array([len(info) > 0 for info in infos])
        return JournalStep(begins, together(first), together(last), np.stack(actions), rewards, dones, infos), newest

    def _action(self, row: Transition) -> np.ndarray | None:
        """Action of a row, ``None`` if a number in the row has no meaning."""
        dtype, shape = self.action_layout
        ended = row.terminated + row.truncated
        if (
            row.env != (row.id - 1) % self.n_envs
            or ended not in (0, 1)
            or (row.reset_observation is not None) != bool(ended)
            or not np.isfinite(row.reward)
            or len(row.action) != dtype.itemsize * math.prod(shape)
        ):
            return None
        action = np.frombuffer(row.action, dtype).reshape(shape)
        return action if self.action_kind.are_valid(action) else None

    # -- observations ----------------------------------------------------------------------------------------------

    def _observation(self, data: bytes) -> ObservationArrays | None:
        """An observation by key, ``None`` if a frame of it is missing or a value has no meaning."""
        if len(data) != sum(part.nbytes for part in self.parts):
            return None
        found, start = {}, 0
        for part in self.parts:
            piece = data[start : start + part.nbytes]
            start += part.nbytes
            if part.n_stack == 1:
                values = np.frombuffer(piece, part.dtype).reshape(part.shape)
            else:
                frames = [self._frame(int(number), part.frame_shape) for number in np.frombuffer(piece, "<i8")]
                present = [frame for frame in frames if frame is not None]
                if len(present) < part.n_stack:
                    return None
                values = np.concatenate(present, axis=part.axis)
            space = self.observation_spaces[part.key]
            # The values of a Box may leave its bounds, and those of the others are indices.
            if not (np.isfinite(values).all() if isinstance(space, spaces.Box) else space.contains(values)):
                return None
            if part.key == MASKS and not self.action_kind.have_legal(unpack(values[None], self.action_kind)).all():
                return None
            found[part.key] = values
        return found

    def _read_frame(self, number: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """A frame of the given shape, ``None`` if it is not in the journal as it was written."""
        if number == NO_FRAME:
            return np.zeros(shape, np.uint8)
        try:
            row = self._connection.execute("SELECT data, crc FROM frames WHERE id = ?", (number,)).fetchone()
        except sqlite3.Error as error:
            self._note(str(error))
            return None
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != math.prod(shape):
            return None
        return np.frombuffer(row[0], np.uint8).reshape(shape) if frame_checksum(number, row[0]) == row[1] else None


def add_journal(
    buffer: JournaledBuffer, path: str | os.PathLike, after: tuple[str, int] | None = None
) -> JournalSummary:
    """Store the steps of a journal in a replay buffer; see ``TrajectoryReplayBuffer.add_journal``."""
    with closing(JournalReader(path, buffer)) as journal:
        try:
            for step in journal.steps(after):
                if step.begins or not _ended_with(buffer, step.observations):
                    buffer.close_streams()
                buffer.add(
                    step.observations, step.next_observations, step.actions, step.rewards, step.dones, step.infos
                )
        finally:
            if journal.n_transitions:  # otherwise the buffer is as it was, and goes on as its environments do
                buffer.close_streams()
        summary = journal.summary()
    if summary.damage:
        warnings.warn(
            f"the journal {journal.path} is damaged: {'; '.join(summary.damage)}. The {summary.n_transitions} "
            f"transitions that are whole were added, the last one of step {summary.step}",
            stacklevel=3,
        )
    return summary


def spaces_of_journal(path: str | os.PathLike) -> tuple[spaces.Space, spaces.Space, int]:
    """Observation space, action space and number of environments that a journal was written for.

    :param path: of the journal
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is no journal, or damaged where it describes itself
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no journal {path}")
    mode = "mode=ro" if Path(f"{os.fspath(path)}-wal").exists() else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?{mode}", uri=True)) as connection:
        content = read_description(connection, path)
    observations, actions = (space_from_plain(content[name]) for name in ("observation_space", "action_space"))
    return observations, actions, int(content["n_envs"])


def _ended_with(buffer: JournaledBuffer, observations: ObservationArrays) -> bool:
    """Whether the streams of a buffer go on from these observations."""
    if (buffer.frontiers < 0).any():
        return False
    newest = buffer.parts_at(buffer.frontiers * buffer.n_envs + np.arange(buffer.n_envs), observations)
    return all(np.array_equal(newest[key], value) for key, value in observations.items())


def checked(values: tuple[Any, ...]) -> Transition | None:
    """A row of the table ``transitions``, ``None`` if it is not as it was written."""
    row = Transition(*values[:-1])
    try:
        return row if row.checksum() == values[-1] else None
    except (struct.error, TypeError):
        return None


def together(observations: list[ObservationArrays]) -> ObservationArrays:
    """Observations of all environments by key ``[n_envs, ...]``."""
    return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
