"""Sampled Gumbel search for a batch of roots: select, evaluate, back up (EfficientZero V2, section 4).

Everything here is a pure function of its arguments: the random numbers come in as ``gumbel`` and through the actions
that the caller sampled, so identical inputs give identical trees.
"""

import numba as nb
import numpy as np

from sb3_ezv2.search.qvalues import child_visits, edge_value, softmax, transformed_scores
from sb3_ezv2.search.selection import best_of_visits, descend
from sb3_ezv2.search.sequential_halving import considered_visits
from sb3_ezv2.search.tree import NO_PARENT, SearchTree, edge_offset, new_tree, plant
from sb3_ezv2.type_aliases import Expansion, RecurrentFn, SearchResult, SearchRoot, SearchSettings

PARALLEL_ROOTS = 512
"""From this many roots on the tree work is spread over numba's threads; below, starting them costs more."""


@nb.njit(nogil=True)
def add_and_back_up(
    tree: SearchTree,
    root: int,
    node: int,
    parent: int,
    edge: int,
    reward: float,
    value: float,
    prior_logits: np.ndarray,
    n_candidates: int,
    discount: float,
) -> None:
    """Append ``node`` behind ``edge`` of ``parent`` and send its value to the root: ``G <- r + discount * G``."""
    n_children = prior_logits.shape[0]
    parent_edge = edge_offset(parent, n_candidates, n_children) + edge
    first_edge = edge_offset(node, n_candidates, n_children)
    tree.children[root, parent_edge] = node
    tree.parents[root, node] = parent
    tree.parent_edges[root, node] = parent_edge
    tree.rewards[root, node] = reward
    tree.network_values[root, node] = value
    tree.visits[root, node] = 0
    tree.value_sums[root, node] = 0.0
    for i in range(n_children):
        tree.prior_logits[root, first_edge + i] = prior_logits[i]

    estimate = np.float64(value)
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
        rewards, values, prior_logits = expansion
        add_and_back_up(
            tree,
            root,
            node,
            parents[root],
            edges[root],
            rewards[root],
            values[root],
            prior_logits[root],
            n_candidates,
            discount,
        )


_SELECT = {parallel: nb.njit(cache=True, nogil=True, parallel=parallel)(_select) for parallel in (False, True)}
_EXPAND = {parallel: nb.njit(cache=True, nogil=True, parallel=parallel)(_expand) for parallel in (False, True)}


@nb.njit(cache=True, nogil=True)
def read_roots(tree: SearchTree, gumbel: np.ndarray, constants: tuple, result: SearchResult) -> None:
    """Fill ``result`` with the chosen candidate, improved policy, values and visit counts of every root."""
    n_roots, n_candidates = gumbel.shape
    discount = constants[0]
    for root in range(n_roots):
        scores = tree.scratch[root]
        transformed_scores(tree, root, 0, 0, n_candidates, constants, scores)
        most_visits = 0
        for i in range(n_candidates):
            visits = child_visits(tree, root, i)
            result.visit_counts[root, i] = visits
            most_visits = max(most_visits, visits)
        result.selected[root] = best_of_visits(tree, root, scores, gumbel, most_visits)
        softmax(scores, n_candidates)
        weighted_q, weight, n_visits = 0.0, 0.0, 0
        for i in range(n_candidates):
            result.improved_policy[root, i] = scores[i]
            visits = result.visit_counts[root, i]
            if visits > 0:
                weighted_q += scores[i] * edge_value(tree, root, tree.children[root, i], discount)
                weight += scores[i]
                n_visits += visits
        network_value = tree.network_values[root, 0]
        result.improved_values[root] = (network_value + n_visits * weighted_q / weight) / (1.0 + n_visits)
        result.root_values[root] = tree.value_sums[root, 0] / tree.visits[root, 0]


@nb.njit(nogil=True)
def first_choices(gumbel: np.ndarray, prior_logits: np.ndarray, choices: np.ndarray) -> None:
    """The candidates with the largest ``gumbel + prior logits``, best first: what the first simulations visit.

    Until every considered candidate has been visited once, the others all share the mixed value, so nothing that the
    simulations find changes this order.

    :param gumbel: ``[n_candidates]``
    :param prior_logits: ``[n_candidates]``
    :param choices: filled with at most ``n_candidates`` indices
    """
    for rank in range(choices.shape[0]):
        best, best_score = -1, -np.inf
        for i in range(gumbel.shape[0]):
            score = np.float64(gumbel[i]) + np.float64(prior_logits[i])
            chosen = False
            for earlier in range(rank):
                chosen = chosen or choices[earlier] == i
            if not chosen and (best < 0 or score > best_score):
                best, best_score = i, score
        choices[rank] = best


def search_plan(settings: SearchSettings, n_candidates: int, n_children: int) -> tuple[np.ndarray, tuple]:
    """What the kernels need of the settings.

    :return: the schedule of sequential halving ``[n_simulations]`` and the constants ``(discount, c_visit, c_scale,
        min_value_range)``, floats throughout: an integer discount would compile everything once more
    :raises ValueError: if a number is out of its range
    """
    if not 1 <= settings.n_considered <= n_candidates:
        raise ValueError(f"n_considered={settings.n_considered} must lie between 1 and the {n_candidates} candidates")
    if n_children < 1:
        raise ValueError(f"n_children={n_children} must be at least 1")
    if not settings.min_value_range > 0:
        raise ValueError(f"min_value_range={settings.min_value_range} must be positive")
    schedule = considered_visits(settings.n_considered, settings.n_simulations)
    constants = (settings.discount, settings.c_visit, settings.c_scale, settings.min_value_range)
    return schedule, tuple(map(float, constants))


def new_result(n_roots: int, n_candidates: int) -> SearchResult:
    """Allocate what :func:`read_roots` fills."""
    return SearchResult(
        selected=np.empty(n_roots, np.int64),
        improved_policy=np.empty((n_roots, n_candidates), np.float32),
        root_values=np.empty(n_roots, np.float32),
        visit_counts=np.empty((n_roots, n_candidates), np.int32),
        improved_values=np.empty(n_roots, np.float32),
    )


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
    schedule, constants = search_plan(settings, n_candidates, n_children)
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
        _EXPAND[parallel](tree, node, parents, edges, Expansion(*expansion), n_candidates, constants[0])

    result = new_result(n_roots, n_candidates)
    read_roots(tree, gumbel, constants, result)
    return result
