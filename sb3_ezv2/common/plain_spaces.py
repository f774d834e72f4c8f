"""Spaces as plain numbers and texts, for files that nothing is executed from."""

import hashlib
import json
from typing import Any

import numpy as np
from gymnasium import spaces


def space_to_plain(space: spaces.Space) -> dict[str, Any]:
    """Describe a space in dictionaries, lists, numbers and texts, as JSON holds them.

    :param space: ``Box``, ``Discrete``, ``MultiDiscrete``, ``MultiBinary`` or a ``Dict`` of those
    :return: what :func:`space_from_plain` reads
    :raises ValueError: for another space
    """
    if isinstance(space, spaces.Box):
        bounds = {"low": _short(space.low), "high": _short(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.asarray(space.start).tolist()
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": starts, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": np.asarray(space.n).tolist()}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_plain(part)] for key, part in space.spaces.items()]}
    raise ValueError(f"a space of the type {type(space).__name__} cannot be described: {space}")


def space_from_plain(plain: dict[str, Any]) -> spaces.Space:
    """The space that :func:`space_to_plain` has described.

    :param plain: the description
    :raises ValueError: if it is none
    """
    try:
        kind = plain["type"]
        if kind == "Box":
            shape, dtype = tuple(plain["shape"]), np.dtype(plain["dtype"])
            low, high = (np.broadcast_to(np.array(plain[name], dtype), shape) for name in ("low", "high"))
            return spaces.Box(low.copy(), high.copy(), shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(plain["n"], start=plain["start"])
        if kind == "MultiDiscrete":
            dtype = np.dtype(plain["dtype"])
            return spaces.MultiDiscrete(plain["nvec"], dtype=dtype.type, start=plain["start"])
        if kind == "MultiBinary":
            return spaces.MultiBinary(plain["n"])
        if kind == "Dict":
            return spaces.Dict({key: space_from_plain(part) for key, part in plain["spaces"]})
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"{plain!r} describes no space: {error!r}") from error
    raise ValueError(f"{kind!r} is no type of a space")


def fingerprint(space: spaces.Space) -> str:
    """SHA-256 of the description of a space: two spaces with the same one are equal."""
    return hashlib.sha256(json.dumps(space_to_plain(space), sort_keys=True).encode()).hexdigest()


def _short(bound: np.ndarray) -> Any:
    """Bounds as nested lists, or as one number where all are equal; infinities as ``"inf"`` and ``"-inf"``."""
    values = bound
    if bound.size and np.all(bound == bound.reshape(-1)[0]):
        values = bound.reshape(-1)[0]
    if np.isfinite(values).all():
        return np.asarray(values).tolist()
    named = np.asarray(values, object)
    named[~np.isfinite(values)] = np.asarray(values)[~np.isfinite(values)].astype(str)
    return named.tolist()
