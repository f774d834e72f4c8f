"""The SB3 policy: the world model and its copies, the optimiser, and a search behind every prediction."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from sb3_ezv2.networks.action_heads import make_action_head
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning import Planner
from sb3_ezv2.type_aliases import Plan


class EZV2Policy(BasePolicy):
    """Policy for vector observations that plans with a learned model.

    It holds three copies of the model: ``model`` is trained, ``average_model`` is its running average, which acts and
    which multi-step targets bootstrap from, and ``target_model`` is a copy of the average that stands still between
    refreshes, so that its searches can be kept.

    :param observation_space: of the environment
    :param action_space: ``Discrete`` or bounded ``Box``
    :param lr_schedule: learning rate as a function of the remaining progress
    :param gamma: discount of one step
    :param n_simulations: model calls per search
    :param n_candidates: actions sampled at the root of a continuous search; ``Discrete`` always considers all
    :param n_considered: candidates that sequential halving starts with; ``None`` for half the simulations, at most all
    :param n_policy_candidates: candidates that come from the policy itself while exploring
    :param flatten_factor: multiplies the standard deviation of the policy that the other candidates come from
    :param latent_dim: size of the latent state
    :param hidden_dim: hidden size of the residual blocks and heads
    :param n_blocks: residual blocks of the representation and of the dynamics each
    :param projection_dim: hidden size of the consistency projection
    :param optimizer_class: optimiser of the model
    :param optimizer_kwargs: its arguments besides the learning rate
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        gamma: float = 0.99,
        n_simulations: int = 16,
        n_candidates: int = 8,
        n_considered: int | None = None,
        n_policy_candidates: int = 4,
        flatten_factor: float = 3.0,
        latent_dim: int = 128,
        hidden_dim: int = 128,
        n_blocks: int = 1,
        projection_dim: int = 256,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=isinstance(action_space, spaces.Box))
        if min(latent_dim, hidden_dim, n_blocks, projection_dim) < 1:
            raise ValueError(
                f"latent_dim={latent_dim}, hidden_dim={hidden_dim}, n_blocks={n_blocks} and "
                f"projection_dim={projection_dim} must all be at least 1"
            )
        self.search_kwargs = {
            "gamma": gamma,
            "n_simulations": n_simulations,
            "n_candidates": n_candidates,
            "n_considered": n_considered,
            "n_policy_candidates": n_policy_candidates,
            "flatten_factor": flatten_factor,
        }
        self.network_kwargs = {
            "latent_dim": latent_dim,
            "hidden_dim": hidden_dim,
            "n_blocks": n_blocks,
            "projection_dim": projection_dim,
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
        self.model = EfficientZeroModel(observation_space, action_head, gamma, **self.network_kwargs)
        self.average_model = deepcopy(self.model).requires_grad_(False)
        self.target_model = deepcopy(self.model).requires_grad_(False)
        self.optimizer = optimizer_class(self.model.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.rng = np.random.default_rng()

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

    def set_training_mode(self, mode: bool) -> None:
        """Put the policy in training or evaluation mode; nothing in it differs, so only a change costs anything."""
        if mode != self.training:
            super().set_training_mode(mode)

    def seed_planning(self, seed: int | None) -> None:
        """Restart the random numbers of exploring searches."""
        self.rng = np.random.default_rng(seed)

    def update_average(self, tau: float) -> None:
        """Move the average model by the share ``tau`` towards the model."""
        with th.no_grad():
            averages: list[th.Tensor] = list(self.average_model.parameters())
            newest: list[th.Tensor] = list(self.model.parameters())
            th._foreach_lerp_(averages, newest, tau)

    def update_target(self) -> None:
        """Copy the average model, its statistics included, to the target model."""
        self.target_model.load_state_dict(self.average_model.state_dict())

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


MlpPolicy = EZV2Policy
MultiInputPolicy = EZV2Policy
