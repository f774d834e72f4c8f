"""What the algorithm needs to know about Gymnasium spaces: names of the parts, finiteness, what is supported."""

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

from sb3_ezv2.type_aliases import ObservationArrays


def named_spaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """Parts of an observation space by key; a single one is called ``"observation"``."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}


def named_arrays(observations: np.ndarray | dict[str, np.ndarray]) -> ObservationArrays:
    """Observations by key, see :func:`named_spaces`."""
    return observations if isinstance(observations, dict) else {"observation": observations}


def random_actions(space: spaces.Space, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Uniformly random actions ``[*shape]`` counted from 0, or ``[*shape, action_dim]`` in [-1, 1]."""
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=shape)
    return rng.uniform(-1.0, 1.0, (*shape, get_action_dim(space))).astype(np.float32)


def check_action_space(space: spaces.Space) -> None:
    """Refuse what cannot be searched.

    :raises ValueError: unless ``space`` is ``Discrete`` or a ``Box`` with finite, distinct bounds
    """
    if isinstance(space, spaces.Discrete):
        return
    if not isinstance(space, spaces.Box):
        raise ValueError(
            f"action space {space} is not supported; use Discrete or a bounded Box (flatten others with a wrapper)"
        )
    if space.dtype.kind != "f":
        raise ValueError(
            f"action space {space} has the dtype {space.dtype}; use a Box of floats, or Discrete for whole numbers"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise ValueError(
            f"action space {space} has bounds low={space.low}, high={space.high}; every bound must be finite with "
            "low < high, for example through gymnasium.wrappers.RescaleAction or a Box with tighter bounds"
        )


def check_observation_space(space: spaces.Space) -> None:
    """Refuse what cannot be flattened into a vector.

    :raises ValueError: unless every part is ``Box``, ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``
    """
    for key, part in named_spaces(space).items():
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise ValueError(
                f"observation space {part} (key {key!r}) is not supported; use Box, Discrete, MultiDiscrete, "
                "MultiBinary or a Dict of those, for example through gymnasium.wrappers.FlattenObservation"
            )
        if isinstance(part, spaces.MultiDiscrete) and part.nvec.ndim != 1:
            raise ValueError(
                f"observation space {part} (key {key!r}) has {part.nvec.ndim} axes; flatten it to a vector, for "
                "example through gymnasium.wrappers.ReshapeObservation"
            )


def check_finite(name: str, values: np.ndarray | dict[str, np.ndarray]) -> None:
    """Refuse NaN and infinity in what an environment returned.

    :raises ValueError: naming ``name`` and the first bad entry
    """
    for key, part in named_arrays(values).items():
        array = np.asarray(part)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = tuple(np.argwhere(~np.isfinite(array))[0].tolist())
            where = f"{name} {key!r}" if isinstance(values, dict) else name
            raise ValueError(
                f"the environment returned {array[bad]} in {where} at index {bad}; the step was not stored. Fix the "
                "environment or clean its output with a wrapper (VecCheckNan finds the source)"
            )
