"""The search tree of a batch of roots as flat arrays, allocated once per search.

Node 0 is the root and simulation ``i`` (from 1) creates node ``i``. The edges of all nodes of one root lie side by
side: the root's ``n_candidates`` first, then ``n_children`` for each further node. Every node but the root is described
by the edge that leads to it. Actions and latent states are not in the tree; whoever evaluates the nodes keeps them
under (node, edge).
"""

from typing import NamedTuple

import numpy as np

from sb3_ezv2.compilation import entry_point, inlined

SMALLEST, LARGEST, ROOT_SUM = range(3)
"""Columns of ``SearchTree.totals``."""


class SearchTree(NamedTuple):
    """Flat arrays of ``n_roots`` trees with ``n_simulations + 1`` nodes each."""

    visits: np.ndarray  # [n_roots, n_edges] int32, simulations that followed the edge
    children: np.ndarray  # [n_roots, n_edges] int32, node behind the edge if it was visited
    values: np.ndarray  # [n_roots, n_edges] float64, edge value q = r + discount * v if it was visited
    value_sums: np.ndarray  # [n_roots, n_edges] float64, sum of the value estimates of the node behind the edge
    rewards: np.ndarray  # [n_roots, n_edges] float32, reward of the edge if it was visited
    prior_logits: np.ndarray  # [n_roots, n_edges] float32
    network_values: np.ndarray  # [n_roots, n_nodes] float32
    preferences: np.ndarray  # [n_roots, n_candidates] float64, noise + prior logits of the root's edges
    order: np.ndarray  # [n_roots, n_candidates] int32, the root's edges by falling preference
    paths: np.ndarray  # [n_roots, n_nodes] int32, edges of the newest simulation from the root to the new node
    depths: np.ndarray  # [n_roots] int32, how many edges that are
    totals: np.ndarray  # [n_roots, 3] float64: smallest and largest edge value seen, sum of the root's estimates


@inlined
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
        np.empty((n_roots, n_edges), np.int32),
        np.empty((n_roots, n_edges), np.int32),
        np.empty((n_roots, n_edges), np.float64),
        np.empty((n_roots, n_edges), np.float64),
        np.empty((n_roots, n_edges), np.float32),
        np.empty((n_roots, n_edges), np.float32),
        np.empty((n_roots, n_nodes), np.float32),
        np.empty((n_roots, n_candidates), np.float64),
        np.empty((n_roots, n_candidates), np.int32),
        np.empty((n_roots, n_nodes), np.int32),
        np.empty(n_roots, np.int32),
        np.empty((n_roots, 3), np.float64),
    )


@entry_point
def plant(
    tree: SearchTree, values: np.ndarray, prior_logits: np.ndarray, gumbel: np.ndarray, low: float, high: float
) -> None:
    """Make every root a tree of one node, with its own network value as the first estimate.

    The first simulation is selected too: the candidate with the largest preference.

    :param tree: trees to reset
    :param values: network values of the roots ``[n_roots]``
    :param prior_logits: prior of the candidates ``[n_roots, n_candidates]``
    :param gumbel: noise of the candidates ``[n_roots, n_candidates]``
    :param low: smallest value known beforehand, ``inf`` for none
    :param high: largest value known beforehand, ``-inf`` for none
    """
    for root in range(values.shape[0]):
        preferences, order = tree.preferences[root], tree.order[root]
        for edge in range(preferences.shape[0]):
            tree.visits[root, edge] = 0
            tree.prior_logits[root, edge] = prior_logits[root, edge]
            preference = np.float64(gumbel[root, edge]) + np.float64(prior_logits[root, edge])
            preferences[edge] = preference
            place = edge
            while place > 0 and preferences[order[place - 1]] < preference:
                order[place] = order[place - 1]
                place -= 1
            order[place] = edge
        tree.paths[root, 0], tree.depths[root] = order[0], 1
        tree.network_values[root, 0] = values[root]
        tree.totals[root, SMALLEST] = low
        tree.totals[root, LARGEST] = high
        tree.totals[root, ROOT_SUM] = values[root]


@inlined
def edge_offset(node: int, n_candidates: int, n_children: int) -> int:
    """Index of the first edge of ``node`` among the edges of its root."""
    return 0 if node == 0 else n_candidates + (node - 1) * n_children


@inlined
def add_and_back_up(
    tree: SearchTree,
    root: int,
    node: int,
    reward: float,
    value: float,
    prior_logits: np.ndarray,
    n_candidates: int,
    discount: float,
) -> None:
    """Add ``node`` at the end of the root's newest path and send its value to the root: ``G <- r + discount * G``.

    :param tree: trees with a path chosen by :func:`~sb3_ezv2.search.selection.select`
    :param root: which of them
    :param node: number of the new node
    :param reward: of the path's last edge
    :param value: network value of the node
    :param prior_logits: of the node's own edges ``[n_children]``
    :param n_candidates: actions at the root
    :param discount: of one step
    """
    n_children = prior_logits.shape[0]
    visits, values, value_sums = tree.visits[root], tree.values[root], tree.value_sums[root]
    rewards, path, totals = tree.rewards[root], tree.paths[root], tree.totals[root]
    first_edge = edge_offset(node, n_candidates, n_children)
    for i in range(n_children):
        visits[first_edge + i] = 0
        tree.prior_logits[root, first_edge + i] = prior_logits[i]
    depth = tree.depths[root]
    last = path[depth - 1]
    tree.children[root, last] = node
    tree.network_values[root, node] = value
    rewards[last] = reward
    value_sums[last] = 0.0

    estimate = np.float64(value)
    smallest, largest = totals[SMALLEST], totals[LARGEST]
    for step in range(depth):
        edge = path[depth - 1 - step]
        visits[edge] += 1
        value_sums[edge] += estimate
        q = rewards[edge] + discount * value_sums[edge] / visits[edge]
        values[edge] = q
        smallest, largest = min(smallest, q), max(largest, q)
        estimate = rewards[edge] + discount * estimate
    totals[SMALLEST], totals[LARGEST] = smallest, largest
    totals[ROOT_SUM] += estimate
