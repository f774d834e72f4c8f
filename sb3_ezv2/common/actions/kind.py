"""The interface of all kinds of actions.

*Actions* without further words are those of the algorithm, ``[..., *shape]`` of the kind's ``dtype``: what is stored,
searched and predicted from. :meth:`ActionKind.to_env` gives the environment's.
"""

from abc import ABC, abstractmethod
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.type_aliases import Plan, PolicyTargets


class Sampling(NamedTuple):
    """How a search samples the actions that it considers at the root; kinds that consider all ignore it."""

    n_candidates: int
    n_policy_candidates: int  # how many of them come from the policy itself while exploring
    flatten_factor: float  # multiplies the standard deviation of the policy that the others come from


class Candidates(NamedTuple):
    """Actions that a search considers at one node per root, with their prior."""

    actions: th.Tensor  # [n, n_actions, *shape]; empty if the kind is not ``sampled``
    logits: th.Tensor  # [n, n_actions]


class ActionKind(ABC):
    """Everything that depends on the kind of action.

    A kind is *sampled* if a search draws the actions of every node, or else has the same actions in the same order at
    every node, as many as there are (``n_candidates == n_children``).

    :param space: of the environment's actions
    :param sampling: how a search samples candidates
    :raises ValueError: if the space cannot be searched
    """

    shape: tuple[int, ...]
    """Of one action."""
    dtype: type[np.generic]
    """Of actions as arrays; the tensors of a search may have another one."""
    scaled = False
    """Whether actions lie in [-1, 1] and SB3's ``predict`` scales them to the bounds of the space."""

    td_steps: int
    """Default of the algorithm's ``td_steps``."""
    search_value = "improved"
    """Default of the algorithm's ``search_value``: a prior over sampled actions is uniform and says nothing."""
    image_hidden_dim: int
    """Default of the hidden size of the heads on images."""
    min_value_range: float
    """Smallest spread, in units of the reward scale, that the values of a tree are normalised by."""
    min_value_share = 0.0
    """... which is also at least this share of the largest absolute value in the tree."""

    encoded_dim: int
    """Size of what :meth:`encode` returns, the input of the dynamics."""
    output_dim: int
    """Outputs of the policy network."""
    n_candidates: int
    """Actions considered at the root of a search."""
    n_children: int
    """Actions considered at every other node."""
    sampled = False
    """Whether a search draws the actions of every node."""
    merges = False
    """Whether equal sampled candidates are merged, so that a root may have fewer than ``n_candidates``."""
    gumbel = True
    """Whether Gumbel noise is added to the prior of the candidates while exploring."""
    noise_dim = 0
    """Standard normal numbers that a sampled action is made from."""
    n_targets: int
    """Actions per policy target."""
    target_shape: tuple[int, ...]
    """Of the actions in a policy target."""
    mask_size = 0
    """Entries of an action mask, one per choice; 0 if the kind has none."""

    @abstractmethod
    def __init__(self, space: spaces.Space, sampling: Sampling) -> None: ...

    # -- arrays ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def random(
        self, shape: tuple[int, ...], rng: np.random.Generator, extreme: bool = False, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Uniformly random actions.

        :param shape: how many; the result is ``[*shape, *self.shape]``
        :param rng: source of all randomness
        :param extreme: only those at the bounds, where there are any
        :param masks: of the legal choices ``[*shape, mask_size]`` bool; given only where ``mask_size`` is not 0
        """

    @abstractmethod
    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions in the environment's own units, shape and dtype ``[..., *space.shape]``."""

    @abstractmethod
    def from_env(self, actions: np.ndarray, n: int) -> np.ndarray:
        """The inverse of :meth:`to_env`.

        :param actions: of the environment, as a data set has them
        :param n: how many there must be
        :return: ``[n, *shape]``
        :raises ValueError: if they are not ``[n, *space.shape]`` of the space
        """

    @property
    def at_rest(self) -> np.ndarray:
        """The action that does nothing, as stored; of choices the first."""
        return np.zeros(self.shape, self.dtype)

    def are_valid(self, actions: np.ndarray) -> bool:
        """Whether stored actions ``[*shape, *self.shape]`` are actions of the space."""
        return bool(np.isfinite(actions).all())

    def are_legal(self, actions: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Which of the ``actions [n, *shape]`` the ``masks [n, mask_size]`` allow; ``[n]`` bool."""
        return np.take_along_axis(masks, actions[:, None], axis=1)[:, 0]

    def have_legal(self, masks: np.ndarray) -> np.ndarray:
        """Which of the ``masks [n, mask_size]`` allow any action; ``[n]`` bool."""
        return np.logical_or.reduce(masks, axis=1)

    @abstractmethod
    def policy_targets(self, plan: Plan) -> PolicyTargets:
        """What the policy learns from a plan of ``n`` states: ``[n, n_targets, *target_shape]`` with their weights."""

    def candidates_of_plan(self, drawn: np.ndarray) -> np.ndarray:
        """Candidates of ``n`` states ``[n, n_candidates, *shape]``.

        :param drawn: those that a search drew ``[n, ...]``, empty if the kind is not sampled
        """
        n = len(drawn)
        if self.sampled:
            return drawn.reshape(n, self.n_candidates, *self.shape).astype(self.dtype, copy=False)
        return np.broadcast_to(self._every_action, (n, *self._every_action.shape))

    @cached_property
    def _every_action(self) -> np.ndarray:
        """All actions in order ``[n_candidates, *shape]``, where none is sampled."""
        return self.numbered(th.arange(self.n_candidates)).numpy().astype(self.dtype, copy=False)

    # -- tensors ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, actions: th.Tensor) -> th.Tensor:
        """Actions as the dynamics read them ``[..., encoded_dim]``."""

    @abstractmethod
    def log_likelihood(self, outputs: th.Tensor, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """``sum_i w_i log p(a_i)`` ``[...]`` over the actions of a policy target.

        :param outputs: of the policy network ``[..., output_dim]``
        :param actions: ``[..., n_targets, *target_shape]``
        :param weights: ``[..., n_targets]``
        """

    @abstractmethod
    def entropy(self, outputs: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """Entropy of the policy ``[...]``, or an estimate of it.

        :param outputs: of the policy network ``[..., output_dim]``
        :param generator: of a sample, on their device; ``None`` for torch's global one
        """

    def log_prob(self, outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Log density (or log probability) of sampled actions ``[..., n]``; only if the kind is sampled.

        :param outputs: of the policy network ``[..., output_dim]``
        :param actions: ``[..., n, *shape]``
        """
        return self.log_likelihood(outputs.unsqueeze(-2), actions.unsqueeze(-2), outputs.new_ones(1))

    @abstractmethod
    def candidates(
        self, outputs: th.Tensor, noise: th.Tensor, explore: bool, masks: th.Tensor | None = None
    ) -> Candidates:
        """What a search considers at its root, up to ``n_candidates`` actions.

        What has the logit ``-inf`` is no candidate; at least one of every root is.

        :param outputs: of the policy network ``[n, output_dim]``
        :param noise: standard normal ``[n or 1, n_candidates, noise_dim]``
        :param explore: whether to explore
        :param masks: of the legal choices ``[n, mask_size]`` bool; given only where ``mask_size`` is not 0
        """

    @abstractmethod
    def children(self, outputs: th.Tensor, noise: th.Tensor) -> Candidates:
        """What a search considers at a node below the root, ``n_children`` actions.

        :param outputs: of the policy network ``[n, output_dim]``
        :param noise: standard normal ``[n or 1, n_children, noise_dim]``
        """

    @abstractmethod
    def tensor_to_env(self, actions: th.Tensor) -> th.Tensor:
        """As :meth:`to_env`, in tensor operations."""

    def numbered(self, numbers: th.Tensor) -> th.Tensor:
        """Actions ``[n, *shape]`` by their ``numbers [n]`` among all; only if the kind is not sampled."""
        return numbers

    def compiled_sampling(self, explore: bool) -> tuple[int, float] | None:
        """Arguments of the compiled search, which knows two ways to choose actions; ``None`` for any other way.

        Not sampled: one-hot actions with the policy's outputs as prior; the arguments are not used. Sampled: a squashed
        Gaussian, see :func:`~sb3_ezv2.planning.fused_network.sample_candidates`, and a uniform prior.

        :param explore: whether to explore
        """
        return None
