"""Edge values, the mixed value of unvisited actions, and their transform ``sigma``.

Sources: Gumbel MuZero (Danihelka et al. 2022), appendix D and equation 8; EfficientZero V2, section 4. Values are
normalised by the smallest and largest edge value seen anywhere in the tree of that root (mctx does it per node).
"""

import numba as nb
import numpy as np

from sb3_ezv2.search.tree import UNVISITED, SearchTree


@nb.njit(nogil=True)
def edge_value(tree: SearchTree, root: int, child: int, discount: float) -> float:
    """``q = r + discount * v``, where ``v`` is the mean of all estimates backed up through ``child``."""
    return tree.rewards[root, child] + discount * tree.value_sums[root, child] / tree.visits[root, child]


@nb.njit(nogil=True)
def child_visits(tree: SearchTree, root: int, edge: int) -> int:
    """How many simulations followed ``edge`` (an index among all edges of the root)."""
    child = tree.children[root, edge]
    return 0 if child == UNVISITED else tree.visits[root, child]


@nb.njit(nogil=True)
def transformed_scores(
    tree: SearchTree,
    root: int,
    node: int,
    first_edge: int,
    n_edges: int,
    constants: tuple,
    scores: np.ndarray,
) -> int:
    """Write ``logits(a) + sigma(completed q(a))`` of the node's actions into ``scores[:n_edges]``.

    Unvisited actions get the mixed value ``(v_net + n * mean) / (1 + n)``, with ``n`` the visits of all children and
    ``mean`` the prior-weighted mean of the visited children's q. Then
    ``sigma(q) = (c_visit + max visits) * c_scale * normalised q`` with q normalised to [0, 1].

    :param constants: ``(discount, c_visit, c_scale, min_value_range)`` of the search settings
    :return: ``n``, the visits of all children
    """
    discount, c_visit, c_scale, min_value_range = constants
    largest_logit = -np.inf  # of the visited actions
    for i in range(n_edges):
        logit = tree.prior_logits[root, first_edge + i]
        scores[i] = logit
        if tree.children[root, first_edge + i] != UNVISITED:
            largest_logit = max(largest_logit, logit)

    total_visits, most_visits = 0, 0
    weighted_q, weight = 0.0, 0.0
    for i in range(n_edges):
        child = tree.children[root, first_edge + i]
        if child != UNVISITED:
            visits = tree.visits[root, child]
            total_visits += visits
            most_visits = max(most_visits, visits)
            prior = np.exp(scores[i] - largest_logit)
            weighted_q += prior * edge_value(tree, root, child, discount)
            weight += prior
    if total_visits == 0:
        return 0

    mixed = (tree.network_values[root, node] + total_visits * weighted_q / weight) / (1.0 + total_visits)
    low = tree.value_range[root, 0]
    spread = max(tree.value_range[root, 1] - low, min_value_range)
    scale = (c_visit + most_visits) * c_scale
    for i in range(n_edges):
        child = tree.children[root, first_edge + i]
        q = mixed if child == UNVISITED else edge_value(tree, root, child, discount)
        # The mixed value contains the network's, which may lie outside the values seen in the tree.
        scores[i] += scale * min(max((q - low) / spread, 0.0), 1.0)
    return total_visits


@nb.njit(nogil=True)
def softmax(scores: np.ndarray, n: int) -> None:
    """Replace ``scores[:n]`` by their softmax."""
    largest = scores[0]
    for i in range(1, n):
        largest = max(largest, scores[i])
    total = 0.0
    for i in range(n):
        scores[i] = np.exp(scores[i] - largest)
        total += scores[i]
    for i in range(n):
        scores[i] /= total
