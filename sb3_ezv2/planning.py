"""A search with a network as its model: candidates, latent states and the hand-over to the numba tree."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ezv2.networks.action_heads import ContinuousActionHead
from sb3_ezv2.networks.fused import FusedModel, sample_children, supports_fusion
from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput
from sb3_ezv2.search import search
from sb3_ezv2.type_aliases import Expansion, SearchRoot, SearchSettings

MIN_VALUE_RANGE = 0.01
"""Smallest difference, in units of the reward scale, that values are normalised by."""


class Plan(NamedTuple):
    """Outcome of planning for ``n`` states."""

    actions: np.ndarray  # [n] int64 or [n, action_dim] float32: the chosen candidates
    candidates: np.ndarray  # [n, n_candidates] int64 or [n, n_candidates, action_dim] float32
    improved_policy: np.ndarray  # [n, n_candidates] float32, sums to 1
    visit_counts: np.ndarray  # [n, n_candidates] int32
    root_values: np.ndarray  # [n] float32, search-based value estimates in the environment's units
    improved_values: np.ndarray  # [n] float32, the same estimates weighted by the improved policy


class Noise(NamedTuple):
    """All random numbers of a search; the first axis is 1 where every state shares them."""

    gumbel: np.ndarray  # [n or 1, n_candidates] float32
    candidates: np.ndarray  # [n or 1, n_candidates, action_dim] float32, empty if discrete
    children: np.ndarray  # [n_simulations, n or 1, n_children, action_dim] float32, empty if discrete


class Planner:
    """Runs :func:`~sb3_ezv2.search.search.search` with a model.

    :param n_simulations: model calls per state
    :param n_considered: candidates that sequential halving starts with
    :param discount: of one step
    """

    def __init__(self, n_simulations: int, n_considered: int, discount: float) -> None:
        self.n_simulations = n_simulations
        self.n_considered = n_considered
        self.discount = discount

    def draw_noise(self, model: EfficientZeroModel, n: int, rng: np.random.Generator) -> Noise:
        """Noise for exploring: Gumbel for discrete candidates, Gaussian for sampled actions."""
        actions = model.action_head
        if isinstance(actions, ContinuousActionHead):
            return Noise(
                gumbel=np.zeros((n, actions.n_candidates), np.float32),
                candidates=rng.standard_normal((n, actions.n_candidates, actions.encoded_dim), np.float32),
                children=rng.standard_normal(
                    (self.n_simulations, n, actions.n_children, actions.encoded_dim), np.float32
                ),
            )
        gumbel = rng.gumbel(size=(n, actions.n_candidates)).astype(np.float32)
        return Noise(gumbel, np.empty(0, np.float32), np.empty(0, np.float32))

    def greedy_noise(self, model: EfficientZeroModel) -> Noise:
        """The same noise for every state and every call: no Gumbel noise, one fixed draw of sampled actions."""
        noise = self.draw_noise(model, 1, np.random.default_rng(0))
        return noise._replace(gumbel=np.zeros_like(noise.gumbel))

    @th.no_grad()
    def plan(self, model: EfficientZeroModel, observations: dict[str, th.Tensor], noise: Noise, explore: bool) -> Plan:
        """Search from the latent states of ``observations``.

        :param model: used for every inference
        :param observations: ``[n, ...]`` by key
        :param noise: from :meth:`draw_noise` or :meth:`greedy_noise`
        :param explore: whether candidates come from the flattened policy too
        """
        root = model.initial_inference(observations)
        if not (th.isfinite(root.values).all() and th.isfinite(root.policies).all()):
            raise ValueError(
                "the network's values or policies are not finite: training has diverged (use a lower learning_rate or "
                "max_grad_norm) or an observation is not finite"
            )
        n = len(root.values)
        nodes_class = FusedNodes if supports_fusion(model) else TorchNodes
        nodes = nodes_class(model, root, noise, self.n_simulations, explore)
        result = search(
            SearchRoot(root.values.cpu().numpy(), nodes.logits),
            nodes.expand,
            np.broadcast_to(noise.gumbel, (n, noise.gumbel.shape[1])),
            model.action_head.n_children,
            SearchSettings(
                n_simulations=self.n_simulations,
                n_considered=self.n_considered,
                discount=self.discount,
                min_value_range=MIN_VALUE_RANGE * float(model.reward_scale),
            ),
        )
        candidates = nodes.candidates
        return Plan(
            actions=candidates[np.arange(n), result.selected],
            candidates=candidates,
            improved_policy=result.improved_policy,
            visit_counts=result.visit_counts,
            root_values=result.root_values,
            improved_values=result.improved_values,
        )


class TorchNodes:
    """Latent states and actions of all nodes of a search, evaluated by torch on the model's device.

    :param model: evaluates the nodes
    :param root: latent states and policies of the states to search from
    :param noise: of the sampled actions
    :param n_simulations: number of nodes to come
    :param explore: see :meth:`ContinuousActionHead.root_candidates`
    """

    def __init__(
        self, model: EfficientZeroModel, root: NetworkOutput, noise: Noise, n_simulations: int, explore: bool
    ) -> None:
        self.model = model
        self.device = root.latents.device
        self.rows = th.arange(len(root.latents), device=self.device)
        self.pool = root.latents.new_empty(n_simulations + 1, *root.latents.shape)
        self.pool[0] = root.latents
        self.candidates, self.logits = _root_candidates(model, root, noise, explore)
        if isinstance(model.action_head, ContinuousActionHead):
            candidates = th.from_numpy(self.candidates).to(self.device)
            self.actions = candidates.new_empty(n_simulations + 1, *candidates.shape)
            self.actions[0] = candidates
            self.noise = th.from_numpy(noise.children).to(self.device)

    def expand(self, node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        """Evaluate node number ``node`` of every root; for sampled actions, sample its own."""
        nodes, actions = th.from_numpy(parents).to(self.device), th.from_numpy(edges).to(self.device)
        head = self.model.action_head
        continuous = isinstance(head, ContinuousActionHead)
        if continuous:
            actions = self.actions[nodes, self.rows, actions]
        output = self.model.recurrent_inference(self.pool[nodes, self.rows], actions)
        self.pool[node] = output.latents
        if isinstance(head, ContinuousActionHead):
            self.actions[node, :, : head.n_children] = head.children(output.policies, self.noise[node - 1])
            logits = np.zeros((len(parents), head.n_children), np.float32)
        else:
            logits = output.policies.cpu().numpy()
        return Expansion(output.rewards.cpu().numpy(), output.values.cpu().numpy(), logits)


class FusedNodes:
    """The same as :class:`TorchNodes` on the CPU, evaluated by the compiled :class:`FusedModel`.

    :param model: evaluates the nodes
    :param root: latent states and policies of the states to search from
    :param noise: of the sampled actions
    :param n_simulations: number of nodes to come
    :param explore: see :meth:`ContinuousActionHead.root_candidates`
    """

    def __init__(
        self, model: EfficientZeroModel, root: NetworkOutput, noise: Noise, n_simulations: int, explore: bool
    ) -> None:
        self.fused = FusedModel(model)
        n = len(root.latents)
        self.rows = np.arange(n)
        self.pool = np.empty((n_simulations + 1, n, model.latent_dim), np.float32)
        self.pool[0] = root.latents.numpy()
        self.candidates, self.logits = _root_candidates(model, root, noise, explore)
        self.n_children = model.action_head.n_children
        self.noise = noise.children
        if isinstance(model.action_head, ContinuousActionHead):
            self.actions = np.empty((n_simulations + 1, *self.candidates.shape), np.float32)
            self.actions[0] = self.candidates
            self.uniform = np.zeros((n, self.n_children), np.float32)
        else:
            self.one_hot = np.eye(self.n_children, dtype=np.float32)

    def expand(self, node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        """Evaluate node number ``node`` of every root; for sampled actions, sample its own."""
        continuous = len(self.noise) > 0
        actions = self.actions[parents, self.rows, edges] if continuous else self.one_hot[edges]
        latents, rewards, values, policies = self.fused.recurrent_inference(self.pool[parents, self.rows], actions)
        self.pool[node] = latents
        if continuous:
            self.actions[node, :, : self.n_children] = sample_children(policies, self.noise[node - 1])
        return Expansion(rewards, values, self.uniform if continuous else policies)


def _root_candidates(
    model: EfficientZeroModel, root: NetworkOutput, noise: Noise, explore: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of every root and their prior logits ``[n, n_candidates]``."""
    head = model.action_head
    if isinstance(head, ContinuousActionHead):
        candidates = head.root_candidates(
            root.policies, th.from_numpy(noise.candidates).to(root.latents.device), explore
        )
        return candidates.cpu().numpy(), np.zeros(candidates.shape[:2], np.float32)
    logits = root.policies.cpu().numpy()
    return np.broadcast_to(np.arange(logits.shape[1]), logits.shape), logits
