"""All searches give the same: the compiled one, the one in tensors and a slow one in plain Python, with every network.

First trees, of models that are tables: the numba search and the search in tensor operations against
``ReferenceSearch``. Then plans, of networks: the search with the network compiled into it, the one with torch as its
model, and the one of a GPU, which runs on the CPU as well.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sb3_ezv2 import EZV2Policy
from sb3_ezv2.common.type_aliases import Plan, SearchResult, SearchSettings
from sb3_ezv2.planning.device_search import plan_on_device
from sb3_ezv2.planning.fused_search import plan_fused
from sb3_ezv2.planning.planner import Planner, choose_search
from sb3_ezv2.planning.tensor_search import TensorExpansion, tensor_search
from sb3_ezv2.planning.torch_search import plan_in_torch
from sb3_ezv2.search import search
from tests.helpers.envs import RandomEnv
from tests.helpers.plans import PLANNER, assert_same_plans, observations_of, plans
from tests.helpers.reference_search import Path, ReferenceSearch
from tests.helpers.stub_models import StubModel, noise, recording
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, TINY_NETWORK, tiny_model, tiny_network
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

# -- trees -------------------------------------------------------------------------------------------------------------

Paths = list[list[Path]]


def in_numba(
    model: StubModel, gumbel: np.ndarray, settings: SearchSettings, value_unit: float = 1.0
) -> tuple[SearchResult, Paths]:
    """Results, and the paths of the new nodes of every row."""
    paths: Paths = [[()] for _ in model.roots]
    evaluate = recording(model.recurrent_fn(settings.n_simulations), paths)
    return search(model.root(), evaluate, gumbel, model.n_children, settings, value_unit), paths


def in_tensors(
    model: StubModel, gumbel: np.ndarray, settings: SearchSettings, value_unit: float = 1.0
) -> tuple[SearchResult, Paths]:
    """The same with tensor operations."""
    paths: Paths = [[()] for _ in model.roots]
    evaluate = recording(model.recurrent_fn(settings.n_simulations), paths)

    def expand(node: int, parents: th.Tensor, edges: th.Tensor) -> TensorExpansion:
        return TensorExpansion(*map(th.from_numpy, evaluate(node, parents.numpy(), edges.numpy())))

    values, logits = map(th.from_numpy, model.root())
    found = tensor_search(values, logits, expand, th.from_numpy(gumbel), model.n_children, settings, value_unit)
    return SearchResult(*(part.numpy() for part in found)), paths


def assert_same_results(found: SearchResult, expected: SearchResult, magnitude: float) -> None:
    """Same visits and choices; policies and values up to rounding."""
    assert [array.dtype for array in found] == [array.dtype for array in expected]
    np.testing.assert_array_equal(found.visit_counts, expected.visit_counts)
    np.testing.assert_array_equal(found.selected, expected.selected)
    np.testing.assert_allclose(found.improved_policy, expected.improved_policy, rtol=0, atol=1e-5)
    for name in ("root_values", "improved_values", "policy_values"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * magnitude, err_msg=name)


def assert_same_trees(model: StubModel, gumbel: np.ndarray, settings: SearchSettings) -> None:
    """Same nodes in the same order and the same answers, by all three."""
    runs = [
        ReferenceSearch(model.evaluate(row), gumbel[row].tolist(), **settings._asdict()).run()
        for row in range(len(model.roots))
    ]
    expected = SearchResult(
        selected=np.array([run.selected for run in runs]),
        improved_policy=np.array([run.policy for run in runs], np.float32),
        root_values=np.array([run.root_value for run in runs], np.float32),
        visit_counts=np.array([run.visit_counts for run in runs], np.int32),
        improved_values=np.array([run.improved_value for run in runs], np.float32),
        policy_values=np.array([run.policy_value for run in runs], np.float32),
    )
    for run_search in (in_numba, in_tensors):
        found, paths = run_search(model, gumbel, settings)
        assert [grown[1:] for grown in paths] == [run.expanded for run in runs], run_search.__name__
        assert_same_results(found, expected, abs(model.scale) + abs(model.offset))


CONSTANTS = [
    (50.0, 0.1, 0.01, 0.0),
    (0.0, 1.0, 0.01, 0.0),
    (25.0, 0.0, 1.0, 0.0),
    (50.0, 1.0, 100.0, 0.0),
    (50.0, 0.1, 0.01, 0.5),
]
"""``c_visit``, ``c_scale``, ``min_value_range`` and ``min_value_share``."""


# (n_actions, n_simulations, n_considered, discount, scale, offset)
DISCRETE_TREES = [
    (1, 5, 1, 0.99, 1.0, 0.0),
    (2, 1, 2, 0.99, 1.0, 0.0),
    (2, 16, 2, 0.997, 1.0, 0.0),
    (3, 16, 3, 1.0, 1.0, -1.0),
    (4, 16, 4, 0.99, 1e-3, 0.0),
    (4, 64, 3, 0.9, 1e4, -1e4),
    (5, 33, 1, 0.95, 10.0, 10.0),
    (6, 16, 6, 0.99, 1e-3, -1e-3),
    (7, 24, 5, 0.5, 1e4, 0.0),
    (9, 64, 8, 0.997, 100.0, -500.0),
    (18, 8, 18, 0.988, 1.0, 0.0),
    (18, 16, 4, 0.988, 1e-2, 0.0),
    (18, 50, 16, 0.0, 1.0, 0.0),
]
# (n_simulations, n_considered, discount, scale, offset)
CONTINUOUS_TREES = [
    (1, 16, 0.99, 1.0, 0.0),
    (8, 16, 0.99, 1.0, 0.0),
    (16, 16, 0.997, 1e-3, 1e-3),
    (32, 16, 0.994, 1.0, 0.0),
    (32, 8, 0.9, 1e4, -1e4),
    (50, 6, 1.0, 10.0, -16.0),
    (64, 4, 0.99, 1e-3, 0.0),
    (40, 2, 0.99, 1e4, 0.0),
]


@pytest.mark.parametrize("n_actions, n_simulations, n_considered, discount, scale, offset", DISCRETE_TREES)
def test_discrete_trees(n_actions, n_simulations, n_considered, discount, scale, offset):
    """Every action at every node, random logits, Gumbel noise."""
    model = StubModel(np.arange(20) + 100 * n_simulations, n_actions, n_actions, scale, offset)
    settings = SearchSettings(n_simulations, n_considered, discount)
    assert_same_trees(model, noise(20, n_actions, seed=n_simulations), settings)


@pytest.mark.parametrize("n_simulations, n_considered, discount, scale, offset", CONTINUOUS_TREES)
def test_continuous_trees(n_simulations, n_considered, discount, scale, offset):
    """Sixteen candidates at the root and two actions below, uniform logits, no noise."""
    model = StubModel(np.arange(20) + 100 * n_considered, 16, 2, scale, offset, uniform_logits=True)
    settings = SearchSettings(n_simulations, n_considered, discount)
    assert_same_trees(model, np.zeros((20, 16), np.float32), settings)


@given(
    seed=st.integers(0, 2**32),
    n_candidates=st.integers(1, 12),
    n_children=st.integers(1, 6),
    n_simulations=st.integers(1, 40),
    considered=st.floats(0, 1),
    discount=st.sampled_from([0.0, 0.5, 0.9, 0.997, 1.0]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 300.0, 1e4]),
    offset=st.sampled_from([-1.0, 0.0, 1.0]),
    constants=st.sampled_from(CONSTANTS),
    bounds=st.sampled_from([(math.inf, -math.inf), (-1.0, 1.0), (0.0, 0.0)]),
    max_depth=st.sampled_from([1, 2, 3, 5, 100]),
)
@hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
def test_any_tree(
    seed, n_candidates, n_children, n_simulations, considered, discount, scale, offset, constants, bounds, max_depth
):
    """All shapes and settings, the constants of the transform included."""
    model = StubModel([seed, seed + 1], n_candidates, n_children, scale, offset * scale)
    n_considered = 1 + round(considered * (n_candidates - 1))
    settings = SearchSettings(n_simulations, n_considered, discount, *constants, bounds, max_depth)
    assert_same_trees(model, noise(2, n_candidates, seed), settings)


@pytest.mark.parametrize("n_children", [2, 3])
def test_ties_go_to_the_first(n_children):
    """All actions alike: the same rewards, values and logits everywhere."""
    model = StubModel(np.zeros(2, np.int64), 4, n_children, scale=0.0, offset=1.0, uniform_logits=True)
    assert_same_trees(model, np.zeros((2, 4), np.float32), SearchSettings(24, 4, 0.5))


@pytest.mark.parametrize("run_search", [in_numba, in_tensors])
def test_the_least_range_of_values_has_one_unit(run_search):
    """``min_value_range`` counts in units of ``value_unit``, in every search."""
    model, gumbel, settings = StubModel(np.arange(6), 5, 5), noise(6, 5), SearchSettings(20, 4, 0.9)
    expected, _ = in_numba(model, gumbel, settings._replace(min_value_range=100.0))
    assert_same_results(run_search(model, gumbel, settings, value_unit=10_000.0)[0], expected, 1.0)
    narrow, _ = run_search(model, gumbel, settings)
    assert not np.array_equal(narrow.improved_policy, expected.improved_policy)


@pytest.mark.parametrize("run_search", [in_numba, in_tensors])
def test_more_considered_than_candidates(run_search):
    with pytest.raises(ValueError, match="n_considered=6"):
        run_search(StubModel([1], 5, 5), noise(1, 5), SearchSettings(8, 6, 0.9))


# -- plans -------------------------------------------------------------------------------------------------------------

ACTIONS = {"discrete": DISCRETE, "box": CONTINUOUS, "box1": ONE_DIMENSION}
ACTION_SPACES = pytest.mark.parametrize("action_space", ACTIONS.values(), ids=ACTIONS)
needs_a_gpu = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")


def assert_all_the_same(found: list[Plan]) -> None:
    """Every one and every other one."""
    for here, there in combinations(found, 2):
        assert_same_plans(here, there)


@ACTION_SPACES
@pytest.mark.parametrize("explore", [True, False])
def test_plans_for_vectors(action_space, explore, monkeypatch):
    """Values far from 1, so that a range of values in other units would be seen."""
    model = tiny_network(action_space, reward_scale=10.0)
    assert choose_search(model) is plan_fused
    searches = plan_fused, plan_in_torch, plan_on_device
    sizes = [plans(model, observations_of(n, seed=n), explore, monkeypatch, *searches) for n in (1, 2, 3, 100, 5)]
    # Together, because rounding may decide in a single state, and in which one depends on the processor.
    assert_all_the_same([Plan(*map(np.concatenate, zip(*found, strict=True))) for found in zip(*sizes, strict=True)])


@ACTION_SPACES
@pytest.mark.parametrize("value_prefix", [False, True])
def test_plans_for_images(action_space, value_prefix, monkeypatch):
    network = {**TINY_IMAGE_NETWORK, "value_prefix": value_prefix}
    trained = tiny_model(RandomEnv(GREY, action_space), "CnnPolicy", policy_kwargs=network, n_simulations=12).learn(50)
    model = trained.policy.average_model
    assert choose_search(model) is plan_in_torch
    images = np.stack([trained.observation_space.sample() for _ in range(20)])
    observations = {"observation": th.from_numpy(images)}
    assert_all_the_same(plans(model, observations, True, monkeypatch, plan_in_torch, plan_on_device))


def test_plans_for_observations_that_do_not_begin_at_zero(monkeypatch):
    space = spaces.Dict({"one": spaces.Discrete(3, start=5), "many": spaces.MultiDiscrete([2, 4], start=[1, -3])})
    model = EZV2Policy(space, DISCRETE, lambda _: 1e-3, **TINY_NETWORK).average_model
    drawn = [space.sample() for _ in range(5)]
    observations = {key: th.from_numpy(np.stack([each[key] for each in drawn])) for key in space.spaces}
    assert_all_the_same(plans(model, observations, True, monkeypatch, plan_fused, plan_in_torch, plan_on_device))


@pytest.mark.parametrize("explore", [True, False])
def test_plans_with_fewer_candidates_than_children(explore, monkeypatch):
    """One candidate at the root, two actions at every other node."""
    model = tiny_network(CONTINUOUS, n_candidates=1, n_policy_candidates=1, n_considered=1)
    monkeypatch.setattr(PLANNER, "n_considered", 1)
    observations = observations_of(100)
    assert_all_the_same(plans(model, observations, explore, monkeypatch, plan_fused, plan_in_torch, plan_on_device))


@needs_a_gpu
@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
def test_plans_on_a_gpu(action_space):
    model, planner, n = tiny_network(action_space), Planner(16, 3, 0.97), 200
    observations = observations_of(n)
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    here = planner.plan(model, observations, noise, explore=True)
    there = planner.plan(model.cuda(), {key: part.cuda() for key, part in observations.items()}, noise, explore=True)
    same = (here.visit_counts == there.visit_counts).all(axis=1)
    assert same.mean() > 0.95  # rounding decides between equal candidates
    np.testing.assert_allclose(here.root_values[same], there.root_values[same], rtol=1e-3, atol=1e-3)
