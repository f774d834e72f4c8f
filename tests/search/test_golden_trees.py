"""Discrete searches against trees that mctx's Gumbel MuZero grew (see ``golden/make_golden.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sb3_ezv2.common.type_aliases import Expansion, SearchRoot, SearchSettings
from sb3_ezv2.search import search

GOLDEN = json.loads((Path(__file__).parent / "golden" / "gumbel_muzero.json").read_text())


def name_of(case: dict[str, Any]) -> str:
    """Actions, simulations, considered actions, first state."""
    return f"{len(case['gumbel'])}-{case['n_simulations']}-{case['n_considered']}-{case['state']}"


def test_there_are_enough_trees() -> None:
    """At least forty searches, of two to eighteen actions and four to sixty-four simulations."""
    assert len(GOLDEN["searches"]) >= 40
    for numbers, low, high in (
        ([len(case["gumbel"]) for case in GOLDEN["searches"]], 2, 18),
        ([case["n_simulations"] for case in GOLDEN["searches"]], 4, 64),
    ):
        assert (min(numbers), max(numbers)) == (low, high)
    # Not every answer is the prior's or the noise's.
    agree = [case["selected"] == int(np.argmax(case["gumbel"])) for case in GOLDEN["searches"]]
    assert 0.1 < np.mean(agree) < 0.9
    assert set(GOLDEN["made_with"]) == {"mctx", "jax", "jaxlib"}


@pytest.mark.parametrize("case", GOLDEN["searches"], ids=name_of)
def test_tree_equals_mctx(case: dict[str, Any]) -> None:
    """The same nodes in the same order, the same visits and choice; policy and value up to float32 arithmetic."""
    model = GOLDEN["models"][case["model"]]
    next_states = np.array(model["next_states"])
    rewards, values, logits = (np.array(model[name], np.float32) for name in ("rewards", "values", "logits"))
    state, n_actions = case["state"], len(case["gumbel"])
    states, grown_parents, grown_edges = [state], [], []

    def evaluate(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        parent, edge = int(parents[0]), int(edges[0])
        grown_parents.append(parent)
        grown_edges.append(edge)
        states.append(int(next_states[states[parent], edge]))
        reward = rewards[states[parent], edge]
        return Expansion(reward[None], values[states[node]][None], logits[states[node]][None])

    settings = SearchSettings(
        case["n_simulations"], case["n_considered"], GOLDEN["discount"], min_value_range=0.01, value_bounds=(0.0, 1.0)
    )
    root = SearchRoot(values[[state]], logits[[state]])
    result = search(root, evaluate, np.array([case["gumbel"]], np.float32), n_actions, settings)
    assert grown_parents == case["parents"]
    assert grown_edges == case["edges"]
    assert result.visit_counts[0].tolist() == case["visit_counts"]
    assert result.selected[0] == case["selected"]
    np.testing.assert_allclose(result.improved_policy[0], case["improved_policy"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.root_values[0], case["root_value"], rtol=0, atol=1e-4)
