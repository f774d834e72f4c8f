"""One seed, one result: in two processes and twice in one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_ezv2.planning.planner import Planner
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, assert_same_parameters, parameters_of, tiny_model, tiny_network

ROOT = Path(__file__).parents[2]
UPDATES = 300


def search_fingerprint() -> str:
    """Of searches that evaluate few and many states together, with discrete and with continuous actions."""
    digest = hashlib.sha256()
    th.manual_seed(0)
    for action_space in (DISCRETE, CONTINUOUS):
        model, planner = tiny_network(action_space), Planner(16, 3, 0.97)
        for n in (1, 7, 216):
            rng = np.random.default_rng(n)
            observations = {"observation": th.from_numpy(rng.uniform(-1, 1, (n, 3)).astype(np.float32))}
            plan = planner.plan(model, observations, planner.draw_noise(model, n, rng), explore=True)
            assert len(np.unique(plan.root_values)) == n
            for array in plan:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def training_fingerprint() -> str:
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


def test_two_processes_find_the_same(tmp_path):
    """The first one compiles everything, the second one finds it in numba's cache."""
    program = (
        "from tests.algorithm.test_determinism import search_fingerprint, training_fingerprint as train; "
        "print(search_fingerprint(), train())"
    )
    found = []
    for hash_seed in ("1", "2"):  # the order of Python's sets and of hashed strings must not matter
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": str(ROOT),
            "NUMBA_CACHE_DIR": str(tmp_path),
        }
        compiled = {path.name for path in tmp_path.rglob("*.nbc")}
        assert any("_search_chunk" in name for name in compiled) == (hash_seed == "2")
        command = [sys.executable, "-c", program]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        found.append(result.stdout.split()[-2:])
    assert {path.name for path in tmp_path.rglob("*.nbc")} == compiled
    searches, parameters = zip(*found, strict=True)
    assert searches[0] == searches[1]
    assert parameters[0] == parameters[1]


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
