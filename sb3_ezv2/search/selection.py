"""Which action a simulation follows: at the root, and below it."""

import numpy as np

from sb3_ezv2.common.compilation import inlined
from sb3_ezv2.search.exponential import exponential
from sb3_ezv2.search.qvalues import Constants, Normaliser, normaliser, sigma, transformed_scores
from sb3_ezv2.search.tree import SearchTree, edge_offset


@inlined
def best_of_visits(
    edges: np.ndarray, preferences: np.ndarray, visits: int, most_visits: int, scale: Normaliser, constants: Constants
) -> int:
    """Index of the largest ``noise + logits + sigma(q)`` among the root's candidates with exactly ``visits`` visits.

    :param edges: of the tree, those of the root in front
    :param preferences: of the candidates ``[n_candidates]``
    :param visits: at least 1
    :param most_visits: of all candidates
    :param scale: of the tree
    :param constants: of the search
    """
    best, best_score = -1, -np.inf
    for i in range(preferences.shape[0]):
        edge = edges[i]
        if edge["visits"] == visits:
            score = preferences[i] + sigma(edge["value"], scale, most_visits, constants)
            if best < 0 or score > best_score:
                best, best_score = i, score
    return best


@inlined
def interior_action(
    edges: np.ndarray, network_value: float, scale: Normaliser, constants: Constants, scores: np.ndarray
) -> int:
    """``argmax_a pi'(a) - N(a) / (1 + sum_b N(b))`` with ``pi' = softmax(logits + sigma(completed q))``.

    The deterministic rule of Gumbel MuZero, section 5 (equation 14): visits follow the improved policy. The terms are
    compared after multiplication with everything that they have in common.

    :param edges: of the node ``[n_children]`` :data:`~sb3_ezv2.search.tree.EDGE`
    :param network_value: of the node
    :param scale: of the tree
    :param constants: of the search
    :param scores: working memory ``[n_children]`` float64
    """
    n_children = edges.shape[0]
    total_visits, _ = transformed_scores(edges, network_value, scale, constants, scores)
    best = 0
    if total_visits == 0:
        for i in range(1, n_children):
            best = i if scores[i] > scores[best] else best
        return best
    if n_children == 2:
        # pi'(0) - pi'(1) >= (N(0) - N(1)) / (1 + N(0) + N(1)), solved for the difference of the scores.
        log_odds = constants.log_odds[edges[0]["visits"]] - constants.log_odds[edges[1]["visits"]]
        return 0 if scores[0] - scores[1] >= log_odds else 1
    largest = scores[0]
    for i in range(1, n_children):
        largest = scores[i] if scores[i] > largest else largest
    total = 0.0
    for i in range(n_children):
        scores[i] = exponential(np.float32(scores[i] - largest))
        total += scores[i]
    best_score = -np.inf
    for i in range(n_children):
        score = scores[i] * (1.0 + total_visits) - total * edges[i]["visits"]
        if score > best_score:
            best, best_score = i, score
    return best


@inlined
def select(
    tree: SearchTree,
    row: int,
    simulation: int,
    schedule: np.ndarray,
    n_children: int,
    constants: Constants,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Walk from the root to an unvisited edge, or to one as deep as any may be; the tree remembers the path.

    At the root sequential halving decides. Until every considered candidate has been visited once the others all share
    the mixed value, so nothing that the simulations find changes their order.

    :param tree: the trees
    :param row: which of them
    :param simulation: number of the simulation, from 0
    :param schedule: what the root's candidates must have been visited, see
        :func:`~sb3_ezv2.search.sequential_halving.considered_visits_of_fewer`
    :param n_children: actions at every node below the root
    :param constants: of the search
    :param scores: working memory ``[n_children]`` float64
    :return: the node where the edge begins and the edge's index there
    """
    edges, path, root, preferences = tree.edges[row], tree.paths[row], tree.roots[row], tree.preferences[row]
    scale = normaliser(root, constants)
    n_considered = tree.n_considered[row]
    visits = schedule[n_considered, simulation]
    if visits == 0:
        action = tree.order[row, simulation]
    else:
        # Whoever had its turn in this round has one visit more.
        most_visits = visits + 1 if schedule[n_considered, simulation - 1] == visits else visits
        action = best_of_visits(edges, preferences, visits, most_visits, scale, constants)
    node, depth = 0, 1
    index = action
    path[0] = index
    while edges[index]["visits"] > 0 and depth < constants.max_depth:
        node = edges[index]["node"]
        first_edge = edge_offset(node, preferences.shape[0], n_children)
        children = edges[first_edge : first_edge + n_children]
        action = interior_action(children, edges[index]["network_value"], scale, constants, scores)
        index = first_edge + action
        path[depth] = index
        depth += 1
    root["depth"] = depth
    return node, action
