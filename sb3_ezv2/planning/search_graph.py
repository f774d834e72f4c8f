"""A whole decision as one module of fixed shapes, from the environment's observation to its action: to be exported."""

from typing import ClassVar, NamedTuple

import torch as th
from torch import nn

from sb3_ezv2.common.type_aliases import SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.tensor_search import tensor_search
from sb3_ezv2.planning.torch_nodes import TensorNoise, TorchNodes


class Normalization(NamedTuple):
    """What ``VecNormalize`` does to one part of an observation."""

    mean: th.Tensor  # [*space.shape]
    std: th.Tensor  # [*space.shape]
    clip: float  # largest absolute value afterwards


class DecisionGraph(nn.Module):
    """Observations in, decision out; without branches that depend on data.

    :param model: that acts, in evaluation mode
    :param keys: of the observations, in the order of the inputs
    :param normalizations: by key, for what ``VecNormalize`` normalises
    """

    NAMES: ClassVar[tuple[str, ...]] = ()
    """Of the outputs."""

    def __init__(
        self, model: EfficientZeroModel, keys: tuple[str, ...], normalizations: dict[str, Normalization]
    ) -> None:
        super().__init__()
        self.model, self.keys, self.normalizations = model, keys, normalizations

    def named(self, observations: tuple[th.Tensor, ...]) -> dict[str, th.Tensor]:
        """Observations as the model reads them, by key."""
        found = dict(zip(self.keys, observations, strict=True))
        for key, (mean, std, clip) in self.normalizations.items():
            found[key] = ((found[key].double() - mean) / std).clamp(-clip, clip).float()
        return found


class PolicyGraph(DecisionGraph):
    """The policy alone: the action that it prefers, and the network's value."""

    NAMES = ("action", "value")

    def forward(self, *observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """``[n, *space.shape]`` of every part, to actions in the environment's units and values ``[n]``."""
        kind = self.model.action_kind
        root = self.model.initial_inference(self.named(observations))
        noise = root.policies.new_zeros(1, kind.n_candidates, kind.noise_dim)
        candidates = kind.candidates(root.policies, noise, False)
        best = candidates.logits.argmax(1)
        return kind.tensor_to_env(
            _chosen(candidates.actions, best) if kind.sampled else kind.numbered(best)
        ), root.values


class SearchGraph(DecisionGraph):
    """The whole search.

    :param model: that acts, in evaluation mode
    :param keys: of the observations, in the order of the inputs
    :param normalizations: by key, for what ``VecNormalize`` normalises
    :param settings: of the search
    :param greedy_noise: of a greedy search; ``None`` to explore with noise that comes behind the observations
    """

    NAMES = ("action", "value", "candidate", "candidates", "improved_policy", "visit_counts")

    def __init__(
        self,
        model: EfficientZeroModel,
        keys: tuple[str, ...],
        normalizations: dict[str, Normalization],
        settings: SearchSettings,
        greedy_noise: TensorNoise | None,
    ) -> None:
        super().__init__(model, keys, normalizations)
        self.settings, self.greedy_noise = settings, greedy_noise

    def forward(self, *inputs: th.Tensor) -> tuple[th.Tensor, ...]:
        """Parts of the observations ``[n, *space.shape]`` and, if exploring, the three parts of the noise.

        :return: as :attr:`NAMES` says: the action in the environment's units, the value of the state, the number of the
            chosen candidate, all candidates in the environment's units, the improved policy over them and their visits
        """
        n_parts, kind = len(self.keys), self.model.action_kind
        noise = self.greedy_noise or self._given_noise(*inputs[n_parts:])
        root = self.model.initial_inference(self.named(inputs[:n_parts]))
        nodes = TorchNodes(self.model, root, noise, self.settings.n_simulations, self.greedy_noise is None)
        found = tensor_search(
            root.values,
            nodes.candidates.logits,
            nodes.expand,
            noise.gumbel,
            kind.n_children,
            self.settings,
            self.model.reward_scale,
        )
        if kind.sampled:
            candidates = nodes.candidates.actions
        else:
            every = kind.numbered(th.arange(kind.n_candidates))
            candidates = every.expand(len(root.values), *every.shape)
        action, candidates = (kind.tensor_to_env(part) for part in (_chosen(candidates, found.selected), candidates))
        return action, found.root_values, found.selected, candidates, found.improved_policy, found.visit_counts

    def _given_noise(
        self, gumbel: th.Tensor, candidates: th.Tensor | None = None, children: th.Tensor | None = None
    ) -> TensorNoise:
        """Noise of the inputs; kinds of actions that are not sampled need none for actions."""
        kind, n = self.model.action_kind, self.settings.n_simulations
        if candidates is None or children is None:
            candidates = gumbel.new_zeros(1, kind.n_candidates, kind.noise_dim)
            children = gumbel.new_zeros(n, 1, kind.n_children, kind.noise_dim)
        return TensorNoise(gumbel, candidates, children)


def _chosen(candidates: th.Tensor, numbers: th.Tensor) -> th.Tensor:
    """``candidates [n, n_candidates, ...]`` of these ``numbers [n]``."""
    return candidates[th.arange(len(numbers)), numbers]
