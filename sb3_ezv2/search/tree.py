"""The search tree of a batch of roots as flat arrays, allocated once per search.

Node 0 is the root and simulation ``i`` (from 1) creates node ``i``. The edges of all nodes of one root lie side by
side: the root's ``n_candidates`` first, then ``n_children`` for each further node. Every node but the root is described
by the edge that leads to it. Actions and latent states are not in the tree; whoever evaluates the nodes keeps them
under (node, edge).

What is read together lies together: an edge is half a line of the processor's cache, so a walk down a tree waits for
few of them.
"""

from typing import NamedTuple

import numpy as np

from sb3_ezv2.common.compilation import entry_point, inlined

EDGE = np.dtype(
    [
        ("value", np.float64),  # q = r + discount * v, the mean over the visits; if it was visited
        ("visits", np.int32),  # simulations that followed the edge
        ("node", np.int32),  # behind the edge, if it was visited
        ("reward", np.float32),  # of the edge, if it was visited
        ("network_value", np.float32),  # of the node behind the edge, if it was visited
        ("prior_logit", np.float32),
    ],
    align=True,
)
"""What the tree knows of an edge."""

ROOT = np.dtype(
    [
        ("smallest", np.float64),  # edge value seen in the tree
        ("largest", np.float64),  # edge value seen in the tree
        ("sum", np.float64),  # of the root's value estimates, the network's included
        ("network_value", np.float32),
        ("depth", np.int32),  # number of edges in the path of the newest simulation
    ]
)
"""What the tree knows of its root."""


class SearchTree(NamedTuple):
    """Flat arrays of ``n_roots`` trees with ``n_simulations + 1`` nodes each."""

    edges: np.ndarray  # [n_roots, n_edges] EDGE
    roots: np.ndarray  # [n_roots] ROOT
    preferences: np.ndarray  # [n_roots, n_candidates] float64, noise + prior logits of the root's edges
    order: np.ndarray  # [n_roots, n_candidates] int32, the root's edges by falling preference
    n_considered: np.ndarray  # [n_roots] int32, the first of them, which sequential halving starts with
    paths: np.ndarray  # [n_roots, n_nodes] int32, edges of the newest simulation from the root to the new node


def new_tree(n_roots: int, n_simulations: int, n_candidates: int, n_children: int) -> SearchTree:
    """Allocate trees whose rows :func:`plant` fills.

    :param n_roots: number of states searched together
    :param n_simulations: number of nodes that will be added to each root
    :param n_candidates: actions at the root
    :param n_children: actions at every other node
    """
    return SearchTree(
        np.empty((n_roots, n_candidates + n_simulations * n_children), EDGE),
        np.empty(n_roots, ROOT),
        np.empty((n_roots, n_candidates), np.float64),
        np.empty((n_roots, n_candidates), np.int32),
        np.empty(n_roots, np.int32),
        np.empty((n_roots, n_simulations + 1), np.int32),
    )


@entry_point
def plant(
    tree: SearchTree,
    values: np.ndarray,
    prior_logits: np.ndarray,
    gumbel: np.ndarray,
    n_considered: int,
    low: float,
    high: float,
) -> None:
    """Make every root a tree of one node, with its own network value as the first estimate.

    The first simulation is selected too: the candidate with the largest preference.

    :param tree: trees to reset
    :param values: network values of the roots ``[n_roots]``
    :param prior_logits: prior of the candidates ``[n_roots, n_candidates]``; ``-inf`` for what is none
    :param gumbel: noise of the candidates ``[n_roots, n_candidates]``
    :param n_considered: candidates that sequential halving starts with, as far as there are so many
    :param low: smallest value known beforehand, ``inf`` for none
    :param high: largest value known beforehand, ``-inf`` for none
    """
    for row in range(values.shape[0]):
        preferences, order = tree.preferences[row], tree.order[row]
        n_candidates = 0
        for i in range(preferences.shape[0]):
            edge = tree.edges[row, i]
            edge["visits"] = 0
            edge["prior_logit"] = prior_logits[row, i]
            n_candidates += 1 if prior_logits[row, i] > -np.inf else 0
            preference = np.float64(gumbel[row, i]) + np.float64(prior_logits[row, i])
            preferences[i] = preference
            place = i
            while place > 0 and preferences[order[place - 1]] < preference:
                order[place] = order[place - 1]
                place -= 1
            order[place] = i
        tree.n_considered[row] = min(n_considered, n_candidates)
        tree.paths[row, 0] = order[0]
        root = tree.roots[row]
        root["smallest"], root["largest"] = low, high
        root["sum"] = root["network_value"] = values[row]
        root["depth"] = 1


@inlined
def edge_offset(node: int, n_candidates: int, n_children: int) -> int:
    """Index of the first edge of ``node``, which is not the root, among the edges of its root."""
    return n_candidates + (node - 1) * n_children


@inlined
def add_and_back_up(
    tree: SearchTree, row: int, node: int, reward: float, value: float, prior_logits: np.ndarray, discount: float
) -> None:
    """Add ``node`` at the end of the root's newest path and send its value to the root: ``G <- r + discount * G``.

    Where the path ends as deep as it may, the last edge may have been visited: its values count once more.

    :param tree: trees with a path chosen by :func:`~sb3_ezv2.search.selection.select`
    :param row: which of them
    :param node: number of the new node
    :param reward: of the path's last edge
    :param value: network value of the node
    :param prior_logits: of the node's own edges ``[n_children]``
    :param discount: of one step
    """
    n_children = prior_logits.shape[0]
    edges, path, root = tree.edges[row], tree.paths[row], tree.roots[row]
    first_edge = edge_offset(node, tree.preferences.shape[1], n_children)
    for i in range(n_children):
        edge = edges[first_edge + i]
        edge["visits"] = 0
        edge["prior_logit"] = prior_logits[i]
    depth = root["depth"]
    last = edges[path[depth - 1]]
    if last["visits"] == 0:
        last["value"] = 0.0
    last["node"] = node
    last["reward"] = reward
    last["network_value"] = value

    estimate = np.float64(value)
    smallest, largest = root["smallest"], root["largest"]
    for step in range(depth):
        edge = edges[path[depth - 1 - step]]
        edge["visits"] += 1
        estimate = edge["reward"] + discount * estimate
        q = edge["value"] + (estimate - edge["value"]) / edge["visits"]
        edge["value"] = q
        smallest = q if q < smallest else smallest
        largest = q if q > largest else largest
    root["smallest"], root["largest"] = smallest, largest
    root["sum"] += estimate
