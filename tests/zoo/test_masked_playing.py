"""The zoo's scripts play legal actions where environments have masks."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import rl_zoo3
from gymnasium import spaces

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.zoo.masked_playing import masks_while_playing
from tests.helpers.envs import RandomEnv
from tests.helpers.masked import MaskedEnv
from tests.helpers.tiny import tiny_model

IDS = {"tests/Masked-v0": MaskedEnv, "tests/Unmasked-v0": RandomEnv}


def play(name: str, n_envs: int) -> None:
    """Fifty steps as ``rl_zoo3.enjoy`` makes them; an illegal action is an error of the environment."""
    model = tiny_model(IDS[name](spaces.Discrete(6)) if IDS[name] is MaskedEnv else IDS[name]())
    env = rl_zoo3.create_test_env(name, n_envs=n_envs, hyperparams={}, should_render=False)
    observations = env.reset()
    for _ in range(50):
        actions, _ = model.predict(observations, state=None, episode_start=np.ones(n_envs, bool), deterministic=True)
        observations, *_ = env.step(actions)
    env.close()


def test_actions_are_legal_and_predict_is_as_before_afterwards():
    for name, kind in IDS.items():
        if name not in gym.registry:
            gym.register(name, kind)
    predict, create = EfficientZeroV2.predict, rl_zoo3.create_test_env
    with masks_while_playing():
        for name in IDS:
            play(name, 2)
    assert EfficientZeroV2.predict is predict and rl_zoo3.create_test_env is create
