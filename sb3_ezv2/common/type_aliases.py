"""The records that travel between the parts of the algorithm, every shape written out.

Sizes used throughout: ``n_roots`` states searched together, ``n_candidates`` actions considered at a root,
``n_children`` actions at a node below the root, ``batch`` sampled positions, ``unroll`` dynamics steps of a sample
(so ``unroll + 1`` states) and ``n_targets`` actions kept per policy target. ``action_shape``, ``noise_dim`` and
``target_shape`` are those of the :class:`~sb3_ezv2.common.actions.kind.ActionKind`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch as th

ObservationArrays = dict[str, np.ndarray]
"""Observations by key (one key, ``"observation"``, unless the space is a ``Dict``), rows first."""
GatheredObservations = Mapping[str, np.ndarray | th.Tensor]
"""The same as the replay buffer gives them to a model: those that a device keeps are tensors there."""


class SearchRoot(NamedTuple):
    """What the network says of the states to be searched."""

    values: np.ndarray  # [n_roots] float32, raw network values
    prior_logits: np.ndarray  # [n_roots, n_candidates] float32


class Expansion(NamedTuple):
    """What the model says of one new node per root."""

    rewards: np.ndarray  # [n_roots] float32, reward of the edge that leads to the node
    values: np.ndarray  # [n_roots] float32, network value of the node
    prior_logits: np.ndarray  # [n_roots, n_children] float32, prior over the node's own actions


RecurrentFn = Callable[[int, np.ndarray, np.ndarray], Expansion]
"""``(node, parents [n_roots] int64, edges [n_roots] int64) -> Expansion``: create node number ``node`` (1, 2, ...)
of every root by following edge ``edges[i]`` of node ``parents[i]`` (0 is the root itself)."""


NO_LIMIT = 2**30
"""A depth that no search reaches."""


class SearchSettings(NamedTuple):
    """Numbers that define a search; see :func:`sb3_ezv2.search.search.search`."""

    n_simulations: int
    n_considered: int
    discount: float
    c_visit: float = 50.0
    c_scale: float = 0.1
    min_value_range: float = 0.01  # values are normalised by their spread, but by no less than this in `value_unit`s
    min_value_share: float = 0.0  # ... and no less than this share of the largest absolute value in the tree
    value_bounds: tuple[float, float] = (np.inf, -np.inf)  # smallest and largest value known before the search
    max_depth: int = NO_LIMIT  # steps from the root to the deepest node


class SearchResult(NamedTuple):
    """What a search returns, per root."""

    selected: np.ndarray  # [n_roots] int64, index of the chosen candidate
    improved_policy: np.ndarray  # [n_roots, n_candidates] float32, sums to 1
    root_values: np.ndarray  # [n_roots] float32, search-based value estimates (SVE)
    visit_counts: np.ndarray  # [n_roots, n_candidates] int32, sums to n_simulations
    improved_values: np.ndarray  # [n_roots] float32, the same estimates weighted by the improved policy
    policy_values: np.ndarray  # [n_roots] float32, the same estimates weighted by the policy


class Noise(NamedTuple):
    """All random numbers of a search; the first axis is 1 where every state shares them."""

    gumbel: np.ndarray  # [n or 1, n_candidates] float32
    candidates: np.ndarray  # [n or 1, n_candidates, noise_dim] float32, standard normal
    children: np.ndarray  # [n_simulations, n or 1, n_children, noise_dim] float32, standard normal


class Plan(NamedTuple):
    """Outcome of planning for ``n`` states."""

    actions: np.ndarray  # [n, *action_shape], the chosen candidates
    candidates: np.ndarray  # [n, n_candidates, *action_shape]
    improved_policy: np.ndarray  # [n, n_candidates] float32, sums to 1
    visit_counts: np.ndarray  # [n, n_candidates] int32
    root_values: np.ndarray  # [n] float32, search-based value estimates in the environment's units
    improved_values: np.ndarray  # [n] float32, the same estimates weighted by the improved policy
    policy_values: np.ndarray  # [n] float32, the same estimates weighted by the policy


class TrajectoryBatch(NamedTuple):
    """Sampled positions of the replay buffer and what follows them.

    A *chain* holds the slots of a position and of the ``unroll + td_steps`` states after it; behind the last state of
    an episode (or of the data collected so far) it repeats that state.
    """

    slots: np.ndarray  # [batch, unroll + td_steps + 1] int64, the chains
    n_ahead: np.ndarray  # [batch] int64, transitions that really follow the position, at most unroll + td_steps
    terminated: np.ndarray  # [batch] bool, whether the chain's last state is terminal
    observations: GatheredObservations  # [batch, unroll + 1, ...]
    actions: np.ndarray  # [batch, unroll, *action_shape]; random past a terminal state
    rewards: np.ndarray  # [batch, unroll + td_steps] float32, zero past the end
    ages: np.ndarray  # [batch, unroll + 1] int64, observations stored since that state
    weights: np.ndarray  # [batch] float32, importance-sampling weights in [0.1, 1]


class Masks(NamedTuple):
    """Which terms of a sample's loss count, as 0 or 1; those of rewards and values always do."""

    policies: np.ndarray  # [batch, unroll + 1] float32
    consistency: np.ndarray  # [batch, unroll] float32, state k + 1


class PolicyTargets(NamedTuple):
    """Weighted actions that a policy is trained towards."""

    actions: np.ndarray  # [..., n_targets, *target_shape] float32, empty where the weights are those of all actions
    weights: np.ndarray  # [..., n_targets] float32, sum to 1


class TrainingTargets(NamedTuple):
    """Everything a batch is trained towards."""

    rewards: np.ndarray  # [batch, unroll] float32, in the environment's units; sums of them for a value prefix
    values: np.ndarray  # [batch, unroll + 1] float32, in the environment's units
    policies: PolicyTargets  # [batch, unroll + 1, ...]
    masks: Masks
