"""Noise in, plan out: chooses the search that suits a model and its device, and runs it."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch as th

from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import NO_LIMIT, Noise, Plan, SearchResult, SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.device_search import draw_on_device, plan_on_device
from sb3_ezv2.planning.fused_search import plan_fused
from sb3_ezv2.planning.fused_weights import supports_fusion
from sb3_ezv2.planning.host_copy import STATES_PER_CORE, is_faster_on_host, on_host
from sb3_ezv2.planning.torch_nodes import TensorNoise
from sb3_ezv2.planning.torch_search import plan_in_torch

PlanFunction = Callable[..., tuple[SearchResult, np.ndarray] | None]
"""``(model, observations, noise, explore, settings, masks) -> results and candidates``.

Arguments as in :meth:`Planner.plan`, noise and candidates as the model's kind of action has them: ``[n, ...]`` where it
samples its candidates, else empty. ``None`` if the network's values or policies are not finite.
"""

NOT_FINITE = (
    "the network's values or policies are not finite: training has diverged (use a lower learning_rate or "
    "max_grad_norm) or an observation is not finite"
)


class Planner:
    """Searches with a model.

    :param n_simulations: model calls per state
    :param n_considered: candidates that sequential halving starts with
    :param discount: of one step
    :param max_depth: steps from the root to the deepest node
    """

    def __init__(self, n_simulations: int, n_considered: int, discount: float, max_depth: int = NO_LIMIT) -> None:
        self.n_simulations = n_simulations
        self.n_considered = n_considered
        self.discount = discount
        self.max_depth = max_depth
        self._greedy_noise: dict[tuple, Noise] = {}

    def draw_noise(self, model: EfficientZeroModel, n: int, rng: np.random.Generator) -> Noise | TensorNoise:
        """Noise for exploring: Gumbel for the prior, Gaussian for sampled actions; drawn where it is used.

        :param model: for whose search the noise is
        :param n: number of states
        :param rng: source of the noise
        """
        if _is_on_gpu(model) and not is_faster_on_host(model, n):
            return draw_on_device(model, n, self.n_simulations, rng)
        return self._draw(model, n, rng)

    def _draw(self, model: EfficientZeroModel, n: int, rng: np.random.Generator) -> Noise:
        kind = model.action_kind
        gumbel = np.zeros((n, kind.n_candidates), np.float32)
        if kind.gumbel:
            gumbel = rng.gumbel(size=gumbel.shape).astype(np.float32)
        return Noise(
            gumbel=gumbel,
            candidates=rng.standard_normal((n, kind.n_candidates, kind.noise_dim), np.float32),
            children=rng.standard_normal((self.n_simulations, n, kind.n_children, kind.noise_dim), np.float32),
        )

    def greedy_noise(self, model: EfficientZeroModel) -> Noise:
        """The same noise for every state and every call: no Gumbel noise, one fixed draw of sampled actions."""
        kind = model.action_kind
        key = (kind.n_candidates, kind.n_children, kind.noise_dim, self.n_simulations)
        if key not in self._greedy_noise:
            noise = self._draw(model, 1, np.random.default_rng(0))
            self._greedy_noise[key] = noise._replace(gumbel=np.zeros_like(noise.gumbel))
        return self._greedy_noise[key]

    def settings(self, model: EfficientZeroModel) -> SearchSettings:
        """Budget and constants of a search with a model."""
        kind = model.action_kind
        return SearchSettings(
            n_simulations=self.n_simulations,
            n_considered=self.n_considered,
            discount=self.discount,
            max_depth=self.max_depth,
            min_value_range=kind.min_value_range,
            min_value_share=kind.min_value_share,
        )

    @th.no_grad()
    def plan(
        self,
        model: EfficientZeroModel,
        observations: dict[str, th.Tensor],
        noise: Noise | TensorNoise,
        explore: bool,
        masks: np.ndarray | None = None,
    ) -> Plan:
        """Search from the latent states of ``observations``.

        :param model: used for every inference
        :param observations: ``[n, ...]`` by key
        :param noise: for as many states from :meth:`draw_noise`, or from :meth:`greedy_noise`
        :param explore: whether candidates are chosen for exploration, see
            :meth:`~sb3_ezv2.common.actions.kind.ActionKind.candidates`
        :param masks: of the legal choices ``[n, mask_size]`` bool, one or more of every state; ``None`` for all. What
            follows on the first step is not masked
        :raises ValueError: if the network's values or policies are not finite
        """
        kind, settings = model.action_kind, self.settings(model)
        search, n = choose_search(model), len(next(iter(observations.values())))
        if is_faster_on_host(model, n):
            model, observations = on_host(model), {key: part.cpu() for key, part in observations.items()}
            search = partial(plan_fused, n_chunks=n // STATES_PER_CORE)
        found = search(model, observations, noise, explore, settings, masks)
        if found is None:
            raise ValueError(NOT_FINITE)
        result, drawn = found
        candidates = kind.candidates_of_plan(drawn)
        return Plan(
            actions=candidates[np.arange(len(candidates)), result.selected],
            candidates=candidates,
            improved_policy=result.improved_policy,
            visit_counts=result.visit_counts,
            root_values=result.root_values,
            improved_values=result.improved_values,
            policy_values=result.policy_values,
        )

    @staticmethod
    @th.no_grad()
    def draw_actions(
        model: EfficientZeroModel,
        observations: dict[str, th.Tensor],
        rng: np.random.Generator,
        masks: np.ndarray | None = None,
    ) -> np.ndarray:
        """Actions ``[n, *action_shape]`` without a search: of an exploring search's candidates, one drawn by the prior.

        :param model: with the policy that the candidates come from
        :param observations: ``[n, ...]`` by key
        :param rng: source of all randomness
        :param masks: as for :meth:`plan`
        :raises ValueError: if the network's policies are not finite
        """
        kind, device = model.action_kind, model.reward_scale.device
        policies = model.initial_inference(observations).policies
        if not th.isfinite(policies).all():
            raise ValueError(NOT_FINITE)
        noise = rng.standard_normal((len(policies), kind.n_candidates, kind.noise_dim), np.float32)
        legal = {} if masks is None else {"masks": on_device(masks, device)}
        drawn = kind.candidates(policies, on_device(noise, device), True, **legal)
        logits = drawn.logits.cpu().numpy()
        chosen = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        return kind.candidates_of_plan(drawn.actions.cpu().numpy())[np.arange(len(chosen)), chosen]


def choose_search(model: EfficientZeroModel) -> PlanFunction:
    """The fastest search for a model, see :mod:`sb3_ezv2.planning`."""
    if _is_on_gpu(model):
        return plan_on_device
    return plan_fused if supports_fusion(model) else plan_in_torch


def _is_on_gpu(model: EfficientZeroModel) -> bool:
    return model.reward_scale.device.type == "cuda"
