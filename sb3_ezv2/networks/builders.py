"""World models from their sizes: networks for vectors and networks for images, behind one interface."""

from gymnasium import spaces
from torch import nn

from sb3_ezv2.common.spaces import image_channels, image_parts, image_size
from sb3_ezv2.networks.action_heads import ContinuousActionHead, DiscreteActionHead
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
from sb3_ezv2.networks.value_prefix import ValuePrefix

HIDDEN_DIM_DISCRETE, HIDDEN_DIM_CONTINUOUS = 32, 64
"""Hidden size of the heads on images (paper), by kind of action."""


def vector_model(
    observation_space: spaces.Space,
    action_head: DiscreteActionHead | ContinuousActionHead,
    discount: float,
    latent_dim: int,
    hidden_dim: int,
    n_blocks: int,
    projection_dim: int,
    value_prefix: bool,
    lstm_dim: int,
    prefix_horizon: int,
    transformed_support: bool,
) -> EfficientZeroModel:
    """World model for observations that are flattened.

    :param observation_space: any space that SB3 can flatten
    :param action_head: encoding of the actions and policy over them
    :param discount: of one step
    :param latent_dim: size of the latent state
    :param hidden_dim: hidden size of all residual blocks and heads
    :param n_blocks: residual blocks of the representation and of the dynamics each
    :param projection_dim: hidden size of the consistency projection
    :param value_prefix: whether sums of rewards are predicted instead of single rewards
    :param lstm_dim: size of the LSTM that reads the value prefix
    :param prefix_horizon: steps after which the value prefix begins again
    :param transformed_support: whether scalars are read by a
        :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    """
    observation_dim = flat_size(observation_space)
    rewards = reward_support(prefix_horizon if value_prefix else 1, transformed_support)
    values = value_support(discount, transformed_support)
    # A value prefix reads the features of the first head itself.
    outputs = (None if value_prefix else rewards.n_bins, values.n_bins, action_head.output_dim)
    norm = nn.LayerNorm(lstm_dim)
    parts = ModelParts(
        representation=MlpRepresentation(observation_dim, latent_dim, hidden_dim, n_blocks),
        dynamics=MlpDynamics(action_head.encoded_dim, latent_dim, hidden_dim, n_blocks),
        heads=Heads(latent_dim, hidden_dim, outputs),
        projection=nn.Sequential(
            nn.Linear(latent_dim, projection_dim),
            nn.LayerNorm(projection_dim),
            nn.ReLU(),
            nn.Linear(projection_dim, latent_dim),
            nn.LayerNorm(latent_dim),
        ),
        prediction=nn.Sequential(
            nn.Linear(latent_dim, latent_dim),
            nn.LayerNorm(latent_dim),
            nn.ReLU(),
            nn.Linear(latent_dim, latent_dim),
        ),
        reward_support=rewards,
        value_support=values,
        value_prefix=ValuePrefix(hidden_dim, lstm_dim, hidden_dim, rewards.n_bins, prefix_horizon, norm)
        if value_prefix
        else None,
    )
    return EfficientZeroModel(observation_space, action_head, discount, observation_dim, parts)


def image_model(
    observation_space: spaces.Space,
    action_head: DiscreteActionHead | ContinuousActionHead,
    discount: float,
    stem_channels: int,
    latent_channels: int,
    action_channels: int,
    head_channels: int,
    hidden_dim: int | None,
    projection_dim: int,
    prediction_dim: int,
    normalize_images: bool,
    augment: bool,
    value_prefix: bool,
    lstm_dim: int,
    prefix_horizon: int,
    transformed_support: bool,
) -> ImageModel:
    """World model for images (EfficientZero V2, appendix on architectures).

    :param observation_space: an image, or a ``Dict`` with images, see :func:`sb3_ezv2.common.spaces.image_parts`
    :param action_head: encoding of the actions and policy over them
    :param discount: of one step
    :param stem_channels: channels of the first, larger feature maps
    :param latent_channels: channels of the latent state
    :param action_channels: channels of the embedded action
    :param head_channels: channels that each head flattens
    :param hidden_dim: hidden size of the heads; ``None`` for 32 with discrete actions and 64 with continuous ones
    :param projection_dim: size of the consistency projection
    :param prediction_dim: hidden size of the consistency prediction
    :param normalize_images: whether to divide the pixels by 255
    :param augment: whether images are augmented in training mode
    :param value_prefix: whether sums of rewards are predicted instead of single rewards
    :param lstm_dim: size of the LSTM that reads the value prefix
    :param prefix_horizon: steps after which the value prefix begins again
    :param transformed_support: whether scalars are read by a
        :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    """
    images = image_parts(observation_space, normalize_images)
    size = image_size(next(iter(images.values())))
    image_shape = (sum(map(image_channels, images.values())), *size)
    height, width = latent_size(*size)
    if hidden_dim is None:
        discrete = isinstance(action_head, DiscreteActionHead)
        hidden_dim = HIDDEN_DIM_DISCRETE if discrete else HIDDEN_DIM_CONTINUOUS
    n_features = head_channels * height * width
    rewards = reward_support(prefix_horizon if value_prefix else 1, transformed_support)
    values = value_support(discount, transformed_support)
    # A value prefix reads the features of the first head itself.
    outputs = (None if value_prefix else rewards.n_bins, values.n_bins, action_head.output_dim)
    norm = nn.BatchNorm1d(lstm_dim)
    parts = ModelParts(
        representation=ConvRepresentation(
            image_shape, flat_size(observation_space, images), stem_channels, latent_channels
        ),
        dynamics=ConvDynamics(action_head.encoded_dim, latent_channels, action_channels),
        heads=SpatialHeads(
            (latent_channels, height, width),
            head_channels,
            hidden_dim,
            outputs,
        ),
        projection=nn.Sequential(
            nn.Flatten(),
            nn.Linear(latent_channels * height * width, projection_dim),
            nn.BatchNorm1d(projection_dim),
            nn.ReLU(),
            nn.Linear(projection_dim, projection_dim),
            nn.BatchNorm1d(projection_dim),
            nn.ReLU(),
            nn.Linear(projection_dim, projection_dim),
            nn.BatchNorm1d(projection_dim),
        ),
        prediction=nn.Sequential(
            nn.Linear(projection_dim, prediction_dim),
            nn.BatchNorm1d(prediction_dim),
            nn.ReLU(),
            nn.Linear(prediction_dim, projection_dim),
        ),
        reward_support=rewards,
        value_support=values,
        value_prefix=ValuePrefix(n_features, lstm_dim, hidden_dim, rewards.n_bins, prefix_horizon, norm)
        if value_prefix
        else None,
    )
    return ImageModel(observation_space, images, action_head, discount, parts, normalize_images, augment)
