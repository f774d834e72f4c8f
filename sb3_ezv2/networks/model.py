"""The world model: representation, dynamics, reward, value, policy and the consistency heads in one module."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space_channels_first, preprocess_obs
from torch import nn

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.spaces import named_spaces
from sb3_ezv2.networks.augmentation import MAX_SHIFT, random_intensity, random_shift
from sb3_ezv2.networks.cnn import ConvDynamics, ConvRepresentation, SpatialHeads
from sb3_ezv2.networks.layers import Heads
from sb3_ezv2.networks.mlp import MlpDynamics, MlpRepresentation
from sb3_ezv2.networks.supports import Support, TransformedSupport, compress
from sb3_ezv2.networks.value_prefix import ValuePrefix

REWARD, VALUE, POLICY = range(3)
"""Order of the heads."""
N_REWARD_BINS, N_VALUE_BINS = 51, 251
MARGIN = 8.0
"""Supports are dense up to rewards of this many times the reward scale, and to the value of such a reward at every
step."""
MAX_HORIZON = 1_000.0
"""Steps that the dense part of the value's support allows for where the discount is nearly or exactly 1."""
MAX_STEPS_OF_VALUE = 100_000.0
"""Steps that the reach of the value's support allows for there."""


class ModelParts(NamedTuple):
    """The trainable parts of a world model; a latent state is a vector, or an image of several channels."""

    representation: MlpRepresentation | ConvRepresentation  # [batch, ...] -> [batch, *latent]
    dynamics: MlpDynamics | ConvDynamics  # [batch, *latent], [batch, action_dim] -> [batch, *latent]
    heads: Heads | SpatialHeads  # [..., *latent] -> rewards, values and policies
    projection: nn.Module  # [batch, *latent] -> [batch, n]
    prediction: nn.Module  # [batch, n] -> [batch, n]
    reward_support: Support  # of the reward head, or of the value prefix
    value_support: Support
    value_prefix: ValuePrefix | None = None  # reads what the reward head gives; without, that is the reward's logits


class NetworkOutput(NamedTuple):
    """What the network says of a state."""

    latents: th.Tensor  # [batch, *latent]
    rewards: th.Tensor  # [batch], of the step that led here
    values: th.Tensor  # [batch]
    policies: th.Tensor  # [batch, policy outputs]
    memories: th.Tensor  # [batch, memory_dim], what the reward of the next step depends on besides the latent state


def horizon(discount: float, most: float) -> float:
    """Steps that a reward at every step is worth, ``1 / (1 - discount)``, at most ``most``."""
    return 1.0 / max(1.0 - discount, 1.0 / most)


def reward_support(n_steps: int = 1, transformed: bool = False) -> Support:
    """Support for sums of up to ``n_steps`` rewards; its points are as close as those for single rewards.

    :param n_steps: 1 for single rewards, the horizon of a value prefix
    :param transformed: whether it is a :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    """
    single, bound = (float(compress(th.tensor(MARGIN * n))) for n in (1, n_steps))
    n_bins = 2 * math.ceil((N_REWARD_BINS // 2) * bound / single) + 1
    return (TransformedSupport if transformed else Support)(MARGIN * n_steps, n_bins)


def value_support(discount: float, transformed: bool = False) -> Support:
    """Support for values.

    :param discount: of one step
    :param transformed: whether it is a :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    """
    return (TransformedSupport if transformed else Support)(MARGIN * horizon(discount, MAX_HORIZON), N_VALUE_BINS)


class EfficientZeroModel(nn.Module):
    """World model for vector observations.

    Observations are flattened (one-hot where discrete), normalised by the statistics in the module's buffers, and
    rewards and values are in units of ``reward_scale``, so a copy of the module is a consistent whole.

    :param observation_space: any space that SB3 can flatten
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step; with the rewards it sets the reach of the value's support
    :param observation_dim: size of what :meth:`flatten` returns
    :param parts: the networks, see :mod:`sb3_ezv2.networks.builders`
    """

    observation_mean: th.Tensor
    observation_std: th.Tensor
    observation_count: th.Tensor
    reward_scale: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_kind: ActionKind,
        discount: float,
        observation_dim: int,
        parts: ModelParts,
    ) -> None:
        super().__init__()
        self.spaces = named_spaces(observation_space)
        self.action_kind = action_kind
        self.n_steps_of_value = horizon(discount, MAX_STEPS_OF_VALUE)
        self.reward_support = parts.reward_support
        self.value_support = parts.value_support
        self.register_buffer("observation_mean", th.zeros(observation_dim))
        self.register_buffer("observation_std", th.ones(observation_dim))
        self.register_buffer("observation_count", th.zeros((), dtype=th.float64))
        self.register_buffer("reward_scale", th.ones(()))
        self.representation = parts.representation
        self.dynamics = parts.dynamics
        self.heads = parts.heads
        self.projection = parts.projection
        self.prediction = parts.prediction
        self.value_prefix = parts.value_prefix
        self.memory_dim = self.value_prefix.memory_dim if self.value_prefix else 0

    def flat_parts(self) -> dict[str, spaces.Space]:
        """Parts of the observation that :meth:`flatten` joins, by key."""
        return self.spaces

    def flatten(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Observations by key as vectors ``[batch, observation_dim]``, one-hot where discrete.

        Of a ``Dict`` with images that is everything but the images; ``observation_dim`` may be 0.
        """
        others = [_flat(observations[key], space) for key, space in self.flat_parts().items()]
        n = len(next(iter(observations.values())))
        return th.cat(others, dim=1) if others else self.reward_scale.new_empty(n, 0)

    def vectors(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """What the representation reads ``[batch, n]``, before it is normalised."""
        return self.flatten(observations)

    def vector_statistics(self) -> tuple[th.Tensor, th.Tensor]:
        """Mean and standard deviation of :meth:`vectors` ``[n]``."""
        return self.observation_mean, self.observation_std

    def normalised(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """What :meth:`vectors` returns in standard deviations, compressed."""
        mean, std = self.vector_statistics()
        normalised = (self.vectors(observations) - mean) / std
        # Statistics of the first random steps make later observations many standard deviations large.
        return normalised.sign() * normalised.abs().log1p()

    def represent(self, observations: dict[str, th.Tensor], generator: th.Generator | None = None) -> th.Tensor:
        """Latent states ``[batch, *latent]`` of real observations; ``generator`` is for augmented images."""
        return self.representation(self.normalised(observations))

    def next_latents(self, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """One step of the dynamics."""
        return self.dynamics(latents, self.action_kind.encode(actions))

    def values(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Values ``[batch]`` of real observations in the environment's units."""
        logits = self.heads.one(self.represent(observations), VALUE)
        return self.value_support.decode(logits, self.reward_scale)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As every module; release 0.1 saved one number more, and others less."""
        state_dict.pop(f"{prefix}reward_is_unscaled", None)
        for name, value in self.named_buffers(prefix.removesuffix(".")):
            if name.endswith(("observation_count", "support.reach")):
                state_dict.setdefault(name, value.clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    @th.no_grad()
    def set_rewards(self, unit: float, largest: float) -> None:
        """Set the unit of rewards and values and how far both supports reach.

        :param unit: of rewards and values, positive
        :param largest: absolute reward that was observed; values reach to such a reward at every step
        """
        if isinstance(self.value_support, TransformedSupport):
            return
        self.reward_scale.fill_(unit)
        n_steps = self.value_prefix.horizon if self.value_prefix else 1
        self.reward_support.set_reach(largest / unit * n_steps)
        self.value_support.set_reach(largest / unit * self.n_steps_of_value)

    def value_distance(self, values: th.Tensor, others: th.Tensor) -> th.Tensor:
        """``|h(v) - h(w)|`` of values in the environment's units, on any device: distance as the value loss sees it."""
        scale = self.reward_scale.to(values.device)
        return (compress(values / scale) - compress(others / scale)).abs()

    def unrolled_heads(self, latents: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """What the losses compare with their targets, as logits.

        :param latents: of an unroll from its beginning ``[batch, unroll + 1, *latent]``
        :return: rewards ``[batch, unroll, n_bins]`` (with a value prefix, their sums), values and policies
            ``[batch, unroll + 1, ...]``
        """
        rewards, values, policies = self.heads(latents)
        rewards = rewards[:, 1:]
        return rewards if self.value_prefix is None else self.value_prefix(rewards), values, policies

    def initial_inference(self, observations: dict[str, th.Tensor]) -> NetworkOutput:
        """Latent state, value and policy of real observations; no reward has led there."""
        latents = self.represent(observations)
        _, values, policies = self.heads(latents)
        values = self.value_support.decode(values, self.reward_scale)
        memories = values.new_zeros(len(latents), self.memory_dim)
        return NetworkOutput(latents, th.zeros_like(values), values, policies, memories)

    def recurrent_inference(
        self, latents: th.Tensor, actions: th.Tensor, memories: th.Tensor | None = None
    ) -> NetworkOutput:
        """Next latent state with its reward, value and policy.

        :param latents: ``[batch, *latent]``
        :param actions: ``[batch, *action_shape]``
        :param memories: that came with the latent states ``[batch, memory_dim]``; ``None`` where an unroll begins
        """
        latents = self.next_latents(latents, actions)
        rewards, values, policies = self.heads(latents)
        values = self.value_support.decode(values, self.reward_scale)
        if memories is None:
            memories = values.new_zeros(len(latents), self.memory_dim)
        if self.value_prefix is None:
            rewards = self._decode_rewards(rewards)
        else:
            rewards, memories = self.value_prefix.step(rewards, memories, self._decode_rewards)
        return NetworkOutput(latents, rewards, values, policies, memories)

    def _decode_rewards(self, logits: th.Tensor) -> th.Tensor:
        return self.reward_support.decode(logits, self.reward_scale)


class ImageModel(EfficientZeroModel):
    """World model for images, whose latent states are images of several channels too; the paper's.

    No statistics of the images are kept: pixels have a known range. What else is in a ``Dict`` is flattened.

    :param observation_space: an image, or a ``Dict`` with at least one
    :param images: its parts that are images of equal size, see :func:`sb3_ezv2.common.spaces.image_parts`
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param parts: the networks, see :mod:`sb3_ezv2.networks.builders`
    :param normalize_images: whether to divide the pixels by 255
    :param augment: whether images are augmented in training mode, see :mod:`sb3_ezv2.networks.augmentation`; each on
        its own
    """

    channels_last_on_gpu = True
    """Whether images enter the convolutions of a GPU with their channels side by side, as its kernels want them."""

    def __init__(
        self,
        observation_space: spaces.Space,
        images: dict[str, spaces.Box],
        action_kind: ActionKind,
        discount: float,
        parts: ModelParts,
        normalize_images: bool,
        augment: bool,
    ) -> None:
        self.images = images
        super().__init__(observation_space, action_kind, discount, flat_size(observation_space, images), parts)
        self.normalize_images = normalize_images
        self.augment = augment

    def flat_parts(self) -> dict[str, spaces.Space]:
        """All but the images."""
        return {key: space for key, space in self.spaces.items() if key not in self.images}

    def represent(self, observations: dict[str, th.Tensor], generator: th.Generator | None = None) -> th.Tensor:
        """Latent states ``[batch, channels, height, width]`` of images and all the rest.

        :param observations: ``[batch, *space.shape]`` by key
        :param generator: of the augmentation, on their device; ``None`` for torch's global one
        """
        assert isinstance(self.representation, ConvRepresentation)
        images = [self._image(observations[key], space, generator) for key, space in self.images.items()]
        together = th.cat(images, dim=1) if len(images) > 1 else images[0]
        return self.representation(together, self.normalised(observations))

    def _image(
        self, pixels: th.Tensor, space: spaces.Box, generator: th.Generator | None, max_shift: int = MAX_SHIFT
    ) -> th.Tensor:
        """One image as floats with its channels first; in training mode augmented, unless ``max_shift`` is 0.

        A batch of images is large: it is moved as bytes, and what follows happens in the place of its floats.
        """
        if not is_image_space_channels_first(space):
            pixels = pixels.movedim(-1, -3)
        augment = self.training and self.augment and max_shift > 0
        layout = th.channels_last if pixels.is_cuda and self.channels_last_on_gpu else th.preserve_format
        moved = random_shift(pixels, max_shift, generator) if augment else pixels
        image = moved.to(th.float32, memory_format=layout)
        if self.normalize_images:
            image.div_(255.0)  # not the pixels given, which are bytes
        return random_intensity(image, generator=generator) if augment else image


def flat_size(observation_space: spaces.Space, without: Iterable[str] = ()) -> int:
    """Size of a flattened observation.

    :param observation_space: of the observation
    :param without: keys of parts that are left out
    """
    parts = named_spaces(observation_space).items()
    return sum(get_flattened_obs_dim(space) for key, space in parts if key not in without)


def preprocessed(observations: th.Tensor, space: spaces.Space, normalize_images: bool = True) -> th.Tensor:
    """One part of the observation as SB3's ``preprocess_obs`` gives it: one-hot, pixels divided by 255."""
    # One-hot encoding counts from zero; discrete spaces may start elsewhere. An array of these numbers would be copied
    # to the device every time, so they are subtracted one by one.
    if isinstance(space, spaces.Discrete):
        observations = observations - int(space.start)
    elif isinstance(space, spaces.MultiDiscrete) and np.any(space.start):
        columns = zip(observations.flatten(1).unbind(1), space.start.ravel().tolist(), strict=True)
        observations = th.stack([column - first for column, first in columns], dim=1).view_as(observations)
    encoded = preprocess_obs(observations, space, normalize_images)
    assert isinstance(encoded, th.Tensor)
    return encoded


def _flat(observations: th.Tensor, space: spaces.Space) -> th.Tensor:
    """One part of the observation as vectors."""
    encoded = preprocessed(observations, space)
    return encoded.flatten(1) if encoded.ndim > 1 else encoded.unsqueeze(1)
