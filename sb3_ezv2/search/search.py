"""Sampled Gumbel search for a batch of roots: select, evaluate, back up (EfficientZero V2, section 4).

Everything here is a pure function of its arguments: the random numbers come in as ``gumbel`` and through the actions
that the caller sampled, so identical inputs give identical trees.
"""

import numpy as np

from sb3_ezv2.common.compilation import entry_point
from sb3_ezv2.common.type_aliases import Expansion, RecurrentFn, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.search.exponential import exponential
from sb3_ezv2.search.qvalues import Constants, mixed_value, normaliser, transformed_scores
from sb3_ezv2.search.selection import best_of_visits, select
from sb3_ezv2.search.sequential_halving import considered_visits_of_fewer
from sb3_ezv2.search.tree import SearchTree, add_and_back_up, new_tree, plant


@entry_point
def _advance(
    tree: SearchTree,
    node: int,
    expansion: Expansion,
    parents: np.ndarray,
    edges: np.ndarray,
    schedule: np.ndarray,
    constants: Constants,
) -> None:
    """Add node number ``node`` to every root and back it up, then select where the next one goes, if there is one.

    One pass over the trees per simulation: what was just backed up is still in the processor's cache.
    """
    n_children = expansion.prior_logits.shape[1]
    scores = np.empty(n_children, np.float64)
    for row in range(parents.shape[0]):
        reward, value, prior_logits = expansion.rewards[row], expansion.values[row], expansion.prior_logits[row]
        add_and_back_up(tree, row, node, reward, value, prior_logits, constants.discount)
        if node < schedule.shape[1]:
            parents[row], edges[row] = select(tree, row, node, schedule, n_children, constants, scores)


@entry_point
def read_roots(tree: SearchTree, constants: Constants, result: SearchResult) -> None:
    """Fill ``result`` with what the search says of every root."""
    n_roots, n_candidates = tree.preferences.shape
    scores = np.empty(n_candidates, np.float64)
    for row in range(n_roots):
        edges, root = tree.edges[row, :n_candidates], tree.roots[row]
        scale = normaliser(root, constants)
        n_simulations, most = transformed_scores(edges, root["network_value"], scale, constants, scores)
        result.selected[row] = best_of_visits(edges, tree.preferences[row], most, most, scale, constants)
        largest = scores[0]
        for i in range(1, n_candidates):
            largest = scores[i] if scores[i] > largest else largest
        total = 0.0
        for i in range(n_candidates):
            # The smallest exponential is not 0, which what is no candidate must have.
            possible = edges[i]["prior_logit"] > -np.inf
            scores[i] = exponential(np.float32(scores[i] - largest)) if possible else 0.0
            total += scores[i]
        weighted_q, weight = 0.0, 0.0
        for i in range(n_candidates):
            result.improved_policy[row, i] = scores[i] / total
            result.visit_counts[row, i] = edges[i]["visits"]
            if edges[i]["visits"] > 0:
                weighted_q += scores[i] * edges[i]["value"]
                weight += scores[i]
        result.root_values[row] = root["sum"] / (1 + n_simulations)
        improved = n_simulations * weighted_q / weight
        result.improved_values[row] = (root["network_value"] + improved) / (1 + n_simulations)
        result.policy_values[row] = mixed_value(edges, root["network_value"], n_simulations)


def search_plan(
    settings: SearchSettings, n_candidates: int, n_children: int, value_unit: float
) -> tuple[np.ndarray, Constants]:
    """What the kernels need of the settings; see :func:`search`.

    :return: the schedules of sequential halving ``[n_considered + 1, n_simulations]`` and the constants, floats
        throughout: an integer discount would compile everything once more
    :raises ValueError: if a number is out of its range
    """
    if not 1 <= settings.n_considered <= n_candidates:
        raise ValueError(f"n_considered={settings.n_considered} must lie between 1 and the {n_candidates} candidates")
    if n_children < 1:
        raise ValueError(f"n_children={n_children} must be at least 1")
    if not settings.min_value_range > 0:
        raise ValueError(f"min_value_range={settings.min_value_range} must be positive")
    if settings.max_depth < 1:
        raise ValueError(f"max_depth={settings.max_depth} must be at least 1")
    if not settings.min_value_share >= 0:
        raise ValueError(f"min_value_share={settings.min_value_share} must not be negative")
    schedule = considered_visits_of_fewer(settings.n_considered, settings.n_simulations)
    return schedule, Constants(
        discount=float(settings.discount),
        c_visit=float(settings.c_visit),
        c_scale=float(settings.c_scale),
        min_value_range=float(settings.min_value_range) * value_unit,
        min_value_share=float(settings.min_value_share),
        max_depth=int(settings.max_depth),
        log_odds=np.log1p(2.0 * np.arange(settings.n_simulations + 1)),
    )


def new_result(n_roots: int, n_candidates: int) -> SearchResult:
    """Allocate what :func:`read_roots` fills."""
    return SearchResult(
        selected=np.empty(n_roots, np.int64),
        improved_policy=np.empty((n_roots, n_candidates), np.float32),
        root_values=np.empty(n_roots, np.float32),
        visit_counts=np.empty((n_roots, n_candidates), np.int32),
        improved_values=np.empty(n_roots, np.float32),
        policy_values=np.empty(n_roots, np.float32),
    )


def search(
    root: SearchRoot,
    recurrent_fn: RecurrentFn,
    gumbel: np.ndarray,
    n_children: int,
    settings: SearchSettings,
    value_unit: float = 1.0,
) -> SearchResult:
    """Plan for every root with ``settings.n_simulations`` calls of the model.

    Sequential halving among the ``n_considered`` candidates with the largest ``gumbel + prior logits``; below the
    root the deterministic rule of :func:`~sb3_ezv2.search.selection.interior_action`. The chosen candidate is the
    most visited one with the largest ``gumbel + logits + sigma(q)``. The root value is the mean over the root's
    network value and all simulated returns (search-based value estimation, paper section 4.2, equation 9). The
    improved value takes the same returns with the candidates weighted by the improved policy instead of by visits:
    halving visits bad candidates as often as good ones, below the root visits follow the improved policy anyway. The
    policy's value weights them by the prior: what an unvisited action counts (Gumbel MuZero, appendix D).

    :param root: network values and prior logits of the states; an action whose logit is ``-inf`` is no candidate: it is
        never visited, and its improved policy is 0. Every root has at least one that is
    :param recurrent_fn: evaluates one new node per root, see :data:`~sb3_ezv2.common.type_aliases.RecurrentFn`
    :param gumbel: noise added to the logits ``[n_roots, n_candidates]``; zeros to act greedily
    :param n_children: number of actions at every node below the root
    :param settings: budget and constants
    :param value_unit: what ``settings.min_value_range`` counts in, such as the model's reward scale
    :return: one row per root
    :raises ValueError: if shapes disagree, more actions are to be considered than there are candidates, or a number
        is out of its range
    """
    return result_of(*grow(root, recurrent_fn, gumbel, n_children, settings, value_unit))


def result_of(tree: SearchTree, constants: Constants) -> SearchResult:
    """What grown trees say of their roots."""
    result = new_result(*tree.preferences.shape)
    read_roots(tree, constants, result)
    return result


def grow(
    root: SearchRoot,
    recurrent_fn: RecurrentFn,
    gumbel: np.ndarray,
    n_children: int,
    settings: SearchSettings,
    value_unit: float = 1.0,
) -> tuple[SearchTree, Constants]:
    """The trees of :func:`search` and what :func:`read_roots` needs to read them; parameters and errors as there."""
    n_roots, n_candidates = root.prior_logits.shape
    if root.values.shape != (n_roots,) or gumbel.shape != (n_roots, n_candidates):
        raise ValueError(
            f"values {root.values.shape} and gumbel {gumbel.shape} do not fit prior_logits {root.prior_logits.shape}"
        )
    schedule, constants = search_plan(settings, n_candidates, n_children, value_unit)
    gumbel = np.array(gumbel, np.float32, order="C")  # never read-only, for which everything is compiled once more
    tree = new_tree(n_roots, settings.n_simulations, n_candidates, n_children)
    plant(tree, root.values, root.prior_logits, gumbel, settings.n_considered, *map(float, settings.value_bounds))

    parents, edges = np.zeros(n_roots, np.int64), tree.order[:, 0].astype(np.int64)
    for node in range(1, settings.n_simulations + 1):
        expansion = recurrent_fn(node, parents, edges)
        assert expansion.prior_logits.shape == (n_roots, n_children), expansion.prior_logits.shape
        _advance(tree, node, expansion, parents, edges, schedule, constants)
    return tree, constants
