"""The algorithm on a GPU; on machines without one, what can be known of that path without it."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.learning.updates import update
from sb3_ezv2.planning.device_search import recorded_searches
from sb3_ezv2.planning.host_copy import is_faster_on_host, on_host
from sb3_ezv2.planning.planner import Planner
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    DISCRETE,
    TINY_NETWORK,
    assert_finite_parameters,
    assert_same_parameters,
    tiny_model,
    tiny_network,
)
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

FORM = "heads", "representation", "dynamics", "value_prefix", "action_kind"
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
def test_a_search_is_compiled_and_recorded_and_follows_the_parameters(action_space, recwarn):
    model, other, planner, n = tiny_network(action_space), tiny_network(action_space, seed=1), Planner(16, 3, 0.97), 50
    observations = th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32))
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    here = planner.plan(other, {"observation": observations}, noise, explore=True)
    model.cuda()
    first = planner.plan(model, {"observation": observations.cuda()}, noise, explore=True)
    model.load_state_dict(other.state_dict())
    there = planner.plan(model, {"observation": observations.cuda()}, noise, explore=True)
    (search,) = recorded_searches(model)
    assert search.repeat is not None
    assert not [warning for warning in recwarn if "slower" in str(warning.message)]
    same = (here.visit_counts == there.visit_counts).all(axis=1)
    assert same.mean() > 0.9 and (first.root_values != there.root_values).all()
    np.testing.assert_allclose(here.root_values[same], there.root_values[same], rtol=1e-3, atol=1e-3)


@needs_a_gpu
@ACTION_SPACES
@pytest.mark.parametrize(
    "policy, network, space",
    [("MlpPolicy", TINY_NETWORK, None), ("CnnPolicy", {**TINY_IMAGE_NETWORK, "augment": False}, GREY)],
)
def test_recorded_updates_equal_the_others(policy, network, space, action_space, recwarn):
    """The same batches, without what is drawn at random."""
    models = [
        tiny_model(RandomEnv(space, action_space), policy, policy_kwargs=network, device="cuda", ent_coef=0.0).learn(31)
        for _ in range(2)
    ]
    assert_same_parameters(*models)
    kept = []
    models[0].updater = lambda batch, settings: (
        kept.append((batch, settings)) or update(models[0].policy, batch, settings)
    )
    models[0].train(8)
    updater = models[1].updater
    for batch, settings in kept:
        updater(batch, settings)
    assert updater.recorded is not None and updater.recorded.steps_too
    assert not [warning for warning in recwarn if "slower" in str(warning.message)]
    ours, theirs = (model.policy.state_dict() for model in models)
    for name, value in ours.items():
        th.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-3, msg=name)


@ACTION_SPACES
def test_a_search_on_a_gpu_copies_back_once(action_space, monkeypatch):
    """Counted on the CPU; that it does nothing else outside of the GPU is seen in ``test_device_search``."""
    monkeypatch.setattr("sb3_ezv2.planning.planner._is_on_gpu", lambda model: True)
    model, planner, copies, back = tiny_network(action_space), Planner(12, 3, 0.97), [], th.Tensor.cpu
    monkeypatch.setattr(th.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or back(tensor))
    noise = planner._draw(model, 5, np.random.default_rng(0))
    plan = planner.plan(model, {"observation": th.zeros(5, 3)}, noise, explore=True)
    assert len(copies) == 1 and copies[0][0] == len(plan.actions) == 5


@ACTION_SPACES
def test_with_the_tree_on_the_cpu_a_simulation_copies_once_there_and_once_back(action_space, monkeypatch):
    """Where the network is neither compiled nor on a CUDA device."""
    monkeypatch.setattr("sb3_ezv2.planning.planner.supports_fusion", lambda model: False)
    model, n_simulations = tiny_network(action_space), 12
    copies = {"there": 0, "back": 0}
    back = th.Tensor.cpu

    def counted_there(array: np.ndarray, device: th.device) -> th.Tensor:
        copies["there"] += 1
        return on_device(array, device)

    def counted_back(tensor: th.Tensor) -> th.Tensor:
        copies["back"] += 1
        return back(tensor)

    monkeypatch.setattr("sb3_ezv2.planning.torch_search.on_device", counted_there)
    monkeypatch.setattr(th.Tensor, "cpu", counted_back)
    planner = Planner(n_simulations, 3, 0.97)
    noise = planner.draw_noise(model, 5, np.random.default_rng(0))
    planner.plan(model, {"observation": th.zeros(5, 3)}, noise, explore=True)
    assert copies["there"] == n_simulations
    assert copies["back"] <= n_simulations + 2  # and values and candidates of the roots


@needs_a_gpu
@ACTION_SPACES
def test_few_states_are_searched_on_the_cpu_and_with_the_newest_parameters(action_space):
    model, other, planner = tiny_network(action_space), tiny_network(action_space, seed=1), Planner(16, 3, 0.97)
    observations, there = {"observation": th.full((1, 3), 0.3)}, deepcopy(model).cuda()
    for source in (model, other):
        there.load_state_dict(source.state_dict())
        noise = planner.draw_noise(there, 1, np.random.default_rng(1))
        here = planner.plan(source, observations, noise, explore=True)
        found = planner.plan(there, {"observation": observations["observation"].cuda()}, noise, explore=True)
        np.testing.assert_array_equal(here.root_values, found.root_values)
    assert not recorded_searches(there)


@ACTION_SPACES
def test_a_copy_on_the_cpu_searches_as_the_model_does(action_space):
    """Also after each of the ways in which parameters change."""
    model, other, planner = tiny_network(action_space), tiny_network(action_space, seed=1), Planner(16, 3, 0.97)
    observations = {"observation": th.full((2, 3), 0.3)}
    noise = planner.draw_noise(model, 2, np.random.default_rng(1))
    seen = []
    for change in (
        lambda: None,
        lambda: model.load_state_dict(other.state_dict()),
        lambda: model.reward_scale.fill_(7),
    ):
        change()
        here, copied = (planner.plan(each, observations, noise, explore=True) for each in (model, on_host(model)))
        np.testing.assert_array_equal(here.root_values, copied.root_values)
        np.testing.assert_array_equal(here.improved_policy, copied.improved_policy)
        seen.append(here.root_values[0])
    assert len(set(seen)) == 3 and on_host(model) is on_host(model) is not model


def test_a_copy_on_the_cpu_is_made_anew_only_after_changes(monkeypatch):
    """Those that a recording makes are told by the updates, because PyTorch does not count them."""
    model = tiny_model(RandomEnv(), learning_starts=20).learn(25)
    copies, copied, join = model.policy.copies, [], th.cat
    on_host(copies.average), on_host(copies.target)

    def counted(parts, dim=0):
        copied.extend([parts] if parts[0].dim() == 1 and len(parts) > 20 else [])
        return join(parts, dim=dim)

    monkeypatch.setattr("sb3_ezv2.planning.host_copy.th.cat", counted)
    on_host(copies.average), on_host(copies.target)
    assert not copied
    model.learn(1, reset_num_timesteps=False)
    assert parameters_equal(on_host(copies.average), copies.average) and len(copied) == 1
    copies.update_target()
    assert parameters_equal(on_host(copies.target), copies.target) and len(copied) == 2
    copies.average.reward_scale.data.fill_(7.0)  # as a recording does
    assert not parameters_equal(on_host(copies.average), copies.average)
    th.autograd.graph.increment_version(copies.average.reward_scale)
    assert parameters_equal(on_host(copies.average), copies.average)


def parameters_equal(ours, theirs):
    """Of everything that a search reads."""
    rest = theirs.state_dict()
    return all(th.equal(part, rest[name]) for name, part in ours.state_dict().items() if part.dtype == th.float32)


@pytest.mark.parametrize("cores, most", [(1, 2), (3, 6), (16, 8)])
def test_so_many_states_are_searched_on_the_cpu(cores, most, monkeypatch):
    monkeypatch.setattr("sb3_ezv2.planning.host_copy._n_cores", lambda: cores)
    model = tiny_network(CONTINUOUS)
    assert not is_faster_on_host(model, 1)  # it is there
    elsewhere = SimpleNamespace(**{name: getattr(model, name) for name in FORM})
    elsewhere.reward_scale = SimpleNamespace(device=th.device("cuda"), dtype=th.float32)
    assert [is_faster_on_host(elsewhere, n) for n in (1, most, most + 1)] == [True, True, False]


@ACTION_SPACES
def test_a_model_on_a_gpu_leaves_few_states_to_the_cores(action_space, monkeypatch):
    """In pieces; with the results of a search of all of them."""
    model, planner = tiny_network(action_space), Planner(16, 3, 0.97)
    observations = {"observation": th.linspace(-1.0, 1.0, 15).view(5, 3)}
    noise = planner.draw_noise(model, 5, np.random.default_rng(1))
    here = planner.plan(model, observations, noise, explore=True)
    monkeypatch.setattr("sb3_ezv2.planning.planner.is_faster_on_host", lambda model, n: True)
    pieces = planner.plan(model, observations, noise, explore=True)
    for ours, theirs in zip(here, pieces, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
