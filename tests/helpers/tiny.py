"""Models small enough to be built and trained in a moment, and checks that several tests share."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_ezv2 import EfficientZeroV2, EZV2Policy, TrajectoryReplayBuffer
from sb3_ezv2.networks.model import EfficientZeroModel
from tests.helpers.envs import ProvenanceEnv, provenance_reward

TINY_NETWORK = {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16}
DISCRETE = spaces.Discrete(3)
CONTINUOUS = spaces.Box(-1.0, 1.0, (2,))
ONE_DIMENSION = spaces.Box(-1.0, 1.0, (1,))


def tiny_model(env: gym.Env | VecEnv | str | None, policy: str = "MlpPolicy", **kwargs: Any) -> EfficientZeroV2:
    """A model that learns from its 31st transition on."""
    settings = {
        "learning_starts": 30,
        "batch_size": 8,
        "n_simulations": 4,
        "n_candidates": 4,
        "n_policy_candidates": 2,
        "policy_kwargs": TINY_NETWORK,
        "device": "cpu",
        "seed": 0,
    }
    return EfficientZeroV2(policy, env, **{**settings, **kwargs})


def provenance_envs(n_envs: int = 1, action_space: spaces.Space | None = None) -> DummyVecEnv:
    """Environments whose observations name themselves."""
    return DummyVecEnv([lambda i=i: ProvenanceEnv(i, action_space) for i in range(n_envs)])


def tiny_network(
    action_space: spaces.Space, seed: int = 0, reward_scale: float = 1.0, **kwargs: Any
) -> EfficientZeroModel:
    """A world model of three-dimensional observations with random weights in every layer, outputs included."""
    settings = {"gamma": 0.97, "n_candidates": 6, "n_policy_candidates": 3, **TINY_NETWORK, **kwargs}
    model = EZV2Policy(spaces.Box(-1.0, 1.0, (3,)), action_space, lambda _: 1e-3, **settings).model
    generator = th.Generator().manual_seed(seed)
    with th.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=generator))
        model.reward_scale.fill_(reward_scale)
    return model


def parameters_of(model: EfficientZeroV2) -> dict[str, np.ndarray]:
    """Copies of everything in the policy's state."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.policy.state_dict().items()}


def assert_same_parameters(model: EfficientZeroV2, other: EfficientZeroV2) -> None:
    """Both policies, target networks included, are equal to the last bit."""
    ours, theirs = parameters_of(model), parameters_of(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def assert_finite_parameters(model: EfficientZeroV2) -> None:
    """No parameter is NaN or infinite."""
    for name, value in parameters_of(model).items():
        assert np.isfinite(value).all(), name


def all_windows(buffer: TrajectoryReplayBuffer, unroll: int = 3, td_steps: int = 2) -> Any:
    """One sample from every transition in a copy of the buffer."""
    copied = copy.deepcopy(buffer)
    copied.update_priorities(np.arange(copied.n_slots), np.ones(copied.n_slots))
    return copied.sample(len(copied), unroll, td_steps, 0.0, np.random.default_rng(0))


def assert_windows_name_themselves(
    buffer: TrajectoryReplayBuffer, closed: Container[tuple[int, int, int]] = ()
) -> None:
    """Every window of a buffer filled from ``ProvenanceEnv`` is a piece of one episode, with its rewards and its end.

    :param buffer: to be checked
    :param closed: places ``(environment, episode, step)`` where an episode was cut short by an interruption
    """
    batch = all_windows(buffer)
    observations, unroll = batch.observations["observation"], batch.actions.shape[1]
    starts = [tuple(place) for place in observations[:, 0].astype(int).tolist()]
    assert len(set(starts)) == len(buffer)  # every transition once
    ends = [(env_id, episode, step + int(n)) for (env_id, episode, step), n in zip(starts, batch.n_ahead, strict=True)]
    newest = {env_id: max(end for end in ends if end[0] == env_id) for env_id, _, _ in ends}
    for row, (env_id, episode, step) in enumerate(starts):
        ahead, end = int(batch.n_ahead[row]), ends[row]
        assert ahead >= 1
        for k in range(unroll + 1):
            # VecNormalize gives the last observation of an episode back through its running statistics.
            np.testing.assert_allclose(observations[row, k], [env_id, episode, step + min(k, ahead)], atol=1e-3)
        for k, reward in enumerate(batch.rewards[row]):
            assert reward == (provenance_reward(env_id, episode, step + k) if k < ahead else 0.0)
        length = 9 if episode % 2 else 7
        assert end[2] <= length
        assert batch.terminated[row] == (episode % 2 == 0 and end[2] == 7)
        if ahead < batch.rewards.shape[1]:
            assert end[2] == length or end in closed or end == newest[env_id], end
