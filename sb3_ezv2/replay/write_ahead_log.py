"""What SQLite does not say about a write-ahead log: whether it is whole.

SQLite reads a log up to the first frame whose checksum is wrong and takes this for its end, as after a power loss. If
frames were lost to damage, the database is shorter and nobody hears of it. Format: https://sqlite.org/fileformat2.html,
section 4.
"""

import os
import struct
from pathlib import Path

HEADER = struct.Struct(">8I")
"""Magic number, version, page size, sequence number, two salts, two sums."""

FRAME_HEADER = struct.Struct(">6I")
"""Page, size of the database if the frame ends a transaction, two salts, two sums."""

MAGIC = 0x377F0682
"""The last bit says that the sums are over big-endian words."""


def add_to_sums(sums: tuple[int, int], data: bytes, big_endian: bool) -> tuple[int, int]:
    """SQLite's running checksum of pairs of 32-bit words."""
    first, second = sums
    for word, following in struct.iter_unpack(">2I" if big_endian else "<2I", data):
        first = (first + word + second) & 0xFFFFFFFF
        second = (second + following + first) & 0xFFFFFFFF
    return first, second


def find_damage(path: str | os.PathLike) -> list[str]:
    """Look for lost frames in the log of a database, before SQLite opens it.

    :param path: of the database, whose log is beside it (``-wal``)
    :return: what is wrong, in words; empty where there is no log or a whole one
    """
    log = Path(f"{os.fspath(path)}-wal")
    if not log.is_file() or log.stat().st_size == 0:
        return []
    with log.open("rb") as file:
        header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            return [f"{log} ends within its header: what it held is lost"]
        magic, _, page_size, _, *salts, first, second = HEADER.unpack(header)
        big_endian = bool(magic & 1)
        sums = add_to_sums((0, 0), header[:24], big_endian)
        if magic & ~1 != MAGIC or page_size % 8 != 0 or sums != (first, second):
            return [f"the header of {log} is damaged: what it held is lost"]
        valid = committed = True
        while data := file.read(FRAME_HEADER.size + page_size):
            if len(data) == FRAME_HEADER.size + page_size:
                _, size, *theirs, first, second = FRAME_HEADER.unpack(data[: FRAME_HEADER.size])
                # Frames that an earlier round left behind have other salts.
                current = any(ours == their for ours, their in zip(salts, theirs, strict=True))
                if valid:
                    sums = add_to_sums(add_to_sums(sums, data[:8], big_endian), data[FRAME_HEADER.size :], big_endian)
                    valid = theirs == salts and sums == (first, second)
                if valid:
                    committed = size > 0
                if valid or not current:
                    continue
            elif not valid:
                break  # the end of what an earlier round left behind
            return [f"the end of {log} is damaged or missing: what was written last is lost"]
    return [] if committed else [f"{log} ends within a transaction, which is lost"]
