"""How functions are compiled, so that one process computes what another does, to the last bit.

Compiled code is kept in numba's cache. What is cached of a function holds a copy of every function that it calls and
that was not inlined, optimised together with it. The process that compiles has those functions also one by one,
optimised differently, and its linker prefers these to the copies: sums are rounded differently than in all later
processes, which find the cache filled. Therefore only functions that Python calls are cached, and everything that they
call is inlined.
"""

from typing import Any

import numba as nb

SAFE_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}
"""What the compiler may rearrange: sums and products, but NaN and infinity stay what they are."""

_ALWAYS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}  # no check of every division for a zero

entry_point = nb.njit(**_ALWAYS, cache=True, inline="always")
"""Decorator of functions that Python calls; in compiled functions that call them they are inlined."""

inlined = nb.njit(**_ALWAYS, inline="always")
"""Decorator of functions that become part of those that call them before anything is compiled. Python can call them
too, but what it compiles for that is not cached."""

inlined_arithmetic = nb.njit(**_ALWAYS, forceinline=True, fastmath=SAFE_FASTMATH)
"""Decorator of the functions whose sums may be rearranged. They are compiled, then inlined: the permission belongs to
their instructions."""
