"""World models from their sizes: networks for vectors and networks for images, behind one interface."""

from dataclasses import dataclass
from typing import Annotated

from gymnasium import spaces
from torch import nn

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.arguments import ArgumentGroup, Whole, switch
from sb3_ezv2.common.spaces import image_channels, image_parts, image_size
from sb3_ezv2.networks.cnn import ConvDynamics, ConvRepresentation, SpatialHeads, latent_size
from sb3_ezv2.networks.layers import Heads
from sb3_ezv2.networks.mlp import MlpDynamics, MlpRepresentation
from sb3_ezv2.networks.model import (
    EfficientZeroModel,
    ImageModel,
    ModelParts,
    flat_size,
    reward_support,
    value_support,
)
from sb3_ezv2.networks.supports import Support
from sb3_ezv2.networks.value_prefix import ValuePrefix

SIZE, DEPTH = Whole(1, 2**16), Whole(1, 1_000)


@dataclass(frozen=True)
class NetworkArguments(ArgumentGroup):
    """What the networks for vectors and for images have in common.

    :param value_prefix: whether sums of rewards are predicted instead of single rewards, see
        :mod:`sb3_ezv2.networks.value_prefix`; searches of vectors are slower then, because torch
        evaluates the network
    :param lstm_dim: size of the LSTM that reads the value prefix
    :param prefix_horizon: steps after which the value prefix begins again
    :param transformed_support: whether rewards and values are read as in release 0.1, in whose models this is set, see
        :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    """

    value_prefix: Annotated[bool, switch] = False
    lstm_dim: Annotated[int, SIZE] = 512
    prefix_horizon: Annotated[int, DEPTH] = 5
    transformed_support: Annotated[bool, switch] = False

    def outputs(self, action_kind: ActionKind, discount: float) -> tuple[Support, Support, tuple[int | None, ...]]:
        """Supports of rewards and of values, and output sizes of the heads for rewards, values and policies.

        :param action_kind: of the policies
        :param discount: of one step
        """
        rewards = reward_support(self.prefix_horizon if self.value_prefix else 1, self.transformed_support)
        values = value_support(discount, self.transformed_support)
        # A value prefix reads the features of the first head itself.
        return rewards, values, (None if self.value_prefix else rewards.n_bins, values.n_bins, action_kind.output_dim)


@dataclass(frozen=True)
class VectorNetwork(NetworkArguments):
    """Sizes of the network for vectors, besides those of every network.

    :param latent_dim: size of the latent state
    :param hidden_dim: hidden size of the residual blocks and heads
    :param n_blocks: residual blocks of the representation and of the dynamics each
    :param projection_dim: hidden size of the consistency projection
    """

    latent_dim: Annotated[int, SIZE] = 128
    hidden_dim: Annotated[int, SIZE] = 128
    n_blocks: Annotated[int, DEPTH] = 1
    projection_dim: Annotated[int, SIZE] = 256


@dataclass(frozen=True)
class ImageNetwork(NetworkArguments):
    """Sizes of the network for images, besides those of every network.

    :param stem_channels: channels of the first, larger feature maps
    :param latent_channels: channels of the latent state
    :param action_channels: channels of the embedded action
    :param head_channels: channels that each head flattens
    :param hidden_dim: hidden size of the heads; ``None`` for what suits the kind of action
    :param projection_dim: size of the consistency projection
    :param prediction_dim: hidden size of the consistency prediction
    :param normalize_images: whether pixels are bytes, to be divided by 255, as in every policy of SB3
    :param augment: whether the losses see images shifted by up to 4 pixels and with a changed intensity, see
        :mod:`sb3_ezv2.networks.augmentation`
    """

    stem_channels: Annotated[int, SIZE] = 32
    latent_channels: Annotated[int, SIZE] = 64
    action_channels: Annotated[int, SIZE] = 16
    head_channels: Annotated[int, SIZE] = 16
    hidden_dim: Annotated[int | None, SIZE] = None
    projection_dim: Annotated[int, SIZE] = 1024
    prediction_dim: Annotated[int, SIZE] = 256
    normalize_images: Annotated[bool, switch] = True
    augment: Annotated[bool, switch] = True


def vector_model(
    observation_space: spaces.Space,
    action_kind: ActionKind,
    discount: float,
    sizes: VectorNetwork,
) -> EfficientZeroModel:
    """World model for observations that are flattened.

    :param observation_space: any space that SB3 can flatten
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param sizes: of the network
    """
    observation_dim = flat_size(observation_space)
    rewards, values, outputs = sizes.outputs(action_kind, discount)
    norm = nn.LayerNorm(sizes.lstm_dim)
    parts = ModelParts(
        representation=MlpRepresentation(observation_dim, sizes.latent_dim, sizes.hidden_dim, sizes.n_blocks),
        dynamics=MlpDynamics(action_kind.encoded_dim, sizes.latent_dim, sizes.hidden_dim, sizes.n_blocks),
        heads=Heads(sizes.latent_dim, sizes.hidden_dim, outputs),
        projection=nn.Sequential(
            nn.Linear(sizes.latent_dim, sizes.projection_dim),
            nn.LayerNorm(sizes.projection_dim),
            nn.ReLU(),
            nn.Linear(sizes.projection_dim, sizes.latent_dim),
            nn.LayerNorm(sizes.latent_dim),
        ),
        prediction=nn.Sequential(
            nn.Linear(sizes.latent_dim, sizes.latent_dim),
            nn.LayerNorm(sizes.latent_dim),
            nn.ReLU(),
            nn.Linear(sizes.latent_dim, sizes.latent_dim),
        ),
        reward_support=rewards,
        value_support=values,
        value_prefix=ValuePrefix(
            sizes.hidden_dim, sizes.lstm_dim, sizes.hidden_dim, rewards.n_bins, sizes.prefix_horizon, norm
        )
        if sizes.value_prefix
        else None,
    )
    return EfficientZeroModel(observation_space, action_kind, discount, observation_dim, parts)


def image_model(
    observation_space: spaces.Space,
    action_kind: ActionKind,
    discount: float,
    sizes: ImageNetwork,
) -> ImageModel:
    """World model for images (EfficientZero V2, appendix on architectures).

    :param observation_space: an image, or a ``Dict`` with images, see :func:`sb3_ezv2.common.spaces.image_parts`
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param sizes: of the network
    """
    images = image_parts(observation_space, sizes.normalize_images)
    size = image_size(next(iter(images.values())))
    image_shape = (sum(map(image_channels, images.values())), *size)
    height, width = latent_size(*size)
    hidden_dim = sizes.hidden_dim
    if hidden_dim is None:
        hidden_dim = action_kind.image_hidden_dim
    n_features = sizes.head_channels * height * width
    rewards, values, outputs = sizes.outputs(action_kind, discount)
    norm = nn.BatchNorm1d(sizes.lstm_dim)
    parts = ModelParts(
        representation=ConvRepresentation(
            image_shape, flat_size(observation_space, images), sizes.stem_channels, sizes.latent_channels
        ),
        dynamics=ConvDynamics(action_kind.encoded_dim, sizes.latent_channels, sizes.action_channels),
        heads=SpatialHeads(
            (sizes.latent_channels, height, width),
            sizes.head_channels,
            hidden_dim,
            outputs,
        ),
        projection=nn.Sequential(
            nn.Flatten(),
            nn.Linear(sizes.latent_channels * height * width, sizes.projection_dim),
            nn.BatchNorm1d(sizes.projection_dim),
            nn.ReLU(),
            nn.Linear(sizes.projection_dim, sizes.projection_dim),
            nn.BatchNorm1d(sizes.projection_dim),
            nn.ReLU(),
            nn.Linear(sizes.projection_dim, sizes.projection_dim),
            nn.BatchNorm1d(sizes.projection_dim),
        ),
        prediction=nn.Sequential(
            nn.Linear(sizes.projection_dim, sizes.prediction_dim),
            nn.BatchNorm1d(sizes.prediction_dim),
            nn.ReLU(),
            nn.Linear(sizes.prediction_dim, sizes.projection_dim),
        ),
        reward_support=rewards,
        value_support=values,
        value_prefix=ValuePrefix(n_features, sizes.lstm_dim, hidden_dim, rewards.n_bins, sizes.prefix_horizon, norm)
        if sizes.value_prefix
        else None,
    )
    return ImageModel(observation_space, images, action_kind, discount, parts, sizes.normalize_images, sizes.augment)
