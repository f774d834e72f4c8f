"""The schedule of sequential halving (Karnin et al. 2013; Gumbel MuZero, section 3.3) as a table.

Halving needs no state: an action that is still considered has exactly as many visits as every other survivor, so
"choose the best among the actions with ``v`` visits" says it all, and the table lists ``v`` for every simulation.
"""

from functools import lru_cache
from math import ceil, log2

import numpy as np


@lru_cache(maxsize=256)
def considered_visits(n_considered: int, n_simulations: int) -> np.ndarray:
    """Visits that the action chosen at the root must already have, for every simulation.

    In a phase with ``s`` survivors each of them is visited ``max(1, n_simulations // (ceil(log2 n_considered) * s))``
    times; then the better half goes on, never fewer than two, until the budget ends.

    :param n_considered: actions at the start, at least 1
    :param n_simulations: length of the table, at least 1
    :return: ``[n_simulations]`` int32, read-only
    """
    if n_considered < 1 or n_simulations < 1:
        raise ValueError(
            f"n_considered={n_considered} and n_simulations={n_simulations} must both be at least 1 to plan a search"
        )
    table: list[int] = []
    if n_considered == 1:
        table = list(range(n_simulations))
    n_phases = ceil(log2(n_considered))
    survivors, visits = n_considered, 0
    while len(table) < n_simulations:
        for _ in range(max(1, n_simulations // (n_phases * survivors))):
            table += [visits] * survivors
            visits += 1
        survivors = max(2, survivors // 2)
    result = np.array(table[:n_simulations], np.int32)
    result.setflags(write=False)
    return result


@lru_cache(maxsize=64)
def considered_visits_of_fewer(n_considered: int, n_simulations: int) -> np.ndarray:
    """:func:`considered_visits` for every number of actions up to ``n_considered``, which some roots may not have.

    :return: ``[n_considered + 1, n_simulations]`` int32, read-only; the row 0 is not used
    """
    tables = [considered_visits(max(n, 1), n_simulations) for n in range(n_considered + 1)]
    result = np.stack(tables)
    result.setflags(write=False)
    return result
