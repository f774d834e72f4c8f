"""Zip archives of saved models, checked before anything in them is read."""

import zipfile
from collections.abc import Collection
from typing import BinaryIO

from sb3_ezv2.common.array_files import DamagedFileError


def archive_parts(file: BinaryIO, name: str, needed: Collection[str] = ()) -> set[str]:
    """Check every member of a zip archive against its checksum.

    PyTorch and SB3 read some members in pieces, which ``zipfile`` does not check.

    :param file: open for reading, and seekable; left at the place where it is
    :param name: of the file, for errors
    :param needed: members that must be there
    :return: names of the members
    :raises ValueError: if the archive is damaged, none at all, or without one of ``needed``
    """
    place = file.tell()
    try:
        with zipfile.ZipFile(file) as archive:
            damaged, parts = archive.testzip(), set(archive.namelist())
    except Exception as error:  # damaged archives raise whatever their damage looks like to zipfile
        raise DamagedFileError(f"{name} is damaged or not a saved model: {error}") from error
    finally:
        file.seek(place)
    if damaged is not None:
        raise DamagedFileError(f"{name} is damaged: {damaged} cannot be read; use another copy of the file")
    missing = sorted(set(needed) - parts)
    if missing:
        raise DamagedFileError(f"{name} is not a model of this algorithm: {', '.join(missing)} is missing")
    return parts
