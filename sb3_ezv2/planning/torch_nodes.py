"""The nodes of a search as torch evaluates them: candidates, latent states, memories and sampled actions."""

from collections.abc import Callable
from typing import NamedTuple

import torch as th

from sb3_ezv2.common.actions.kind import Candidates
from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import Noise
from sb3_ezv2.networks.model import EfficientZeroModel, NetworkOutput
from sb3_ezv2.planning.tensor_search import TensorExpansion


class TensorNoise(NamedTuple):
    """As :class:`~sb3_ezv2.common.type_aliases.Noise`, on the model's device."""

    gumbel: th.Tensor  # [n or 1, n_candidates]
    candidates: th.Tensor  # [n or 1, n_candidates, noise_dim]
    children: th.Tensor  # [n_simulations, n or 1, n_children, noise_dim]


def noise_on_device(noise: Noise | TensorNoise, device: th.device) -> TensorNoise:
    """The same numbers on ``device``."""
    if isinstance(noise, TensorNoise):
        return noise
    return TensorNoise(*(on_device(part, device) for part in noise))


def evaluate_nodes(
    model: EfficientZeroModel, latents: th.Tensor, actions: th.Tensor, memories: th.Tensor, noise: th.Tensor
) -> tuple[NetworkOutput, Candidates]:
    """One step of the model, and the actions to be considered next.

    :param model: evaluates the nodes
    :param latents: of the nodes before the step ``[n, *latent]``
    :param actions: ``[n, *action_shape]``
    :param memories: of the nodes before the step ``[n, memory_dim]``
    :param noise: of the next actions ``[n or 1, n_children, noise_dim]``
    """
    output = model.recurrent_inference(latents, actions, memories)
    return output, model.action_kind.children(output.policies, noise)


EvaluateNodes = Callable[
    [EfficientZeroModel, th.Tensor, th.Tensor, th.Tensor, th.Tensor], tuple[NetworkOutput, Candidates]
]
""":func:`evaluate_nodes` or a compiled one."""


class TorchNodes:
    """Latent states, memories and actions of all nodes of a search, evaluated by torch on the model's device.

    :param model: evaluates the nodes
    :param root: latent states and policies of the states to search from
    :param noise: of the sampled actions
    :param n_simulations: number of nodes to come
    :param explore: see :meth:`~sb3_ezv2.common.actions.kind.ActionKind.candidates`
    :param evaluate: does one step of the model
    :param masks: of the legal choices at the roots ``[n, mask_size]``; ``None`` for all
    """

    def __init__(
        self,
        model: EfficientZeroModel,
        root: NetworkOutput,
        noise: TensorNoise,
        n_simulations: int,
        explore: bool,
        evaluate: EvaluateNodes = evaluate_nodes,
        masks: th.Tensor | None = None,
    ) -> None:
        self.model = model
        self.evaluate = evaluate
        self.noise = noise.children
        n, kind = len(root.latents), model.action_kind
        self.rows = th.arange(n, device=root.latents.device)
        self.pool = root.latents.new_empty(n_simulations + 1, *root.latents.shape)
        self.pool[0].copy_(root.latents)
        self.memories = root.memories.new_empty(n_simulations + 1, *root.memories.shape)
        self.memories[0].copy_(root.memories)
        legal = {} if masks is None else {"masks": masks}
        self.candidates = kind.candidates(root.policies, noise.candidates, explore, **legal)
        if kind.sampled:
            n_actions = max(kind.n_candidates, kind.n_children)
            self.actions = self.candidates.actions.new_empty(n_simulations + 1, n, n_actions, *kind.shape)
            self.actions[0, :, : kind.n_candidates].copy_(self.candidates.actions)

    def expand(self, node: int, parents: th.Tensor, edges: th.Tensor) -> TensorExpansion:
        """Evaluate node number ``node`` of every root; where actions are sampled, sample its own.

        :param node: 1 or larger
        :param parents: numbers of the nodes that the new ones follow ``[n]``
        :param edges: by which of their edges ``[n]``
        """
        kind = self.model.action_kind
        actions = self.actions[parents, self.rows, edges] if kind.sampled else kind.numbered(edges)
        latents, memories = self.pool[parents, self.rows], self.memories[parents, self.rows]
        output, children = self.evaluate(self.model, latents, actions, memories, self.noise[node - 1])
        self.pool[node].copy_(output.latents)
        self.memories[node].copy_(output.memories)
        if kind.sampled:
            self.actions[node, :, : kind.n_children].copy_(children.actions)
        return TensorExpansion(output.rewards, output.values, children.logits)
