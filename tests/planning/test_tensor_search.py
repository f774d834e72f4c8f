"""The search in tensor operations gives what the numba search gives, tree for tree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sb3_ezv2.common.type_aliases import SearchResult, SearchSettings
from sb3_ezv2.planning.tensor_search import TensorExpansion, TensorResult, tensor_search
from sb3_ezv2.search import search
from tests.helpers.reference_search import Path
from tests.helpers.stub_models import StubModel, recording
from tests.search.test_search import CONSTANTS, CONTINUOUS, DISCRETE, noise


def run_tensors(
    model: StubModel, gumbel: np.ndarray, settings: SearchSettings, value_unit: float = 1.0
) -> tuple[TensorResult, list[list[Path]]]:
    """Search all rows of a stub model; also the paths of the new nodes."""
    paths: list[list[Path]] = [[()] for _ in model.roots]
    evaluate = recording(model.recurrent_fn(settings.n_simulations), paths)

    def expand(node: int, parents: th.Tensor, edges: th.Tensor) -> TensorExpansion:
        return TensorExpansion(*map(th.from_numpy, evaluate(node, parents.numpy(), edges.numpy())))

    root = model.root()
    result = tensor_search(
        th.from_numpy(root.values),
        th.from_numpy(root.prior_logits),
        expand,
        th.from_numpy(gumbel),
        model.n_children,
        settings,
        value_unit,
    )
    return result, paths


def assert_same_searches(model: StubModel, gumbel: np.ndarray, settings: SearchSettings) -> None:
    """Same nodes in the same order, same visits and choices; policies and values up to rounding."""
    paths: list[list[Path]] = [[()] for _ in model.roots]
    evaluate = recording(model.recurrent_fn(settings.n_simulations), paths)
    expected = search(model.root(), evaluate, gumbel, model.n_children, settings)
    found, grown = run_tensors(model, gumbel, settings)
    assert grown == paths
    assert_same_results(found, expected, abs(model.scale) + abs(model.offset))


def assert_same_results(found: TensorResult, expected: SearchResult, magnitude: float) -> None:
    ours = SearchResult(*(part.numpy() for part in found))
    assert [array.dtype for array in ours] == [array.dtype for array in expected]
    np.testing.assert_array_equal(ours.visit_counts, expected.visit_counts)
    np.testing.assert_array_equal(ours.selected, expected.selected)
    np.testing.assert_allclose(ours.improved_policy, expected.improved_policy, rtol=0, atol=1e-5)
    for name in ("root_values", "improved_values"):
        np.testing.assert_allclose(
            getattr(ours, name), getattr(expected, name), rtol=1e-5, atol=1e-5 * magnitude, err_msg=name
        )


@pytest.mark.parametrize("n_actions, n_simulations, n_considered, discount, scale, offset", DISCRETE)
def test_discrete_trees(n_actions, n_simulations, n_considered, discount, scale, offset):
    model = StubModel(np.arange(40) + 100 * n_simulations, n_actions, n_actions, scale, offset)
    settings = SearchSettings(n_simulations, n_considered, discount)
    assert_same_searches(model, noise(40, n_actions, seed=n_simulations), settings)


@pytest.mark.parametrize("n_simulations, n_considered, discount, scale, offset", CONTINUOUS)
def test_continuous_trees(n_simulations, n_considered, discount, scale, offset):
    model = StubModel(np.arange(40) + 100 * n_considered, 16, 2, scale, offset, uniform_logits=True)
    settings = SearchSettings(n_simulations, n_considered, discount)
    assert_same_searches(model, np.zeros((40, 16), np.float32), settings)


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
)
@hypothesis_settings(max_examples=100, deadline=None, derandomize=True)
def test_any_search(
    seed, n_candidates, n_children, n_simulations, considered, discount, scale, offset, constants, bounds
):
    model = StubModel(np.arange(3) + seed, n_candidates, n_children, scale, offset * scale)
    n_considered = 1 + round(considered * (n_candidates - 1))
    settings = SearchSettings(n_simulations, n_considered, discount, *constants, bounds)
    assert_same_searches(model, noise(3, n_candidates, seed), settings)


@pytest.mark.parametrize("n_children", [2, 3])
def test_ties_go_to_the_first(n_children):
    """All actions alike: the same rewards, values and logits everywhere."""
    model = StubModel(np.zeros(2, np.int64), 4, n_children, scale=0.0, offset=1.0, uniform_logits=True)
    assert_same_searches(model, np.zeros((2, 4), np.float32), SearchSettings(24, 4, 0.5))


def test_the_range_of_values_is_in_units_of_the_rewards():
    model, gumbel, settings = StubModel(np.arange(6), 5, 5), noise(6, 5), SearchSettings(20, 4, 0.9)
    wide = settings._replace(min_value_range=100.0)
    expected = search(model.root(), model.recurrent_fn(20), gumbel, 5, wide)
    assert_same_results(run_tensors(model, gumbel, settings, value_unit=10_000.0)[0], expected, 1.0)
    narrow = run_tensors(model, gumbel, settings)[0]
    assert not np.array_equal(narrow.improved_policy.numpy(), expected.improved_policy)


def test_more_considered_than_candidates():
    with pytest.raises(ValueError, match="n_considered=6"):
        run_tensors(StubModel([1], 5, 5), noise(1, 5), SearchSettings(8, 6, 0.9))
