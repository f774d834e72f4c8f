"""A whole search in compiled code, for models on the CPU that compiled functions can read.

The same search as :func:`sb3_ezv2.search.search.search` with the same model, built from the same kernels: what differs
is that between selection and backup the model is evaluated in place, by :mod:`sb3_ezv2.planning.fused_network`.
States do not depend on each other, so they are searched in chunks whose trees and latent states fit into the
processor's caches.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch as th
from numba.core import config
from threadpoolctl import ThreadpoolController

from sb3_ezv2.common.compilation import entry_point, inlined
from sb3_ezv2.common.ranks import ranks_on_machine
from sb3_ezv2.common.type_aliases import Noise, SearchResult, SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.fused_network import (
    BLAS_ROWS,
    block,
    run_layers,
    sample_candidates,
    sample_children,
    write_observations,
)
from sb3_ezv2.planning.fused_weights import ModelWeights, model_weights
from sb3_ezv2.search.qvalues import Constants
from sb3_ezv2.search.search import new_result, read_roots, search_plan
from sb3_ezv2.search.selection import select
from sb3_ezv2.search.tree import SearchTree, add_and_back_up, new_tree, plant

MAX_THREADS: int = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
"""From numba's configuration: ``numba.get_num_threads`` would start its threads and change how many torch has."""
CHUNK = 128
"""States searched together at most, and the most that one inference evaluates."""
MIN_HALF = 16
"""States of a chunk from which on a second chunk is made of half the states, for a second thread. Chunks do not depend
on the number of threads, so results do not either."""


class Nodes(NamedTuple):
    """Latent states and actions of all nodes of a chunk of ``n`` states, and what the newest nodes came from.

    Up to ``rows`` new nodes are evaluated together: ``n`` of one simulation after ``n`` of the other.
    """

    latents: np.ndarray  # [n_nodes, n, latent_dim] float32
    actions: np.ndarray  # [n_nodes, n, max(n_candidates, n_children), action_dim] float32, empty if none is sampled
    parents: np.ndarray  # [rows] int64
    edges: np.ndarray  # [rows] int64
    memory: np.ndarray  # [rows * weights.width] float32, working memory of the model
    priors: np.ndarray  # [n, n_actions] float32, prior logits: zeros for sampled actions, those of a mask for others


def _new_nodes(
    weights: ModelWeights, n_nodes: int, n: int, rows: int, n_candidates: int, n_children: int, sampled: bool
) -> Nodes:
    action_dim = weights.actions.width if sampled else 0
    return Nodes(
        latents=np.empty((n_nodes, n, weights.latents.width), np.float32),
        actions=np.empty((n_nodes, n, max(n_candidates, n_children), action_dim), np.float32),
        parents=np.empty(rows, np.int64),
        edges=np.empty(rows, np.int64),
        memory=np.empty(rows * weights.width, np.float32),
        priors=np.zeros((n, max(n_candidates, n_children)), np.float32),
    )


@inlined
def _write_parents(weights: ModelWeights, nodes: Nodes, rows: int, sampled: bool) -> None:
    """Latent states and actions that ``rows`` new nodes follow, for the model."""
    n = nodes.latents.shape[1]
    latents, encoded = block(nodes.memory, rows, weights.latents), block(nodes.memory, rows, weights.actions)
    for row in range(rows):
        state, parent, edge = row % n, nodes.parents[row], nodes.edges[row]
        for i in range(latents.shape[1]):
            latents[row, i] = nodes.latents[parent, state, i]
        for i in range(encoded.shape[1]):
            if sampled:
                encoded[row, i] = nodes.actions[parent, state, edge, i]
            else:
                encoded[row, i] = np.float32(i == edge)


@inlined
def _keep_latents(weights: ModelWeights, nodes: Nodes, node: int, rows: int) -> None:
    """Latent states of ``rows`` new nodes, ``node`` being the number of the first."""
    n = nodes.latents.shape[1]
    latents = block(nodes.memory, rows, weights.latents)
    for row in range(rows):
        for i in range(latents.shape[1]):
            nodes.latents[node + row // n, row % n, i] = latents[row, i]


@inlined
def _are_finite(values: np.ndarray, policies: np.ndarray) -> bool:
    """Whether all numbers are finite."""
    finite = True
    for row in range(policies.shape[0]):
        finite = finite and np.isfinite(values[row, 0])
        for i in range(policies.shape[1]):
            finite = finite and np.isfinite(policies[row, i])
    return finite


@inlined
def _plant(
    weights: ModelWeights,
    tree: SearchTree,
    nodes: Nodes,
    noise: Noise,
    gumbel: np.ndarray,
    masks: np.ndarray,
    sampling: tuple,
    first: int,
    n_considered: int,
    candidates: np.ndarray,
) -> bool:
    """Sample the states' candidates, where actions are sampled, and make the states roots of their trees.

    Elsewhere ``masks [n, n_candidates]``, if there are any, say which actions are candidates.

    :return: whether values and policies are finite; if not, nothing is done
    """
    n = nodes.latents.shape[1]
    values, policies = block(nodes.memory, n, weights.values), block(nodes.memory, n, weights.policies)
    finite = _are_finite(values, policies)
    if finite:
        logits = policies
        if candidates.shape[2] > 0:
            logits = nodes.priors
            for state in range(n):
                row = noise.candidates[min(first + state, noise.candidates.shape[0] - 1)]
                sample_candidates(policies[state], row, sampling[0], sampling[1], candidates[state])
                for i in range(candidates.shape[1]):
                    for d in range(candidates.shape[2]):
                        nodes.actions[0, state, i, d] = candidates[state, i, d]
        elif masks.shape[0] > 0:
            logits = nodes.priors
            for state in range(n):
                for i in range(masks.shape[1]):
                    logits[state, i] = policies[state, i] if masks[state, i] else -np.inf
        plant(tree, values[:, 0], logits, gumbel, n_considered, np.inf, -np.inf)
    return finite


@inlined
def _add_nodes(
    weights: ModelWeights,
    tree: SearchTree,
    nodes: Nodes,
    noise: Noise,
    first: int,
    node: int,
    rows: int,
    sampled: bool,
    constants: Constants,
) -> None:
    """Add the evaluated nodes to their trees, from number ``node``; where actions are sampled, sample theirs."""
    n = nodes.latents.shape[1]
    rewards, values = block(nodes.memory, rows, weights.rewards), block(nodes.memory, rows, weights.values)
    policies = block(nodes.memory, rows, weights.policies)
    for row in range(rows):
        state, number = row % n, node + row // n
        logits = policies[row]
        if sampled:
            logits = nodes.priors[0, : noise.children.shape[2]]
            noise_row = noise.children[number - 1, min(first + state, noise.children.shape[1] - 1)]
            sample_children(policies[row], noise_row, nodes.actions[number, state])
        if nodes.parents[row] == 0:
            # Several paths of length one may have been selected since.
            tree.paths[state, 0] = nodes.edges[row]
        add_and_back_up(tree, state, number, rewards[row, 0], values[row, 0], logits, constants.discount)


@entry_point
def _search_chunk(
    weights: ModelWeights,
    observations: np.ndarray,
    noise: Noise,
    gumbel: np.ndarray,
    masks: np.ndarray,
    first: int,
    schedule: np.ndarray,
    n_children: int,
    constants: Constants,
    sampling: tuple,
    tree: SearchTree,
    nodes: Nodes,
    candidates: np.ndarray,
) -> bool:
    """Grow the trees of the ``n`` states of a chunk that begins with state ``first``.

    :return: whether their values and policies are finite; if not, they are not searched
    """
    n, n_simulations, sampled = observations.shape[0], schedule.shape[1], candidates.shape[2] > 0
    together, n_first = nodes.parents.shape[0] // n, 0
    scores = np.empty(n_children, np.float64)
    write_observations(weights, observations, nodes.memory)
    node, rows, layers = 0, n, weights.initial
    while node <= n_simulations:
        if node > 0:
            layers = weights.recurrent
            rows = n * max(min(together, n_first - node + 1), 1)  # considered candidates that have not been visited
            for row in range(rows):
                simulation = node - 1 + row // n
                nodes.parents[row], nodes.edges[row] = select(
                    tree, row % n, simulation, schedule, n_children, constants, scores
                )
            _write_parents(weights, nodes, rows, sampled)
        run_layers(weights.flat, layers, nodes.memory, rows)
        _keep_latents(weights, nodes, node, rows)
        if node > 0:
            _add_nodes(weights, tree, nodes, noise, first, node, rows, sampled, constants)
        else:
            n_considered = schedule.shape[0] - 1
            if not _plant(weights, tree, nodes, noise, gumbel, masks, sampling, first, n_considered, candidates):
                return False
            n_first = n_simulations
            for row in range(n):
                n_first = min(n_first, tree.n_considered[row])
        node += rows // n
    return True


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process."""
    import scipy.linalg.cython_blas  # noqa: F401  # the one that numba's products use, to be found when it is loaded

    return ThreadpoolController()


def _one_thread_of_blas(rows: int) -> AbstractContextManager:
    """Where products of ``rows`` rows use BLAS: let it use one thread, because chunks already have one each.

    Two libraries with as many threads as cores each make a search many times slower; the number of threads would also
    change how BLAS rounds.
    """
    return _blas().limit(limits=1, user_api="blas") if rows >= BLAS_ROWS else nullcontext()


def _cores() -> set[int]:
    """Where any thread of this process may run; empty where the system does not say.

    With ``OMP_PROC_BIND`` the calling thread may be bound to one core, which threads that it starts would inherit.
    """
    tasks = Path("/proc/self/task")
    if not (hasattr(os, "sched_getaffinity") and tasks.is_dir()):
        return set()
    cores: set[int] = set()
    for thread in tasks.iterdir():
        with suppress(OSError):  # it has ended meanwhile
            cores |= os.sched_getaffinity(int(thread.name))
    return cores


def _most_threads(n_cores: int) -> int:
    """How many threads a search may use. Where nobody set it, numba counts the cores of the calling thread only.

    Ranks on the same machine share its cores.
    """
    if "NUMBA_NUM_THREADS" in os.environ:
        return MAX_THREADS
    return max(1, max(MAX_THREADS, n_cores) // ranks_on_machine())


def _use_cores(cores: set[int]) -> None:
    """Let the calling thread run on any of ``cores``."""
    if cores:
        os.sched_setaffinity(0, cores)


def fused_search(
    weights: ModelWeights,
    observations: np.ndarray,
    noise: Noise,
    settings: SearchSettings,
    value_unit: float,
    n_children: int,
    sampling: tuple[int, float],
    masks: np.ndarray | None = None,
    n_chunks: int = 1,
) -> tuple[SearchResult, np.ndarray] | None:
    """Search from real observations.

    :param weights: of the model, see :func:`~sb3_ezv2.planning.fused_weights.model_weights`
    :param observations: flattened ``[n, observation_dim]`` float32
    :param noise: of this search
    :param settings: budget and constants
    :param value_unit: what ``settings.min_value_range`` counts in
    :param n_children: number of actions at every node below the root
    :param sampling: number of candidates from the policy itself (negative to act greedily) and the factor of the
        flattened policy's standard deviation, see :func:`~sb3_ezv2.planning.fused_network.sample_candidates`
    :param masks: which actions are candidates ``[n, n_candidates]`` bool, where none is sampled; ``None`` for all
    :param n_chunks: pieces to be searched at the same time, at least
    :return: the result and the sampled candidates ``[n, n_candidates, noise_dim]``; ``None`` if a value or a policy of
        ``observations`` is not finite
    """
    n, n_candidates = len(observations), noise.gumbel.shape[1]
    schedule, constants = search_plan(settings, n_candidates, n_children, value_unit)
    n_first = min(settings.n_considered, settings.n_simulations)
    masks = np.empty((0, n_candidates), np.bool_) if masks is None else np.array(masks, order="C")
    result = new_result(n, n_candidates)
    candidates = np.empty((n, n_candidates, noise.candidates.shape[2]), np.float32)
    # A copy in any case: a view could not be written to, and for arrays like that everything is compiled once more.
    gumbel = np.array(np.broadcast_to(noise.gumbel, (n, n_candidates)), order="C")
    n_chunks = max(-(-n // CHUNK), min(n // MIN_HALF, 2), min(n_chunks, n))
    bounds = [n * i // max(n_chunks, 1) for i in range(n_chunks + 1)]

    def rows_together(n_states: int) -> int:
        return n_states * min(max(CHUNK // n_states, 1), n_first)

    def search_chunk(begin: int, end: int) -> bool:
        n_states = end - begin
        rows = rows_together(n_states)
        tree = new_tree(n_states, settings.n_simulations, n_candidates, n_children)
        sampled = candidates.shape[2] > 0
        nodes = _new_nodes(weights, settings.n_simulations + 1, n_states, rows, n_candidates, n_children, sampled)
        finite = _search_chunk(
            weights,
            *(observations[begin:end], noise, gumbel[begin:end], masks[begin:end], begin),
            schedule,
            n_children,
            constants,
            sampling,
            tree,
            nodes,
            candidates[begin:end],
        )
        if finite:
            read_roots(tree, constants, SearchResult(*(rows[begin:end] for rows in result)))
        return finite

    chunks = bounds[:-1], bounds[1:]
    cores = _cores() if n_chunks > 1 else set()
    n_threads = min(_most_threads(len(cores)), n_chunks) if n_chunks > 1 else 1
    with _one_thread_of_blas(max((rows_together(end - begin) for begin, end in zip(*chunks, strict=True)), default=0)):
        if n_threads > 1:
            # Threads of Python: the compiled search holds no lock, and BLAS must not be called from numba's own ones.
            with ThreadPoolExecutor(n_threads, initializer=_use_cores, initargs=(cores,)) as pool:
                finite = list(pool.map(search_chunk, *chunks))
        else:
            finite = list(map(search_chunk, *chunks))
    return (result, candidates) if all(finite) else None


def plan_fused(
    model: EfficientZeroModel,
    observations: dict[str, th.Tensor],
    noise: Noise,
    explore: bool,
    settings: SearchSettings,
    masks: np.ndarray | None = None,
    n_chunks: int = 1,
) -> tuple[SearchResult, np.ndarray] | None:
    """Search with :func:`fused_search`, see :data:`~sb3_ezv2.planning.planner.PlanFunction` and there."""
    kind = model.action_kind
    sampling = kind.compiled_sampling(explore)
    assert sampling is not None
    flat = np.ascontiguousarray(model.vectors(observations).numpy(), np.float32)
    return fused_search(
        *(model_weights(model), flat, noise, settings, float(model.reward_scale), kind.n_children, sampling, masks),
        n_chunks=n_chunks,
    )
