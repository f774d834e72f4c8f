"""Sampled Gumbel search for a batch of roots: select, evaluate, back up (EfficientZero V2, section 4).

Everything here is a pure function of its arguments: the random numbers come in as ``gumbel`` and through the actions
that the caller sampled, so identical inputs give identical trees.
"""

import numba as nb
import numpy as np

from sb3_ezv2.search.qvalues import edge_value, softmax, transformed_scores
from sb3_ezv2.search.selection import best_of_visits, descend
from sb3_ezv2.search.sequential_halving import considered_visits
from sb3_ezv2.search.tree import NO_PARENT, SearchTree, edge_offset, new_tree, plant
from sb3_ezv2.type_aliases import Expansion, RecurrentFn, SearchResult, SearchRoot, SearchSettings

PARALLEL_ROOTS = 512
"""From this many roots on the tree work is spread over numba's threads; below, starting them costs more."""


@nb.njit(nogil=True)
def _add_and_back_up(
    tree: SearchTree, root: int, node: int, parent: int, edge: int, expansion: tuple, n_candidates: int, discount: float
) -> None:
    """Append ``node`` behind ``edge`` of ``parent`` and send its value to the root: ``G <- r + discount * G``."""
    rewards, values, prior_logits = expansion
    n_children = prior_logits.shape[1]
    parent_edge = edge_offset(parent, n_candidates, n_children) + edge
    first_edge = edge_offset(node, n_candidates, n_children)
    tree.children[root, parent_edge] = node
    tree.parents[root, node] = parent
    tree.parent_edges[root, node] = parent_edge
    tree.rewards[root, node] = rewards[root]
    tree.network_values[root, node] = values[root]
    tree.visits[root, node] = 0
    tree.value_sums[root, node] = 0.0
    for i in range(n_children):
        tree.prior_logits[root, first_edge + i] = prior_logits[root, i]

    estimate = np.float64(values[root])
    while True:
        tree.visits[root, node] += 1
        tree.value_sums[root, node] += estimate
        if tree.parents[root, node] == NO_PARENT:
            return
        q = edge_value(tree, root, node, discount)
        tree.value_range[root, 0] = min(tree.value_range[root, 0], q)
        tree.value_range[root, 1] = max(tree.value_range[root, 1], q)
        estimate = tree.rewards[root, node] + discount * estimate
        node = tree.parents[root, node]


def _select(tree, gumbel, visits, n_children, constants, parents, edges):  # type: ignore[no-untyped-def]
    for root in nb.prange(gumbel.shape[0]):
        descend(tree, root, gumbel, visits, n_children, constants, parents, edges)


def _expand(tree, node, parents, edges, expansion, n_candidates, discount):  # type: ignore[no-untyped-def]
    for root in nb.prange(parents.shape[0]):
        _add_and_back_up(tree, root, node, parents[root], edges[root], expansion, n_candidates, discount)


_SELECT = {parallel: nb.njit(cache=True, nogil=True, parallel=parallel)(_select) for parallel in (False, True)}
_EXPAND = {parallel: nb.njit(cache=True, nogil=True, parallel=parallel)(_expand) for parallel in (False, True)}


@nb.njit(cache=True, nogil=True)
def _read_roots(
    tree: SearchTree,
    gumbel: np.ndarray,
    constants: tuple,
    selected: np.ndarray,
    policy: np.ndarray,
    visits: np.ndarray,
    improved_values: np.ndarray,
) -> None:
    """Chosen candidate, improved policy, visit counts and the value of that policy, for every root."""
    n_roots, n_candidates = gumbel.shape
    discount = constants[0]
    for root in range(n_roots):
        scores = tree.scratch[root]
        transformed_scores(tree, root, 0, 0, n_candidates, constants, scores)
        most_visits = 0
        for i in range(n_candidates):
            child = tree.children[root, i]
            visits[root, i] = 0 if child < 0 else tree.visits[root, child]
            most_visits = max(most_visits, visits[root, i])
        selected[root] = best_of_visits(tree, root, scores, gumbel, most_visits)
        softmax(scores, n_candidates)
        weighted_q, weight, n_visits = 0.0, 0.0, 0
        for i in range(n_candidates):
            policy[root, i] = scores[i]
            if visits[root, i] > 0:
                weighted_q += scores[i] * edge_value(tree, root, tree.children[root, i], discount)
                weight += scores[i]
                n_visits += visits[root, i]
        improved_values[root] = (tree.network_values[root, 0] + n_visits * weighted_q / weight) / (1.0 + n_visits)


def search(
    root: SearchRoot, recurrent_fn: RecurrentFn, gumbel: np.ndarray, n_children: int, settings: SearchSettings
) -> SearchResult:
    """Plan for every root with ``settings.n_simulations`` calls of the model.

    Sequential halving among the ``n_considered`` candidates with the largest ``gumbel + prior logits``; below the
    root the deterministic rule of :func:`~sb3_ezv2.search.selection.interior_action`. The chosen candidate is the
    most visited one with the largest ``gumbel + logits + sigma(q)``. The root value is the mean over the root's
    network value and all simulated returns (search-based value estimation, paper section 4.2, equation 9). The
    improved value takes the same returns with the candidates weighted by the improved policy instead of by visits:
    halving visits bad candidates as often as good ones, below the root visits follow the improved policy anyway.

    :param root: network values and prior logits of the states
    :param recurrent_fn: evaluates one new node per root, see :data:`~sb3_ezv2.type_aliases.RecurrentFn`
    :param gumbel: noise added to the logits ``[n_roots, n_candidates]``; zeros to act greedily
    :param n_children: number of actions at every node below the root
    :param settings: budget and constants
    :return: one row per root
    :raises ValueError: if shapes disagree, more actions are to be considered than there are candidates, or a number
        is out of its range
    """
    n_roots, n_candidates = root.prior_logits.shape
    if root.values.shape != (n_roots,) or gumbel.shape != (n_roots, n_candidates):
        raise ValueError(
            f"values {root.values.shape} and gumbel {gumbel.shape} do not fit prior_logits {root.prior_logits.shape}"
        )
    if not 1 <= settings.n_considered <= n_candidates:
        raise ValueError(f"n_considered={settings.n_considered} must lie between 1 and the {n_candidates} candidates")
    if n_children < 1:
        raise ValueError(f"n_children={n_children} must be at least 1")
    if not settings.min_value_range > 0:
        raise ValueError(f"min_value_range={settings.min_value_range} must be positive")
    schedule = considered_visits(settings.n_considered, settings.n_simulations)
    # Floats throughout: an integer discount would compile everything once more.
    discount = float(settings.discount)
    constants = (discount, float(settings.c_visit), float(settings.c_scale), float(settings.min_value_range))
    gumbel = np.ascontiguousarray(gumbel, np.float32)
    tree = new_tree(n_roots, settings.n_simulations, n_candidates, n_children)
    plant(tree, root.values, root.prior_logits, *map(float, settings.value_bounds))

    parallel = n_roots >= PARALLEL_ROOTS
    parents = np.empty(n_roots, np.int64)
    edges = np.empty(n_roots, np.int64)
    for node, visits in enumerate(schedule, start=1):
        _SELECT[parallel](tree, gumbel, visits, n_children, constants, parents, edges)
        expansion = recurrent_fn(node, parents, edges)
        assert expansion.prior_logits.shape == (n_roots, n_children), expansion.prior_logits.shape
        _EXPAND[parallel](tree, node, parents, edges, Expansion(*expansion), n_candidates, discount)

    result = SearchResult(
        selected=np.empty(n_roots, np.int64),
        improved_policy=np.empty((n_roots, n_candidates), np.float32),
        root_values=(tree.value_sums[:, 0] / tree.visits[:, 0]).astype(np.float32),
        visit_counts=np.empty((n_roots, n_candidates), np.int32),
        improved_values=np.empty(n_roots, np.float32),
    )
    _read_roots(
        tree,
        gumbel,
        constants,
        result.selected,
        result.improved_policy,
        result.visit_counts,
        result.improved_values,
    )
    return result
