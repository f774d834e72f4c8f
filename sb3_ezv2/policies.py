"""The SB3 policies: the world model and its copies, the optimiser, and a search behind every prediction."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import get_device

from sb3_ezv2.common.arguments import argument_names, check_known
from sb3_ezv2.common.files import open_to_replace
from sb3_ezv2.common.spaces import MIN_IMAGE_SIZE, image_parts
from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.networks.action_heads import ContinuousActionHead, DiscreteActionHead, make_action_head
from sb3_ezv2.networks.builders import image_model, vector_model
from sb3_ezv2.networks.copies import ModelCopies
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.planner import Planner
from sb3_ezv2.policy_files import read_policy, write_policy

SelfPlanningPolicy = TypeVar("SelfPlanningPolicy", bound="PlanningPolicy")


class PlanningPolicy(BasePolicy):
    """Base of the policies that plan with a learned model.

    It holds three copies of the model, ``model``, ``average_model`` and ``target_model``, which
    :class:`~sb3_ezv2.networks.copies.ModelCopies` keeps; the average acts.

    A subclass sets ``network_kwargs``, what :meth:`make_model` needs, before it calls this constructor; they are
    arguments of its own constructor.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param gamma: discount of one step
    :param n_simulations: model calls per search
    :param n_candidates: actions sampled at the root of a continuous search; ``Discrete`` always considers all
    :param n_considered: candidates that sequential halving starts with; ``None`` for half the simulations, at most all
    :param n_policy_candidates: candidates that come from the policy itself while exploring
    :param flatten_factor: multiplies the standard deviation of the policy that the other candidates come from
    :param optimizer_class: optimiser of the model
    :param optimizer_kwargs: its arguments besides the learning rate
    """

    network_kwargs: dict[str, Any]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        gamma: float = 0.99,
        n_simulations: int = 16,
        n_candidates: int = 16,
        n_considered: int | None = None,
        n_policy_candidates: int = 4,
        flatten_factor: float = 3.0,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=isinstance(action_space, spaces.Box))
        self.search_kwargs = {
            "gamma": gamma,
            "n_simulations": n_simulations,
            "n_candidates": n_candidates,
            "n_considered": n_considered,
            "n_policy_candidates": n_policy_candidates,
            "flatten_factor": flatten_factor,
        }
        self.optimizer_class = optimizer_class
        self.optimizer_kwargs = dict(optimizer_kwargs or {})
        if optimizer_class is th.optim.Adam:
            self.optimizer_kwargs.setdefault("fused", True)  # one kernel instead of a dozen per parameter
        action_head = make_action_head(action_space, n_candidates, n_policy_candidates, flatten_factor)
        if n_considered is None:
            n_considered = max(1, min(n_simulations // 2, action_head.n_candidates))
        elif not 1 <= n_considered <= action_head.n_candidates:
            raise ValueError(
                f"n_considered={n_considered} must lie between 1 and the number of candidates, "
                f"{action_head.n_candidates}; lower it or raise n_candidates"
            )
        self.planner = Planner(n_simulations, n_considered, gamma)
        model = self.make_model(action_head, gamma)
        self.copies = ModelCopies(model, optimizer_class, self.optimizer_kwargs, lr_schedule(1))
        self.model, self.average_model, self.target_model = model, self.copies.average, self.copies.target
        self.optimizer = self.copies.optimizer
        self.rng = np.random.default_rng()

    @abstractmethod
    def make_model(self, action_head: DiscreteActionHead | ContinuousActionHead, gamma: float) -> EfficientZeroModel:
        """Build the world model from ``network_kwargs``."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,  # a policy loaded alone is not trained
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
            **self.search_kwargs,
            **self.network_kwargs,
        }

    def save(self, path: str) -> None:
        """Save the acting network with its settings, without what only training needs.

        :param path: file to write, replaced as a whole
        :raises ValueError: if an argument of the policy is no number, text or ``None``
        """
        arguments, name = self._get_constructor_parameters(), type(self).__name__
        with open_to_replace(path) as file:
            write_policy(
                *(file, name, arguments, self.observation_space, self.action_space, self.average_model.state_dict())
            )

    @classmethod
    def load(cls: type[SelfPlanningPolicy], path: str, device: th.device | str = "auto") -> SelfPlanningPolicy:
        """Load a policy to act with; nothing in the file is executed.

        :param path: file written by :meth:`save` or by ``model.save_policy``
        :param device: where the policy is to be
        :return: of the class that was saved, where this class is one of its bases
        :raises ValueError: if the file is damaged or something else, or its policy of a class that is not known here
        """
        with open(path, "rb") as file:
            return cls.from_file(file, str(path), device)

    @classmethod
    def from_file(
        cls: type[SelfPlanningPolicy], file: BinaryIO, name: str, device: th.device | str = "auto"
    ) -> SelfPlanningPolicy:
        """Load a policy from an open file, which is called ``name`` in errors; see :meth:`load`."""
        content = read_policy(file, name)
        policy_class = next((kind for kind in _subclasses(cls) if kind.__name__ == content["class"]), None)
        if policy_class is None:
            raise ValueError(f"{name} holds a {content['class']}, which is no {cls.__name__}; import its class first")
        found = content["observation_space"], content["action_space"]
        policy = policy_class(*found, cls._dummy_schedule, **content["settings"])
        for model in (policy.model, policy.average_model, policy.target_model):
            model.load_state_dict(content["state"])
        return policy.to(get_device(device))

    def train(self, mode: bool = True) -> "PlanningPolicy":
        """Remember the mode, nothing more: the model is always in training mode and its copies never are."""
        self.training = mode
        return self

    def seed_planning(self, seed: int | None) -> None:
        """Restart the random numbers of exploring searches and of the updates."""
        self.rng = np.random.default_rng(seed)
        self.copies.seed(seed)

    def _named_tensors(self, observations: PyTorchObs) -> dict[str, th.Tensor]:
        return observations if isinstance(observations, dict) else {"observation": observations}

    def search(self, observations: PyTorchObs, deterministic: bool = False) -> Plan:
        """Plan for tensors ``[n, ...]``; actions of a ``Box`` come scaled to [-1, 1], discrete ones count from 0."""
        named = self._named_tensors(observations)
        if deterministic:
            return self.planner.plan(
                self.average_model, named, self.planner.greedy_noise(self.average_model), explore=False
            )
        n = len(next(iter(named.values())))
        noise = self.planner.draw_noise(self.average_model, n, self.rng)
        return self.planner.plan(self.average_model, named, noise, explore=True)

    def plan(self, observation: np.ndarray | dict[str, np.ndarray], deterministic: bool = False) -> Plan:
        """Search from one or several observations and show everything that the search found.

        :param observation: as for ``predict``; a single one counts as a batch of one
        :param deterministic: greedy instead of exploring, as for ``predict``
        :return: chosen actions, candidates, improved policy, visit counts and root values, one row per observation;
            actions and candidates are in the environment's own units
        """
        tensors, _ = self.obs_to_tensor(observation)
        plan = self.search(tensors, deterministic)
        return plan._replace(actions=self.to_env_actions(plan.actions), candidates=self.to_env_actions(plan.candidates))

    def to_env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions of a plan ``[..., *action_shape]`` in the environment's own units and dtype."""
        space = self.action_space
        if isinstance(space, spaces.Discrete):
            return actions + space.start
        assert isinstance(space, spaces.Box)
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        scaled = low + 0.5 * (actions + 1.0) * (high - low)
        return scaled.reshape(*actions.shape[:-1], *space.shape).astype(space.dtype)

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """Network values ``[n, 1]`` of observations, in the environment's units, without a search.

        :param obs: tensors as ``obs_to_tensor`` makes them
        """
        with th.no_grad():
            return self.average_model.values(self._named_tensors(obs)).unsqueeze(-1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        plan = self.search(observation, deterministic)
        if isinstance(self.action_space, spaces.Discrete):
            return th.as_tensor(self.to_env_actions(plan.actions))
        return th.as_tensor(plan.actions)  # ``predict`` scales to the bounds

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Same as ``_predict``."""
        return self._predict(obs, deterministic)


def _subclasses(policy_class: type[SelfPlanningPolicy]) -> Iterator[type[SelfPlanningPolicy]]:
    yield policy_class
    for kind in policy_class.__subclasses__():
        yield from _subclasses(kind)


def check_sizes(sizes: dict[str, int | None]) -> None:
    """Refuse sizes of a network that are not at least 1; ``None`` stands for a default.

    :raises ValueError: naming the argument
    """
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


class EZV2Policy(PlanningPolicy):
    """Policy for vector observations that plans with a learned model.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param latent_dim: size of the latent state
    :param hidden_dim: hidden size of the residual blocks and heads
    :param n_blocks: residual blocks of the representation and of the dynamics each
    :param projection_dim: hidden size of the consistency projection
    :param value_prefix: whether sums of rewards are predicted instead of single rewards, see
        :mod:`sb3_ezv2.networks.value_prefix`; searches are slower then, because torch evaluates the network
    :param lstm_dim: size of the LSTM that reads the value prefix
    :param prefix_horizon: steps after which the value prefix begins again
    :param transformed_support: whether rewards and values are read as in release 0.1, in whose models this is set, see
        :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    :param kwargs: further arguments, see :class:`PlanningPolicy`
    :raises ValueError: if a size of the network is not positive
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        latent_dim: int = 128,
        hidden_dim: int = 128,
        n_blocks: int = 1,
        projection_dim: int = 256,
        value_prefix: bool = False,
        lstm_dim: int = 512,
        prefix_horizon: int = 5,
        transformed_support: bool = False,
        **kwargs: Any,
    ) -> None:
        sizes: dict[str, Any] = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "n_blocks": n_blocks,
            "projection_dim": projection_dim,
            "lstm_dim": lstm_dim,
            "prefix_horizon": prefix_horizon,
        }
        check_sizes(sizes)
        self.network_kwargs = sizes | {"value_prefix": value_prefix, "transformed_support": transformed_support}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def make_model(self, action_head: DiscreteActionHead | ContinuousActionHead, gamma: float) -> EfficientZeroModel:
        """Build the world model for vectors."""
        return vector_model(self.observation_space, action_head, gamma, **self.network_kwargs)


class CnnPolicy(PlanningPolicy):
    """Policy for image observations that plans with a learned convolutional model; sizes as in the paper.

    Images have 32 to 128 pixels per side and 1 to 12 channels, first or last. In a ``Dict`` they are of one size; what
    else is there is flattened and joins them.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param stem_channels: channels of the first, larger feature maps
    :param latent_channels: channels of the latent state
    :param action_channels: channels of the embedded action
    :param head_channels: channels that each head flattens
    :param hidden_dim: hidden size of the heads; ``None`` for 32 with discrete actions and 64 with continuous ones
    :param projection_dim: size of the consistency projection
    :param prediction_dim: hidden size of the consistency prediction
    :param normalize_images: whether pixels are bytes, to be divided by 255, as in every policy of SB3
    :param augment: whether the losses see images shifted by up to 4 pixels and with a changed intensity, see
        :mod:`sb3_ezv2.networks.augmentation`
    :param value_prefix: whether sums of rewards are predicted instead of single rewards, see
        :mod:`sb3_ezv2.networks.value_prefix`
    :param lstm_dim: size of the LSTM that reads the value prefix
    :param prefix_horizon: steps after which the value prefix begins again
    :param transformed_support: whether rewards and values are read as in release 0.1, in whose models this is set, see
        :class:`~sb3_ezv2.networks.supports.TransformedSupport`
    :param kwargs: further arguments, see :class:`PlanningPolicy`
    :raises ValueError: if the observations are not images of these sizes, or a size of the network is not positive
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        stem_channels: int = 32,
        latent_channels: int = 64,
        action_channels: int = 16,
        head_channels: int = 16,
        hidden_dim: int | None = None,
        projection_dim: int = 1024,
        prediction_dim: int = 256,
        normalize_images: bool = True,
        augment: bool = True,
        value_prefix: bool = False,
        lstm_dim: int = 512,
        prefix_horizon: int = 5,
        transformed_support: bool = False,
        **kwargs: Any,
    ) -> None:
        self.images = image_parts(observation_space, normalize_images)
        if not self.images:
            raise ValueError(
                f"observation space {observation_space} has no image of at least {MIN_IMAGE_SIZE} pixels per side for "
                "policy='CnnPolicy'; use 'MultiInputPolicy', which flattens everything else"
            )
        sizes: dict[str, Any] = {
            "stem_channels": stem_channels,
            "latent_channels": latent_channels,
            "action_channels": action_channels,
            "head_channels": head_channels,
            "hidden_dim": hidden_dim,
            "projection_dim": projection_dim,
            "prediction_dim": prediction_dim,
            "lstm_dim": lstm_dim,
            "prefix_horizon": prefix_horizon,
        }
        check_sizes(sizes)
        switches = {"normalize_images": normalize_images, "augment": augment, "value_prefix": value_prefix}
        self.network_kwargs = sizes | switches | {"transformed_support": transformed_support}
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self.normalize_images = normalize_images

    def make_model(self, action_head: DiscreteActionHead | ContinuousActionHead, gamma: float) -> EfficientZeroModel:
        """Build the world model for images."""
        return image_model(self.observation_space, action_head, gamma, **self.network_kwargs)


MlpPolicy = EZV2Policy
MultiInputPolicy = EZV2Policy

GIVEN_BY_ALGORITHM = {
    *("self", "observation_space", "action_space", "lr_schedule", "gamma"),
    *("n_simulations", "n_candidates", "n_considered", "n_policy_candidates", "flatten_factor"),
}
"""Arguments of a policy that are no ``policy_kwargs``: the algorithm has arguments of the same names for them."""


def policy_for(
    policy_class: type[PlanningPolicy], observation_space: spaces.Space, kwargs: dict[str, Any]
) -> type[PlanningPolicy]:
    """``CnnPolicy`` in place of ``MultiInputPolicy`` for a ``Dict`` with images that it can see.

    :param policy_class: what the user chose
    :param observation_space: of the environment
    :param kwargs: of the policy
    :raises ValueError: if images have different sizes or are too large, or if the policy has no such arguments
    """
    if policy_class is MultiInputPolicy and isinstance(observation_space, spaces.Dict):
        has_images = image_parts(observation_space, kwargs.get("normalize_images", True))
        policy_class = CnnPolicy if has_images else policy_class
    check_known(kwargs, argument_names(policy_class) - GIVEN_BY_ALGORITHM, f"{policy_class.__name__}'s policy_kwargs")
    return policy_class
