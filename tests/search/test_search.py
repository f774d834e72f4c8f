"""The search as a whole: what must hold for any model. ``tests/planning/test_equivalence.py`` has the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sb3_ezv2.common.type_aliases import Expansion, RecurrentFn, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.search import search
from tests.helpers.stub_models import StubModel, noise


def run(model: StubModel, gumbel: np.ndarray, settings: SearchSettings) -> SearchResult:
    """Search all rows of a stub model."""
    return search(model.root(), model.recurrent_fn(settings.n_simulations), gumbel, model.n_children, settings)


def assert_same_rows(result: SearchResult, other: SearchResult, rows: np.ndarray | list[int]) -> None:
    """Rows ``rows`` of both results are equal to the last bit."""
    for name, ours, theirs in zip(SearchResult._fields, result, other, strict=True):
        np.testing.assert_array_equal(ours[rows], theirs[rows], err_msg=name)


@given(
    seed=st.integers(0, 2**32),
    n_candidates=st.integers(1, 20),
    n_simulations=st.integers(1, 40),
    considered=st.floats(0, 1),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e4]),
)
@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
def test_what_every_result_obeys(
    seed: int, n_candidates: int, n_simulations: int, considered: float, scale: float
) -> None:
    """The budget is spent on the considered candidates, the policy is a distribution, values are means of values."""
    n_considered = 1 + round(considered * (n_candidates - 1))
    model = StubModel(np.arange(4) + seed, n_candidates, 3, scale)
    gumbel = noise(4, n_candidates, seed)
    result = run(model, gumbel, SearchSettings(n_simulations, n_considered, 0.9))
    assert [array.dtype for array in result] == [np.int64, np.float32, np.float32, np.int32, np.float32, np.float32]
    np.testing.assert_array_equal(result.visit_counts.sum(1), n_simulations)
    np.testing.assert_allclose(result.improved_policy.sum(1), 1.0, atol=1e-6)
    assert (result.improved_policy >= 0).all()
    assert (np.abs(result.root_values) <= 13 * scale).all()  # |G| <= 3 scale + scale / (1 - 0.9)
    preference = gumbel.astype(np.float64) + model.root().prior_logits
    for row in range(4):
        best_first = np.argsort(-preference[row])
        visited = set(np.flatnonzero(result.visit_counts[row]))
        assert visited == set(best_first[: min(n_considered, n_simulations)])
        assert result.visit_counts[row, result.selected[row]] == result.visit_counts[row].max()


def enlarged(recurrent_fn: RecurrentFn, row: int) -> RecurrentFn:
    """The same model with rewards and values of another size in one row."""

    def evaluate(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        expansion = recurrent_fn(node, parents, edges)
        expansion.values[row] *= 1000.0
        expansion.rewards[row] -= 50.0
        return expansion

    return evaluate


def test_rows_do_not_see_each_other() -> None:
    """Another model, other noise and another scale in one row change nothing in the others."""
    seeds, gumbel, settings = np.arange(9), noise(9, 6), SearchSettings(30, 4, 0.99)
    before = run(StubModel(seeds, 6, 6), gumbel, settings)
    for row in (0, 4, 8):
        other_seeds, other_gumbel = seeds.copy(), gumbel.copy()
        other_seeds[row] += 1000
        other_gumbel[row] = noise(1, 6, seed=5)[0]
        model = StubModel(other_seeds, 6, 6)
        after = search(model.root(), enlarged(model.recurrent_fn(30), row), other_gumbel, 6, settings)
        assert_same_rows(after, before, np.arange(9) != row)
        assert after.root_values[row] != before.root_values[row]


def test_a_row_alone_equals_the_row_in_a_batch() -> None:
    """One root at a time gives what the batch gives."""
    gumbel, settings = noise(5, 6), SearchSettings(30, 4, 0.99)
    together = run(StubModel(np.arange(5), 6, 3), gumbel, settings)
    for row in range(5):
        alone = run(StubModel([row], 6, 3), gumbel[row : row + 1], settings)
        assert_same_rows(alone, SearchResult(*(array[row : row + 1] for array in together)), [0])


def test_order_of_rows_is_irrelevant() -> None:
    """Permuted roots give permuted results."""
    order = np.random.default_rng(3).permutation(12)
    gumbel, settings = noise(12, 5), SearchSettings(20, 5, 0.95)
    straight = run(StubModel(np.arange(12), 5, 5), gumbel, settings)
    permuted = run(StubModel(order, 5, 5), gumbel[order], settings)
    assert_same_rows(permuted, SearchResult(*(array[order] for array in straight)), np.arange(12))


def test_same_inputs_same_result_whatever_ran_before() -> None:
    """Nothing of one search is left for the next: no table, tree or halving state."""
    model, gumbel, settings = StubModel(np.arange(6), 6, 6), noise(6, 6), SearchSettings(16, 6, 0.99)
    first = run(model, gumbel, settings)
    kept = SearchResult(*(array.copy() for array in first))
    others = [
        settings._replace(n_simulations=33),
        settings._replace(n_considered=2),
        settings._replace(discount=0.5),
        settings._replace(c_visit=1.0, c_scale=3.0),
        settings._replace(min_value_range=100.0),
        settings._replace(min_value_share=10.0),
        settings._replace(value_bounds=(-1000.0, 1000.0)),
    ]
    different = []
    for other in others:
        different.append(run(model, gumbel, other))
        assert not np.array_equal(different[-1].improved_policy, first.improved_policy), other
        assert_same_rows(run(model, gumbel, settings), kept, np.arange(6))
    assert_same_rows(first, kept, np.arange(6))  # later searches do not write into earlier results
    assert_same_rows(run(model, gumbel, others[0]), different[0], np.arange(6))


def test_inputs_are_left_alone() -> None:
    """The arrays that come in are only read."""
    model, gumbel, settings = StubModel(np.arange(3), 4, 4), noise(3, 4), SearchSettings(8, 4, 0.99)
    root = model.root()
    copies = [array.copy() for array in (*root, gumbel)]
    search(root, model.recurrent_fn(8), gumbel, 4, settings)
    for array, copy in zip((*root, gumbel), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_no_roots_at_all() -> None:
    """An empty batch gives empty results."""
    result = run(StubModel([], 4, 4), np.zeros((0, 4), np.float32), SearchSettings(8, 4, 0.99))
    assert [array.shape for array in result] == [(0,), (0, 4), (0,), (0, 4), (0,), (0,)]


@pytest.mark.parametrize(
    "argument, change",
    [
        ("values", {"values": np.zeros(3, np.float32)}),
        ("values", {"values": np.zeros((2, 1), np.float32)}),
        ("gumbel", {"gumbel": np.zeros((3, 4), np.float32)}),
        ("gumbel", {"gumbel": np.zeros((2, 5), np.float32)}),
        ("gumbel", {"gumbel": np.zeros(4, np.float32)}),
        ("n_considered=0", {"n_considered": 0}),
        ("n_considered=-1", {"n_considered": -1}),
        ("n_considered=5", {"n_considered": 5}),
        ("n_simulations=0", {"n_simulations": 0}),
        ("n_simulations=-1", {"n_simulations": -1}),
        ("n_simulations=-7", {"n_simulations": -7}),
        ("n_children=0", {"n_children": 0}),
        ("n_children=-1", {"n_children": -1}),
    ],
)
def test_bad_arguments_are_named(argument: str, change: dict[str, Any]) -> None:
    """``ValueError`` with the argument's name, before the model is asked anything."""
    calls: list[int] = []

    def evaluate(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        calls.append(node)
        return Expansion(np.zeros(2, np.float32), np.zeros(2, np.float32), np.zeros((2, 3), np.float32))

    arguments: dict[str, Any] = {
        "values": np.zeros(2, np.float32),
        "gumbel": np.zeros((2, 4), np.float32),
        "n_children": 3,
    }
    arguments |= {"n_simulations": 8, "n_considered": 4} | change
    root = SearchRoot(arguments["values"], np.zeros((2, 4), np.float32))
    settings = SearchSettings(arguments["n_simulations"], arguments["n_considered"], 0.99)
    with pytest.raises(ValueError, match=argument):
        search(root, evaluate, arguments["gumbel"], arguments["n_children"], settings)
    assert not calls
