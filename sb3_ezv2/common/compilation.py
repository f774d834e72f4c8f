"""How functions are compiled, so that one process computes what another does, to the last bit.

Compiled code is kept in numba's cache. What is cached of a function holds a copy of every function that it calls and
that was not inlined, optimised together with it. The process that compiles has those functions also one by one,
optimised differently, and its linker prefers these to the copies: sums are rounded differently than in all later
processes, which find the cache filled. Therefore only functions that Python calls are cached, and everything that they
call is inlined.

Numba takes cached code for fresh as long as the file of the function itself is the same. Ours contains functions of
other files, so the cache is renewed whenever any file of the package changes.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba as nb
from numba.core.caching import FunctionCache, IndexDataCacheFile
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


class PackageCache(FunctionCache):
    """Numba's cache of one function, valid for the package's source as it is now.

    :param function: that is compiled
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(self.cache_path, self._impl.filename_base, source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled before; ``None`` if that is nothing, or for another version of the package."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what is pickled there may name types that this version does not have
            self.flush()
            return None


def entry_point(function: Compiled) -> Compiled:
    """Decorator of functions that Python calls; in compiled functions that call them they are inlined."""
    compiled = nb.njit(**_ALWAYS, inline="always")(function)
    if isinstance(compiled, CPUDispatcher):  # with NUMBA_DISABLE_JIT=1 it is the function itself
        vars(compiled)["_cache"] = PackageCache(function)
    return compiled


inlined = nb.njit(**_ALWAYS, inline="always")
"""Decorator of functions that become part of those that call them before anything is compiled. Python can call them
too, but what it compiles for that is not cached."""

inlined_arithmetic = nb.njit(**_ALWAYS, forceinline=True, fastmath=SAFE_FASTMATH)
"""Decorator of the functions whose sums may be rearranged. They are compiled, then inlined: the permission belongs to
their instructions."""
