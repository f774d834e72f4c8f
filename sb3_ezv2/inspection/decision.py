"""The trees of searches: one of them in full, the depth of several."""

import math
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.learning.search_statistics import candidate_prior
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.host_copy import on_host
from sb3_ezv2.planning.torch_search import GrownTrees, grow_in_torch, read_plan
from sb3_ezv2.policies import PlanningPolicy
from sb3_ezv2.search.tree import SearchTree

GRID = 61
"""Points of each axis that the density of a policy is computed at."""


class Node(NamedTuple):
    """A node of a tree that is not its root, and the edge that leads to it."""

    number: int  # in the order in which nodes were added, from 1
    parent: int  # 0 is the root
    depth: int  # edges from the root
    action: np.ndarray  # of the edge, in the environment's units
    visits: int  # of the edge
    q: float  # of the edge, ``r + discount * v`` as the mean over its visits
    reward: float  # of the edge
    network_value: float  # of the node


class Decision(NamedTuple):
    """One search: its candidates and its tree."""

    candidates: np.ndarray  # [n, *action_shape] in the environment's units
    prior: np.ndarray  # [n], uniform where actions are sampled
    improved_policy: np.ndarray  # [n]
    visits: np.ndarray  # [n]
    q: np.ndarray  # [n], NaN where a candidate was not visited
    chosen: int  # index of the candidate that was chosen
    network_value: float  # of the root
    root_value: float  # of the search
    nodes: list[Node]  # in the order of their numbers
    box: list[np.ndarray]  # points of one or two axes [GRID], in the environment's units; empty for other actions
    density: np.ndarray  # [GRID] or [GRID (second axis), GRID (first axis)] of the policy, largest 1; empty


class _Edge(NamedTuple):
    """Where an edge lies in a tree."""

    at: int  # its number among all edges
    parent: int  # node where it begins
    place: int  # among the edges of that node


def visited_edges(tree: SearchTree, row: int, n_children: int) -> list[_Edge]:
    """Edges that lead to nodes, in the order of the nodes' numbers.

    :param tree: trees of several states
    :param row: which of them
    :param n_children: actions at every node below the root
    """
    n_candidates = tree.preferences.shape[1]
    edges = tree.edges[row]
    found = np.flatnonzero(edges["visits"] > 0)
    order = found[np.argsort(edges["node"][found])]
    return [
        _Edge(i, 0, i) if i < n_candidates else _Edge(i, *_of_child(i - n_candidates, n_children))
        for i in order.tolist()
    ]


def _of_child(index: int, n_children: int) -> tuple[int, int]:
    parent, place = divmod(index, n_children)
    return parent + 1, place


def depths_of(edges: list[_Edge]) -> list[int]:
    """Depth of every node but the root, in the order of their numbers."""
    depths = [0]
    for edge in edges:
        depths.append(depths[edge.parent] + 1)
    return depths[1:]


def grow_trees(policy: PlanningPolicy, observations: dict[str, th.Tensor]) -> tuple[EfficientZeroModel, GrownTrees]:
    """Search greedily and keep the trees, on the CPU whatever the policy's device is.

    :param policy: whose averaged model is searched with
    :param observations: ``[n, ...]`` by key
    :return: the model on the CPU, and the trees
    :raises ValueError: if the network's values or policies are not finite
    """
    model, planner = policy.average_model, policy.planner
    if model.reward_scale.device.type != "cpu":
        model, observations = on_host(model), {key: part.cpu() for key, part in observations.items()}
    with th.no_grad():
        grown = grow_in_torch(model, observations, planner.greedy_noise(model), False, planner.settings(model))
    if grown is None:
        raise ValueError("the network's values or policies are not finite: training has diverged")
    return model, grown


def node_depths(policy: PlanningPolicy, observations: dict[str, th.Tensor]) -> np.ndarray:
    """Depths of all nodes ``[n, n_simulations]`` of greedy searches of ``n`` states."""
    model, grown = grow_trees(policy, observations)
    n_children = model.action_kind.n_children
    rows = range(len(grown.tree.roots))
    return np.array([depths_of(visited_edges(grown.tree, row, n_children)) for row in rows])


def decide(policy: PlanningPolicy, observations: dict[str, th.Tensor]) -> Decision:
    """Search greedily from one state and show everything.

    :param policy: searches
    :param observations: ``[1, ...]`` by key
    :raises ValueError: if the network's values or policies are not finite
    """
    model, grown = grow_trees(policy, observations)
    kind, tree = model.action_kind, grown.tree
    result, drawn = read_plan(grown)
    candidates = kind.candidates_of_plan(drawn)
    prior, _ = candidate_prior(kind, grown.root.policies, candidates)
    roots = tree.edges[0, : len(candidates[0])]
    box, density = policy_density(kind, grown.root.policies[0])
    return Decision(
        candidates=kind.to_env(candidates[0]),
        prior=prior[0].numpy(),
        improved_policy=result.improved_policy[0],
        visits=result.visit_counts[0],
        q=np.where(roots["visits"] > 0, roots["value"], math.nan),
        chosen=int(result.selected[0]),
        network_value=float(tree.roots["network_value"][0]),
        root_value=float(result.root_values[0]),
        nodes=list(_nodes(kind, grown)),
        box=box,
        density=density,
    )


def _nodes(kind: ActionKind, grown: GrownTrees) -> list[Node]:
    """Of the first tree."""
    edges = visited_edges(grown.tree, 0, kind.n_children)
    found = []
    for number, (edge, depth) in enumerate(zip(edges, depths_of(edges), strict=True), start=1):
        values = grown.tree.edges[0, edge.at]
        if kind.sampled:
            action = grown.nodes.actions[edge.parent, 0, edge.place].numpy()
        else:
            action = kind.numbered(th.tensor([edge.place]))[0].numpy()
        found.append(
            Node(
                *(number, edge.parent, depth, kind.to_env(action[None].astype(kind.dtype))[0]),
                *(int(values["visits"]), float(values["value"]), float(values["reward"])),
                float(values["network_value"]),
            )
        )
    return found


@th.no_grad()
def policy_density(kind: ActionKind, output: th.Tensor) -> tuple[list[np.ndarray], np.ndarray]:
    """Density of a policy over its box, with 1 where it is largest; empty unless actions have one or two dimensions.

    :param kind: of the actions
    :param output: of the policy network ``[output_dim]``
    :return: points of the axes in the environment's units, and the density at them
    """
    n_dims = math.prod(kind.shape) if kind.sampled else 0
    if n_dims not in (1, 2):
        return [], np.empty(0)
    points = np.linspace(-1.0, 1.0, GRID + 2)[1:-1].astype(np.float32)  # the density may be infinite at the bounds
    grid = np.stack(np.meshgrid(*[points] * n_dims), axis=-1).reshape(-1, n_dims)
    ones = output.new_ones(len(grid), 1)
    log_density = kind.log_likelihood(output.expand(len(grid), -1), on_device(grid, output.device).unsqueeze(1), ones)
    density = (log_density - log_density.max()).exp().cpu().numpy().reshape([GRID] * n_dims)
    diagonal = kind.to_env(np.repeat(points[:, None], n_dims, axis=1)).reshape(GRID, n_dims)
    return list(diagonal.T), density
