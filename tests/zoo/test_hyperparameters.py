"""Every entry of the hyperparameter file fits its environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

import sb3_ezv2.zoo  # noqa: F401 - registers the tasks of dm_control
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.zoo.settings import ZOO_NAMES, hyperparameter_file, read_entries

ENTRIES = read_entries(hyperparameter_file())


def make(env_id: str) -> gym.Env:
    """The environment, or a skipped test where what it needs is not installed."""
    try:
        return gym.make(env_id)
    except (DependencyNotInstalled, ImportError, OSError) as error:
        pytest.skip(f"{env_id}: {error}")


@pytest.mark.parametrize("env_id", sorted(set(ENTRIES) - {"default", "atari"}))
def test_a_model_with_these_settings_acts(env_id):
    env = DummyVecEnv([lambda: make(env_id)])
    entry = ENTRIES[env_id]
    stacked = VecFrameStack(env, entry["frame_stack"]) if "frame_stack" in entry else env
    settings = {name: value for name, value in entry.items() if name not in ZOO_NAMES}
    rate = settings.get("learning_rate", "")
    if str(rate).startswith("lin_"):
        settings["learning_rate"] = float(rate.removeprefix("lin_"))
    model = EfficientZeroV2(entry["policy"], stacked, seed=0, device="cpu", **settings)
    observations = model.env.reset()
    assert model.observation_space.contains(observations[0])
    actions, _ = model.predict(observations)
    assert env.action_space.contains(actions[0])
    observations, rewards, *_ = model.env.step(actions)
    assert model.observation_space.contains(observations[0]) and np.isfinite(rewards).all()
    env.close()
