"""What an argument may be, and records of arguments that check themselves."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import numpy as np

Kind = Callable[[str, Any], Any]
"""``(name, value) -> value``: raises a ValueError that names the argument unless the value is of this kind."""

MOST = 10**12
"""Largest number that is taken for a count."""
FIXED = "fixed"
"""Marks a field of a record that cannot change once the networks and the replay buffer are built."""

SomeGroup = TypeVar("SomeGroup", bound="ArgumentGroup")


def shown(value: object) -> str:
    """The value as Python writes it, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


@dataclass(frozen=True)
class Whole:
    """A whole number, of Python or of numpy, in ``[low, high]``; a bool is none.

    :param low: smallest
    :param high: largest
    :param meaning: what it counts, for the error
    """

    low: int = 0
    high: int = MOST
    meaning: str = ""

    def __call__(self, name: str, value: Any) -> int:
        """The value as an ``int``."""
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_)
        if not (is_whole and self.low <= value <= self.high):
            limits = f"of at least {self.low}" if self.high == MOST else f"between {self.low} and {self.high}"
            raise ValueError(f"{name}={shown(value)} must be an integer {limits}{self.meaning and ', ' + self.meaning}")
        return int(value)


@dataclass(frozen=True)
class Real:
    """A finite number, of Python or of numpy, in ``[low, high]``.

    :param low: smallest
    :param high: largest
    :param above_low: whether ``low`` itself is too small
    """

    low: float = 0.0
    high: float = 1e6
    above_low: bool = False

    def __call__(self, name: str, value: Any) -> float:
        """The value as a Python number."""
        is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if not (is_number and self.low <= value <= self.high and not (self.above_low and value == self.low)):
            limits = f"above {self.low} and at most {self.high}" if self.above_low else f"in [{self.low}, {self.high}]"
            raise ValueError(f"{name}={shown(value)} must be a number {limits}")
        return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class OneOf:
    """One of a few values.

    :param values: which
    """

    values: tuple[Any, ...]

    def __call__(self, name: str, value: Any) -> Any:
        """The value as it is."""
        if not any(value is one or (type(value) is type(one) and value == one) for one in self.values):
            *first, last = map(repr, self.values)
            raise ValueError(f"{name}={shown(value)} must be {', '.join(first)} or {last}")
        return value


def switch(name: str, value: Any) -> bool:
    """A bool, of Python or of numpy."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def keywords(name: str, value: Any) -> Any:
    """A dictionary of keyword arguments."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name}={shown(value)} must be a dictionary of arguments by name")
    return value


def kinds_of(group: Any) -> dict[str, tuple[Kind, bool, bool]]:
    """Kind of every field of a record of arguments, whether it may be ``None``, and whether it is ``FIXED``."""
    found = {}
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kept, *notes = get_args(hints[field.name])
        found[field.name] = (notes[0], NoneType in get_args(kept), FIXED in notes)
    return found


@dataclass(frozen=True)
class ArgumentGroup:
    """Arguments that belong together and check themselves.

    Every field of a subclass is ``Annotated[type, kind]``, with :data:`FIXED` behind it where that holds.

    :raises ValueError: naming the argument, its value and what it must be
    """

    def __post_init__(self) -> None:
        for name, (kind, optional, _) in kinds_of(type(self)).items():
            value = getattr(self, name)
            if not (optional and value is None):
                object.__setattr__(self, name, kind(name, value))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the arguments."""
        return tuple(kinds_of(cls))

    @classmethod
    def of(cls: type[SomeGroup], arguments: Mapping[str, Any]) -> SomeGroup:
        """The record with its arguments taken by name from all that were given."""
        return cls(**{name: arguments[name] for name in cls.names() if name in arguments})


def argument_names(callable_: Any) -> set[str]:
    """Names of the keyword arguments that a class or function takes."""
    parameters = inspect.signature(callable_).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def check_known(names: Iterable[str], known: set[str], where: str) -> None:
    """Refuse names that nothing reads.

    :param names: given
    :param known: valid ones
    :param where: what they are names of
    :raises ValueError: with the nearest valid name
    """
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"{name!r} is not among {where}; the nearest name is {nearest[0]!r}")
