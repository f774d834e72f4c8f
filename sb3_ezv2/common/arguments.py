"""Limits of the algorithm's numbers."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

AT_LEAST_ONE = (
    "buffer_size",
    "batch_size",
    "random_repeat",
    "n_simulations",
    "n_candidates",
    "unroll_steps",
    "target_update_interval",
)
AT_LEAST_ZERO = (
    "learning_starts",
    "n_policy_candidates",
    "td_phase",
    "td_fresh",
    "priority_beta",
    "reward_coef",
    "value_coef",
    "policy_coef",
    "consistency_coef",
    "ent_coef",
)


def check_integer(name: str, value: object, low: int) -> None:
    """Refuse what is not an integer of at least ``low``.

    :raises ValueError: naming the argument
    """
    if not isinstance(value, int | np.integer) or value < low:
        raise ValueError(f"{name}={value!r} must be an integer of at least {low}")


def check_range(name: str, value: float, low: float, high: float = np.inf) -> None:
    """Refuse a number outside ``[low, high]``.

    :raises ValueError: naming the argument
    """
    if not low <= value <= high:
        limits = f"at least {low}" if high == np.inf else f"between {low} and {high}"
        raise ValueError(f"{name}={value} must be {limits}")


def td_steps_or_default(td_steps: int | None, default: int) -> int:
    """``td_steps``, or what suits the kind of action if it is ``None``.

    :raises ValueError: if it is not at least 1
    """
    if td_steps is None:
        return default
    check_integer("td_steps", td_steps, 1)
    return td_steps


def argument_names(callable_: Any) -> set[str]:
    """Names of the keyword arguments that a class or function takes.

    Where a class passes further ones on with ``**kwargs``, those of its base class are included.
    """
    parameters = inspect.signature(callable_).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    passes_on = inspect.isclass(callable_) and any(p.kind is p.VAR_KEYWORD for p in parameters)
    return names | argument_names(callable_.__base__) if passes_on else names


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


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse numbers that cannot work.

    :param arguments: of the constructor of :class:`~sb3_ezv2.ezv2.EfficientZeroV2`, by name
    :raises ValueError: naming the argument, its value and what it must be
    """
    for name in AT_LEAST_ONE:
        check_integer(name, arguments[name], 1)
    for name in AT_LEAST_ZERO:
        check_range(name, arguments[name], 0)
    for name in ("tau", "gamma"):
        check_range(name, arguments[name], 0, 1)
    check_range("flatten_factor", arguments["flatten_factor"], 1)
    check_integer("gradient_steps", arguments["gradient_steps"], -1)
    train_freq = arguments["train_freq"]
    frequency, unit = train_freq if isinstance(train_freq, tuple) else (train_freq, "step")
    if not isinstance(frequency, int) or frequency < 1 or unit not in ("step", "episode"):
        raise ValueError(f'train_freq={train_freq!r} must be a number of at least 1, or (number, "step" or "episode")')
    check_range("n_policy_candidates", arguments["n_policy_candidates"], 0, arguments["n_candidates"])
    if arguments["n_threads"] is not None:
        check_integer("n_threads", arguments["n_threads"], 1)
    if not arguments["max_grad_norm"] > 0:
        raise ValueError(f"max_grad_norm={arguments['max_grad_norm']} must be positive")
    if arguments["batch_size"] > arguments["buffer_size"]:
        raise ValueError(
            f"batch_size={arguments['batch_size']} exceeds buffer_size={arguments['buffer_size']}; use a larger "
            "buffer or a smaller batch"
        )
