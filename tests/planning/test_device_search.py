"""The search that a GPU records and repeats, run on the CPU, where recording means calling the same function again."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_ezv2 import CnnPolicy, EZV2Policy
from sb3_ezv2.common.recording import Recorder
from sb3_ezv2.common.type_aliases import Plan, SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning import device_search
from sb3_ezv2.planning.device_search import (
    Operations,
    SearchInputs,
    draw_on_device,
    plan_on_device,
    recorded_searches,
    search_in_tensors,
)
from sb3_ezv2.planning.planner import Planner, choose_search
from sb3_ezv2.planning.tensor_search import TreeOperations, back_up_tensors, select_tensors
from sb3_ezv2.planning.torch_nodes import TensorNoise, evaluate_nodes, noise_on_device
from tests.helpers.plans import PLANNER, assert_same_plans, observations_of
from tests.helpers.plans import plans as plans_by
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, TINY_NETWORK, tiny_network
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

SPACES = {"discrete": DISCRETE, "box": CONTINUOUS, "box1": ONE_DIMENSION}
ACTION_SPACES = pytest.mark.parametrize("action_space", SPACES.values(), ids=SPACES)


def plans(model: EfficientZeroModel, observations: dict[str, th.Tensor], explore: bool, monkeypatch) -> list[Plan]:
    """By the usual path of the CPU and by that of a GPU."""
    return plans_by(model, observations, explore, monkeypatch, choose_search(model), plan_on_device)


def test_few_sizes_are_recorded(monkeypatch):
    model = tiny_network(CONTINUOUS)
    for n in (1, 2, 3, 100, 5):
        plans(model, observations_of(n), True, monkeypatch)
    assert {key[0] for key in device_search._SEARCHES[model].by_kind} == {2, 4, 8, 128}


def test_rows_that_nobody_asked_for_hold_observations_that_exist(monkeypatch):
    space = spaces.Dict({"one": spaces.Discrete(3, start=5), "many": spaces.MultiDiscrete([2, 4], start=[1, -3])})
    model = EZV2Policy(space, DISCRETE, lambda _: 1e-3, **TINY_NETWORK).average_model
    drawn = [space.sample() for _ in range(5)]
    observations = {key: th.from_numpy(np.stack([each[key] for each in drawn])) for key in space.spaces}
    assert_same_plans(*plans(model, observations, True, monkeypatch))
    (search,) = recorded_searches(model)
    assert search.inputs.observations["one"].shape == (8,)
    assert (search.inputs.observations["one"] >= 5).all()


@ACTION_SPACES
def test_the_newest_parameters_are_used(action_space, monkeypatch):
    model, other = tiny_network(action_space), tiny_network(action_space, seed=1)
    observations = observations_of(30)
    first = plans(model, observations, True, monkeypatch)[1]
    (before,) = recorded_searches(model)
    model.load_state_dict(other.state_dict())
    here, there = plans(model, observations, True, monkeypatch)
    assert_same_plans(here, there)
    assert (there.root_values != first.root_values).all()
    assert recorded_searches(model) == [before]  # written in place: nothing new to record
    model.double().float()  # the parameters lie elsewhere now
    plans(model, observations, True, monkeypatch)
    (after,) = recorded_searches(model)
    assert after is not before


def test_rows_left_from_an_earlier_search_do_not_matter(monkeypatch):
    model = tiny_network(CONTINUOUS)
    bad = observations_of(8, seed=3)
    bad["observation"][5:] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        plans(model, bad, True, monkeypatch)
    monkeypatch.setattr("sb3_ezv2.planning.planner._is_on_gpu", lambda model: True)
    with pytest.raises(ValueError, match="not finite"):
        PLANNER.plan(model, bad, PLANNER._draw(model, 8, np.random.default_rng(0)), True)
    assert_same_plans(*plans(model, observations_of(5), True, monkeypatch))  # the same eight rows, three of them bad


def test_results_are_copies(monkeypatch):
    """The next search writes into the same memory."""
    model = tiny_network(CONTINUOUS)
    _, first = plans(model, observations_of(4, seed=1), True, monkeypatch)
    kept = Plan(*(part.copy() for part in first))
    plans(model, observations_of(4, seed=2), True, monkeypatch)
    for ours, theirs in zip(first, kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_where_no_graph_can_be_recorded_the_search_goes_on_without(monkeypatch):
    def refuse(self, function, pool=None):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "capture", refuse)
    model = tiny_network(DISCRETE)
    with pytest.warns(UserWarning, match="no CUDA graph can be recorded.*not permitted"):
        assert_same_plans(*plans(model, observations_of(6), True, monkeypatch))


def test_where_nothing_can_be_compiled_the_search_goes_on_without(monkeypatch):
    def broken(*arguments):
        raise ImportError("no compiler")

    operations = Operations(broken, TreeOperations(broken, broken))
    monkeypatch.setattr(device_search, "compiled_operations", lambda: operations)
    model = tiny_network(DISCRETE)
    noise = noise_on_device(PLANNER._draw(model, 4, np.random.default_rng(0)), th.device("cpu"))
    inputs, settings = SearchInputs(observations_of(4), noise), SearchSettings(12, 3, 0.97)
    with th.no_grad(), pytest.warns(UserWarning, match="not compiled.*no compiler"):
        search = device_search.RecordedSearch(model, inputs, True, settings, compiled=True)
    with th.no_grad():
        expected = search_in_tensors(model, inputs, True, settings, Operations())
        th.testing.assert_close(search(model), expected, rtol=0, atol=0)


# -- what a GPU needs and a CPU can show -------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Counts operations, and notes those that mix devices or leave the one that is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0
        self.mixed: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.n += 1
        devices = {tensor.device.type for tensor in tensors_in([args, kwargs or {}, result])}
        if devices - {"meta"}:
            self.mixed.add(f"{function} of {sorted(devices)}")
        return result


def tensors_in(nested):
    if isinstance(nested, th.Tensor):
        yield nested
    elif isinstance(nested, dict):
        yield from tensors_in(list(nested.values()))
    elif isinstance(nested, list | tuple):
        for part in nested:
            yield from tensors_in(part)


@ACTION_SPACES
@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("explore", [False, True])
def test_a_search_never_leaves_the_device(action_space, images, explore):
    """On tensors without numbers: reading one would fail, and a copy from or to the host would be seen."""
    if images:
        network = {**TINY_IMAGE_NETWORK, "value_prefix": True}
        model = CnnPolicy(GREY, action_space, lambda _: 1e-3, n_candidates=6, **network).average_model
        observations = {"observation": th.zeros(4, *GREY.shape, dtype=th.uint8, device="meta")}
    else:
        model, observations = tiny_network(action_space), {"observation": th.zeros(4, 3, device="meta")}
    noise = TensorNoise(*(th.from_numpy(part).to("meta") for part in PLANNER._draw(model, 4, np.random.default_rng(0))))
    model.to("meta")
    with th.no_grad(), Traffic() as traffic:
        settings = SearchSettings(12, 3, 0.97)
        search_in_tensors(model, SearchInputs(observations, noise), explore, settings, Operations())
    assert traffic.n > 12 * 50 and not traffic.mixed


def test_a_search_compiles_as_a_whole():
    """Traced without a break, twice for all sizes, and with the same results."""
    traced = []

    def backend(graph, example_inputs):
        traced.append(graph)
        return graph.forward

    def compiled(function):
        return th.compile(function, backend=backend, fullgraph=True)

    th._dynamo.reset()
    operations = Operations(
        compiled(evaluate_nodes), TreeOperations(compiled(select_tensors), compiled(back_up_tensors))
    )
    model, settings = tiny_network(CONTINUOUS), SearchSettings(12, 3, 0.97)
    for n in (2, 16, 4, 64):
        noise = noise_on_device(PLANNER._draw(model, n, np.random.default_rng(n)), th.device("cpu"))
        inputs = SearchInputs(observations_of(n), noise)
        with th.no_grad():
            found, expected = (
                search_in_tensors(model, inputs, True, settings, each) for each in (operations, Operations())
            )
        th.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(traced) == 6
    th._dynamo.reset()


def test_noise_is_finite_where_an_exponential_draw_is_zero(monkeypatch):
    monkeypatch.setattr(th.Tensor, "exponential_", lambda tensor, generator: tensor.zero_())
    noise = draw_on_device(tiny_network(spaces.Discrete(3)), 4, 2, np.random.default_rng(0))
    assert th.isfinite(noise.gumbel).all() and (noise.gumbel > 80).all()


@ACTION_SPACES
def test_noise_drawn_on_the_device(action_space):
    model = tiny_network(action_space)
    noise = draw_on_device(model, 3000, 7, np.random.default_rng(3))
    host = Planner(7, 3, 0.97)._draw(model, 3000, np.random.default_rng(3))
    for ours, theirs in zip(noise, host, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == th.float32
        if theirs.any():
            # Moments of the same distribution.
            assert float(ours.mean()) == pytest.approx(theirs.mean(), abs=0.06)
            assert float(ours.std()) == pytest.approx(theirs.std(), rel=0.05)
    again = draw_on_device(model, 3000, 7, np.random.default_rng(3))
    other = draw_on_device(model, 3000, 7, np.random.default_rng(4))
    assert all(th.equal(ours, theirs) for ours, theirs in zip(noise, again, strict=True))
    assert not all(th.equal(ours, theirs) for ours, theirs in zip(noise, other, strict=True))
