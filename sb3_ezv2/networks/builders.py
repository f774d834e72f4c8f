"""World models from their sizes: networks for vectors and networks for images, behind one interface."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.arguments import ArgumentGroup, OneOf, Whole, keywords, shown, switch
from sb3_ezv2.common.spaces import (
    PAPER_LIMITS,
    SMALL_LIMITS,
    ImageLimits,
    image_channels,
    image_parts,
    image_size,
)
from sb3_ezv2.networks.cnn import ConvDynamics, ConvRepresentation, SpatialHeads, latent_size
from sb3_ezv2.networks.encoder import EncodedImageModel, build_encoders, group_widths
from sb3_ezv2.networks.features import FeaturesModel, build_extractor
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


FEW_LAYERS = 100


def layer_sizes(name: str, value: Any) -> tuple[int, ...]:
    """Sizes of hidden layers, at least one."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= FEW_LAYERS:
        raise ValueError(
            f"{name}={shown(value)} must be a list of 1 to {FEW_LAYERS} sizes, for example [128, 128]; one list holds "
            "for reward, value and policy alike, which share the latent state"
        )
    return tuple(SIZE(f"every size of {name}", size) for size in value)


def activation_class(name: str, value: Any) -> type[nn.Module]:
    """A class of activations that is built without arguments and keeps the shape."""
    example = th.linspace(-1.0, 1.0, 6).view(2, 3)
    try:
        fits = isinstance(value, type) and issubclass(value, nn.Module) and value()(example).shape == example.shape
    except Exception:  # whatever the class does wrong
        fits = False
    if not fits:
        raise ValueError(f"{name}={shown(value)} must be a class of activations such as torch.nn.Tanh, not a function")
    return value


def extractor_class(name: str, value: Any) -> type[BaseFeaturesExtractor]:
    """A class of features extractors."""
    if not (isinstance(value, type) and issubclass(value, BaseFeaturesExtractor)):
        raise ValueError(
            f"{name}={shown(value)} must be a subclass of "
            "stable_baselines3.common.torch_layers.BaseFeaturesExtractor; its arguments go to features_extractor_kwargs"
        )
    return value


@dataclass(frozen=True)
class NetworkArguments(ArgumentGroup):
    """What the networks for vectors and for images have in common.

    :param value_prefix: whether sums of rewards are predicted instead of single rewards, see
        :mod:`sb3_ezv2.networks.value_prefix`; searches of vectors are slower then, because torch
        evaluates the network
    :param lstm_dim: size of the LSTM that reads the value prefix
    :param prefix_horizon: steps after which the value prefix begins again
    :param net_arch: of vectors, in place of ``hidden_dim`` and ``n_blocks``: the hidden size of every residual block,
        the last one also that of the heads; of images, in place of ``hidden_dim``: the hidden layers of each head
    :param activation_fn: class of the activations; with another one than ``ReLU`` torch evaluates the network for
        vectors in every search, which is slower
    :param transformed_support: whether rewards and values are read as in release 0.1, in whose models this is set, see
        :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    """

    value_prefix: Annotated[bool, switch] = False
    lstm_dim: Annotated[int, SIZE] = 512
    prefix_horizon: Annotated[int, DEPTH] = 5
    transformed_support: Annotated[bool, switch] = False
    net_arch: Annotated[tuple[int, ...] | None, layer_sizes] = None
    activation_fn: Annotated[type[nn.Module], activation_class] = nn.ReLU

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
    :param features_extractor_class: a ``BaseFeaturesExtractor`` in front of the representation, see
        :class:`~sb3_ezv2.networks.features.FeaturesModel`
    :param features_extractor_kwargs: its arguments besides the observation space
    :param normalize_images: whether an extractor gets bytes of images divided by 255
    """

    latent_dim: Annotated[int, SIZE] = 128
    hidden_dim: Annotated[int, SIZE] = 128
    n_blocks: Annotated[int, DEPTH] = 1
    projection_dim: Annotated[int, SIZE] = 256
    features_extractor_class: Annotated[type[BaseFeaturesExtractor] | None, extractor_class] = None
    features_extractor_kwargs: Annotated[dict[str, Any] | None, keywords] = None
    normalize_images: Annotated[bool, switch] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.net_arch is not None and (self.hidden_dim, self.n_blocks) != (128, 1):
            raise ValueError(
                f"net_arch={list(self.net_arch)} takes the place of hidden_dim={self.hidden_dim} and "
                f"n_blocks={self.n_blocks}; leave those out"
            )
        if self.features_extractor_class is None and self.features_extractor_kwargs:
            raise ValueError(
                f"features_extractor_kwargs={shown(self.features_extractor_kwargs)} are of no extractor; pass "
                "features_extractor_class too"
            )

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Hidden size of every residual block."""
        return self.net_arch or (self.hidden_dim,) * self.n_blocks


SMALL_SIZES = {"channels": 32, "latent_dim": 128, "n_blocks": 1}
"""Sizes that only the small network for images has."""
PAPER_SIZES = {
    "stem_channels": 32,
    "latent_channels": 64,
    "action_channels": 16,
    "head_channels": 16,
    "prediction_dim": 256,
}
"""Sizes that only the paper's network for images has."""
NET_SIZES = {"small": SMALL_SIZES, "paper": PAPER_SIZES}


@dataclass(frozen=True)
class ImageNetwork(NetworkArguments):
    """Sizes of the network for images, besides those of every network; ``None`` for the default of ``net_size``.

    :param net_size: ``"small"`` for convolutions that follow the size of the image in front of the network for vectors,
        see :mod:`sb3_ezv2.networks.encoder`; ``"paper"`` for the paper's network, whose latent states are images
    :param channels: small: channels of the last convolution, by default 32, of which images with sides up to 14 pixels
        have half
    :param latent_dim: small: size of the latent state, by default 128
    :param n_blocks: small: residual blocks behind the convolutions and of the dynamics each, by default 1
    :param stem_channels: paper: channels of the first, larger feature maps, by default 32
    :param latent_channels: paper: channels of the latent state, by default 64
    :param action_channels: paper: channels of the embedded action, by default 16
    :param head_channels: paper: channels that each head flattens, by default 16
    :param prediction_dim: paper: hidden size of the consistency prediction, by default 256
    :param hidden_dim: hidden size of the heads, small: and of the residual blocks; by default 128, or what suits the
        kind of action (paper)
    :param projection_dim: size of the consistency projection, by default 256 or 1,024 (paper)
    :param normalize_images: whether pixels are bytes, to be divided by 255, as in every policy of SB3
    :param augment: whether the losses see images shifted by up to a twenty-fourth of their shorter side (paper: 4
        pixels) and with a changed intensity, see :mod:`sb3_ezv2.networks.augmentation`; the small network leaves images
        with sides below 24 pixels as they are
    """

    net_size: Annotated[str, OneOf(tuple(NET_SIZES))] = "small"
    channels: Annotated[int | None, SIZE] = None
    latent_dim: Annotated[int | None, SIZE] = None
    n_blocks: Annotated[int | None, DEPTH] = None
    stem_channels: Annotated[int | None, SIZE] = None
    latent_channels: Annotated[int | None, SIZE] = None
    action_channels: Annotated[int | None, SIZE] = None
    head_channels: Annotated[int | None, SIZE] = None
    hidden_dim: Annotated[int | None, SIZE] = None
    projection_dim: Annotated[int | None, SIZE] = None
    prediction_dim: Annotated[int | None, SIZE] = None
    normalize_images: Annotated[bool, switch] = True
    augment: Annotated[bool, switch] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for net_size, sizes in NET_SIZES.items():
            given = [name for name in sizes if getattr(self, name) is not None]
            if given and net_size != self.net_size:
                raise ValueError(
                    f"{given[0]}={getattr(self, given[0])} is a size of net_size={net_size!r}, and this network is "
                    f"net_size={self.net_size!r}; pass net_size={net_size!r} too, or leave {given[0]} out"
                )
        if self.net_arch is not None and (self.hidden_dim is not None or self.n_blocks is not None):
            name = "hidden_dim" if self.hidden_dim is not None else "n_blocks"
            raise ValueError(
                f"net_arch={list(self.net_arch)} takes the place of {name}={getattr(self, name)}; leave that out"
            )

    @property
    def limits(self) -> ImageLimits:
        """What images it takes."""
        return SMALL_LIMITS if self.net_size == "small" else PAPER_LIMITS

    def size(self, name: str) -> int:
        """A size of this ``net_size`` alone."""
        given = getattr(self, name)
        return NET_SIZES[self.net_size][name] if given is None else given

    def hidden_dims(self, usual: int) -> tuple[int, ...]:
        """Sizes of the hidden layers of each head, ``usual`` if nothing was said."""
        return self.net_arch or (self.hidden_dim or usual,)

    def behind_convolutions(self) -> VectorNetwork:
        """Sizes of the network for vectors that the small one ends in."""
        common = {name: getattr(self, name) for name in NetworkArguments.names()}
        given = {name: getattr(self, name) for name in ("latent_dim", "n_blocks", "hidden_dim", "projection_dim")}
        return VectorNetwork(**common, **{name: value for name, value in given.items() if value is not None})


def vector_parts(observation_dim: int, action_kind: ActionKind, discount: float, sizes: VectorNetwork) -> ModelParts:
    """Networks for vectors.

    :param observation_dim: size of what the representation reads
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param sizes: of the network
    """
    hidden_dims, activation_fn = sizes.hidden_dims, sizes.activation_fn
    rewards, values, outputs = sizes.outputs(action_kind, discount)
    norm = nn.LayerNorm(sizes.lstm_dim)
    return ModelParts(
        representation=MlpRepresentation(observation_dim, sizes.latent_dim, hidden_dims, activation_fn),
        dynamics=MlpDynamics(action_kind.encoded_dim, sizes.latent_dim, hidden_dims, activation_fn),
        heads=Heads(sizes.latent_dim, hidden_dims[-1], outputs, activation_fn),
        projection=nn.Sequential(
            nn.Linear(sizes.latent_dim, sizes.projection_dim),
            nn.LayerNorm(sizes.projection_dim),
            activation_fn(),
            nn.Linear(sizes.projection_dim, sizes.latent_dim),
            nn.LayerNorm(sizes.latent_dim),
        ),
        prediction=nn.Sequential(
            nn.Linear(sizes.latent_dim, sizes.latent_dim),
            nn.LayerNorm(sizes.latent_dim),
            activation_fn(),
            nn.Linear(sizes.latent_dim, sizes.latent_dim),
        ),
        reward_support=rewards,
        value_support=values,
        value_prefix=ValuePrefix(
            hidden_dims[-1],
            sizes.lstm_dim,
            hidden_dims[-1],
            rewards.n_bins,
            sizes.prefix_horizon,
            norm,
            activation_fn,
        )
        if sizes.value_prefix
        else None,
    )


def vector_model(
    observation_space: spaces.Space,
    action_kind: ActionKind,
    discount: float,
    sizes: VectorNetwork,
) -> EfficientZeroModel:
    """World model for observations that are flattened, or that an extractor makes vectors of.

    :param observation_space: any space that SB3 can flatten
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param sizes: of the network
    """
    extractor = None
    if sizes.features_extractor_class is not None:
        kwargs = sizes.features_extractor_kwargs or {}
        extractor = build_extractor(observation_space, sizes.features_extractor_class, kwargs, sizes.normalize_images)
    observation_dim = flat_size(observation_space) if extractor is None else extractor.features_dim
    parts = vector_parts(observation_dim, action_kind, discount, sizes)
    if extractor is not None:
        return FeaturesModel(observation_space, action_kind, discount, extractor, parts, sizes.normalize_images)
    return EfficientZeroModel(observation_space, action_kind, discount, observation_dim, parts)


def image_model(
    observation_space: spaces.Space,
    action_kind: ActionKind,
    discount: float,
    sizes: ImageNetwork,
) -> ImageModel:
    """World model for images.

    :param observation_space: an image, or a ``Dict`` with images, see :func:`sb3_ezv2.common.spaces.image_parts`
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param sizes: of the network
    """
    images = image_parts(observation_space, sizes.normalize_images, sizes.limits)
    if sizes.net_size == "paper":
        return _paper_model(observation_space, images, action_kind, discount, sizes)
    encoders = build_encoders(images, sizes.size("channels"), sizes.activation_fn)
    n_inputs = sum(group_widths(encoders, flat_size(observation_space, images)))
    parts = vector_parts(n_inputs, action_kind, discount, sizes.behind_convolutions())
    how = sizes.normalize_images, sizes.augment
    return EncodedImageModel(observation_space, images, action_kind, discount, encoders, parts, *how)


def _paper_model(
    observation_space: spaces.Space,
    images: dict[str, spaces.Box],
    action_kind: ActionKind,
    discount: float,
    sizes: ImageNetwork,
) -> ImageModel:
    """World model for images with the paper's architecture (EfficientZero V2, appendix on architectures)."""
    channels = sizes.size("latent_channels")
    head_channels, prediction_dim = sizes.size("head_channels"), sizes.size("prediction_dim")
    projection_dim = sizes.projection_dim or 1024
    size = image_size(next(iter(images.values())))
    image_shape = (sum(map(image_channels, images.values())), *size)
    height, width = latent_size(*size)
    hidden_dims, activation_fn = sizes.hidden_dims(action_kind.image_hidden_dim), sizes.activation_fn
    n_features = head_channels * height * width
    rewards, values, outputs = sizes.outputs(action_kind, discount)
    norm = nn.BatchNorm1d(sizes.lstm_dim)
    parts = ModelParts(
        representation=ConvRepresentation(
            image_shape,
            flat_size(observation_space, images),
            sizes.size("stem_channels"),
            channels,
            activation_fn,
        ),
        dynamics=ConvDynamics(action_kind.encoded_dim, channels, sizes.size("action_channels"), activation_fn),
        heads=SpatialHeads(
            (channels, height, width),
            head_channels,
            hidden_dims,
            outputs,
            activation_fn,
        ),
        projection=_normalised_layers(channels * height * width, projection_dim, activation_fn),
        prediction=nn.Sequential(
            nn.Linear(projection_dim, prediction_dim),
            nn.BatchNorm1d(prediction_dim),
            activation_fn(),
            nn.Linear(prediction_dim, projection_dim),
        ),
        reward_support=rewards,
        value_support=values,
        value_prefix=ValuePrefix(
            n_features, sizes.lstm_dim, hidden_dims[-1], rewards.n_bins, sizes.prefix_horizon, norm, activation_fn
        )
        if sizes.value_prefix
        else None,
    )
    return ImageModel(observation_space, images, action_kind, discount, parts, sizes.normalize_images, sizes.augment)


def _normalised_layers(n_inputs: int, dim: int, activation_fn: type[nn.Module]) -> nn.Sequential:
    """Three layers with ``BatchNorm`` on the numbers of a latent state."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(n_inputs, dim),
        nn.BatchNorm1d(dim),
        activation_fn(),
        nn.Linear(dim, dim),
        nn.BatchNorm1d(dim),
        activation_fn(),
        nn.Linear(dim, dim),
        nn.BatchNorm1d(dim),
    )
