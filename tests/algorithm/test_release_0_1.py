"""Models and replay buffers that release 0.1 saved keep working."""

import json
from importlib import import_module
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from sb3_ezv2 import EfficientZeroV2, TrajectoryReplayBuffer
from sb3_ezv2.compatibility import MOVED

FOLDER = Path(__file__).parents[1] / "release_0_1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
ENVS = {"discrete": "CartPole-v1", "continuous": "Pendulum-v1"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_model_of_release_0_1_acts_as_it_did(name):
    model = EfficientZeroV2.load(FOLDER / name, device="cpu")
    observations = np.array(EXPECTED[name]["observations"], np.float32)
    actions, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(actions, EXPECTED[name]["actions"], atol=1e-4)
    values = model.policy.plan(observations, deterministic=True).root_values
    np.testing.assert_allclose(values, EXPECTED[name]["root_values"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_replay_buffer_of_release_0_1_trains_on(name):
    model = EfficientZeroV2.load(FOLDER / name, env=gym.make(ENVS[name]), device="cpu")
    model.load_replay_buffer(FOLDER / name)
    assert type(model.replay_buffer) is TrajectoryReplayBuffer
    assert len(model.replay_buffer) == EXPECTED[name]["transitions"]
    n_updates = model._n_updates
    model.learn(10, reset_num_timesteps=False)
    assert model._n_updates == n_updates + 10


@pytest.mark.parametrize("old, new", MOVED.items())
def test_an_old_name_is_the_new_module(old, new):
    assert import_module(f"sb3_ezv2.{old}") is import_module(f"sb3_ezv2.{new}")
