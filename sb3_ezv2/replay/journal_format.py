"""The tables of a journal, the check of every row, and what a journal says about its spaces.

A journal is an SQLite database, see the page "The journal". Its description is JSON and its data are numbers and raw
bytes: nothing in it is executed when it is read.
"""

import json
import math
import os
import sqlite3
import struct
import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces

from sb3_ezv2.common.plain_spaces import space_to_plain
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.replay.frame_storage import is_stackable

FORMAT_VERSION = 1
APPLICATION_ID = 0x455A5632
"""Marks the file as a journal of this package ("EZV2")."""

TABLES = {
    "description": "CREATE TABLE description (content TEXT NOT NULL, crc INTEGER NOT NULL)",
    "runs": (
        "CREATE TABLE runs (id INTEGER PRIMARY KEY, run_id TEXT NOT NULL, started TEXT NOT NULL, crc INTEGER NOT NULL)"
    ),
    "transitions": (
        "CREATE TABLE transitions (id INTEGER PRIMARY KEY, run INTEGER NOT NULL, step INTEGER NOT NULL, "
        "env INTEGER NOT NULL, terminated INTEGER NOT NULL, truncated INTEGER NOT NULL, reward REAL NOT NULL, "
        "action BLOB NOT NULL, first_observation BLOB, next_observation BLOB NOT NULL, reset_observation BLOB, "
        "crc INTEGER NOT NULL)"
    ),
    "frames": "CREATE TABLE frames (id INTEGER PRIMARY KEY, data BLOB NOT NULL, crc INTEGER NOT NULL)",
}
NO_FRAME = 0
"""Number of the frame that is all zero, which has no row."""


class JournaledBuffer(Protocol):
    """What a journal asks of a :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer`."""

    observation_space: spaces.Space
    action_space: spaces.Space
    n_envs: int
    action_masks: bool
    actions: np.ndarray  # [n_rows, n_envs, ...]
    frontiers: np.ndarray  # [n_envs], negative where no stream is open

    def add(
        self,
        observations: ObservationArrays,
        next_observations: ObservationArrays,
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> np.ndarray:
        """Store one step of every environment."""

    def close_streams(self) -> None:
        """End all open episodes as truncated."""

    def parts(self) -> dict[str, spaces.Space]:
        """What is stored of an observation."""

    def parts_at(self, slots: np.ndarray, keys: Iterable[str]) -> ObservationArrays:
        """Some of that ``[*slots.shape, ...]``."""


class Transition(NamedTuple):
    """One row of the table ``transitions``, without its checksum."""

    id: int  # from 1, without gaps
    run: int  # row of the table runs
    step: int  # num_timesteps after it
    env: int
    terminated: int  # 0 or 1
    truncated: int  # 0 or 1
    reward: float
    action: bytes
    first_observation: bytes | None  # before the step, only where a stream begins
    next_observation: bytes  # after the step; the last one of an episode that ends
    reset_observation: bytes | None  # first one of the next episode, only where an episode ends

    def checksum(self) -> int:
        """CRC-32 of the row.

        :raises struct.error: if a number is none, or out of range
        :raises TypeError: if bytes are none
        """
        crc = zlib.crc32(struct.pack("<6qd", *self[:7]))
        for blob in self[7:]:
            crc = zlib.crc32(struct.pack("<q", -1 if blob is None else len(blob)), crc)
            crc = zlib.crc32(b"" if blob is None else blob, crc)
        return crc


def frame_checksum(number: int, data: bytes) -> int:
    """CRC-32 of a row of the table ``frames``."""
    return zlib.crc32(data, zlib.crc32(struct.pack("<q", number)))


def run_checksum(number: int, run_id: str, started: str) -> int:
    """CRC-32 of a row of the table ``runs``, of its entries with spaces between them."""
    return zlib.crc32(f"{number} {run_id} {started}".encode(errors="replace"))


class ObservationPart(NamedTuple):
    """How one part of an observation lies in the bytes of an observation."""

    key: str
    dtype: str  # numpy's, with the order of the bytes
    shape: tuple[int, ...]
    n_stack: int  # frames stored one by one; 1 if the part is stored whole
    axis: int  # along which they are stacked, the oldest first

    @property
    def nbytes(self) -> int:
        """Bytes in an observation: the part's own, or ``n_stack`` numbers of frames of 8 bytes each."""
        return 8 * self.n_stack if self.n_stack > 1 else math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame."""
        return tuple(n // self.n_stack if axis == self.axis else n for axis, n in enumerate(self.shape))


def observation_parts(stored: dict[str, spaces.Space], stacked: dict[str, tuple[int, int]]) -> list[ObservationPart]:
    """Parts of an observation in the order of their bytes.

    :param stored: parts by key, packed masks among them
    :param stacked: ``(n_stack, axis)`` of the parts whose frames are stored one by one
    :raises ValueError: if ``stacked`` does not fit the space
    """
    parts = []
    for key, part in stored.items():
        assert part.dtype is not None and part.shape is not None
        n_stack, axis = stacked.get(key, (1, 0))
        if key in stacked and not (
            is_stackable(part) and n_stack > 1 and 0 <= axis < len(part.shape) and part.shape[axis] % n_stack == 0
        ):
            raise ValueError(f"observation {key!r} of the space {part} has no {n_stack} frames along axis {axis}")
        parts.append(ObservationPart(key, part.dtype.str, tuple(part.shape), n_stack, axis))
    if unknown := stacked.keys() - {part.key for part in parts}:
        raise ValueError(f"observations of {list(stored)} have no part {sorted(unknown)}")
    return parts


# -- the description -----------------------------------------------------------------------------------------------


def describe(buffer: JournaledBuffer, parts: list[ObservationPart]) -> dict[str, Any]:
    """Everything that reading the rows needs to know, as JSON.

    :param buffer: whose steps are written
    :param parts: of its observations
    """
    return {
        "format_version": FORMAT_VERSION,
        "observation_space": space_to_plain(buffer.observation_space),
        "action_space": space_to_plain(buffer.action_space),
        "n_envs": buffer.n_envs,
        "action": {"dtype": buffer.actions.dtype.str, "shape": list(buffer.actions.shape[2:])},
        "observation": [part._asdict() | {"shape": list(part.shape)} for part in parts],
    }


def described_parts(
    description: dict[str, Any], buffer: JournaledBuffer, path: str | os.PathLike
) -> list[ObservationPart]:
    """Parts of the observations in a journal that is to be read into a buffer.

    :param description: of the journal
    :param buffer: to read it into
    :param path: of the journal, for errors
    :raises ValueError: if the journal was written for other environments; the buffer may stack its frames otherwise
    """
    stored = description.get("observation", [])
    try:
        stacked = {part["key"]: (part["n_stack"], part["axis"]) for part in stored if part["n_stack"] != 1}
        parts = observation_parts(buffer.parts(), stacked)
    except (TypeError, KeyError, ValueError):
        parts = observation_parts(buffer.parts(), {})  # of other spaces, which is said below
    remedy = "read it into a model made for the same environments"
    check_same(path, description, describe(buffer, parts), remedy)
    return parts


def check_same(path: str | os.PathLike, theirs: dict[str, Any], ours: dict[str, Any], remedy: str) -> None:
    """Refuse a journal that was written for something else.

    :param path: of the journal
    :param theirs: its description
    :param ours: the description it should have
    :param remedy: what the user can do
    :raises ValueError: naming the first difference
    """
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise ValueError(f"the journal {path} has {name}={theirs.get(name)}, not {value}; {remedy}")


# -- the file ------------------------------------------------------------------------------------------------------


def create_tables(connection: sqlite3.Connection, description: dict[str, Any]) -> None:
    """Make an empty database a journal, within a transaction."""
    content = json.dumps(description)
    for statement in TABLES.values():
        connection.execute(statement)
    connection.execute("INSERT INTO description VALUES (?, ?)", (content, zlib.crc32(content.encode())))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")


def read_description(connection: sqlite3.Connection, path: str | os.PathLike) -> dict[str, Any]:
    """Description of a journal, once it is certain that the file is one.

    :param connection: to the database
    :param path: of the file, for errors
    :raises ValueError: if it is no journal, one of another version, or damaged where it describes itself
    """
    try:
        (identity,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
        if identity != APPLICATION_ID:
            raise ValueError(f"{path} is a database, but no journal of this package")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"the journal {path} has the format version {version}, this release reads {FORMAT_VERSION}; read it "
                "with the release that wrote it"
            )
        if found != TABLES:
            raise ValueError(f"the journal {path} is damaged: its tables are not those of a journal")
        rows = connection.execute("SELECT content, crc FROM description").fetchall()
    except sqlite3.Error as error:
        raise ValueError(f"the journal {path} is damaged or no journal: {error}") from error
    if len(rows) != 1 or not isinstance(rows[0][0], str) or zlib.crc32(rows[0][0].encode()) != rows[0][1]:
        raise ValueError(f"the journal {path} is damaged: its description does not have its checksum")
    return dict(json.loads(rows[0][0]))
