"""Putting something else in the place of what the zoo's scripts look up by name."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """Put something else in the place of an attribute for a while.

    The zoo's scripts look up what they need by name, and have no other way to be given it.

    :param holder: module, class or object
    :param name: of the attribute
    :param value: to be put there
    """
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)
