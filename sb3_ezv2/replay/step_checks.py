"""What a step must be like to be stored, looked at before anything of it is written."""

from collections.abc import Mapping

import numpy as np
from gymnasium import spaces

from sb3_ezv2.common.spaces import named_arrays
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.replay.frame_storage import FrameStorage


def checked_observations(
    parts: Mapping[str, spaces.Space], observations: np.ndarray | dict[str, np.ndarray], n_envs: int | None
) -> ObservationArrays:
    """Observations by key.

    :param parts: of an observation, by key
    :param observations: ``[n_envs, ...]``, or a single one
    :param n_envs: ``None`` for a single observation
    :raises ValueError: if a part is missing or does not have the shape of its space
    """
    named = named_arrays(observations)
    for key, space in parts.items():
        expected = space.shape if n_envs is None else (n_envs, *(space.shape or ()))
        if key not in named:
            raise ValueError(f"an observation has no {key!r}; nothing of the step was stored")
        if np.shape(named[key]) != expected:
            raise ValueError(
                f"observation {key!r} has the shape {np.shape(named[key])}, its space {space} asks for {expected}; "
                "nothing of the step was stored"
            )
    return named


def check_stacks(
    stacks: Mapping[str, FrameStorage],
    channels_order: str | None,
    newest: np.ndarray,
    before: ObservationArrays,
    after: ObservationArrays,
    terminals: Mapping[int, ObservationArrays],
) -> None:
    """Make sure that images can be rebuilt from their newest frames.

    :param stacks: what stores them, by key
    :param channels_order: of the replay buffer
    :param newest: slot of every environment's newest observation ``[n_envs]``, negative where no stream is open
    :param before: observations before the step ``[n_envs, ...]``
    :param after: observations after it ``[n_envs, ...]``
    :param terminals: last observations of the episodes that end, by environment
    :raises ValueError: if an image is not the one before it in its stream, one frame later
    """
    for key, storage in stacks.items():
        for env, slot in enumerate(newest):
            last = storage.read(np.array(slot)) if slot >= 0 else before[key][env]
            following = terminals[env][key] if env in terminals else after[key][env]
            if not storage.follows(following, last):
                raise ValueError(
                    f"n_stack={storage.n_stack} and channels_order={channels_order!r} do not fit observation "
                    f"{key!r} of environment {env}: its older frames are not the newer frames of the observation "
                    "before; nothing of the step was stored. Pass the number of frames that the environment "
                    "stacks and their channels_order ('first' or 'last'), or store whole observations with "
                    "replay_buffer_kwargs={'n_stack': 1}"
                )
