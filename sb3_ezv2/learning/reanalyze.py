"""Targets made anew with the current target network, searching only what that network has not searched yet."""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.normalization import UNCHANGED, Normalizer
from sb3_ezv2.common.tensors import to_tensors
from sb3_ezv2.common.type_aliases import PolicyTargets, TrainingTargets, TrajectoryBatch
from sb3_ezv2.learning.novelty import Novelty
from sb3_ezv2.learning.search_statistics import search_statistics
from sb3_ezv2.learning.stored_states import bellman_errors, go_on_past_the_end, in_chunks, td_values
from sb3_ezv2.learning.targets import loss_masks, n_step_returns, uses_td, value_prefixes
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.host_copy import is_faster_on_host
from sb3_ezv2.planning.planner import Planner
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer

SEARCH_VALUES = {"improved": "improved_values", "mean": "root_values", "policy": "policy_values"}
"""Value estimates of a search by name, and where a plan has them."""


class MixedValueRule(NamedTuple):
    """When the value target is the multi-step return and when the search's value."""

    td_phase: bool  # fewer than T1 updates made: multi-step returns everywhere
    fresh: float  # T2: states at most this old use the multi-step return at any time


class TargetCache:
    """Search results per slot of the replay buffer, stamped with what they were made from.

    An entry holds as long as the slot holds the same observation and the target network has the same version.

    :param action_kind: says how large policy targets are
    """

    def __init__(self, action_kind: ActionKind) -> None:
        self.action_kind = action_kind
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.observation_ids = np.empty(0, np.int64)
        self.versions = np.empty(0, np.int64)
        self.values = np.empty(0, np.float32)
        kind = self.action_kind
        self.actions = np.empty((0, kind.n_targets, *kind.target_shape), np.float32)
        self.weights = np.empty((0, kind.n_targets), np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, by name; one row per slot."""
        return {name: getattr(self, name) for name in ("observation_ids", "versions", "values", "actions", "weights")}

    def reserve(self, n_slots: int) -> None:
        """Make room for the slots of a buffer that has grown."""
        added = n_slots - len(self.values)
        if added > 0:
            for name, array in self.arrays().items():
                setattr(self, name, np.concatenate([array, np.full((added, *array.shape[1:]), -1, array.dtype)]))

    def stale(self, slots: np.ndarray, observation_ids: np.ndarray, version: int) -> np.ndarray:
        """Whether there is no valid entry, per slot."""
        return (self.observation_ids[slots] != observation_ids) | (self.versions[slots] != version)

    def store(
        self, slots: np.ndarray, observation_ids: np.ndarray, version: int, values: np.ndarray, policies: PolicyTargets
    ) -> None:
        """Keep results for ``slots``."""
        self.observation_ids[slots] = observation_ids
        self.versions[slots] = version
        self.values[slots] = values
        self.actions[slots] = policies.actions
        self.weights[slots] = policies.weights


class Reanalyzer:
    """Turns sampled batches into training targets.

    :param planner: searches with the target network
    :param action_kind: of the environment's actions
    :param use_cache: whether results are reused until the target network changes; without, every state of every
        sample is searched, which gives targets of the same distribution
    :param search_value: which of :data:`SEARCH_VALUES` is a value target; ``None`` for what suits the kind of action
    """

    def __init__(
        self, planner: Planner, action_kind: ActionKind, use_cache: bool, search_value: str | None = None
    ) -> None:
        self.planner = planner
        self.cache = TargetCache(action_kind)
        self.use_cache = use_cache
        self.search_value = search_value
        self.novelty = Novelty()
        self.searched_fraction = 0.0  # of the last batch
        self.search_value_fraction = 0.0  # of its value targets, those that are values of a search
        self.wants_statistics = False  # of the next search
        self.statistics: dict[str, th.Tensor] = {}  # of the last search that was wanted, until they are taken

    def prioritise_new(
        self, model: EfficientZeroModel, buffer: TrajectoryReplayBuffer, normalizer: Normalizer = UNCHANGED
    ) -> None:
        """Give new transitions their own Bellman error as priority, so that surprises are replayed at once (paper)."""
        slots = buffer.take_new_slots()
        if len(slots) > 0:
            errors = bellman_errors(model, buffer, slots, self.planner.discount, normalizer, self.novelty)
            buffer.update_priorities(slots, errors)

    def targets(
        self,
        batch: TrajectoryBatch,
        buffer: TrajectoryReplayBuffer,
        model: EfficientZeroModel,
        target_model: EfficientZeroModel,
        version: int,
        rule: MixedValueRule,
        rng: np.random.Generator,
        normalizer: Normalizer = UNCHANGED,
    ) -> TrainingTargets:
        """Reward, value and policy targets with their masks (EfficientZero V2, sections 4.2 and 4.3).

        :param batch: from ``buffer``
        :param buffer: where the observations of the chains are
        :param model: network that multi-step returns bootstrap from
        :param target_model: network that searches
        :param version: changes whenever ``target_model`` does
        :param rule: of the mixed value target
        :param rng: source of the searches' randomness
        :param normalizer: of observations
        """
        batch = self.novelty.mixed_batch(batch, buffer, model, normalizer)
        unroll = batch.actions.shape[1]
        prefix = model.value_prefix
        masks = loss_masks(batch.n_ahead, unroll)
        td_steps = batch.rewards.shape[1] - unroll
        returns = n_step_returns(batch.rewards, batch.n_ahead, batch.terminated, self.planner.discount, td_steps)
        td = uses_td(batch.ages, batch.n_ahead, *rule)
        self.search_value_fraction = 1.0 - np.count_nonzero(td) / td.size
        # A GPU computes these while a few states are searched on the CPU.
        multi_step = td_values(batch, returns, td, buffer, model, normalizer)
        past_the_end = go_on_past_the_end(batch, buffer, model, normalizer)
        search_values, policies = self._search_targets(
            batch, buffer, target_model, version, masks.policies > 0, rng, normalizer
        )
        values = np.where(td, multi_step(), search_values)
        rewards = past_the_end(values)
        return TrainingTargets(
            rewards=rewards if prefix is None else value_prefixes(rewards, prefix.horizon),
            values=values,
            policies=policies,
            masks=masks,
        )

    def take_statistics(self) -> dict[str, th.Tensor]:
        """Statistics of the search that was wanted, once; empty before it was made."""
        taken, self.statistics = self.statistics, {}
        return taken

    def _search_targets(
        self,
        batch: TrajectoryBatch,
        buffer: TrajectoryReplayBuffer,
        model: EfficientZeroModel,
        version: int,
        needed: np.ndarray,
        rng: np.random.Generator,
        normalizer: Normalizer,
    ) -> tuple[np.ndarray, PolicyTargets]:
        """Search-based values and policy targets of the states in ``needed``; zeros elsewhere."""
        wanted = batch.slots[:, : needed.shape[1]][needed]
        policies = PolicyTargets(
            np.zeros((*needed.shape, *self.cache.actions.shape[1:]), np.float32),
            np.zeros((*needed.shape, *self.cache.weights.shape[1:]), np.float32),
        )
        values = np.zeros(needed.shape, np.float32)
        if self.use_cache:
            self.cache.reserve(buffer.n_slots)
            distinct = np.unique(wanted)
            slots = distinct[self.cache.stale(distinct, buffer.ids_at(distinct), version)]
            if len(slots) > 0:
                self.cache.store(
                    slots, buffer.ids_at(slots), version, *self._search(slots, buffer, model, rng, normalizer)
                )
            values[needed] = self.cache.values[wanted]
            policies.actions[needed] = self.cache.actions[wanted]
            policies.weights[needed] = self.cache.weights[wanted]
        else:
            slots = wanted
            values[needed], searched = self._search(slots, buffer, model, rng, normalizer)
            policies.actions[needed] = searched.actions
            policies.weights[needed] = searched.weights
        self.searched_fraction = len(slots) / max(len(wanted), 1)
        return values, policies

    def _search(
        self,
        slots: np.ndarray,
        buffer: TrajectoryReplayBuffer,
        model: EfficientZeroModel,
        rng: np.random.Generator,
        normalizer: Normalizer,
    ) -> tuple[np.ndarray, PolicyTargets]:
        """Search all ``slots`` and return values and policy targets in their order."""
        values, actions, weights = [], [], []
        for chunk in in_chunks(model, slots):
            device = th.device("cpu") if is_faster_on_host(model, len(chunk)) else model.reward_scale.device
            observations = to_tensors(buffer.observations_for_model(chunk, normalizer), device)
            noise = self.planner.draw_noise(model, len(chunk), rng)
            masks = buffer.masks_at(chunk)
            plan = self.planner.plan(model, observations, noise, explore=True, masks=masks)
            found = model.action_kind.policy_targets(plan)
            if self.wants_statistics:
                seen = to_tensors(observations, model.reward_scale.device)
                self.statistics, self.wants_statistics = search_statistics(model, seen, plan, masks), False
            values.append(getattr(plan, SEARCH_VALUES[self.search_value or model.action_kind.search_value]))
            actions.append(found.actions)
            weights.append(found.weights)
        return np.concatenate(values), PolicyTargets(np.concatenate(actions), np.concatenate(weights))
