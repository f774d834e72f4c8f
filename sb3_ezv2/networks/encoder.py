"""A small network for images: convolutions in front of the network for vectors.

Latent states are vectors, so a search costs what it costs for vectors, compiled code included, whatever the size of the
image; convolutions see an image once for every state that is trained or searched. Their sizes follow the image.
"""

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.spaces import image_channels, image_size
from sb3_ezv2.networks.augmentation import MAX_SHIFT
from sb3_ezv2.networks.model import ImageModel, ModelParts, flat_size

MOST_CELLS = 7
"""Convolutions halve an image until its shorter side has no more cells than this. A grid of 4 to 7 cells still says
where things are, and what is as small from the beginning, as the view of a gridworld, is not pooled at all."""
MOST_DOUBLINGS = 2
"""Channels double with every halving, so that later, smaller feature maps cost about as much as earlier ones, but so
often at most."""
PAPER_SIDE = 96
"""Pixels per side of the paper's images, which augmentation shifts by up to ``MAX_SHIFT``."""


def n_halvings(height: int, width: int) -> int:
    """How often convolutions halve an image; every halving rounds up."""
    side, n = min(height, width), 0
    while side > MOST_CELLS:
        side, n = -(-side // 2), n + 1
    return n


def channels_of(halvings: int, channels: int) -> list[int]:
    """Channels of every convolution.

    An image that is not halved has one convolution too, and one that is halved once at most has half the channels: its
    cells see little, and there are as many of them as of a large image in the end.

    :param halvings: of the image
    :param channels: of the last convolution of larger images
    """
    n = max(halvings, 1)
    last = min(n - 1, MOST_DOUBLINGS) or 1
    return [max(channels >> max(last - k, 0), 1) for k in range(n)]


def shift_of(height: int, width: int) -> int:
    """Pixels that augmentation shifts an image by at most: the paper's share of its shorter side, rounded down."""
    return min(MAX_SHIFT * min(height, width) // PAPER_SIDE, MAX_SHIFT)


class ImageEncoder(nn.Module):
    """Image to features, normalised one by one over the batch.

    A convolution of 3 x 3 for every halving, with ``BatchNorm``. Most of a task's images have most pixels in common;
    the last normalisation takes away what a batch has in common at every place, as the statistics of observations do
    for vectors.

    :param image_shape: channels, height and width
    :param channels: see :func:`channels_of`
    :param activation_fn: of all layers
    """

    def __init__(self, image_shape: tuple[int, int, int], channels: int, activation_fn: type[nn.Module]) -> None:
        super().__init__()
        n_inputs, height, width = image_shape
        halvings = n_halvings(height, width)
        layers: list[nn.Module] = []
        for n_outputs in channels_of(halvings, channels):
            convolution = nn.Conv2d(n_inputs, n_outputs, 3, 2 if halvings else 1, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(n_outputs), activation_fn()]
            n_inputs = n_outputs
        self.features_dim = n_inputs * -(-height // 2**halvings) * -(-width // 2**halvings)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.BatchNorm1d(self.features_dim))
        # Convolutions of few channels take half as long with the channels side by side, and follow their weights there.
        self.layers.to(memory_format=th.channels_last)  # type: ignore[call-overload]

    def forward(self, images: th.Tensor) -> th.Tensor:
        """``[batch, channels, height, width] -> [batch, features_dim]``."""
        return self.layers(images)


class EncodedImageModel(ImageModel):
    """World model for images whose latent states are vectors.

    Images of equal size are the channels of one. Features of each size, and everything that is no image, enter the
    representation with the same weight, however many numbers they are.

    :param observation_space: an image, or a ``Dict`` with at least one
    :param images: its parts that are images, see :func:`sb3_ezv2.common.spaces.image_parts`
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param encoders: by size, see :func:`build_encoders`
    :param parts: the networks behind them, see :mod:`sb3_ezv2.networks.builders`
    :param normalize_images: whether to divide the pixels by 255
    :param augment: whether images are augmented in training mode; those that would be shifted by less than a pixel are
        not
    """

    feature_mean: th.Tensor
    feature_std: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        images: dict[str, spaces.Box],
        action_kind: ActionKind,
        discount: float,
        encoders: nn.ModuleDict,
        parts: ModelParts,
        normalize_images: bool,
        augment: bool,
    ) -> None:
        super().__init__(observation_space, images, action_kind, discount, parts, normalize_images, augment)
        self.encoders = encoders
        widths = group_widths(encoders, flat_size(observation_space, images))
        self.register_buffer("feature_mean", th.zeros(sum(widths)), persistent=False)
        self.register_buffer("feature_std", th.ones(sum(widths)), persistent=False)
        with th.no_grad():
            first = parts.representation.layers[0]
            for columns in first.weight.split(widths, dim=1):  # type: ignore[operator]
                columns.mul_((sum(widths) / (len(widths) * columns.shape[1])) ** 0.5)

    def normalised(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Everything but the images, in standard deviations, compressed."""
        return _compressed(self._standardised(observations))

    def vectors(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Features of the images and everything else, in standard deviations ``[batch, n]``."""
        return self._joined(observations, None)

    def vector_statistics(self) -> tuple[th.Tensor, th.Tensor]:
        """Zeros and ones: :meth:`vectors` are normalised."""
        return self.feature_mean, self.feature_std

    def represent(self, observations: dict[str, th.Tensor], generator: th.Generator | None = None) -> th.Tensor:
        """Latent states ``[batch, latent_dim]`` of images and all the rest.

        :param observations: ``[batch, *space.shape]`` by key
        :param generator: of the augmentation, on their device; ``None`` for torch's global one
        """
        return self.representation(_compressed(self._joined(observations, generator)))

    def _standardised(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        return (self.flatten(observations) - self.observation_mean) / self.observation_std

    def _joined(self, observations: dict[str, th.Tensor], generator: th.Generator | None) -> th.Tensor:
        features = []
        for size, of_size in by_size(self.images).items():
            shift = shift_of(*image_size(next(iter(of_size.values()))))
            parts = [self._image(observations[key], space, generator, shift) for key, space in of_size.items()]
            features.append(self.encoders[size](th.cat(parts, dim=1) if len(parts) > 1 else parts[0]).float())
        return th.cat([*features, self._standardised(observations)], dim=1)


def _compressed(x: th.Tensor) -> th.Tensor:
    return x.sign() * x.abs().log1p()


def by_size(images: dict[str, spaces.Box]) -> dict[str, dict[str, spaces.Box]]:
    """Images by their size, ``"height x width"``."""
    found: dict[str, dict[str, spaces.Box]] = {}
    for key, space in images.items():
        height, width = image_size(space)
        found.setdefault(f"{height} x {width}", {})[key] = space
    return found


def build_encoders(images: dict[str, spaces.Box], channels: int, activation_fn: type[nn.Module]) -> nn.ModuleDict:
    """One encoder for the images of each size.

    :param images: by key
    :param channels: see :func:`channels_of`
    :param activation_fn: of all layers
    """
    encoders = {}
    for size, of_size in by_size(images).items():
        image_shape = (sum(map(image_channels, of_size.values())), *image_size(next(iter(of_size.values()))))
        encoders[size] = ImageEncoder(image_shape, channels, activation_fn)
    return nn.ModuleDict(encoders)


def group_widths(encoders: nn.ModuleDict, vector_dim: int) -> list[int]:
    """How many numbers the features of each size are, and last, if there are any, those of everything else."""
    widths = [int(encoder.features_dim) for encoder in encoders.values()]  # type: ignore[arg-type]
    return widths + ([vector_dim] if vector_dim else [])
