"""Which actions are legal: masks as sb3-contrib has them, asked of the environments and stored bit by bit.

An environment has a method ``action_masks()``, its own one or that of a wrapper such as sb3-contrib's ``ActionMasker``.
It returns one entry for every choice of the state that the environment is in: ``Discrete`` has as many as there are
actions, ``MultiDiscrete`` and ``MultiBinary`` those of all dimensions one after the other.
"""

from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.arguments import shown
from sb3_ezv2.common.spaces import named_arrays
from sb3_ezv2.common.type_aliases import ObservationArrays

METHOD = "action_masks"
"""Name of the method of an environment, as in sb3-contrib."""
MASKS = "<action masks>"
"""Key of the packed masks among the stored parts of an observation; no ``Dict`` of a user has it."""


def packed_size(kind: ActionKind) -> int:
    """Bytes of a packed mask."""
    return -(-kind.mask_size // 8)


@cache
def packed_space(n_bytes: int) -> spaces.Box:
    """Of packed masks; made once, because every step that is stored asks for it."""
    return spaces.Box(0, 255, (n_bytes,), np.uint8)


def pack(masks: np.ndarray) -> np.ndarray:
    """Masks ``[..., mask_size]`` bool as bytes ``[..., packed_size]``."""
    return np.packbits(masks, axis=-1)


def unpack(packed: np.ndarray, kind: ActionKind) -> np.ndarray:
    """What :func:`pack` was given."""
    return np.unpackbits(packed, axis=-1, count=kind.mask_size).astype(bool)


def checked_masks(masks: Any, n: int, kind: ActionKind, name: str) -> np.ndarray:
    """Masks of ``n`` states as an array ``[n, mask_size]`` bool.

    :param masks: one for every state, or a single one where ``n`` is 1; booleans, or numbers that are 0 or 1
    :param n: number of states
    :param kind: of the actions
    :param name: of the masks, for errors
    :raises ValueError: if the actions have no masks, or these are something else, or a state has no legal action
    """
    if kind.mask_size == 0:
        raise ValueError(f"{name}: actions of a Box have no masks; use them with Discrete, MultiDiscrete, MultiBinary")
    try:
        array = np.asarray(masks)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if array.dtype.kind in "iu" and ((array == 0) | (array == 1)).all():
        array = array.astype(bool)
    if array.dtype != bool or array.size != n * kind.mask_size or array.shape[-1:] != (kind.mask_size,):
        raise ValueError(
            f"{name}={shown(masks)} has the shape {array.shape} and the dtype {array.dtype}; it must be booleans (or 0 "
            f"and 1) of the shape {(n, kind.mask_size)}, one for every choice of an action"
        )
    array = array.reshape(n, kind.mask_size)
    if not (legal := kind.have_legal(array)).all():
        raise ValueError(
            f"{name}: state {int(np.argmin(legal))} has no legal action; every state that is not the end of an episode "
            "needs one (in every dimension), so end the episode where there is none, or add an action that does nothing"
        )
    return array


def offers_masks(env: VecEnv) -> bool:
    """Whether the environments have masks.

    :param env: with any wrappers
    :raises ValueError: if some have and some have not
    """
    inner = env.unwrapped
    if isinstance(inner, SubprocVecEnv):
        for remote in inner.remotes:
            remote.send(("has_attr", METHOD))
        found = [bool(remote.recv()) for remote in inner.remotes]
    elif isinstance(inner, DummyVecEnv):
        found = [one.has_wrapper_attr(METHOD) for one in inner.envs]
    else:
        found = [env.has_attr(METHOD)]
    if any(found) != all(found):
        raise ValueError(
            f"environments {[i for i, has in enumerate(found) if not has]} have no method {METHOD}(), the others have; "
            "give it to all, for example with sb3_contrib.common.wrappers.ActionMasker, or to none"
        )
    return all(found)


def masks_of(env: VecEnv, kind: ActionKind) -> np.ndarray:
    """Masks ``[n_envs, mask_size]`` of the states that the environments are in.

    :param env: with any wrappers
    :param kind: of the actions
    :raises ValueError: naming the environment whose mask is none
    """
    given = env.env_method(METHOD)
    try:
        return checked_masks(given, len(given), kind, METHOD)
    except ValueError:
        for i, mask in enumerate(given):
            checked_masks(mask, 1, kind, f"{METHOD}() of environment {i}")
        raise


def with_masks(
    observations: np.ndarray | ObservationArrays, masks: np.ndarray | None
) -> np.ndarray | ObservationArrays:
    """Observations as a replay buffer stores them: by key with the packed masks, or as they are without masks."""
    return observations if masks is None else {**named_arrays(observations), MASKS: pack(masks)}
