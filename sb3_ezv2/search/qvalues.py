"""The mixed value of unvisited actions, and the transform ``sigma`` of all of a node's q-values.

Sources: Gumbel MuZero (Danihelka et al. 2022), appendix D and equation 8; EfficientZero V2, section 4. Values are
normalised by the smallest and largest edge value seen anywhere in the tree of that root (mctx does it per node).
"""

import numpy as np

from sb3_ezv2.compilation import inlined
from sb3_ezv2.exponential import exponential
from sb3_ezv2.search.tree import LARGEST, SMALLEST, SearchTree


@inlined
def mixed_value(tree: SearchTree, root: int, node: int, first_edge: int, n_edges: int, total_visits: int) -> float:
    """What unvisited actions of a node count: ``(v_net + n * mean) / (1 + n)``.

    :param tree: trees with at least one visited edge at that node
    :param root: which of them
    :param node: number of the node
    :param first_edge: its first edge
    :param n_edges: number of its edges
    :param total_visits: ``n``, the visits of all of them; ``mean`` is the prior-weighted mean of the visited ones' q
    """
    visits, values, logits = tree.visits[root], tree.values[root], tree.prior_logits[root]
    largest = np.float32(-np.inf)  # of the visited actions, so that one of them has the weight 1
    for edge in range(first_edge, first_edge + n_edges):
        if visits[edge] > 0 and logits[edge] > largest:
            largest = logits[edge]
    weighted_q, weight = 0.0, 0.0
    for edge in range(first_edge, first_edge + n_edges):
        if visits[edge] > 0:
            prior = 1.0 if logits[edge] == largest else np.float64(exponential(logits[edge] - largest))
            weighted_q += prior * values[edge]
            weight += prior
    return (tree.network_values[root, node] + total_visits * weighted_q / weight) / (1.0 + total_visits)


@inlined
def sigma(q: float, totals: np.ndarray, most_visits: int, constants: tuple) -> float:
    """``(c_visit + most visits) * c_scale * normalised q``, with q normalised to [0, 1].

    :param q: edge value or mixed value; the latter contains the network's, which may lie outside the range seen
    :param totals: of the tree, see :class:`~sb3_ezv2.search.tree.SearchTree`
    :param most_visits: of all edges at that node
    :param constants: ``(discount, c_visit, c_scale, min_value_range)`` of the search settings
    """
    spread = max(totals[LARGEST] - totals[SMALLEST], constants[3])
    return (constants[1] + most_visits) * constants[2] * min(max((q - totals[SMALLEST]) / spread, 0.0), 1.0)


@inlined
def transformed_scores(
    tree: SearchTree,
    root: int,
    node: int,
    first_edge: int,
    n_edges: int,
    constants: tuple,
    scores: np.ndarray,
) -> tuple[int, int]:
    """Write ``logits(a) + sigma(completed q(a))`` of the node's actions into ``scores[:n_edges]``.

    :return: the visits of all edges together, and the most visits of one
    """
    visits, values, logits = tree.visits[root], tree.values[root], tree.prior_logits[root]
    totals = tree.totals[root]
    total_visits, most_visits, n_visited = 0, 0, 0
    for i in range(n_edges):
        count = visits[first_edge + i]
        total_visits += count
        most_visits = max(most_visits, count)
        n_visited += 1 if count > 0 else 0
    mixed = 0.0
    if 0 < n_visited < n_edges:
        mixed = sigma(mixed_value(tree, root, node, first_edge, n_edges, total_visits), totals, most_visits, constants)
    for i in range(n_edges):
        edge = first_edge + i
        bonus = sigma(values[edge], totals, most_visits, constants) if visits[edge] > 0 else mixed
        scores[i] = logits[edge] + bonus
    return total_visits, most_visits
