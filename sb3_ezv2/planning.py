"""A search with a network as its model: candidates, latent states and the hand-over to the numba tree."""

import numpy as np
import torch as th

from sb3_ezv2.fused_planning import fused_search
from sb3_ezv2.networks.action_heads import ContinuousActionHead, DiscreteActionHead
from sb3_ezv2.networks.fused_weights import model_weights, supports_fusion
from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput
from sb3_ezv2.search import search
from sb3_ezv2.tensors import on_device
from sb3_ezv2.type_aliases import Expansion, Noise, Plan, SearchResult, SearchRoot, SearchSettings

MIN_VALUE_RANGE_DISCRETE, MIN_VALUE_RANGE_CONTINUOUS = 0.1, 0.01
"""Smallest difference, in units of the reward scale, that values are normalised by. What is smaller is not magnified:
with discrete actions it is mostly the network's error, which would make a policy that has nothing to gain drift."""


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
        self._greedy_noise: dict[tuple, Noise] = {}

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
        return Noise(gumbel, np.empty((0, 0, 0), np.float32), np.empty((0, 0, 0, 0), np.float32))

    def greedy_noise(self, model: EfficientZeroModel) -> Noise:
        """The same noise for every state and every call: no Gumbel noise, one fixed draw of sampled actions."""
        head = model.action_head
        key = (type(head), head.n_candidates, head.encoded_dim, self.n_simulations)
        if key not in self._greedy_noise:
            noise = self.draw_noise(model, 1, np.random.default_rng(0))
            self._greedy_noise[key] = noise._replace(gumbel=np.zeros_like(noise.gumbel))
        return self._greedy_noise[key]

    @th.no_grad()
    def plan(self, model: EfficientZeroModel, observations: dict[str, th.Tensor], noise: Noise, explore: bool) -> Plan:
        """Search from the latent states of ``observations``.

        :param model: used for every inference
        :param observations: ``[n, ...]`` by key
        :param noise: from :meth:`draw_noise` or :meth:`greedy_noise`
        :param explore: whether candidates come from the flattened policy too
        :raises ValueError: if the network's values or policies are not finite
        """
        discrete = isinstance(model.action_head, DiscreteActionHead)
        min_value_range = MIN_VALUE_RANGE_DISCRETE if discrete else MIN_VALUE_RANGE_CONTINUOUS
        settings = SearchSettings(
            n_simulations=self.n_simulations,
            n_considered=self.n_considered,
            discount=self.discount,
            min_value_range=min_value_range * float(model.reward_scale),
        )
        evaluate = _plan_fused if supports_fusion(model) else _plan_in_torch
        found = evaluate(model, observations, noise, explore, settings)
        if found is None:
            raise ValueError(
                "the network's values or policies are not finite: training has diverged (use a lower learning_rate or "
                "max_grad_norm) or an observation is not finite"
            )
        result, candidates = found
        return Plan(
            actions=candidates[np.arange(len(candidates)), result.selected],
            candidates=candidates,
            improved_policy=result.improved_policy,
            visit_counts=result.visit_counts,
            root_values=result.root_values,
            improved_values=result.improved_values,
        )


def _plan_fused(
    model: EfficientZeroModel,
    observations: dict[str, th.Tensor],
    noise: Noise,
    explore: bool,
    settings: SearchSettings,
) -> tuple[SearchResult, np.ndarray] | None:
    """Search in compiled code; ``None`` if the network's answer is not finite."""
    head = model.action_head
    sampling = (0, 1.0)
    if isinstance(head, ContinuousActionHead):
        sampling = (head.n_policy_candidates if explore else -1, float(head.flatten_factor))
    flat = np.ascontiguousarray(model.flatten(observations).numpy(), np.float32)
    found = fused_search(model_weights(model), flat, noise, settings, head.n_children, sampling)
    if found is not None and not isinstance(head, ContinuousActionHead):
        return found[0], _every_action(*found[0].visit_counts.shape)
    return found


def _plan_in_torch(
    model: EfficientZeroModel,
    observations: dict[str, th.Tensor],
    noise: Noise,
    explore: bool,
    settings: SearchSettings,
) -> tuple[SearchResult, np.ndarray] | None:
    """Search with a model on any device; ``None`` if the network's answer is not finite."""
    root = model.initial_inference(observations)
    if not (th.isfinite(root.values).all() and th.isfinite(root.policies).all()):
        return None
    nodes = TorchNodes(model, root, noise, settings.n_simulations, explore)
    result = search(
        SearchRoot(root.values.cpu().numpy(), nodes.logits),
        nodes.expand,
        np.broadcast_to(noise.gumbel, nodes.logits.shape),
        model.action_head.n_children,
        settings,
    )
    return result, nodes.candidates


def _every_action(n: int, n_actions: int) -> np.ndarray:
    """All actions as candidates of every state ``[n, n_actions]``."""
    return np.broadcast_to(np.arange(n_actions), (n, n_actions))


class TorchNodes:
    """Latent states, memories and actions of all nodes of a search, evaluated by torch on the model's device.

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
        self.memories = root.memories.new_empty(n_simulations + 1, *root.memories.shape)
        self.memories[0] = root.memories
        self.candidates, self.logits = _root_candidates(model, root, noise, explore)
        if isinstance(model.action_head, ContinuousActionHead):
            candidates = th.from_numpy(self.candidates).to(self.device)
            self.actions = candidates.new_empty(n_simulations + 1, *candidates.shape)
            self.actions[0] = candidates
            self.noise = th.from_numpy(noise.children).to(self.device)

    def expand(self, node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        """Evaluate node number ``node`` of every root; for sampled actions, sample its own.

        One copy goes to the model's device and one comes back.
        """
        nodes, actions = on_device(np.stack([parents, edges]), self.device)
        head = self.model.action_head
        continuous = isinstance(head, ContinuousActionHead)
        if continuous:
            actions = self.actions[nodes, self.rows, actions]
        output = self.model.recurrent_inference(self.pool[nodes, self.rows], actions, self.memories[nodes, self.rows])
        self.pool[node], self.memories[node] = output.latents, output.memories
        if isinstance(head, ContinuousActionHead):
            self.actions[node, :, : head.n_children] = head.children(output.policies, self.noise[node - 1])
        answers = [output.rewards.unsqueeze(1), output.values.unsqueeze(1), output.policies]
        found = th.cat(answers[:2] if continuous else answers, dim=1).cpu().numpy()
        rewards, values, logits = (np.ascontiguousarray(part) for part in (found[:, 0], found[:, 1], found[:, 2:]))
        if continuous:
            logits = np.zeros((len(parents), head.n_children), np.float32)
        return Expansion(rewards, values, logits)


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
    return _every_action(*logits.shape), logits
