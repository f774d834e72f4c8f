"""How functions are compiled, so that one process computes what another does, to the last bit.

Compiled code is kept in numba's cache. What is cached of a function holds a copy of every function that it calls and
that was not inlined, optimised together with it. The process that compiles has those functions also one by one,
optimised differently, and its linker prefers these to the copies: sums are rounded differently than in all later
processes, which find the cache filled. Therefore only functions that Python calls are cached, and everything that they
call is inlined.

Numba takes cached code for fresh as long as the file of the function itself is the same. Ours contains functions of
other files, so the cache is renewed whenever any file of the package changes.

Where no folder can be written, or the disk is full, every process compiles for itself; one warning says so. The first
compilation of a process announces itself with one line on the standard error stream.
"""

import hashlib
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba as nb
from numba.core.caching import FunctionCache, IndexDataCacheFile, NullCache
from numba.core.registry import CPUDispatcher

SAFE_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
"""What the compiler may rearrange: sums and products, but NaN and infinity stay what they are."""

_ALWAYS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # no check of every division for a zero

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


@cache
def source_stamp() -> str:
    """A hash of all source files of the package."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


_told: set[str] = set()
"""What this process has told its user already."""


def announce_compilation() -> None:
    """Say, once in a process, what the user is waiting for."""
    if "compilation" not in _told:
        _told.add("compilation")
        line = "sb3_ezv2: compiling the search for this machine; this takes up to half a minute"
        print(line, file=sys.stderr, flush=True)


def warn_of_missing_cache(reason: Exception) -> None:
    """Say, once in a process, that compiled code is not kept, why, and how it would be.

    :param reason: what prevents it
    """
    if "cache" not in _told:
        _told.add("cache")
        warnings.warn(
            f"compiled code cannot be kept on disk, so every process compiles anew ({reason}). Set the environment "
            "variable NUMBA_CACHE_DIR to a folder that can be written and has room.",
            stacklevel=2,
        )


class PackageCache(FunctionCache):
    """Numba's cache of one function, valid for the package's source as it is now.

    What cannot be read is compiled, and what cannot be written is not kept.

    :param function: that is compiled
    :raises RuntimeError: if there is no folder that can be written
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(self.cache_path, self._impl.filename_base, source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled before; ``None`` if that is nothing, or for another version of the package."""
        compiled = None
        try:
            compiled = super().load_overload(sig, target_context)
        except Exception:  # what is pickled there may name types that this version does not have
            self.flush()
        if compiled is None:
            announce_compilation()
        return compiled

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled, if that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception as error:  # no room, or what lies there can be neither read nor replaced
            warn_of_missing_cache(error)

    def flush(self) -> None:
        """Forget what is kept, if that is possible."""
        try:
            super().flush()
        except OSError as error:
            warn_of_missing_cache(error)


class NoCache(NullCache):
    """The cache of one function where no folder can be written: it keeps nothing.

    :param reason: what numba says about the folders
    """

    def __init__(self, reason: Exception) -> None:
        self.reason = reason

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """Nothing, so that the function is compiled."""
        warn_of_missing_cache(self.reason)
        announce_compilation()


def new_cache(function: Callable[..., Any]) -> PackageCache | NoCache:
    """The cache of a function: on disk where that is possible.

    :param function: that is compiled
    """
    try:
        return PackageCache(function)
    except (OSError, RuntimeError) as error:  # numba finds no folder
        return NoCache(error)


def entry_point(function: Compiled) -> Compiled:
    """Decorator of functions that Python calls; in compiled functions that call them they are inlined."""
    compiled = nb.njit(**_ALWAYS, inline="always")(function)
    if isinstance(compiled, CPUDispatcher):  # with NUMBA_DISABLE_JIT=1 it is the function itself
        vars(compiled)["_cache"] = new_cache(function)
    return compiled


inlined = nb.njit(**_ALWAYS, inline="always")
"""Decorator of functions that become part of those that call them before anything is compiled. Python can call them
too, but what it compiles for that is not cached."""

inlined_arithmetic = nb.njit(**_ALWAYS, forceinline=True, fastmath=SAFE_FASTMATH)
"""Decorator of the functions whose sums may be rearranged. They are compiled, then inlined: the permission belongs to
their instructions."""
