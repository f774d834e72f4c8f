"""Which action a simulation follows: at the root, and below it."""

import numpy as np

from sb3_ezv2.compilation import inlined
from sb3_ezv2.exponential import exponential
from sb3_ezv2.search.qvalues import sigma, transformed_scores
from sb3_ezv2.search.tree import SearchTree, edge_offset


@inlined
def best_of_visits(tree: SearchTree, root: int, visits: int, most_visits: int, constants: tuple) -> int:
    """Index of the largest ``noise + logits + sigma(q)`` among the root's candidates with exactly ``visits`` visits.

    :param tree: the trees
    :param root: which of them
    :param visits: at least 1
    :param most_visits: of all candidates
    :param constants: of the search settings
    """
    preferences, values, totals = tree.preferences[root], tree.values[root], tree.totals[root]
    best, best_score = -1, -np.inf
    for edge in range(preferences.shape[0]):
        if tree.visits[root, edge] == visits:
            score = preferences[edge] + sigma(values[edge], totals, most_visits, constants)
            if best < 0 or score > best_score:
                best, best_score = edge, score
    return best


@inlined
def root_action(tree: SearchTree, root: int, simulation: int, visits: int, constants: tuple) -> int:
    """The candidate that sequential halving follows.

    Until every considered candidate has been visited once the others all share the mixed value, so nothing that the
    simulations find changes their order.

    :param tree: the trees
    :param root: which of them
    :param simulation: number of the simulation, from 0
    :param visits: what the candidate must have already, see
        :func:`~sb3_ezv2.search.sequential_halving.considered_visits`
    :param constants: of the search settings
    """
    if visits == 0:
        return tree.order[root, simulation]
    # Whoever had its turn in this round has one visit more.
    most_visits = visits
    for edge in range(tree.preferences.shape[1]):
        most_visits = max(most_visits, tree.visits[root, edge])
    return best_of_visits(tree, root, visits, most_visits, constants)


@inlined
def interior_action(
    tree: SearchTree, root: int, node: int, first_edge: int, n_children: int, constants: tuple, scores: np.ndarray
) -> int:
    """``argmax_a pi'(a) - N(a) / (1 + sum_b N(b))`` with ``pi' = softmax(logits + sigma(completed q))``.

    The deterministic rule of Gumbel MuZero, section 5 (equation 14): visits follow the improved policy. The terms are
    compared after multiplication with everything that they have in common.
    """
    total_visits, _ = transformed_scores(tree, root, node, first_edge, n_children, constants, scores)
    best = 0
    if total_visits == 0:
        for i in range(1, n_children):
            best = i if scores[i] > scores[best] else best
        return best
    if n_children == 2:
        # pi'(0) - pi'(1) >= (N(0) - N(1)) / (1 + N(0) + N(1)), solved for the difference of the scores.
        odds = (1.0 + 2.0 * tree.visits[root, first_edge]) / (1.0 + 2.0 * tree.visits[root, first_edge + 1])
        return 0 if scores[0] - scores[1] >= np.log(odds) else 1
    largest = scores[0]
    for i in range(1, n_children):
        largest = max(largest, scores[i])
    total = 0.0
    for i in range(n_children):
        scores[i] = exponential(np.float32(scores[i] - largest))
        total += scores[i]
    best_score = -np.inf
    for i in range(n_children):
        score = scores[i] * (1.0 + total_visits) - total * tree.visits[root, first_edge + i]
        if score > best_score:
            best, best_score = i, score
    return best


@inlined
def select(
    tree: SearchTree,
    root: int,
    simulation: int,
    visits: int,
    n_children: int,
    constants: tuple,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Walk from the root to an unvisited edge; the tree remembers the path.

    :param tree: the trees
    :param root: which of them
    :param simulation: number of the simulation, from 0
    :param visits: what the root's candidate must have, see :func:`root_action`
    :param n_children: actions at every node below the root
    :param constants: ``(discount, c_visit, c_scale, min_value_range)`` of the search settings
    :param scores: working memory ``[n_children]`` float64
    :return: the node where the edge begins and the edge's index there
    """
    n_candidates = tree.preferences.shape[1]
    path = tree.paths[root]
    node, depth = 0, 1
    action = root_action(tree, root, simulation, visits, constants)
    edge = action
    path[0] = edge
    while tree.visits[root, edge] > 0:
        node = tree.children[root, edge]
        first_edge = edge_offset(node, n_candidates, n_children)
        action = interior_action(tree, root, node, first_edge, n_children, constants, scores)
        edge = first_edge + action
        path[depth] = edge
        depth += 1
    tree.depths[root] = depth
    return node, action
