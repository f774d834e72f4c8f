"""A whole search in one compiled call, for models on the CPU that compiled functions can read.

The same search as :func:`sb3_ezv2.search.search.search` with the same model, built from the same kernels: what differs
is that between selection and backup the model is evaluated in place, by :mod:`sb3_ezv2.networks.fused`. States do not
depend on each other, so they are searched in chunks whose trees and latent states fit into the processor's caches.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba as nb
import numpy as np

from sb3_ezv2.compilation import entry_point, inlined
from sb3_ezv2.networks.fused import (
    block,
    initial_inference,
    recurrent_inference,
    sample_candidates,
    sample_children,
)
from sb3_ezv2.networks.fused_weights import ModelWeights
from sb3_ezv2.search.search import new_result, read_roots, search_plan
from sb3_ezv2.search.selection import select
from sb3_ezv2.search.tree import SearchTree, add_and_back_up, new_tree, plant
from sb3_ezv2.type_aliases import Noise, SearchResult, SearchSettings

CHUNK = 128
"""States searched together, and the most that one inference evaluates."""


class Nodes(NamedTuple):
    """Latent states and actions of all nodes of a chunk of ``n`` states, and what the newest nodes came from.

    Up to ``rows`` new nodes are evaluated together: ``n`` of one simulation after ``n`` of the other.
    """

    latents: np.ndarray  # [n_nodes, n, latent_dim] float32
    actions: np.ndarray  # [n_nodes, n, max(n_candidates, n_children), action_dim] float32, empty if discrete
    parents: np.ndarray  # [rows] int64
    edges: np.ndarray  # [rows] int64
    uniform: np.ndarray  # [n_children] float32, zeros: the prior logits of sampled actions


@inlined
def _new_nodes(weights: ModelWeights, n_nodes: int, n: int, rows: int, n_actions: int, n_children: int) -> Nodes:
    return Nodes(
        np.empty((n_nodes, n, weights.latents.width), np.float32),
        np.empty((n_nodes if n_actions > 0 else 0, n, n_actions, weights.actions.width), np.float32),
        np.empty(rows, np.int64),
        np.empty(rows, np.int64),
        np.zeros(n_children, np.float32),
    )


@inlined
def _keep_latents(nodes: Nodes, latents: np.ndarray, node: int) -> None:
    """Latent states ``[rows, latent_dim]`` of new nodes, ``node`` being the number of the first."""
    n = nodes.latents.shape[1]
    for row in range(latents.shape[0]):
        for i in range(latents.shape[1]):
            nodes.latents[node + row // n, row % n, i] = latents[row, i]


@inlined
def _evaluate(weights: ModelWeights, nodes: Nodes, memory: np.ndarray, node: int, rows: int) -> None:
    """Evaluate ``rows`` new nodes, ``node`` being the number of the first, behind their ``parents`` and ``edges``."""
    n = nodes.latents.shape[1]
    latents, encoded = block(memory, rows, weights.latents), block(memory, rows, weights.actions)
    for row in range(rows):
        state, parent, edge = row % n, nodes.parents[row], nodes.edges[row]
        for i in range(latents.shape[1]):
            latents[row, i] = nodes.latents[parent, state, i]
        for i in range(encoded.shape[1]):
            if nodes.actions.shape[0] > 0:
                encoded[row, i] = nodes.actions[parent, state, edge, i]
            else:
                encoded[row, i] = np.float32(i == edge)
    recurrent_inference(weights, rows, memory)
    _keep_latents(nodes, latents, node)


@inlined
def _set_candidates(
    nodes: Nodes,
    policies: np.ndarray,
    noise: Noise,
    sampling: tuple,
    first: int,
    gumbel: np.ndarray,
    logits: np.ndarray,
    candidates: np.ndarray,
) -> None:
    """Noise and prior logits of every state's candidates; where actions are continuous, sample them too."""
    for state in range(policies.shape[0]):
        for i in range(gumbel.shape[1]):
            gumbel[state, i] = noise.gumbel[min(first + state, noise.gumbel.shape[0] - 1), i]
        if nodes.actions.shape[0] == 0:
            for i in range(policies.shape[1]):
                logits[state, i] = policies[state, i]
        else:
            row = noise.candidates[min(first + state, noise.candidates.shape[0] - 1)]
            sample_candidates(policies[state], row, sampling[0], sampling[1], candidates[state])
            for i in range(candidates.shape[1]):
                for d in range(candidates.shape[2]):
                    nodes.actions[0, state, i, d] = candidates[state, i, d]


@inlined
def _add_nodes(
    weights: ModelWeights,
    tree: SearchTree,
    nodes: Nodes,
    memory: np.ndarray,
    noise: Noise,
    first: int,
    node: int,
    rows: int,
    discount: float,
) -> None:
    """Add the evaluated nodes to their trees, from number ``node``; where actions are continuous, sample theirs."""
    n, n_candidates = nodes.latents.shape[1], tree.preferences.shape[1]
    rewards, values = block(memory, rows, weights.rewards), block(memory, rows, weights.values)
    policies = block(memory, rows, weights.policies)
    for row in range(rows):
        state, number = row % n, node + row // n
        logits = policies[row]
        if nodes.actions.shape[0] > 0:
            logits = nodes.uniform
            noise_row = noise.children[number - 1, min(first + state, noise.children.shape[1] - 1)]
            sample_children(policies[row], noise_row, nodes.actions[number, state])
        if nodes.parents[row] == 0:
            # Several paths of length one may have been selected since.
            tree.paths[state, 0] = nodes.edges[row]
        add_and_back_up(tree, state, number, rewards[row, 0], values[row, 0], logits, n_candidates, discount)


@inlined
def _are_finite(values: np.ndarray, policies: np.ndarray) -> bool:
    """Whether all numbers are finite."""
    finite = True
    for row in range(policies.shape[0]):
        finite = finite and np.isfinite(values[row, 0])
        for i in range(policies.shape[1]):
            finite = finite and np.isfinite(policies[row, i])
    return finite


@entry_point
def _search_chunk(
    weights: ModelWeights,
    observations: np.ndarray,
    noise: Noise,
    first: int,
    schedule: np.ndarray,
    n_first: int,
    n_children: int,
    constants: tuple,
    sampling: tuple,
    result: SearchResult,
    candidates: np.ndarray,
) -> bool:
    """Search the ``n`` states of a chunk that begins with state ``first``.

    :return: whether their values and policies are finite; if not, they are not searched
    """
    n, n_candidates, n_simulations = observations.shape[0], noise.gumbel.shape[1], schedule.shape[0]
    together = min(max(CHUNK // n, 1), n_first)
    n_actions = max(n_candidates, n_children) if candidates.shape[2] > 0 else 0
    nodes = _new_nodes(weights, n_simulations + 1, n, together * n, n_actions, n_children)
    memory = np.empty(together * n * weights.width, np.float32)
    initial_inference(weights, observations, memory)
    values, policies = block(memory, n, weights.values), block(memory, n, weights.policies)
    if not _are_finite(values, policies):
        return False
    _keep_latents(nodes, block(memory, n, weights.latents), 0)
    gumbel = np.empty((n, n_candidates), np.float32)
    logits = np.zeros((n, n_candidates), np.float32)
    _set_candidates(nodes, policies, noise, sampling, first, gumbel, logits, candidates)
    tree = new_tree(n, n_simulations, n_candidates, n_children)
    plant(tree, values[:, 0], logits, gumbel, np.inf, -np.inf)

    scores = np.empty(n_children, np.float64)
    n_batches = (n_first + together - 1) // together
    for step in range(n_batches + n_simulations - n_first):
        if step < n_batches:  # considered candidates that have not been visited
            node, rows = 1 + step * together, n * min(together, n_first - step * together)
        else:
            node, rows = step - n_batches + n_first + 1, n
        for row in range(rows):
            simulation = node - 1 + row // n
            nodes.parents[row], nodes.edges[row] = select(
                tree, row % n, simulation, schedule[simulation], n_children, constants, scores
            )
        _evaluate(weights, nodes, memory, node, rows)
        _add_nodes(weights, tree, nodes, memory, noise, first, node, rows, constants[0])
    read_roots(tree, constants, result)
    return True


def fused_search(
    weights: ModelWeights,
    observations: np.ndarray,
    noise: Noise,
    settings: SearchSettings,
    n_children: int,
    sampling: tuple[int, float],
) -> tuple[SearchResult, np.ndarray] | None:
    """Search from real observations.

    :param weights: of the model, see :func:`~sb3_ezv2.networks.fused_weights.model_weights`
    :param observations: flattened ``[n, observation_dim]`` float32
    :param noise: of this search
    :param settings: budget and constants
    :param n_children: number of actions at every node below the root
    :param sampling: number of candidates from the policy itself (negative to act greedily) and the factor of the
        flattened policy's standard deviation, see :func:`~sb3_ezv2.networks.fused.sample_candidates`
    :return: the result and the sampled candidates ``[n, n_candidates, action_dim]`` (``[n, n_candidates, 0]`` if
        discrete); ``None`` if a value or a policy of ``observations`` is not finite
    """
    n, n_candidates = len(observations), noise.gumbel.shape[1]
    schedule, constants = search_plan(settings, n_candidates, n_children)
    n_first = min(settings.n_considered, settings.n_simulations)
    result = new_result(n, n_candidates)
    candidates = np.empty((n, n_candidates, noise.candidates.shape[2]), np.float32)
    bounds = np.linspace(0, n, -(-n // CHUNK) + 1).astype(np.int64)

    def search_chunk(begin: int, end: int) -> bool:
        part = SearchResult(*(rows[begin:end] for rows in result))
        return _search_chunk(
            weights,
            observations[begin:end],
            noise,
            begin,
            schedule,
            n_first,
            n_children,
            constants,
            sampling,
            part,
            candidates[begin:end],
        )

    chunks = bounds[:-1].tolist(), bounds[1:].tolist()
    n_threads = min(nb.get_num_threads(), len(bounds) - 1)
    if n_threads > 1:
        # Threads of Python: the compiled search holds no lock, and BLAS must not be called from numba's own threads.
        with ThreadPoolExecutor(n_threads) as pool:
            finite = list(pool.map(search_chunk, *chunks))
    else:
        finite = list(map(search_chunk, *chunks))
    return (result, candidates) if all(finite) else None
