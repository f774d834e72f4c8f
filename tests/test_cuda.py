"""The algorithm on a GPU; on machines without one, what can be known of that path without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning import Planner
from sb3_ezv2.tensors import on_device
from tests.envs import RandomEnv
from tests.test_cnn import GREY, TINY_IMAGE_NETWORK
from tests.tiny import CONTINUOUS, DISCRETE, TINY_NETWORK, assert_finite_parameters, tiny_model, tiny_network

ROOT = Path(__file__).parents[1]
needs_a_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
ACTION_SPACES = pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


@needs_a_gpu
@ACTION_SPACES
@pytest.mark.parametrize(
    "policy, network, space", [("MlpPolicy", TINY_NETWORK, None), ("CnnPolicy", TINY_IMAGE_NETWORK, GREY)]
)
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_learns_saves_loads_and_moves_to_the_cpu(policy, network, space, action_space, mixed_precision, tmp_path):
    env = RandomEnv(space, action_space)
    model = tiny_model(env, policy, policy_kwargs=network, device="cuda", mixed_precision=mixed_precision).learn(60)
    assert {parameter.device.type for parameter in model.policy.parameters()} == {"cuda"}
    assert_finite_parameters(model)
    model.save(tmp_path / "model")
    here = EfficientZeroV2.load(tmp_path / "model", device="cpu")
    observations = np.stack([model.observation_space.sample() for _ in range(8)])
    actions, _ = model.predict(observations, deterministic=True)
    assert all(model.action_space.contains(action) for action in actions)
    tensors = [each.policy.obs_to_tensor(observations)[0] for each in (model, here)]
    values = [each.policy.predict_values(t).cpu() for each, t in zip((model, here), tensors, strict=True)]
    th.testing.assert_close(*values, rtol=1e-3, atol=1e-3)


@needs_a_gpu
@ACTION_SPACES
def test_searches_equal_those_on_the_cpu(action_space):
    model, planner, n = tiny_network(action_space), Planner(16, 3, 0.97), 200
    observations = th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32))
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    here = planner.plan(model, {"observation": observations}, noise, explore=True)
    there = planner.plan(model.cuda(), {"observation": observations.cuda()}, noise, explore=True)
    same = (here.visit_counts == there.visit_counts).all(axis=1)
    assert same.mean() > 0.95  # rounding decides between equal candidates
    np.testing.assert_allclose(here.root_values[same], there.root_values[same], rtol=1e-3, atol=1e-3)


@ACTION_SPACES
def test_a_simulation_copies_once_there_and_once_back(action_space, monkeypatch):
    """Counted on the CPU, through the same functions that copy to and from a GPU."""
    monkeypatch.setattr("sb3_ezv2.planning.supports_fusion", lambda model: False)
    model, n_simulations = tiny_network(action_space), 12
    copies = {"there": 0, "back": 0}
    back = th.Tensor.cpu

    def counted_there(array: np.ndarray, device: th.device) -> th.Tensor:
        copies["there"] += 1
        return on_device(array, device)

    def counted_back(tensor: th.Tensor) -> th.Tensor:
        copies["back"] += 1
        return back(tensor)

    monkeypatch.setattr("sb3_ezv2.planning.on_device", counted_there)
    monkeypatch.setattr(th.Tensor, "cpu", counted_back)
    planner = Planner(n_simulations, 3, 0.97)
    noise = planner.draw_noise(model, 5, np.random.default_rng(0))
    planner.plan(model, {"observation": th.zeros(5, 3)}, noise, explore=True)
    assert copies["there"] == n_simulations
    assert copies["back"] <= n_simulations + 2  # and values and candidates of the roots


@ACTION_SPACES
def test_searches_in_torch_equal_the_compiled_ones(action_space, monkeypatch):
    model: EfficientZeroModel = tiny_network(action_space)
    planner, n = Planner(16, 3, 0.97), 50
    observations = {"observation": th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32))}
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    compiled = planner.plan(model, observations, noise, explore=True)
    monkeypatch.setattr("sb3_ezv2.planning.supports_fusion", lambda model: False)
    in_torch = planner.plan(model, observations, noise, explore=True)
    np.testing.assert_array_equal(compiled.visit_counts, in_torch.visit_counts)
    np.testing.assert_allclose(compiled.root_values, in_torch.root_values, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(compiled.improved_policy, in_torch.improved_policy, atol=1e-4)


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a CUDA device")
def test_the_checks_say_that_there_is_no_gpu():
    command = [sys.executable, "-m", "benchmarks.gpu_checks"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "there is no CUDA device" in result.stderr
