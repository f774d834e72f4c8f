"""The search tree of a batch of roots as flat arrays, allocated once per search.

Node 0 is the root and simulation ``i`` (from 1) creates node ``i``. The edges of all nodes of one root lie side by
side: the root's ``n_candidates`` first, then ``n_children`` for each further node. Actions and latent states are not
in the tree; whoever evaluates the nodes keeps them under (node, edge).
"""

from typing import NamedTuple

import numba as nb
import numpy as np

UNVISITED = -1
NO_PARENT = -1


class SearchTree(NamedTuple):
    """Flat arrays of ``n_roots`` trees with ``n_simulations + 1`` nodes each."""

    parents: np.ndarray  # [n_roots, n_nodes] int32, NO_PARENT for the root
    parent_edges: np.ndarray  # [n_roots, n_nodes] int32, index into the edges of that root
    visits: np.ndarray  # [n_roots, n_nodes] int32, value estimates that passed through the node
    value_sums: np.ndarray  # [n_roots, n_nodes] float64, sum of these estimates
    network_values: np.ndarray  # [n_roots, n_nodes] float32
    rewards: np.ndarray  # [n_roots, n_nodes] float32, reward of the edge into the node
    children: np.ndarray  # [n_roots, n_edges] int32, node behind the edge or UNVISITED
    prior_logits: np.ndarray  # [n_roots, n_edges] float32
    value_range: np.ndarray  # [n_roots, 2] float64, smallest and largest edge value seen in this tree
    scratch: np.ndarray  # [n_roots, max(n_candidates, n_children)] float64, working memory of the selection


@nb.njit(nogil=True)
def new_tree(n_roots: int, n_simulations: int, n_candidates: int, n_children: int) -> SearchTree:
    """Allocate trees whose rows :func:`plant` fills.

    :param n_roots: number of states searched together
    :param n_simulations: number of nodes that will be added to each root
    :param n_candidates: actions at the root
    :param n_children: actions at every other node
    """
    n_nodes = n_simulations + 1
    n_edges = n_candidates + n_simulations * n_children
    return SearchTree(
        parents=np.empty((n_roots, n_nodes), np.int32),
        parent_edges=np.empty((n_roots, n_nodes), np.int32),
        visits=np.empty((n_roots, n_nodes), np.int32),
        value_sums=np.empty((n_roots, n_nodes), np.float64),
        network_values=np.empty((n_roots, n_nodes), np.float32),
        rewards=np.empty((n_roots, n_nodes), np.float32),
        children=np.empty((n_roots, n_edges), np.int32),
        prior_logits=np.empty((n_roots, n_edges), np.float32),
        value_range=np.empty((n_roots, 2), np.float64),
        scratch=np.empty((n_roots, max(n_candidates, n_children)), np.float64),
    )


@nb.njit(nogil=True)
def edge_offset(node: int, n_candidates: int, n_children: int) -> int:
    """Index of the first edge of ``node`` among the edges of its root."""
    return 0 if node == 0 else n_candidates + (node - 1) * n_children


@nb.njit(cache=True, nogil=True)
def plant(tree: SearchTree, values: np.ndarray, prior_logits: np.ndarray, low: float, high: float) -> None:
    """Make every root a tree of one node, with its own network value as the first estimate.

    :param tree: trees to reset
    :param values: network values of the roots ``[n_roots]``
    :param prior_logits: prior of the candidates ``[n_roots, n_candidates]``
    :param low: smallest value known beforehand, ``inf`` for none
    :param high: largest value known beforehand, ``-inf`` for none
    """
    n_candidates = prior_logits.shape[1]
    for root in range(values.shape[0]):
        for edge in range(tree.children.shape[1]):
            tree.children[root, edge] = UNVISITED
        tree.parents[root, 0] = NO_PARENT
        tree.parent_edges[root, 0] = 0
        tree.visits[root, 0] = 1
        tree.value_sums[root, 0] = values[root]
        tree.network_values[root, 0] = values[root]
        tree.rewards[root, 0] = 0.0
        for edge in range(n_candidates):
            tree.prior_logits[root, edge] = prior_logits[root, edge]
        tree.value_range[root, 0] = low
        tree.value_range[root, 1] = high
