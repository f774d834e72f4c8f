"""Files and folders that are replaced as a whole: whatever happens while one is written, the one before it stands.

The new content goes to a temporary file beside the old one, reaches the disk, and takes its place in one step
(``os.replace``). A process that is killed leaves the temporary file behind; the next one to write a file in the same
folder removes it. The name of a temporary file begins with a dot.
"""

import errno
import io
import os
import platform
import re
import shutil
import stat
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from sb3_ezv2.common.processes import is_alive

LEFT_BEHIND_SECONDS = 3600.0
"""A temporary file of another machine that nothing has written to for this long belongs to a process that is gone."""

TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.tmp(\.[^.]+)?")
"""Names of temporary files and folders."""

_in_use: set[Path] = set()
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"


class _Raw(io.FileIO):
    """A file that remembers why writing failed: libraries such as ``zipfile`` raise other errors while they give up."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give the path of a temporary file that replaces ``path`` when the block ends without an error.

    For what writes to a path only; it keeps the suffix. :func:`open_to_replace` gives a file object. The permissions of
    a file that is there already are kept, and a link still leads to the file. What is no regular file, such as
    ``/dev/null``, is written directly.

    :param path: file to write, in a folder that exists
    :raises OSError: naming ``path``, if it cannot be written; then it is as it was
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        yield target
        return
    _remove_left_behind(target.parent)
    temporary = _temporary_path(target, target.suffix)
    try:
        _create_like(target, temporary)
        yield temporary
        _reach_disk(temporary)
        os.replace(temporary, target)
        _folder_reaches_disk(target.parent)
    except OSError as error:
        _raise_naming(path, error, temporary)
    finally:
        _in_use.discard(temporary)
        temporary.unlink(missing_ok=True)


@contextmanager
def open_to_replace(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; what is written replaces ``path`` when the block ends without an error.

    For ``zipfile``, ``numpy.savez``, ``torch.save``, ``pickle.dump`` and others that take a file object; see
    :func:`replacing`.

    :param path: file to write, in a folder that exists
    :raises OSError: naming ``path``, if it cannot be written, whatever the library in between made of it; then the file
        is as it was
    """
    with replacing(path) as temporary, _Raw(temporary, "wb") as raw:
        try:
            with io.BufferedWriter(raw) as file:
                yield cast(BinaryIO, file)
        except Exception as error:
            if raw.error is None:
                raise
            raise raw.error from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a text file, in UTF-8; see :func:`replacing`.

    :param path: file to write, in a folder that exists
    :param text: its new content
    """
    with open_to_replace(path) as file:
        file.write(text.encode())


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` with all its files when the block ends without an error.

    :param path: of the folder; its parent exists, itself it does not
    :raises OSError: naming ``path``, if it cannot be written; then nothing is there
    """
    target = Path(os.path.realpath(path))
    _remove_left_behind(target.parent)
    temporary = _temporary_path(target, "")
    try:
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
        temporary.mkdir()
        yield temporary
        for folder, _, names in os.walk(temporary, topdown=False):
            for name in names:
                _reach_disk(Path(folder, name))
            _folder_reaches_disk(Path(folder))
        os.rename(temporary, target)
        _folder_reaches_disk(target.parent)
    except OSError as error:
        _raise_naming(path, error, temporary)
    finally:
        _in_use.discard(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: str | os.PathLike) -> None:
    """Remove a folder; from the first moment on it is not found under its name any more.

    :param path: of the folder
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary_path(target, "")
    try:
        os.rename(target, temporary)
        shutil.rmtree(temporary)
    finally:
        _in_use.discard(temporary)


def _temporary_path(target: Path, suffix: str) -> Path:
    """A new name beside ``target``, which tells the next process whether the one that chose it is still alive."""
    unique = f"{_HOST}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = target.with_name(f".{target.name[:150]}.{unique}.tmp{suffix}")
    _in_use.add(temporary)
    return temporary


def _remove_left_behind(folder: Path) -> None:
    """Remove all temporary files and folders whose process is gone."""
    for name in os.listdir(folder) if folder.is_dir() else []:
        found, path = TEMPORARY.fullmatch(name), folder / name
        if found is None or path in _in_use or not _is_left_behind(path, found["host"], int(found["process"])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_left_behind(path: Path, host: str, process: int) -> bool:
    if host == _HOST:
        return process == os.getpid() or not is_alive(process)
    try:
        return time.time() - path.stat().st_mtime > LEFT_BEHIND_SECONDS
    except FileNotFoundError:
        return False


def _create_like(target: Path, temporary: Path) -> None:
    """Create ``temporary``, empty, with the permissions of ``target`` if that exists.

    :raises PermissionError: if ``target`` must not be written
    """
    if not target.exists():
        temporary.touch(exist_ok=False)
        return
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(temporary))
    before = target.stat()
    temporary.touch(mode=0o600, exist_ok=False)
    if hasattr(os, "chown") and (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.chown(temporary, before.st_uid, before.st_gid)
        except PermissionError:
            pass  # only the superuser can give files away
    os.chmod(temporary, stat.S_IMODE(before.st_mode))


def _reach_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _folder_reaches_disk(folder: Path) -> None:
    """Make a change of names in a folder permanent, where the system has a call for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _raise_naming(path: str | os.PathLike, error: OSError, temporary: Path) -> NoReturn:
    """Raise an error about a temporary file, or about no file by name, with the name that the user knows."""
    about = str(temporary) if error.filename is None else str(error.filename)
    if error.errno is None or not about.startswith(str(temporary)):
        raise error
    raise OSError(error.errno, error.strerror, os.fspath(path) + about[len(str(temporary)) :]) from error
