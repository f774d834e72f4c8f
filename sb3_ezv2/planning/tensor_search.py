"""The sampled Gumbel search of :mod:`sb3_ezv2.search` as batched tensor operations, for a device that is not the CPU.

The same search with the same ties, but every simulation is a fixed sequence of operations on tensors of fixed shapes:
nothing is read by the host, no branch depends on data. So it never waits for the device and can be recorded as a whole
(see :mod:`sb3_ezv2.common.recording`). Two things replace the walks of the numba search:

- *down*: every node chooses its next action at once; a node is on the path of the next simulation if every edge from
  the root to it is a chosen one, and the deepest of those nodes, which is the newest, is where it leaves the tree;
- *up*: every node keeps the discounted rewards and the discount from each of its ancestors to itself, so that all
  returns of a path come from the new node's value at once.

All arithmetic is in float64, as in the numba search.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ezv2.common.type_aliases import SearchSettings
from sb3_ezv2.search.sequential_halving import considered_visits, considered_visits_of_fewer

GAIN, POWER, ON_PATH = range(3)
"""What a lineage holds of every ancestor: the discounted rewards from the edge into it to the node, the discount of the
node's value there, and whether it is an ancestor at all (1 or 0). The root, which no edge leads to, counts as none."""


class TensorExpansion(NamedTuple):
    """What the model says of one new node per root."""

    rewards: th.Tensor  # [n_roots], reward of the edge that leads to the node
    values: th.Tensor  # [n_roots], network value of the node
    prior_logits: th.Tensor  # [n_roots, n_children]


class TensorResult(NamedTuple):
    """As :class:`~sb3_ezv2.common.type_aliases.SearchResult`, on the device."""

    selected: th.Tensor  # [n_roots] int64
    improved_policy: th.Tensor  # [n_roots, n_candidates] float32
    root_values: th.Tensor  # [n_roots] float32
    visit_counts: th.Tensor  # [n_roots, n_candidates] int32
    improved_values: th.Tensor  # [n_roots] float32
    policy_values: th.Tensor  # [n_roots] float32


class TensorTree(NamedTuple):
    """``n_roots`` trees of at most ``n_nodes`` nodes; node 0 is the root, simulation ``i`` (from 1) adds node ``i``.

    Edges are numbered as in :mod:`sb3_ezv2.search.tree`: the root's ``n_candidates``, then ``n_children`` of each node.
    """

    children: th.Tensor  # [n_roots, n_edges] int64, node behind the edge, 0 if it was not visited
    logits: th.Tensor  # [n_roots, n_edges] float64
    preferences: th.Tensor  # [n_roots, n_candidates] float64, noise + prior logits of the root's edges
    visits: th.Tensor  # [n_roots, n_nodes] float64, of the edge that leads to the node; 0 for the root
    values: th.Tensor  # [n_roots, n_nodes] float64, mean of r + discount * v of that edge; the root's is not used
    network_values: th.Tensor  # [n_roots, n_nodes] float64
    smallest: th.Tensor  # [n_roots] float64, edge value seen in the tree
    largest: th.Tensor  # [n_roots] float64
    total: th.Tensor  # [n_roots] float64, sum of the root's value estimates, the network's included


class TensorConstants(NamedTuple):
    """Numbers of a search."""

    discount: float
    c_visit: float
    c_scale: float
    min_value_range: th.Tensor  # [] float64, in units of the values
    min_value_share: float
    max_depth: int


TensorRecurrentFn = Callable[[int, th.Tensor, th.Tensor], TensorExpansion]
"""As :data:`~sb3_ezv2.common.type_aliases.RecurrentFn`, with tensors."""


def plant_tensors(
    values: th.Tensor, prior_logits: th.Tensor, gumbel: th.Tensor, n_children: int, settings: SearchSettings
) -> TensorTree:
    """Trees of one node.

    :param values: network values of the roots ``[n_roots]``
    :param prior_logits: of the candidates ``[n_roots, n_candidates]``
    :param gumbel: noise of the candidates ``[n_roots, n_candidates]``
    :param n_children: actions at every other node
    :param settings: budget and known bounds of the values
    """
    n_roots, n_candidates = prior_logits.shape
    n_nodes, n_edges = settings.n_simulations + 1, n_candidates + settings.n_simulations * n_children
    low, high = settings.value_bounds
    logits = prior_logits.double()
    zeros = logits.new_zeros(n_roots, n_nodes)
    below = logits.new_zeros(n_roots, n_edges - n_candidates)
    return TensorTree(
        children=th.zeros(n_roots, n_edges, dtype=th.int64, device=logits.device),
        logits=th.cat([logits, below], dim=1),
        preferences=gumbel.double() + logits,
        visits=zeros,
        values=th.zeros_like(zeros),
        network_values=th.cat([values.double().unsqueeze(1), zeros[:, 1:]], dim=1),
        smallest=logits.new_full((n_roots,), low),
        largest=logits.new_full((n_roots,), high),
        total=values.double(),
    )


def _bonus(values: th.Tensor, most_visits: th.Tensor, tree: TensorTree, constants: TensorConstants) -> th.Tensor:
    """``sigma(q)`` of ``values [n_roots, ...]``; ``most_visits`` of any shape that broadcasts against them."""
    rows = (-1,) + (1,) * (values.ndim - 1)
    least = constants.min_value_share * th.maximum(tree.largest, -tree.smallest).clamp_min(0.0)
    spread = th.maximum(tree.largest - tree.smallest, th.maximum(least, constants.min_value_range))
    normalised = ((values - tree.smallest.view(rows)) / spread.view(rows)).clamp(0.0, 1.0)
    return (constants.c_visit + most_visits) * constants.c_scale * normalised


def _mixed_values(logits: th.Tensor, visits: th.Tensor, values: th.Tensor, network_values: th.Tensor) -> th.Tensor:
    """What unvisited actions of nodes count ``[n_roots, nodes, 1]``; parameters as of :func:`_scores`."""
    visited = visits > 0
    n = visits.sum(-1, keepdim=True)
    none_visited = n == 0
    largest = logits.masked_fill(~visited, -th.inf).amax(-1, keepdim=True).masked_fill(none_visited, 0.0)
    prior = (logits - largest).exp().masked_fill(~visited, 0.0)
    # Weights of 0 where nothing was visited; what becomes of them is not used.
    mean = (prior * values).sum(-1, keepdim=True) / prior.sum(-1, keepdim=True).masked_fill(none_visited, 1.0)
    return (network_values + n * mean) / (1.0 + n)


def _scores(
    logits: th.Tensor,
    visits: th.Tensor,
    values: th.Tensor,
    network_values: th.Tensor,
    tree: TensorTree,
    constants: TensorConstants,
) -> th.Tensor:
    """``logits + sigma(completed q)`` of nodes' actions ``[n_roots, nodes, n_actions]``.

    :param logits: of the actions
    :param visits: of the actions
    :param values: of the actions, if they were visited
    :param network_values: of the nodes ``[n_roots, nodes, 1]``
    :param tree: with the smallest and largest value
    :param constants: of the search
    """
    mixed = _mixed_values(logits, visits, values, network_values)
    most = visits.amax(-1, keepdim=True)
    bonus = _bonus(th.where(visits > 0, values, mixed), most, tree, constants)
    # Before the first visit all actions of a node count the same.
    return logits + bonus.masked_fill(most == 0, 0.0)


def select_tensors(
    tree: TensorTree, ancestors: th.Tensor, considered: th.Tensor, n_children: int, constants: TensorConstants
) -> tuple[th.Tensor, th.Tensor]:
    """Where every root's next simulation leaves its tree: node and edge, ``[n_roots]`` int64 each.

    :param tree: the trees
    :param ancestors: ``[n_nodes, n_roots, n_nodes]`` float64, 1 where the third index is an ancestor of the first one
        or the node itself, the root excepted
    :param considered: ``[1]`` or ``[n_roots, 1]``, visits that the root's action must already have, see
        :func:`~sb3_ezv2.search.sequential_halving.considered_visits`
    :param n_children: actions at every node below the root
    :param constants: of the search
    """
    n_roots, n_nodes = tree.visits.shape
    n_candidates = tree.preferences.shape[1]
    visits = tree.visits.gather(1, tree.children)
    values = tree.values.gather(1, tree.children)

    root_visits, root_values = visits[:, :n_candidates], values[:, :n_candidates]
    bonus = _bonus(root_values, root_visits.amax(1, keepdim=True), tree, constants)
    scores = tree.preferences + bonus.masked_fill(root_visits == 0, 0.0)
    root_action = scores.masked_fill(root_visits != considered, -th.inf).argmax(1, keepdim=True)

    shape = (n_roots, n_nodes - 1, n_children)
    below = visits[:, n_candidates:].view(shape)
    network_values = tree.network_values[:, 1:].unsqueeze(2)
    scores = _scores(
        tree.logits[:, n_candidates:].view(shape),
        below,
        values[:, n_candidates:].view(shape),
        network_values,
        tree,
        constants,
    )
    n = below.sum(-1, keepdim=True)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    # pi'(a) - N(a) / (1 + sum_b N(b)), multiplied with what all actions of a node have in common.
    preferred = weights * (1.0 + n) - weights.sum(-1, keepdim=True) * below
    actions = th.where(n == 0, scores, preferred).argmax(-1, keepdim=True)

    behind_root = tree.children[:, :n_candidates].gather(1, root_action)
    behind = tree.children[:, n_candidates:].view(shape).gather(2, actions).squeeze(2)
    chosen = th.cat([behind_root, behind], dim=1)
    # Edges without a node behind them point to the root, which counts as no one's ancestor.
    strays = th.ones_like(tree.visits).scatter(1, chosen, 0.0)
    on_path = ((ancestors * strays).sum(-1) == 0).transpose(0, 1) & (tree.visits > 0)
    if constants.max_depth < n_nodes - 1:  # otherwise no node is that deep before the last simulation
        on_path &= ancestors.sum(-1).transpose(0, 1) < constants.max_depth
    numbers = th.arange(n_nodes, device=chosen.device)
    # The clamp changes nothing here. In compiled form the lanes of a block beyond the last root hold the smallest
    # integer, and PyTorch 2.11 checks the index that follows in those lanes too.
    parents = (on_path * numbers).amax(1).clamp_min(0)
    choices = th.cat([root_action, actions.squeeze(2)], dim=1)
    return parents, choices.gather(1, parents.unsqueeze(1)).squeeze(1)


def back_up_tensors(
    tree: TensorTree,
    lineage: th.Tensor,
    node: th.Tensor,
    parents: th.Tensor,
    edges: th.Tensor,
    expansion: TensorExpansion,
    constants: TensorConstants,
) -> tuple[TensorTree, th.Tensor]:
    """Add one node to every root and send its value along its path: ``G <- r + discount * G``.

    :param tree: the trees
    :param lineage: of the parents ``[n_roots, 3, n_nodes]``
    :param node: its number ``[1]``
    :param parents: where the new edge begins ``[n_roots]``
    :param edges: index of the edge there ``[n_roots]``
    :param expansion: of the node
    :param constants: of the search
    :return: the new trees, and the lineage of the new node
    """
    n_candidates, n_children = tree.preferences.shape[1], expansion.prior_logits.shape[1]
    rewards = expansion.rewards.double().unsqueeze(1)
    values = expansion.values.double().unsqueeze(1)
    is_new = th.arange(tree.visits.shape[1], device=node.device) == node  # [n_nodes]
    gain = th.where(is_new, rewards, lineage[:, GAIN] + lineage[:, POWER] * rewards)
    # A scalar in ``where`` would be copied from the host.
    power = (constants.discount * lineage[:, POWER]).masked_fill(is_new, constants.discount)
    on_path = lineage[:, ON_PATH].masked_fill(is_new, 1.0)
    followed = on_path > 0
    estimates = gain + power * values

    edge = th.where(parents == 0, edges, n_candidates + (parents - 1) * n_children + edges).unsqueeze(1)
    # A node at the largest depth takes the place of the one that was there, whose visits and values go on.
    before = tree.children.gather(1, edge)
    visits = th.where(is_new, tree.visits.gather(1, before), tree.visits) + on_path
    values_before = th.where(is_new, tree.values.gather(1, before), tree.values)
    means = th.where(followed, values_before + (estimates - values_before) / visits, values_before)

    edge_numbers = th.arange(tree.logits.shape[1], device=node.device)
    first = n_candidates + (node - 1) * n_children
    action = edge_numbers - first  # [n_edges], of the new node where it is one of 0 ... n_children - 1
    own = expansion.prior_logits.double().index_select(1, action.clamp(0, n_children - 1))
    grown = TensorTree(
        children=th.where(edge_numbers == edge, node, tree.children),
        logits=th.where((action >= 0) & (action < n_children), own, tree.logits),
        preferences=tree.preferences,
        visits=visits,
        values=means,
        network_values=th.where(is_new, values, tree.network_values),
        smallest=th.minimum(tree.smallest, means.masked_fill(~followed, th.inf).amin(1)),
        largest=th.maximum(tree.largest, means.masked_fill(~followed, -th.inf).amax(1)),
        total=tree.total + estimates[:, 0],
    )
    return grown, th.stack([gain, power, on_path], dim=1)


def read_tensors(tree: TensorTree, constants: TensorConstants) -> TensorResult:
    """What the search says of every root."""
    n_candidates = tree.preferences.shape[1]
    behind = tree.children[:, :n_candidates]
    visits, values = tree.visits.gather(1, behind), tree.values.gather(1, behind)
    network_values = tree.network_values[:, :1]
    of_roots = (
        *(tree.logits[:, None, :n_candidates], visits.unsqueeze(1), values.unsqueeze(1)),
        network_values.unsqueeze(1),
    )
    scores = _scores(*of_roots, tree, constants).squeeze(1)
    most = visits.amax(1, keepdim=True)
    finalists = tree.preferences + _bonus(values, most, tree, constants)
    policy = th.softmax(scores, dim=1)
    visited_policy = policy.masked_fill(visits == 0, 0.0)
    n = visits.sum(1)
    returns = (visited_policy * values).sum(1) / visited_policy.sum(1)
    return TensorResult(
        selected=finalists.masked_fill(visits != most, -th.inf).argmax(1),
        improved_policy=policy.float(),
        root_values=(tree.total / (1.0 + n)).float(),
        visit_counts=visits.int(),
        improved_values=((network_values[:, 0] + n * returns) / (1.0 + n)).float(),
        policy_values=_mixed_values(*of_roots).view(-1).float(),
    )


class TreeOperations(NamedTuple):
    """The two functions that every simulation calls, so that compiled ones can take their place."""

    select: Callable[..., tuple[th.Tensor, th.Tensor]] = select_tensors
    back_up: Callable[..., tuple[TensorTree, th.Tensor]] = back_up_tensors


@lru_cache(maxsize=16)
def _schedules(n_considered: int, n_simulations: int, device: th.device) -> th.Tensor:
    """:func:`~sb3_ezv2.search.sequential_halving.considered_visits_of_fewer` on the device, copied there once."""
    return th.from_numpy(considered_visits_of_fewer(n_considered, n_simulations).astype(np.float64)).to(device)


def schedule_of_roots(prior_logits: th.Tensor, settings: SearchSettings) -> th.Tensor:
    """Visits that every root's action must already have ``[n_roots, n_simulations]`` float64.

    :param prior_logits: ``[n_roots, n_candidates]``, ``-inf`` for what is no candidate
    :param settings: budget
    """
    n_candidates = (prior_logits > -th.inf).sum(1)
    schedules = _schedules(settings.n_considered, settings.n_simulations, prior_logits.device)
    return schedules[n_candidates.clamp(1, settings.n_considered)]


def tensor_search(
    values: th.Tensor,
    prior_logits: th.Tensor,
    recurrent_fn: TensorRecurrentFn,
    gumbel: th.Tensor,
    n_children: int,
    settings: SearchSettings,
    value_unit: th.Tensor | float = 1.0,
    operations: TreeOperations | None = None,
    complete: bool = True,
) -> TensorResult:
    """Plan for every root; see :func:`sb3_ezv2.search.search.search`, whose results these are.

    :param values: network values of the roots ``[n_roots]``
    :param prior_logits: of the candidates ``[n_roots, n_candidates]``
    :param recurrent_fn: evaluates one new node per root
    :param gumbel: noise added to the logits ``[n_roots, n_candidates]``
    :param n_children: number of actions at every node below the root
    :param settings: budget and constants
    :param value_unit: what ``settings.min_value_range`` counts in, such as the model's reward scale
    :param operations: the functions that select and back up; ``None`` for those of this module
    :param complete: whether every root has ``n_considered`` candidates; otherwise those that it has are counted
    :raises ValueError: if more actions are to be considered than there are candidates
    """
    n_roots, n_candidates = prior_logits.shape
    if not 1 <= settings.n_considered <= n_candidates:
        raise ValueError(f"n_considered={settings.n_considered} must lie between 1 and the {n_candidates} candidates")
    tree = plant_tensors(values, prior_logits, gumbel, n_children, settings)
    constants = TensorConstants(
        discount=float(settings.discount),
        c_visit=float(settings.c_visit),
        c_scale=float(settings.c_scale),
        min_value_range=tree.total.new_full((), settings.min_value_range) * value_unit,
        min_value_share=settings.min_value_share,
        max_depth=settings.max_depth,
    )
    operations = operations or TreeOperations()
    n_nodes = settings.n_simulations + 1
    numbers = th.arange(n_nodes, device=values.device)
    rows = th.arange(n_roots, device=values.device)
    lineages = tree.total.new_zeros(n_nodes, n_roots, 3, n_nodes)
    lineages[0, :, POWER, 0].fill_(1.0)
    schedule = considered_visits(settings.n_considered, settings.n_simulations).tolist()
    of_roots = None if complete else schedule_of_roots(prior_logits, settings)
    for node, considered in enumerate(schedule, 1):
        must_have = tree.total.new_full((1,), considered) if of_roots is None else of_roots[:, node - 1 : node]
        parents, edges = operations.select(tree, lineages[:, :, ON_PATH], must_have, n_children, constants)
        expansion = recurrent_fn(node, parents, edges)
        lineage = lineages[parents, rows]
        number = numbers[node : node + 1]
        tree, lineages[node] = operations.back_up(tree, lineage, number, parents, edges, expansion, constants)
    return read_tensors(tree, constants)
