"""Writes what the replay buffer stores into a journal, step by step.

A step is one transaction of SQLite in WAL mode. Once it has been committed it is in the operating system's hands:
whatever ends the process afterwards, ``kill -9`` included, the step is there. Power loss is another matter, see
``synchronous``.
"""

import datetime
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sb3_ezv2.common.spaces import named_spaces
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.frame_storage import ZERO_FRAME, FrameStorage, is_stackable, stack_axis
from sb3_ezv2.replay.journal_format import (
    NO_FRAME,
    Transition,
    check_same,
    create_tables,
    describe,
    frame_checksum,
    observation_parts,
    read_description,
    run_checksum,
)
from sb3_ezv2.replay.slots import TERMINATED, TRANSITION, TRUNCATED

SYNCHRONOUS = ("NORMAL", "FULL")
BUSY_SECONDS = 30.0
"""How long to wait for another process that writes to the same journal."""

NOTHING = -1


def check_synchronous(synchronous: str) -> None:
    """Refuse what SQLite does not know, or what would not keep the database whole.

    :raises ValueError: unless ``synchronous`` is ``"NORMAL"`` or ``"FULL"``
    """
    if synchronous not in SYNCHRONOUS:
        raise ValueError(f"synchronous={synchronous!r} must be 'NORMAL' or 'FULL'")


class JournalWriter:
    """Appends what a replay buffer stores to a journal.

    :param path: SQLite database, created if it is not there; its folder exists
    :param buffer: replay buffer that the steps are stored in
    :param synchronous: SQLite's setting of that name. ``"NORMAL"``: a power loss may cost the steps since the last
        checkpoint of the write-ahead log, but never the database. ``"FULL"``: every step reaches the disk before
        :meth:`write` returns
    :raises ValueError: if ``synchronous`` is something else
    """

    def __init__(self, path: str | os.PathLike, buffer: TrajectoryReplayBuffer, synchronous: str = "NORMAL") -> None:
        check_synchronous(synchronous)
        self.path = os.fspath(path)
        self.buffer = buffer
        self.synchronous = synchronous
        stacked = {
            key: (storage.n_stack, stack_axis(named_spaces(buffer.observation_space)[key], buffer.channels_order))  # type: ignore[arg-type]
            for key, storage in buffer.stacks.items()
            if is_stackable(named_spaces(buffer.observation_space)[key])  # of vectors, whole stacks take little
        }
        self.parts = observation_parts(buffer.parts(), stacked)
        self.description = describe(buffer, self.parts)
        self._connection: sqlite3.Connection | None = None
        # The last row written here and, of each environment, the newest observation in it and the frames of its stacks.
        self._last_row = 0
        self._newest = [NOTHING] * buffer.n_envs
        self._frames: list[dict[str, list[int]]] = [{} for _ in range(buffer.n_envs)]

    def begin(self, run_id: str) -> None:
        """Open the journal for a run, or for a further part of it.

        :param run_id: name of the run
        :raises ValueError: if the file is something else, damaged, or a journal of other spaces
        :raises OSError: if the file cannot be written
        """
        self.end()
        with self._naming_the_file("opened"):
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare(connection)
                self.run = self._begin_run(connection, run_id)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def end(self) -> None:
        """Close the journal, which leaves everything in one file; :meth:`begin` opens it again."""
        if self._connection is not None:
            with self._naming_the_file("closed"):
                self._connection.close()
            self._connection = None

    def write(self, step: int) -> None:
        """Write the newest step of the replay buffer; when this returns, the step is safe.

        :param step: number of transitions so far, all environments together
        :raises OSError: if it cannot be written; then nothing of the step is
        """
        connection = self._connection
        assert connection is not None, "begin the journal first"
        with self._naming_the_file(f"written at step {step}"), transaction(connection):
            last_row = last_id(connection, "transitions")
            continues = last_row == self._last_row  # otherwise somebody else has written, or the file is another one
            frames = FrameWriter(connection, last_id(connection, "frames") + 1)
            rows, newest, stacks = [], [], []
            for env in range(self.buffer.n_envs):
                row, stack = self._transition(last_row + env + 1, step, env, continues, frames)
                rows.append((*row, row.checksum()))
                newest.append(int(self.buffer.observation_ids[self.buffer.frontiers[env], env]))
                stacks.append(stack)
            connection.executemany(f"INSERT INTO transitions VALUES ({', '.join('?' * len(rows[0]))})", rows)
        self._last_row, self._newest, self._frames = last_row + len(rows), newest, stacks

    # -- the rows --------------------------------------------------------------------------------------------------

    def _transition(
        self, number: int, step: int, env: int, continues: bool, frames: "FrameWriter"
    ) -> tuple[Transition, dict[str, list[int]]]:
        """Row of the newest transition of an environment, and the frames of its newest observation's stacks.

        :param number: of the row
        :param step: number of transitions so far
        :param env: environment
        :param continues: whether the row before is the last one written here
        :param frames: writes the frames that are new
        """
        buffer = self.buffer
        newest = int(buffer.frontiers[env])
        last = self._before(newest)
        end = int(buffer.kinds[last, env])
        ended = end != TRANSITION
        row = self._before(last) if ended else last
        first = reset = None
        stacks = self._frames[env]
        if not continues or buffer.observation_ids[row, env] != self._newest[env]:
            first, stacks = self._observation(row, env, None, frames)
        following, stacks = self._observation(last if ended else newest, env, stacks, frames)
        if ended:
            reset, stacks = self._observation(newest, env, None, frames)
        transition = Transition(
            id=number,
            run=self.run,
            step=step,
            env=env,
            terminated=int(end == TERMINATED),
            truncated=int(end == TRUNCATED),
            reward=float(buffer.rewards[row, env]),
            action=buffer.actions[row, env].tobytes(),
            first_observation=first,
            next_observation=following,
            reset_observation=reset,
        )
        return transition, stacks

    def _before(self, row: int) -> int:
        """Row before another one in the ring of an environment."""
        return (row - 1) % self.buffer.max_rows

    def _observation(
        self, row: int, env: int, before: dict[str, list[int]] | None, frames: "FrameWriter"
    ) -> tuple[bytes, dict[str, list[int]]]:
        """Bytes of an observation, and the frames of its stacks.

        :param row: in the ring of the environment
        :param env: environment
        :param before: frames of the observation before it, ``None`` where a stream or an episode begins
        :param frames: writes the frames that are new
        """
        stacks, pieces = {}, []
        for part in self.parts:
            slot = row * self.buffer.n_envs + env
            if part.n_stack == 1:
                whole = self.buffer.observations.get(part.key)
                stack = self.buffer.stacks[part.key].read(np.array(slot)) if whole is None else whole[row, env]
                pieces.append(stack.tobytes())
                continue
            storage = self.buffer.stacks[part.key]
            stacks[part.key] = frames.stack(storage, slot, None if before is None else before[part.key])
            pieces.append(np.array(stacks[part.key], "<i8").tobytes())
        return b"".join(pieces), stacks

    # -- the database ----------------------------------------------------------------------------------------------

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Choose SQLite's settings; create the tables, or check that those there are of the same spaces."""
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise sqlite3.OperationalError(f"its file system allows no write-ahead log (journal_mode is {mode})")
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        with transaction(connection):
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                create_tables(connection, self.description)
        theirs = read_description(connection, self.path)
        check_same(self.path, theirs, self.description, "give the new journal another path")

    @staticmethod
    def _begin_run(connection: sqlite3.Connection, run_id: str) -> int:
        started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with transaction(connection):
            number = last_id(connection, "runs") + 1
            values = (number, run_id, started, run_checksum(number, run_id, started))
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", values)
        return number

    @contextmanager
    def _naming_the_file(self, done: str) -> Iterator[None]:
        """Turn SQLite's errors into those of Python that say the same."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"the journal {self.path} could not be {done}: {error}. Make room on the disk, or give the journal "
                "a path that can be written"
            ) from error
        except sqlite3.Error as error:
            raise ValueError(
                f"the journal {self.path} could not be {done}: {error}. It is damaged or no journal; give the new "
                "journal another path"
            ) from error


class FrameWriter:
    """Writes the frames of stacked images that are not in the journal yet.

    :param connection: to the journal, within a transaction
    :param next_id: number of the next frame
    """

    def __init__(self, connection: sqlite3.Connection, next_id: int) -> None:
        self.connection = connection
        self.next_id = next_id

    def stack(self, storage: FrameStorage, slot: int, before: list[int] | None) -> list[int]:
        """Numbers of the frames of a stack.

        :param storage: where the stack is
        :param slot: of the stack
        :param before: numbers of the stack that this one follows, ``None`` where a stream or an episode begins
        """
        in_pool = storage.frames[slot]
        numbers = [] if before is None else before[1:]
        for k in range(len(numbers), storage.n_stack):
            if in_pool[k] == ZERO_FRAME:
                numbers.append(NO_FRAME)
            elif k > 0 and in_pool[k] == in_pool[k - 1]:
                numbers.append(numbers[k - 1])
            else:
                numbers.append(self._write(storage.frame(int(in_pool[k])).tobytes()))
        return numbers

    def _write(self, data: bytes) -> int:
        number = self.next_id
        self.connection.execute("INSERT INTO frames VALUES (?, ?, ?)", (number, data, frame_checksum(number, data)))
        self.next_id += 1
        return number


def last_id(connection: sqlite3.Connection, table: str) -> int:
    """Number of the last row of a table, 0 if it is empty."""
    (last,) = connection.execute(f"SELECT ifnull(max(id), 0) FROM {table}").fetchone()
    return last


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, whatever interrupts it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
