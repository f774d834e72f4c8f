"""Files of named arrays with a description in JSON, checked as they are read; nothing in them is executed.

The layout, all numbers little-endian::

    8 bytes   b"EZV2ARR" and the format version as one byte
    8 bytes   length of the description
    ...       description: JSON, in UTF-8
    4 bytes   checksum of everything above
    ...       for every array in the order of the description, for every piece of it: its bytes in C order, and
    4 bytes   their checksum

The description holds ``"kind"`` (what the file is), ``"arrays"`` (a list of ``{"name", "dtype", "shape", "rows"}``,
where ``rows`` has the length of every piece along the first axis) and ``"content"``, which is the writer's own. A piece
has a few megabytes, so that neither writing nor reading needs memory beside the arrays.

The checksum is the CRC-32 of the sums of every 512 64-bit words, followed by the rest as it is: several times as fast
as a CRC-32 of all bytes, and no less sure to find what storage does to files.
"""

import hashlib
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

import numpy as np

MAGIC = b"EZV2ARR"
FORMAT_VERSION = 1
PIECE_BYTES = 2**22
"""Size of a piece of an array."""
WORDS = 512
"""64-bit words summed together by the checksum."""
MAX_DESCRIPTION_BYTES = 2**28
KINDS = "biuf"
"""Kinds of dtypes that a file holds: bools, integers and floats."""


class DamagedFileError(ValueError):
    """A file is not what was written, or no file of this kind at all."""


def checksum(data: bytes | np.ndarray) -> int:
    """Checksum of bytes; see above.

    :param data: bytes, or an array in C order
    """
    raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8)
    n_bytes = len(raw) // (8 * WORDS) * 8 * WORDS
    sums = raw[:n_bytes].view("<u8").reshape(-1, WORDS).sum(axis=1, dtype=np.uint64)
    return zlib.crc32(raw[n_bytes:].tobytes(), zlib.crc32(sums.astype("<u8").tobytes()))


def write_arrays(file: BinaryIO, kind: str, content: Any, arrays: Mapping[str, Sequence[np.ndarray]]) -> str:
    """Write arrays, piece by piece.

    :param file: open for writing
    :param kind: what the file is
    :param content: anything that JSON holds
    :param arrays: by name; each as a list of arrays that are one behind the other along the first axis, at least one
    :return: digest of all that was written, for :attr:`ArrayReader.digest`
    :raises ValueError: for an array of objects or texts
    """
    pieces = {name: [piece for part in parts for piece in _pieces(name, part)] for name, parts in arrays.items()}
    listed = [
        {
            "name": name,
            "dtype": parts[0].dtype.newbyteorder("<").str,
            "shape": [sum(map(len, parts)), *parts[0].shape[1:]],
            "rows": [len(piece) for piece in pieces[name]],
        }
        for name, parts in arrays.items()
    ]
    description = json.dumps({"kind": kind, "arrays": listed, "content": content}).encode()
    header = MAGIC + bytes([FORMAT_VERSION]) + struct.pack("<Q", len(description)) + description
    digest = hashlib.sha256(header)
    file.write(header)
    file.write(struct.pack("<I", checksum(header)))
    with ThreadPoolExecutor(1) as beside:  # the checksum is made while the piece is written
        for piece in (piece for parts in pieces.values() for piece in parts):
            plain = np.ascontiguousarray(piece, piece.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
            found = beside.submit(checksum, plain) if plain.nbytes > PIECE_BYTES // 4 else None
            file.write(plain.data)
            trailer = struct.pack("<I", found.result() if found else checksum(plain))
            file.write(trailer)
            digest.update(trailer)
    return digest.hexdigest()


def _pieces(name: str, array: np.ndarray) -> Iterator[np.ndarray]:
    """Views of an array, of a few megabytes each; none of an empty one."""
    if array.dtype.kind not in KINDS:
        raise ValueError(f"{name} has the dtype {array.dtype}; only bools, integers and floats can be written")
    row = array[:1].nbytes
    rows = max(1, PIECE_BYTES // row) if row else 0
    for first in range(0, len(array) if rows else 0, rows or 1):
        yield array[first : first + rows]


class ArrayReader:
    """Reads a file of :func:`write_arrays`, from its beginning to its end.

    :param file: open for reading
    :param name: of the file, for errors
    :param kind: what the file has to be
    :raises DamagedFileError: if it is not that, or not as it was written
    """

    def __init__(self, file: BinaryIO, name: str, kind: str) -> None:
        self._file, self._name = file, name
        start = self._take(len(MAGIC) + 9)
        if not start.startswith(MAGIC):
            raise DamagedFileError(f"{name} is damaged, or it is no file of this package")
        version, (length,) = start[len(MAGIC)], struct.unpack("<Q", start[len(MAGIC) + 1 :])
        if length > MAX_DESCRIPTION_BYTES:
            raise self._damaged("the length of its description")
        header = start + self._take(length)
        if self._taken_checksum() != checksum(header):
            raise self._damaged("its description")
        if version != FORMAT_VERSION:
            raise DamagedFileError(f"{name} has the format version {version}; this release reads {FORMAT_VERSION}")
        description = json.loads(header[len(start) :])
        if description["kind"] != kind:
            raise DamagedFileError(f"{name} holds a {description['kind']}, not a {kind}")
        self.content = description["content"]
        self._digest = hashlib.sha256(header)
        self._arrays = {entry["name"]: entry for entry in description["arrays"]}
        for what, entry in self._arrays.items():
            sizes = [*entry["shape"], *entry["rows"]]
            whole = bool(entry["shape"]) and (entry["shape"][0] == sum(entry["rows"]) or 0 in entry["shape"])
            if not whole or min(sizes) < 0 or np.dtype(entry["dtype"]).kind not in KINDS:
                raise self._damaged(what)
        self._left = list(self._arrays)

    @property
    def names(self) -> list[str]:
        """Of the arrays, in their order."""
        return list(self._arrays)

    @property
    def digest(self) -> str:
        """What :func:`write_arrays` returned, once everything has been read."""
        assert not self._left
        return self._digest.hexdigest()

    def shape_and_dtype(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """Of an array."""
        entry = self._arrays[name]
        return tuple(entry["shape"]), np.dtype(entry["dtype"])

    def expect(self, name: str, shape: tuple[int | None, ...], dtype: Any) -> None:
        """Refuse an array of another shape or dtype.

        :param name: of the array
        :param shape: ``None`` where any length will do
        :param dtype: of the array
        :raises DamagedFileError: if there is no such array
        """
        if name not in self._arrays:
            raise DamagedFileError(f"{self._name} has no {name}")
        found, found_dtype = self.shape_and_dtype(name)
        fits = len(found) == len(shape) and all(e in (None, f) for e, f in zip(shape, found, strict=True))
        if not fits or found_dtype != np.dtype(dtype):
            raise DamagedFileError(
                f"{self._name} has {name} with the shape {found} and the dtype {found_dtype}; {shape} and "
                f"{np.dtype(dtype)} are expected"
            )

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Read the next array piece by piece, each one checked before it is given.

        :param name: of the array; arrays are read in their order
        :raises DamagedFileError: if it is not as it was written
        """
        assert self._left[:1] == [name], f"{name} is not the next array"
        (_, *rest), dtype = self.shape_and_dtype(name)
        for rows in self._arrays[name]["rows"]:
            raw = self._take(rows * math.prod(rest) * dtype.itemsize)
            found = checksum(raw)
            if self._taken_checksum() != found:
                raise self._damaged(name)
            self._digest.update(struct.pack("<I", found))
            yield np.frombuffer(raw, dtype).reshape(rows, *rest)
        del self._left[0]

    def read(self, name: str) -> np.ndarray:
        """Read the next array as a whole; see :meth:`pieces`."""
        shape, dtype = self.shape_and_dtype(name)
        pieces = self.pieces(name)
        first = next(pieces, None)
        array = np.zeros(shape, dtype)  # not before the first piece has shown that there is so much to read
        place = 0
        while first is not None:
            array[place : place + len(first)] = first
            place += len(first)
            first = next(pieces, None)
        return array

    def finish(self) -> None:
        """Refuse a file that goes on after its last array.

        :raises DamagedFileError: if it does
        """
        if self._file.read(1):
            raise DamagedFileError(f"{self._name} is damaged: it goes on after its end")

    def _take(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        if len(data) != n_bytes:
            raise DamagedFileError(f"{self._name} is damaged: it ends too early")
        return data

    def _taken_checksum(self) -> int:
        return struct.unpack("<I", self._take(4))[0]

    def _damaged(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self._name} is damaged: {what} cannot be read; use another copy of the file")
