"""One seed, one result: in two processes and twice in one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.envs import RandomEnv
from tests.tiny import CONTINUOUS, DISCRETE, assert_same_parameters, parameters_of, tiny_model

ROOT = Path(__file__).parents[1]
UPDATES = 300


def fingerprint() -> str:
    """Of all parameters after 300 updates, with discrete and with continuous actions."""
    digest = hashlib.sha256()
    for action_space in (DISCRETE, CONTINUOUS):
        env = RandomEnv(action_space=action_space)
        model = tiny_model(env, target_update_interval=100, gradient_steps=3, seed=7)
        model.learn(30 + UPDATES // 3)
        assert model._n_updates == UPDATES
        for name, value in sorted(parameters_of(model).items()):
            assert np.isfinite(value).all(), name
            digest.update(name.encode())
            digest.update(value.tobytes())
        digest.update(model.predict(np.ones((5, 3), np.float32))[0].tobytes())
    return digest.hexdigest()


def test_two_processes_find_the_same_parameters():
    command = [sys.executable, "-c", "from tests.test_determinism import fingerprint; print(fingerprint())"]
    found = []
    for hash_seed in ("1", "2"):  # the order of Python's sets and of hashed strings must not matter
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found.append(result.stdout.split()[-1])
    assert found[0] == found[1]


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_the_same_seed_twice_in_one_process(action_space):
    def run(seed: int):
        return tiny_model(RandomEnv(action_space=action_space), seed=seed, target_update_interval=20).learn(70)

    first = run(3)
    np.random.default_rng().random()
    assert_same_parameters(first, run(3))
    other = parameters_of(run(4))
    assert any((value != other[name]).any() for name, value in parameters_of(first).items())


def test_looking_at_a_model_does_not_change_its_course():
    """Deterministic predictions between two calls of ``learn`` use no random numbers of the training."""

    def run(look: bool):
        model = tiny_model(RandomEnv(action_space=CONTINUOUS), seed=1).learn(45)
        if look:
            model.predict(np.zeros((4, 3), np.float32), deterministic=True)
            model.policy.plan(np.zeros(3, np.float32), deterministic=True)
        return model.learn(20, reset_num_timesteps=False)

    assert_same_parameters(run(False), run(True))
