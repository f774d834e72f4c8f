"""The exported graph decides as the model does, for every kind of action and of observation."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.type_aliases import Noise
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, TINY_NETWORK, tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK
from tests.networks.test_own_networks import OWN

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

MIXED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (3, 32, 32), np.uint8),
        "speed": spaces.Box(-2.0, 2.0, (2,)),
        "gear": spaces.Discrete(3, start=1),
    }
)
BOUNDS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
CASES = {
    "discrete": (None, spaces.Discrete(3, start=2), "MlpPolicy", TINY_NETWORK),
    "continuous": (None, BOUNDS, "MlpPolicy", TINY_NETWORK),
    "images": (GREY, DISCRETE, "CnnPolicy", TINY_IMAGE_NETWORK),
    "dict": (MIXED, CONTINUOUS, "MultiInputPolicy", TINY_IMAGE_NETWORK),
    "value prefix": (None, DISCRETE, "MlpPolicy", {**TINY_NETWORK, "value_prefix": True, "lstm_dim": 8}),
    "own networks": (None, BOUNDS, "MlpPolicy", {**TINY_NETWORK, **OWN, "activation_fn": nn.SiLU}),
}
"""Observations, actions, policy and its network."""


def random_model(env, policy: str = "MlpPolicy", network: dict | None = None) -> EfficientZeroV2:
    """A model with random weights in every layer, outputs included."""
    model = tiny_model(env, policy, policy_kwargs=network or TINY_NETWORK)
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        for parameter in model.policy.average_model.parameters():
            parameter.add_(0.3 * th.randn(parameter.shape, generator=generator))
    return model


def feeds(observation, row: int) -> dict[str, np.ndarray]:
    named = observation if isinstance(observation, dict) else {"observation": observation}
    return {key: np.asarray(part[row : row + 1]) for key, part in named.items()}


def drawn(space: spaces.Space, n: int):
    space.seed(0)
    parts = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([part[key] for part in parts]) for key in space.spaces}
    return np.stack(parts)


@pytest.mark.parametrize("name", CASES)
def test_the_exported_search_decides_as_the_model(name, tmp_path):
    observation_space, action_space, policy, network = CASES[name]
    model = random_model(RandomEnv(observation_space, action_space), policy, network)
    model.export_onnx(tmp_path / "agent.onnx")
    session = ort.InferenceSession(tmp_path / "agent.onnx")
    observations = drawn(model.observation_space, 60)
    plan = model.policy.plan(observations, deterministic=True)
    actions, _ = model.predict(observations, deterministic=True)
    same, errors = 0, []
    for row in range(60):
        found = dict(
            zip([out.name for out in session.get_outputs()], session.run(None, feeds(observations, row)), strict=True)
        )
        assert found["visit_counts"].sum() == 4 and found["action"].dtype == model.action_space.dtype
        chosen = np.isclose(found["candidates"][0, found["candidate"][0]], plan.actions[row], atol=1e-3).all()
        alike = bool(chosen and (found["visit_counts"][0] == plan.visit_counts[row]).all())
        same += alike
        if alike:
            np.testing.assert_allclose(found["action"][0], actions[row], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found["improved_policy"][0], plan.improved_policy[row], atol=1e-3)
            np.testing.assert_allclose(found["candidates"][0], plan.candidates[row], rtol=1e-4, atol=1e-4)
            errors.append(abs(found["value"][0] - plan.root_values[row]))
    assert same >= 59
    assert max(errors) <= 1e-4 * max(np.abs(plan.root_values).max(), 1.0)


def test_normalisation_is_part_of_the_graph(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", 2), clip_obs=1.0)
    model = random_model(env)
    env.obs_rms.mean, env.obs_rms.var = np.array([0.3, -0.2, 2.0]), np.array([0.4, 0.1, 9.0])
    model.export_onnx(tmp_path / "agent.onnx", n_simulations=2)
    session = ort.InferenceSession(tmp_path / "agent.onnx")
    raw = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expected, _ = model.predict(env.normalize_obs(raw), deterministic=True, n_simulations=2)
    found = np.concatenate([session.run(["action"], feeds(raw, row))[0] for row in range(20)])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    clipped, _ = model.predict(np.clip(raw, -1, 1), deterministic=True, n_simulations=2)
    assert not np.allclose(found, clipped, atol=1e-2)


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_the_policy_alone(action_space, tmp_path):
    model = random_model(RandomEnv(None, action_space))
    model.export_onnx(tmp_path / "policy.onnx", search=False, n_observations=8)
    session = ort.InferenceSession(tmp_path / "policy.onnx")
    observations = drawn(model.observation_space, 8)
    action, value = session.run(None, {"observation": observations})
    tensors, _ = model.policy.obs_to_tensor(observations)
    with th.no_grad():
        root = model.policy.average_model.initial_inference({"observation": tensors})
    np.testing.assert_allclose(value, root.values, rtol=1e-4, atol=1e-5)
    if action_space is DISCRETE:
        np.testing.assert_array_equal(action, root.policies.argmax(1))
    else:
        mean, _ = model.policy.action_kind.gaussian(root.policies)
        np.testing.assert_allclose(action, np.tanh(mean).clip(-0.999, 0.999), atol=1e-5)


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_exploring_takes_its_noise_as_an_input(action_space, tmp_path):
    model = random_model(RandomEnv(None, action_space))
    model.export_onnx(tmp_path / "agent.onnx", deterministic=False)
    session = ort.InferenceSession(tmp_path / "agent.onnx")
    shapes = {given.name: given.shape for given in session.get_inputs()}
    planner, kind, network = model.policy.planner, model.policy.action_kind, model.policy.average_model
    observations, chosen = drawn(model.observation_space, 20), set()
    for row in range(20):
        noise: Noise = planner._draw(network, 1, np.random.default_rng(row))
        arrays = dict(zip(("gumbel", "candidate_noise", "child_noise"), noise, strict=True))
        assert set(shapes) == {"observation", "gumbel", *(arrays if kind.sampled else ())}
        given = feeds(observations, row) | {name: arrays[name] for name in shapes if name != "observation"}
        found = session.run(["candidate", "value"], given)
        tensors, _ = model.policy.obs_to_tensor(observations[row : row + 1])
        plan = planner.plan(network, {"observation": tensors}, noise, explore=True)
        np.testing.assert_allclose(found[1], plan.root_values, rtol=1e-3, atol=1e-3)
        chosen.add(int(found[0][0]))
    assert len(chosen) > 1


def test_an_operator_that_onnx_does_not_know_is_named(tmp_path):
    class Strange(FlattenExtractor):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            return th.linalg.lstsq(th.eye(3)[None].expand(len(observations), 3, 3), observations[..., None])[0][..., 0]

    model = random_model(RandomEnv(), network={**TINY_NETWORK, "features_extractor_class": Strange})
    with pytest.raises(ValueError, match="features_extractor_class=Strange.*operator that ONNX cannot express"):
        model.export_onnx(tmp_path / "agent.onnx", n_simulations=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [{"n_simulations": 0}, {"deterministic": 1}, {"search": None}, {"n_observations": 0}], ids=str
)
def test_bad_arguments_are_refused(arguments, tmp_path):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name}="):
        random_model(RandomEnv()).export_onnx(tmp_path / "agent.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_traced_policy_raises():
    model = random_model(RandomEnv())
    with pytest.raises(ValueError, match="a search cannot be traced.*export_onnx"):
        th.jit.trace(model.policy, th.zeros(1, 3))


RUN = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
print(session.run(["action"], {"observation": numpy.zeros((1, 3), numpy.float32)})[0])
assert not {"torch", "sb3_ezv2"} & set(sys.modules)
"""


def test_the_file_needs_neither_torch_nor_this_package(tmp_path):
    model = random_model(RandomEnv())
    model.export_onnx(tmp_path / "agent.onnx", n_simulations=1)
    found = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "agent.onnx"], capture_output=True, text=True, check=True
    )
    action, _ = model.predict(np.zeros((1, 3), np.float32), deterministic=True, n_simulations=1)
    assert found.stdout.strip() == str(action)
