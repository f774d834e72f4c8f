"""The mixed value of unvisited actions, and the transform ``sigma`` of all of a node's q-values.

Sources: Gumbel MuZero (Danihelka et al. 2022), appendix D and equation 8; EfficientZero V2, section 4. Values are
normalised by the smallest and largest edge value seen anywhere in the tree of that root (mctx does it per node).
"""

from typing import NamedTuple

import numpy as np

from sb3_ezv2.common.compilation import inlined
from sb3_ezv2.search.exponential import exponential


class Constants(NamedTuple):
    """Numbers that every kernel needs; see :class:`~sb3_ezv2.common.type_aliases.SearchSettings`."""

    discount: float
    c_visit: float
    c_scale: float
    min_value_range: float  # in units of the values
    min_value_share: float
    max_depth: int
    log_odds: np.ndarray  # [n_simulations + 1] float64, log(1 + 2 n) of every number of visits n


class Normaliser(NamedTuple):
    """Moves the values seen in a tree to [0, 1]."""

    smallest: float
    factor: float


@inlined
def normaliser(root: np.void, constants: Constants) -> Normaliser:
    """Of a tree as it is now.

    :param root: a :data:`~sb3_ezv2.search.tree.ROOT`
    :param constants: of the search
    """
    magnitude = 0.0  # also while nothing has been seen, when the bounds are infinite
    magnitude = root["largest"] if root["largest"] > magnitude else magnitude
    magnitude = -root["smallest"] if -root["smallest"] > magnitude else magnitude
    least = constants.min_value_share * magnitude
    least = least if least > constants.min_value_range else constants.min_value_range
    spread = root["largest"] - root["smallest"]
    spread = least if spread < least else spread
    return Normaliser(root["smallest"], 1.0 / spread)


@inlined
def mixed_value(edges: np.ndarray, network_value: float, total_visits: int) -> float:
    """What unvisited actions of a node count: ``(v_net + n * mean) / (1 + n)``.

    :param edges: of the node ``[n_edges]`` :data:`~sb3_ezv2.search.tree.EDGE`, at least one of them visited
    :param network_value: of the node
    :param total_visits: ``n``, the visits of all edges; ``mean`` is the prior-weighted mean of the visited ones' q
    """
    largest = np.float32(-np.inf)  # of the visited actions, so that one of them has the weight 1
    for i in range(edges.shape[0]):
        edge = edges[i]
        if edge["visits"] > 0 and edge["prior_logit"] > largest:
            largest = edge["prior_logit"]
    weighted_q, weight = 0.0, 0.0
    for i in range(edges.shape[0]):
        edge = edges[i]
        if edge["visits"] > 0:
            logit = edge["prior_logit"]
            prior = 1.0 if logit == largest else np.float64(exponential(logit - largest))
            weighted_q += prior * edge["value"]
            weight += prior
    return (network_value + total_visits * (weighted_q / weight)) / (1.0 + total_visits)


@inlined
def sigma(q: float, scale: Normaliser, most_visits: int, constants: Constants) -> float:
    """``(c_visit + most visits) * c_scale * normalised q``, with q normalised to [0, 1].

    :param q: edge value or mixed value; the latter contains the network's, which may lie outside the range seen
    :param scale: of the tree
    :param most_visits: of all edges at that node
    :param constants: of the search
    """
    x = (q - scale.smallest) * scale.factor
    x = 0.0 if x < 0.0 else x
    x = 1.0 if x > 1.0 else x
    return (constants.c_visit + most_visits) * constants.c_scale * x


@inlined
def transformed_scores(
    edges: np.ndarray, network_value: float, scale: Normaliser, constants: Constants, scores: np.ndarray
) -> tuple[int, int]:
    """Write ``logits(a) + sigma(completed q(a))`` of a node's actions into ``scores[:n_edges]``.

    :param edges: of the node ``[n_edges]`` :data:`~sb3_ezv2.search.tree.EDGE`
    :param network_value: of the node
    :param scale: of the tree
    :param constants: of the search
    :param scores: ``[>= n_edges]`` float64
    :return: the visits of all edges together, and the most visits of one
    """
    total_visits, most_visits, n_visited = 0, 0, 0
    for i in range(edges.shape[0]):
        count = edges[i]["visits"]
        total_visits += count
        most_visits = count if count > most_visits else most_visits
        n_visited += 1 if count > 0 else 0
    mixed = 0.0
    if 0 < n_visited < edges.shape[0]:
        mixed = sigma(mixed_value(edges, network_value, total_visits), scale, most_visits, constants)
    for i in range(edges.shape[0]):
        edge = edges[i]
        bonus = sigma(edge["value"], scale, most_visits, constants) if edge["visits"] > 0 else mixed
        scores[i] = edge["prior_logit"] + bonus
    return total_visits, most_visits
