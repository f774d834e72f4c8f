"""A search with a network as its model: candidates, latent states and the hand-over to the numba tree."""

import numpy as np
import torch as th

from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import Expansion, Noise, Plan, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.networks.action_heads import ContinuousActionHead, DiscreteActionHead
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.device_search import draw_on_device, plan_on_device
from sb3_ezv2.planning.fused_search import fused_search
from sb3_ezv2.planning.fused_weights import has_compiled_form, model_weights, supports_fusion
from sb3_ezv2.planning.host_copy import on_host
from sb3_ezv2.planning.torch_nodes import TensorNoise, TorchNodes, noise_on_device
from sb3_ezv2.search import search

MIN_VALUE_RANGE_DISCRETE, MIN_VALUE_RANGE_CONTINUOUS = 0.1, 0.01
"""Smallest spread, in units of the reward scale, that the values of a tree are normalised by. What is smaller is not
magnified: with discrete actions it is mostly the network's error, which would make a policy that has nothing to gain
drift."""
MIN_VALUE_SHARE_DISCRETE = 0.1
"""With discrete actions, the spread is at least this share of the tree's largest absolute value as well: the network's
error grows with what it predicts."""

FEW_STATES = 2
"""So many states are searched on the CPU even if the model lies on a GPU: 1.8 ms for each of them with the paper's
network for vectors, where a GPU takes 5.6 ms for one and 7.7 ms for 256."""


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

    def draw_noise(self, model: EfficientZeroModel, n: int, rng: np.random.Generator) -> Noise | TensorNoise:
        """Noise for exploring: Gumbel for discrete candidates, Gaussian for sampled actions; drawn where it is used.

        :param model: for whose search the noise is
        :param n: number of states
        :param rng: source of the noise
        """
        if _is_on_gpu(model, n):
            return draw_on_device(model, n, self.n_simulations, rng)
        return self._draw(model, n, rng)

    def _draw(self, model: EfficientZeroModel, n: int, rng: np.random.Generator) -> Noise:
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
            noise = self._draw(model, 1, np.random.default_rng(0))
            self._greedy_noise[key] = noise._replace(gumbel=np.zeros_like(noise.gumbel))
        return self._greedy_noise[key]

    @th.no_grad()
    def plan(
        self,
        model: EfficientZeroModel,
        observations: dict[str, th.Tensor],
        noise: Noise | TensorNoise,
        explore: bool,
    ) -> Plan:
        """Search from the latent states of ``observations``.

        :param model: used for every inference
        :param observations: ``[n, ...]`` by key
        :param noise: for as many states from :meth:`draw_noise`, or from :meth:`greedy_noise`
        :param explore: whether candidates come from the flattened policy too
        :raises ValueError: if the network's values or policies are not finite
        """
        discrete = isinstance(model.action_head, DiscreteActionHead)
        min_value_range = MIN_VALUE_RANGE_DISCRETE if discrete else MIN_VALUE_RANGE_CONTINUOUS
        settings = SearchSettings(
            n_simulations=self.n_simulations,
            n_considered=self.n_considered,
            discount=self.discount,
            min_value_range=min_value_range,
            min_value_share=MIN_VALUE_SHARE_DISCRETE if discrete else 0.0,
        )
        if _is_on_gpu(model, len(next(iter(observations.values())))):
            found = plan_on_device(model, observations, noise, explore, settings)
        else:
            if model.reward_scale.device.type == "cuda":
                model, observations = on_host(model), {key: part.cpu() for key, part in observations.items()}
            settings = settings._replace(min_value_range=min_value_range * float(model.reward_scale))
            evaluate = _plan_fused if supports_fusion(model) else _plan_in_torch
            assert isinstance(noise, Noise)
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
    """Search with torch and the tree on the CPU; ``None`` if the network's answer is not finite."""
    root = model.initial_inference(observations)
    if not (th.isfinite(root.values).all() and th.isfinite(root.policies).all()):
        return None
    device = model.reward_scale.device
    nodes = TorchNodes(model, root, noise_on_device(noise, device), settings.n_simulations, explore)
    root_answers = _on_host(root.values, nodes.logits)

    def expand(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        # One copy goes to the model's device and one comes back.
        found = nodes.expand(node, *on_device(np.stack([parents, edges]), device))
        return Expansion(*_on_host(found.rewards, found.values, found.prior_logits))

    result = search(
        SearchRoot(*root_answers),
        expand,
        np.broadcast_to(noise.gumbel, root_answers[1].shape),
        model.action_head.n_children,
        settings,
    )
    return result, nodes.candidates.cpu().numpy()


def _on_host(*tensors: th.Tensor) -> list[np.ndarray]:
    """Vectors ``[n]`` and tables ``[n, ...]`` as arrays, copied together."""
    widths = [1 if tensor.ndim == 1 else tensor.shape[1] for tensor in tensors]
    together = th.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], dim=1).cpu().numpy()
    parts = np.split(together, np.cumsum(widths)[:-1], axis=1)
    return [
        np.ascontiguousarray(part[:, 0] if tensor.ndim == 1 else part)
        for tensor, part in zip(tensors, parts, strict=True)
    ]


def _is_on_gpu(model: EfficientZeroModel, n: int) -> bool:
    """Whether ``n`` states are searched on a GPU."""
    return model.reward_scale.device.type == "cuda" and (n > FEW_STATES or not has_compiled_form(model))


def _every_action(n: int, n_actions: int) -> np.ndarray:
    """All actions as candidates of every state ``[n, n_actions]``."""
    return np.broadcast_to(np.arange(n_actions), (n, n_actions))
