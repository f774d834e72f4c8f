"""The nodes of a search as torch evaluates them: candidates, latent states, memories and sampled actions."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import Noise
from sb3_ezv2.networks.action_heads import ContinuousActionHead
from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput
from sb3_ezv2.planning.tensor_search import TensorExpansion


class TensorNoise(NamedTuple):
    """As :class:`~sb3_ezv2.common.type_aliases.Noise`, on the model's device."""

    gumbel: th.Tensor  # [n or 1, n_candidates]
    candidates: th.Tensor  # [n or 1, n_candidates, action_dim], empty if discrete
    children: th.Tensor  # [n_simulations, n or 1, n_children, action_dim], empty if discrete


def noise_on_device(noise: Noise | TensorNoise, device: th.device) -> TensorNoise:
    """The same numbers on ``device``."""
    if isinstance(noise, TensorNoise):
        return noise
    return TensorNoise(*(on_device(part, device) for part in noise))


def evaluate_nodes(
    model: EfficientZeroModel, latents: th.Tensor, actions: th.Tensor, memories: th.Tensor, noise: th.Tensor
) -> tuple[NetworkOutput, th.Tensor]:
    """One step of the model, and the actions to be considered next (empty if discrete).

    :param model: evaluates the nodes
    :param latents: of the nodes before the step ``[n, *latent]``
    :param actions: ``[n]`` or ``[n, action_dim]``
    :param memories: of the nodes before the step ``[n, memory_dim]``
    :param noise: of the next actions ``[n or 1, n_children, action_dim]``
    """
    output = model.recurrent_inference(latents, actions, memories)
    head = model.action_head
    if isinstance(head, ContinuousActionHead):
        return output, head.children(output.policies, noise)
    return output, output.policies[:, :0]


EvaluateNodes = Callable[
    [EfficientZeroModel, th.Tensor, th.Tensor, th.Tensor, th.Tensor], tuple[NetworkOutput, th.Tensor]
]
""":func:`evaluate_nodes` or a compiled one."""


class TorchNodes:
    """Latent states, memories and actions of all nodes of a search, evaluated by torch on the model's device.

    :param model: evaluates the nodes
    :param root: latent states and policies of the states to search from
    :param noise: of the sampled actions
    :param n_simulations: number of nodes to come
    :param explore: see :meth:`ContinuousActionHead.root_candidates`
    :param evaluate: does one step of the model
    """

    def __init__(
        self,
        model: EfficientZeroModel,
        root: NetworkOutput,
        noise: TensorNoise,
        n_simulations: int,
        explore: bool,
        evaluate: EvaluateNodes = evaluate_nodes,
    ) -> None:
        self.model = model
        self.evaluate = evaluate
        self.noise = noise.children
        n, device, head = len(root.latents), root.latents.device, model.action_head
        self.rows = th.arange(n, device=device)
        self.pool = root.latents.new_empty(n_simulations + 1, *root.latents.shape)
        self.pool[0].copy_(root.latents)
        self.memories = root.memories.new_empty(n_simulations + 1, *root.memories.shape)
        self.memories[0].copy_(root.memories)
        if isinstance(head, ContinuousActionHead):
            self.candidates = head.root_candidates(root.policies, noise.candidates, explore)
            self.logits = root.policies.new_zeros(n, head.n_candidates)
            self.uniform = root.policies.new_zeros(n, head.n_children)
            self.actions = self.candidates.new_empty(n_simulations + 1, *self.candidates.shape)
            self.actions[0].copy_(self.candidates)
        else:
            self.candidates = th.arange(head.n_candidates, device=device).expand(n, -1)
            self.logits = root.policies

    def expand(self, node: int, parents: th.Tensor, edges: th.Tensor) -> TensorExpansion:
        """Evaluate node number ``node`` of every root; for sampled actions, sample its own.

        :param node: 1 or larger
        :param parents: numbers of the nodes that the new ones follow ``[n]``
        :param edges: by which of their edges ``[n]``
        """
        head = self.model.action_head
        continuous = isinstance(head, ContinuousActionHead)
        actions, noise = (
            (self.actions[parents, self.rows, edges], self.noise[node - 1]) if continuous else (edges, self.noise)
        )
        latents, memories = self.pool[parents, self.rows], self.memories[parents, self.rows]
        output, children = self.evaluate(self.model, latents, actions, memories, noise)
        self.pool[node].copy_(output.latents)
        self.memories[node].copy_(output.memories)
        if continuous:
            self.actions[node, :, : head.n_children].copy_(children)
        return TensorExpansion(output.rewards, output.values, self.uniform if continuous else output.policies)
