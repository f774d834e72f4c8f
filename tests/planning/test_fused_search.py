"""The compiled model computes what torch computes, always with the newest weights."""

from __future__ import annotations

import copy
import os
import threading
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch as th
from numba import typeof
from threadpoolctl import threadpool_info, threadpool_limits

from sb3_ezv2.common.type_aliases import Noise
from sb3_ezv2.networks.model import POLICY, VALUE, EfficientZeroModel
from sb3_ezv2.planning import fused_search as fused_search_module
from sb3_ezv2.planning.fused_network import block, run_layers, sample_children, write_observations
from sb3_ezv2.planning.fused_search import CHUNK, MIN_HALF
from sb3_ezv2.planning.fused_weights import ModelWeights, model_weights
from sb3_ezv2.planning.planner import Planner
from sb3_ezv2.search.exponential import exponential
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, tiny_network

ACTION_SPACES = {"discrete": DISCRETE, "box": CONTINUOUS, "box1": ONE_DIMENSION}


def random_step(model: EfficientZeroModel, n: int, seed: int = 0) -> tuple[th.Tensor, th.Tensor, np.ndarray]:
    """Latent states and actions for torch, and the actions as the compiled model wants them."""
    rng = np.random.default_rng(seed)
    latents = th.from_numpy(rng.normal(size=(n, model.heads.dim)).astype(np.float32))
    actions = th.from_numpy(model.action_kind.random((n,), rng))
    return latents, actions, model.action_kind.encode(actions).numpy()


def fused_step(model: EfficientZeroModel, latents: np.ndarray, encoded: np.ndarray) -> tuple[np.ndarray, ...]:
    """Latents, rewards, values and policies by the compiled functions, with the model's weights as they are now."""
    n, weights = len(latents), model_weights(model)
    memory = np.full(n * weights.width, np.nan, np.float32)
    block(memory, n, weights.latents)[:] = latents
    block(memory, n, weights.actions)[:] = encoded
    run_layers(weights.flat, weights.recurrent, memory, n)
    return read_outputs(weights, n, memory)


def read_outputs(weights: ModelWeights, n: int, memory: np.ndarray) -> tuple[np.ndarray, ...]:
    """Latents, rewards, values and policies of ``n`` states in working memory."""
    rewards, values = block(memory, n, weights.rewards), block(memory, n, weights.values)
    return block(memory, n, weights.latents), rewards[:, 0], values[:, 0], block(memory, n, weights.policies)


def assert_equal_outputs(model: EfficientZeroModel, n: int, seed: int = 0) -> None:
    """Latents, rewards, values and policies agree within rounding."""
    latents, actions, encoded = random_step(model, n, seed)
    with th.no_grad():
        expected = model.recurrent_inference(latents, actions)
    found = fused_step(model, latents.numpy(), encoded)
    scale = float(model.reward_scale)
    units = (1.0, scale, scale, 1.0)
    names = ("latents", "rewards", "values", "policies")
    for name, unit, ours, theirs in zip(names, units, found, expected[:4], strict=True):
        theirs = theirs.numpy()
        assert ours.shape == theirs.shape and ours.dtype == np.float32, name
        # Means over points up to the reach, which cancel each other.
        atol = 1e-6 * float(model.value_support.reach) if name == "values" else 1e-5
        np.testing.assert_allclose(ours / unit, theirs / unit, rtol=1e-5, atol=atol, err_msg=name)


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("reward_scale", [1e-3, 1.0, 1e4])
def test_outputs_equal_those_of_torch(kind, reward_scale):
    model = tiny_network(ACTION_SPACES[kind], reward_scale=reward_scale)
    for n in (1, 2, 3, 17, 64, 300):
        assert_equal_outputs(model, n, seed=n)


def test_other_sizes():
    model = tiny_network(CONTINUOUS, n_blocks=2, latent_dim=5, hidden_dim=33)
    assert_equal_outputs(model, 7)


def test_large_outputs():
    """Far out on the supports, where ``h`` is steep."""
    model = tiny_network(DISCRETE)
    middle = model.recurrent_inference(*random_step(model, 100)[:2])
    with th.no_grad():
        for output in model.heads.outputs:
            output.bias.copy_(th.linspace(-8.0, 8.0, len(output.bias)))
    far = model.recurrent_inference(*random_step(model, 100)[:2])
    assert far.values.min() > middle.values.max() and far.rewards.min() > middle.rewards.max()
    assert_equal_outputs(model, 100)


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_an_optimiser_step_is_seen_at_once(kind):
    model = tiny_network(ACTION_SPACES[kind])
    latents, actions, encoded = random_step(model, 4)
    before = fused_step(model, latents.numpy(), encoded)
    for optimizer_class in (th.optim.Adam, th.optim.SGD):
        optimizer = optimizer_class(model.parameters(), lr=1e-3)
        output = model.recurrent_inference(latents, actions)
        loss = sum(part.pow(2).mean() for part in output[:4])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_equal_outputs(model, 4)
    after = fused_step(model, latents.numpy(), encoded)
    assert all((ours != theirs).any() for ours, theirs in zip(before, after, strict=True))


def test_loaded_parameters_and_a_new_scale_are_seen_at_once():
    model, other = tiny_network(DISCRETE), tiny_network(DISCRETE, seed=3, reward_scale=50.0)
    assert_equal_outputs(model, 5)
    model.load_state_dict(other.state_dict())
    assert_same_steps(model, other)
    model.reward_scale.fill_(0.25)
    assert_equal_outputs(model, 5)


def assert_same_steps(model: EfficientZeroModel, other: EfficientZeroModel) -> None:
    """Both models compute the same, and what torch computes."""
    latents, _, encoded = random_step(model, 5)
    for ours, theirs in zip(*(fused_step(each, latents.numpy(), encoded) for each in (model, other)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_equal_outputs(model, 5)


def test_other_memory_is_seen_at_once():
    """Parameters that move, are replaced, or belong to a copy of the model."""
    model, other = tiny_network(DISCRETE), tiny_network(DISCRETE, seed=3)
    assert_equal_outputs(model, 5)
    model.load_state_dict(other.state_dict(), assign=True)
    assert_same_steps(model, other)
    copied = copy.deepcopy(model)
    with th.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.2)
    assert_equal_outputs(copied, 5)
    assert_same_steps(model, other)
    model.double().float()
    with th.no_grad():
        model.heads.norm.weight.add_(1.0)
    assert_equal_outputs(model, 5)
    model.heads = tiny_network(DISCRETE, seed=4).heads
    assert_equal_outputs(model, 5)
    model.dynamics.blocks[0].norm.weight.data = th.full((16,), 2.0)
    assert_equal_outputs(model, 5)


def test_rows_do_not_depend_on_each_other():
    model = tiny_network(CONTINUOUS)
    latents, _, encoded = random_step(model, 40)
    together = fused_step(model, latents.numpy(), encoded)
    for row in (0, 13, 39):
        alone = fused_step(model, latents.numpy()[row : row + 1], encoded[row : row + 1])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[row], theirs[0], rtol=1e-5, atol=1e-5)


def test_inputs_are_left_as_they_were():
    model = tiny_network(CONTINUOUS)
    latents, _, encoded = random_step(model, 6)
    latents, copies = latents.numpy(), (latents.numpy().copy(), encoded.copy())
    fused_step(model, latents, encoded)
    np.testing.assert_array_equal(latents, copies[0])
    np.testing.assert_array_equal(encoded, copies[1])


@pytest.mark.parametrize("n_noise", [1, 9])
def test_sampled_children_equal_those_of_torch(n_noise):
    kind = tiny_network(CONTINUOUS).action_kind
    rng = np.random.default_rng(0)
    outputs = (20.0 * rng.normal(size=(9, kind.output_dim))).astype(np.float32)
    noise = rng.normal(size=(n_noise, kind.n_children, kind.encoded_dim)).astype(np.float32)
    expected = kind.children(th.from_numpy(outputs), th.from_numpy(noise)).actions.numpy()
    found = np.zeros((9, kind.n_children + 1, kind.encoded_dim), np.float32)
    for row in range(9):
        sample_children(outputs[row], noise[row % n_noise], found[row])
    np.testing.assert_allclose(found[:, :-1], expected, rtol=1e-5, atol=1e-5)
    assert (found[:, -1] == 0).all()
    assert np.abs(expected).max() > 0.99  # the clamp at the ends is part of it


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_initial_inference_equals_that_of_torch(kind, n):
    model = tiny_network(ACTION_SPACES[kind], reward_scale=7.0)
    with th.no_grad():
        model.observation_mean.copy_(th.tensor([1.0, -2.0, 0.0]))
        model.observation_std.copy_(th.tensor([0.1, 3.0, 1.0]))
        observations = th.from_numpy(np.random.default_rng(n).normal(0.0, 5.0, (n, 3)).astype(np.float32))
        expected = model.initial_inference({"observation": observations})
    weights = model_weights(model)
    memory = np.full(n * weights.width, np.nan, np.float32)
    write_observations(weights, observations.numpy(), memory)
    run_layers(weights.flat, weights.initial, memory, n)
    latents, _, values, policies = read_outputs(weights, n, memory)
    np.testing.assert_allclose(latents, expected.latents, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values / 7.0, expected.values / 7.0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(policies, expected.policies, rtol=1e-5, atol=1e-5)


def test_exponential():
    x = np.linspace(-86.0, 80.0, 4001).astype(np.float32)
    found = np.array([exponential(each) for each in x])
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=5e-6)
    small = np.abs(x) < 2.0
    np.testing.assert_allclose(found[small], np.exp(x[small].astype(np.float64)), rtol=4e-7)
    assert exponential(np.float32(0.0)) == 1.0
    assert 0.0 < exponential(np.float32(-1e30)) < 1e-37 and 0.0 < exponential(np.float32(-np.inf)) < 1e-37
    assert np.isnan(exponential(np.float32(np.nan)))


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_a_state_alone_equals_the_state_in_a_batch(kind):
    """Whatever is evaluated together, and however many states make a chunk."""
    model = tiny_network(ACTION_SPACES[kind])
    planner = Planner(12, min(4, model.action_kind.n_candidates), 0.97)
    n = 2 * CHUNK + 3
    observations = th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32))
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    together = planner.plan(model, {"observation": observations}, noise, explore=True)
    rows = [0, CHUNK - 1, CHUNK, n - 1]
    n_same = 0
    for row in rows:
        own = Noise(noise.gumbel[row : row + 1], noise.candidates[row : row + 1], noise.children[:, row : row + 1])
        alone = planner.plan(model, {"observation": observations[row : row + 1]}, own, explore=True)
        np.testing.assert_allclose(alone.candidates[0], together.candidates[row], rtol=1e-5, atol=1e-5)
        if (alone.visit_counts[0] == together.visit_counts[row]).all():
            n_same += 1
            np.testing.assert_allclose(alone.root_values[0], together.root_values[row], rtol=1e-3, atol=1e-4)
    assert n_same >= len(rows) - 1
    repeated = planner.plan(
        model, {"observation": observations[:1].repeat(3, 1)}, planner.greedy_noise(model), explore=False
    )
    single = planner.plan(model, {"observation": observations[:1]}, planner.greedy_noise(model), explore=False)
    for row in range(3):
        np.testing.assert_allclose(repeated.actions[row], single.actions[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("where", ["value", "policy", "hidden", "observation"])
@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_what_is_not_finite_is_refused(kind, where):
    model = tiny_network(ACTION_SPACES[kind])
    observations = th.zeros(2, 3)
    if where == "observation":
        observations[1, 2] = np.nan
    else:
        index = {"value": VALUE, "policy": POLICY, "hidden": VALUE}[where]
        with th.no_grad():
            weight = (model.heads.hidden if where == "hidden" else model.heads.outputs[index]).weight
            weight[-1 if where == "hidden" else len(weight) // 2, 0] = np.nan  # of the value's support, a point in use
    planner = Planner(4, 2, 0.97)
    with pytest.raises(ValueError, match="not finite"):
        planner.plan(model, {"observation": observations}, planner.greedy_noise(model), explore=False)


def test_searches_of_every_kind_need_one_compiled_version(monkeypatch):
    """Exploring or not, one state or many, any kind of action: arguments of the same types."""
    seen, compiled = set(), fused_search_module._search_chunk
    monkeypatch.setattr(
        fused_search_module,
        "_search_chunk",
        lambda *arguments: seen.add(tuple(map(typeof, arguments))) or compiled(*arguments),
    )
    planner = Planner(4, 2, 0.97)
    for space in ACTION_SPACES.values():
        model = tiny_network(space)
        for n, explore in product((1, 3), (True, False)):
            rng = np.random.default_rng(0)
            noise = planner.draw_noise(model, n, rng) if explore else planner.greedy_noise(model)
            planner.plan(model, {"observation": th.zeros(n, 3)}, noise, explore)
    assert len(seen) == 1


def test_no_states_at_all():
    model = tiny_network(CONTINUOUS)
    planner = Planner(4, 2, 0.97)
    plan = planner.plan(model, {"observation": th.zeros(0, 3)}, planner.greedy_noise(model), explore=False)
    assert plan.actions.shape == (0, 2) and plan.candidates.shape == (0, 6, 2) and plan.root_values.shape == (0,)


@pytest.mark.parametrize("n", [2 * MIN_HALF + 1, 3 * CHUNK])
def test_threads_change_nothing(n, monkeypatch):
    """Chunks on several threads give the same bits."""
    model = tiny_network(CONTINUOUS)
    planner = Planner(6, 4, 0.97)
    observations = {"observation": th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32))}
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    monkeypatch.setattr(fused_search_module, "_most_threads", lambda n_cores: 1)
    serial = planner.plan(model, observations, noise, explore=True)
    monkeypatch.setattr(fused_search_module, "_most_threads", lambda n_cores: 2)
    parallel = planner.plan(model, observations, noise, explore=True)
    for ours, theirs in zip(parallel, serial, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def cores_of_threads() -> tuple[int, set[frozenset[int]]]:
    """How many cores a search of two chunks counts, and those that the threads of its chunks may run on."""
    model, planner = tiny_network(CONTINUOUS), Planner(6, 4, 0.97)
    seen, counted, most_threads = set(), [], fused_search_module._most_threads

    def search_chunk(*arguments):
        seen.add(frozenset(os.sched_getaffinity(0)))
        return True

    def count(n_cores):
        counted.append(n_cores)
        return most_threads(n_cores)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NUMBA_NUM_THREADS", raising=False)
        patch.setattr(fused_search_module, "_search_chunk", search_chunk)
        patch.setattr(fused_search_module, "read_roots", lambda tree, constants, result: result.selected.fill(0))
        patch.setattr(fused_search_module, "_most_threads", count)
        noise = planner.draw_noise(model, 2 * MIN_HALF, np.random.default_rng(0))
        planner.plan(model, {"observation": th.zeros(2 * MIN_HALF, 3)}, noise, explore=True)
    return counted[0], seen


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux says which cores a thread may use")
def test_chunks_do_not_share_the_core_that_the_caller_is_bound_to():
    """OMP_PROC_BIND binds the thread that loads torch to one core, and threads that it starts inherit that."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core")
    stop = threading.Event()
    bystander = threading.Thread(target=stop.wait)  # like OpenMP's other threads, it keeps the other cores
    bystander.start()
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert cores_of_threads() == (len(cores), {frozenset(cores)})
    finally:
        os.sched_setaffinity(0, cores)
        stop.set()
        bystander.join()


@pytest.mark.parametrize("n", [1, 40])
def test_blas_has_one_thread_while_chunks_have_theirs(n, monkeypatch):
    """Where it is used at all: for one state the products are too small."""

    def threads_of_blas() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = set()

    def search_chunk(*arguments):
        seen.update(threads_of_blas())
        return compiled(*arguments)

    compiled = fused_search_module._search_chunk
    monkeypatch.setattr(fused_search_module, "_search_chunk", search_chunk)
    model = tiny_network(CONTINUOUS)
    planner = Planner(4, 2, 0.97)
    fused_search_module._blas()
    with threadpool_limits(2, user_api="blas"):
        before = threads_of_blas()
        assert 2 in before  # an old BLAS stays at what it had when it was loaded
        planner.plan(model, {"observation": th.zeros(n, 3)}, planner.greedy_noise(model), explore=False)
        assert threads_of_blas() == before
    assert seen == (before if n == 1 else {1})
