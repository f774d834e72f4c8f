"""Every entry of the hyperparameter file fits its environment."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

import sb3_ezv2.zoo  # noqa: F401 - registers the tasks of dm_control
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.zoo.settings import ZOO_NAMES, hyperparameter_file, read_entries

ENTRIES = read_entries(hyperparameter_file())


def make(env_id: str) -> gym.Env:
    """The environment, or a skipped test where what it needs is not installed."""
    try:
        return gym.make(env_id)
    except (DependencyNotInstalled, ImportError) as error:
        pytest.skip(f"{env_id}: {error}")


@pytest.mark.parametrize("env_id", sorted(set(ENTRIES) - {"default", "atari"}))
def test_a_model_with_these_settings_acts(env_id):
    env = make(env_id)
    settings = {name: value for name, value in ENTRIES[env_id].items() if name not in ZOO_NAMES}
    rate = settings.get("learning_rate", "")
    if str(rate).startswith("lin_"):
        settings["learning_rate"] = float(rate.removeprefix("lin_"))
    model = EfficientZeroV2(ENTRIES[env_id]["policy"], env, seed=0, device="cpu", **settings)
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation)
    assert env.action_space.contains(action)
    observation, reward, *_ = env.step(action)
    assert env.observation_space.contains(observation) and np.isfinite(reward)
