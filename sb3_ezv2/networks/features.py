"""A features extractor of Stable-Baselines3 in front of the representation."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.arguments import shown
from sb3_ezv2.networks.model import EfficientZeroModel, ModelParts, preprocessed

TYPICAL = 10.0
"""Observations that an extractor is tried with are at most this far from zero where the space does not say more."""


def build_extractor(
    observation_space: spaces.Space,
    extractor_class: type[BaseFeaturesExtractor],
    kwargs: dict[str, Any],
    normalize_images: bool,
) -> BaseFeaturesExtractor:
    """An extractor that was tried on two observations.

    :param observation_space: of the environment
    :param extractor_class: to be built
    :param kwargs: its arguments besides the space
    :param normalize_images: whether bytes of images are divided by 255
    :raises ValueError: naming the class, if it cannot be built or gives no finite features ``[batch, features_dim]``
    """
    name = f"features_extractor_class={extractor_class.__name__}"
    try:
        extractor = extractor_class(observation_space, **kwargs)
        observations = _typical_observations(observation_space)
        with th.no_grad():
            features = deepcopy(extractor).eval()(_preprocessed(observations, observation_space, normalize_images))
    except Exception as error:  # whatever the class does wrong
        raise ValueError(
            f"{name} cannot be used with features_extractor_kwargs={shown(kwargs)} and the observation space "
            f"{observation_space}: {type(error).__name__}: {error}"
        ) from error
    expected = (2, extractor.features_dim)
    if not isinstance(features, th.Tensor) or features.shape != expected:
        found = tuple(features.shape) if isinstance(features, th.Tensor) else type(features).__name__
        raise ValueError(
            f"{name} gives {found} for two observations, its features_dim={extractor.features_dim} says {expected}; "
            "pass the true size to super().__init__(observation_space, features_dim) and flatten the output"
        )
    if not th.isfinite(features).all():
        raise ValueError(
            f"{name} gives {features[~th.isfinite(features)][0].item()} among its features of a usual observation; "
            "look for divisions by zero and logarithms in its forward"
        )
    return extractor


def _typical_observations(observation_space: spaces.Space) -> dict[str, th.Tensor]:
    """Two observations by key, drawn from the space without changing it."""
    space = deepcopy(observation_space)
    space.seed(0)
    drawn = [space.sample() for _ in range(2)]
    parts = space.spaces if isinstance(space, spaces.Dict) else {"observation": space}
    found = {}
    for key, part in parts.items():
        values = np.stack([np.asarray(one[key] if isinstance(space, spaces.Dict) else one) for one in drawn])
        if isinstance(part, spaces.Box) and part.dtype.kind == "f":
            values = values.clip(np.maximum(part.low, -TYPICAL), np.minimum(part.high, TYPICAL)).astype(part.dtype)
        found[key] = th.as_tensor(values)
    return found


def _preprocessed(
    observations: dict[str, th.Tensor], observation_space: spaces.Space, normalize_images: bool
) -> th.Tensor | dict[str, th.Tensor]:
    """What every extractor of SB3 reads."""
    if not isinstance(observation_space, spaces.Dict):
        return preprocessed(observations["observation"], observation_space, normalize_images)
    parts = observation_space.spaces.items()
    return {key: preprocessed(observations[key], part, normalize_images) for key, part in parts}


class FeaturesModel(EfficientZeroModel):
    """World model whose representation reads what an extractor makes of the observations.

    The extractor gets them as in every policy of SB3: as the environment (and ``VecNormalize``) gives them, one-hot
    where discrete, pixels divided by 255. No statistics are kept; features are compressed as normalised observations.

    :param observation_space: of the environment
    :param action_kind: encoding of the actions and policy over them
    :param discount: of one step
    :param extractor: see :func:`build_extractor`
    :param parts: the networks, see :mod:`sb3_ezv2.networks.builders`
    :param normalize_images: whether bytes of images are divided by 255
    """

    feature_mean: th.Tensor
    feature_std: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_kind: ActionKind,
        discount: float,
        extractor: BaseFeaturesExtractor,
        parts: ModelParts,
        normalize_images: bool,
    ) -> None:
        super().__init__(observation_space, action_kind, discount, 0, parts)
        self.observation_space = observation_space
        self.normalize_images = normalize_images
        self.extractor = extractor
        self.register_buffer("feature_mean", th.zeros(extractor.features_dim), persistent=False)
        self.register_buffer("feature_std", th.ones(extractor.features_dim), persistent=False)

    def flat_parts(self) -> dict[str, spaces.Space]:
        """None: the extractor sees everything."""
        return {}

    def vectors(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Features ``[batch, features_dim]``."""
        return self.extractor(_preprocessed(observations, self.observation_space, self.normalize_images)).float()

    def vector_statistics(self) -> tuple[th.Tensor, th.Tensor]:
        """Zeros and ones: features are as the extractor gives them."""
        return self.feature_mean, self.feature_std
