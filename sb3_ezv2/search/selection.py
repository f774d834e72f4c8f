"""Which action a simulation follows: at the root, and below it."""

import numba as nb
import numpy as np

from sb3_ezv2.search.qvalues import child_visits, softmax, transformed_scores
from sb3_ezv2.search.tree import UNVISITED, SearchTree, edge_offset


@nb.njit(nogil=True)
def best_of_visits(tree: SearchTree, root: int, scores: np.ndarray, gumbel: np.ndarray, visits: int) -> int:
    """Index of the largest ``gumbel + score`` among the root's candidates with exactly ``visits`` visits."""
    best, best_score = -1, -np.inf
    for i in range(gumbel.shape[1]):
        if child_visits(tree, root, i) == visits:
            score = gumbel[root, i] + scores[i]
            if best < 0 or score > best_score:
                best, best_score = i, score
    return best


@nb.njit(nogil=True)
def interior_action(
    tree: SearchTree, root: int, node: int, n_candidates: int, n_children: int, constants: tuple, scores: np.ndarray
) -> int:
    """``argmax_a pi'(a) - N(a) / (1 + sum_b N(b))`` with ``pi' = softmax(logits + sigma(completed q))``.

    The deterministic rule of Gumbel MuZero, section 5 (equation 14): visits follow the improved policy.
    """
    first_edge = edge_offset(node, n_candidates, n_children)
    total_visits = transformed_scores(tree, root, node, first_edge, n_children, constants, scores)
    softmax(scores, n_children)
    best, best_score = 0, -np.inf
    for i in range(n_children):
        score = scores[i] - child_visits(tree, root, first_edge + i) / (1.0 + total_visits)
        if score > best_score:
            best, best_score = i, score
    return best


@nb.njit(nogil=True)
def descend(
    tree: SearchTree,
    root: int,
    gumbel: np.ndarray,
    visits: int,
    n_children: int,
    constants: tuple,
    parents: np.ndarray,
    edges: np.ndarray,
) -> None:
    """Walk from the root to an unvisited edge and store its node and its index at that node."""
    n_candidates = gumbel.shape[1]
    scores = tree.scratch[root]
    transformed_scores(tree, root, 0, 0, n_candidates, constants, scores)
    node = 0
    edge = best_of_visits(tree, root, scores, gumbel, visits)
    child = tree.children[root, edge]
    while child != UNVISITED:
        node = child
        edge = interior_action(tree, root, node, n_candidates, n_children, constants, scores)
        child = tree.children[root, edge_offset(node, n_candidates, n_children) + edge]
    parents[root] = node
    edges[root] = edge
