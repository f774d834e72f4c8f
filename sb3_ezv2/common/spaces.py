"""What the algorithm needs to know about observation spaces: names of the parts, finiteness, what is supported."""

from typing import NamedTuple

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first

from sb3_ezv2.common.type_aliases import ObservationArrays


class ImageLimits(NamedTuple):
    """What images a convolutional network takes."""

    network: str  # how errors call it
    min_side: int  # pixels
    max_side: int  # pixels
    max_channels: int  # with stacked frames counted
    one_size: bool  # whether all images of a ``Dict`` must have it


SMALL_LIMITS = ImageLimits("CnnPolicy", 5, 128, 128, one_size=False)
PAPER_LIMITS = ImageLimits("CnnPolicy with net_size='paper'", 32, 128, 12, one_size=True)


def named_spaces(space: spaces.Space) -> dict[str, spaces.Space]:
    """Parts of an observation space by key; a single one is called ``"observation"``."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}


def named_arrays(observations: np.ndarray | dict[str, np.ndarray]) -> ObservationArrays:
    """Observations by key, see :func:`named_spaces`."""
    return observations if isinstance(observations, dict) else {"observation": observations}


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


def check_image_space(space: spaces.Space, normalize_images: bool, limits: ImageLimits = SMALL_LIMITS) -> spaces.Box:
    """Refuse what is not an image, or has a size that the convolutional network does not take.

    :param space: observation space, channels first or last
    :param normalize_images: whether pixels are bytes, to be divided by 255; without, any ``Box`` of 3 axes is an image
    :param limits: of the network
    :return: the same space
    :raises ValueError: naming the space and what to do
    """
    if not (isinstance(space, spaces.Box) and is_image_space(space, normalized_image=not normalize_images)):
        raise ValueError(
            f"observation space {space} is not an image for policy='CnnPolicy': that is a Box of 3 axes with the dtype "
            "uint8 and bounds 0 and 255. Use 'MlpPolicy' for vectors, policy_kwargs={'normalize_images': False} for "
            "images of floats between 0 and 1, or gymnasium.wrappers.ReshapeObservation to add an axis for the channel"
        )
    n_channels, size = image_channels(space), image_size(space)
    if not all(limits.min_side <= n <= limits.max_side for n in size):
        raise ValueError(
            f"observation space {space} has images of {size[0]} x {size[1]} pixels; {limits.network} takes "
            f"{limits.min_side} to {limits.max_side} pixels per side. Resize them, for example with "
            "gymnasium.wrappers.ResizeObservation"
        )
    if n_channels > limits.max_channels:
        raise ValueError(
            f"observation space {space} has {n_channels} channels; {limits.network} takes at most "
            f"{limits.max_channels}. Stack fewer frames or convert them to grey, for example through "
            "gymnasium.wrappers.GrayscaleObservation"
        )
    return space


def image_parts(
    space: spaces.Space, normalize_images: bool, limits: ImageLimits = SMALL_LIMITS
) -> dict[str, spaces.Box]:
    """Parts of an observation space that the convolutional network sees, by key.

    Of a ``Dict`` these are the images whose sides are long enough; everything else in it is flattened.

    :param space: an image, or a ``Dict``
    :param normalize_images: see :func:`check_image_space`
    :param limits: of the network
    :return: empty if a ``Dict`` has no such image
    :raises ValueError: as :func:`check_image_space` does, or if the images of a ``Dict`` differ in size and must not
    """
    if not isinstance(space, spaces.Dict):
        return {"observation": check_image_space(space, normalize_images, limits)}
    found = {
        key: check_image_space(part, normalize_images, limits)
        for key, part in space.spaces.items()
        if isinstance(part, spaces.Box)
        and is_image_space(part, normalized_image=not normalize_images)
        and min(image_size(part)) >= limits.min_side
    }
    sizes = {key: image_size(part) for key, part in found.items()}
    if limits.one_size and len(set(sizes.values())) > 1:
        raise ValueError(
            f"observation space {space} has images of different sizes, {sizes}; {limits.network} sees one size. Resize "
            "them, for example with gymnasium.wrappers.TransformObservation"
        )
    return found


def image_channels(space: spaces.Box) -> int:
    """Channels of an image, first or last."""
    return space.shape[0] if is_image_space_channels_first(space) else space.shape[2]


def image_size(space: spaces.Box) -> tuple[int, int]:
    """Height and width of an image, channels first or last."""
    height, width = space.shape[1:] if is_image_space_channels_first(space) else space.shape[:2]
    return height, width


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
