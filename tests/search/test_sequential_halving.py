"""The schedule as a table against phases played out one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sb3_ezv2.search.sequential_halving import considered_visits


def play_phases(n_considered: int, n_simulations: int) -> tuple[list[int], list[int]]:
    """Halve a list of actions, the first half always being the better one.

    :return: visits of the chosen action before each simulation, and final visits of every action
    """
    visits = [0] * n_considered
    before: list[int] = []
    alive = list(range(n_considered))
    n_phases = (n_considered - 1).bit_length()  # ceil(log2)
    while len(before) < n_simulations:
        share = n_simulations // (n_phases * len(alive)) if n_phases else n_simulations
        for _ in range(max(1, share)):
            for action in alive:
                if len(before) < n_simulations:
                    before.append(visits[action])
                    visits[action] += 1
        if len(alive) > 2:
            alive = alive[: max(2, len(alive) // 2)]
    return before, visits


@given(n_considered=st.integers(1, 70), n_simulations=st.integers(1, 260))
@hypothesis_settings(max_examples=400, deadline=None, derandomize=True)
def test_table_equals_phases_with_survivors(n_considered: int, n_simulations: int) -> None:
    """Exactly the budget, in the order in which explicit survivors would spend it."""
    table = considered_visits(n_considered, n_simulations)
    expected, visits = play_phases(n_considered, n_simulations)
    assert table.tolist() == expected
    assert table.shape == (n_simulations,) and sum(visits) == n_simulations


@given(n_considered=st.integers(1, 70), n_simulations=st.integers(1, 260))
@hypothesis_settings(max_examples=200, deadline=None, derandomize=True)
def test_table_can_always_be_followed(n_considered: int, n_simulations: int) -> None:
    """Whichever action is taken, one with the wanted number of visits is there: nobody runs out of survivors."""
    visits = np.zeros(n_considered, int)
    for wanted in considered_visits(n_considered, n_simulations):
        matching = np.flatnonzero(visits == wanted)
        assert matching.size > 0
        visits[matching[-1]] += 1
    assert (visits > 0).sum() == min(n_considered, n_simulations)
    assert visits.max() <= considered_visits(n_considered, n_simulations)[-1] + 1


@pytest.mark.parametrize(
    "n_considered, n_simulations, table",
    [
        (1, 4, [0, 1, 2, 3]),
        (2, 5, [0, 0, 1, 1, 2]),
        (3, 7, [0, 0, 0, 1, 1, 2, 2]),  # 3 actions once each, then 2 of them
        (4, 8, [0, 0, 0, 0, 1, 1, 2, 2]),
        (4, 16, [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]),
        # 6 once each, 3 once each, then 2 in rounds until the budget ends: never one or none.
        (6, 16, [0] * 6 + [1] * 3 + [2, 2, 3, 3, 4, 4, 5]),
        (16, 8, [0] * 8),
        (16, 16, [0] * 16),
        (16, 32, [0] * 16 + [1] * 8 + [2] * 4 + [3] * 4),
    ],
)
def test_tables_by_hand(n_considered: int, n_simulations: int, table: list[int]) -> None:
    """Small budgets, worked out on paper from ``max(1, N // (ceil(log2 m) * survivors))`` visits a phase."""
    assert considered_visits(n_considered, n_simulations).tolist() == table


def test_table_is_shared_and_read_only() -> None:
    """The cached table cannot be spoilt for the next search."""
    table = considered_visits(8, 32)
    assert table is considered_visits(8, 32)
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 5


@pytest.mark.parametrize("n_considered, n_simulations", [(0, 8), (-1, 8), (4, 0), (4, -3)])
def test_nothing_to_plan(n_considered: int, n_simulations: int) -> None:
    """Both numbers must be at least 1."""
    with pytest.raises(ValueError, match=f"n_considered={n_considered} and n_simulations={n_simulations}"):
        considered_visits(n_considered, n_simulations)
