"""Replay of whole trajectories with priorities.

Every environment is a stream of its own in a ring of slots, see :mod:`sb3_ezv2.replay.slots`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ezv2.common.action_masks import MASKS, packed_size, packed_space, unpack
from sb3_ezv2.common.actions import action_kind_of
from sb3_ezv2.common.arguments import OneOf, Real, Whole, switch
from sb3_ezv2.common.normalization import UNCHANGED, Normalizer
from sb3_ezv2.common.spaces import named_arrays, named_spaces
from sb3_ezv2.common.type_aliases import ObservationArrays, TrajectoryBatch
from sb3_ezv2.replay.frame_mirror import MirroredOnDevice
from sb3_ezv2.replay.frame_storage import new_frame_storages
from sb3_ezv2.replay.slots import EMPTY, FRONTIER, NO_FRONTIER, TERMINATED, TRANSITION, TRUNCATED, follow_slots
from sb3_ezv2.replay.sources import FilledFromElsewhere
from sb3_ezv2.replay.step_checks import check_stacks, checked_observations
from sb3_ezv2.replay.sum_tree import find_leaves, new_sum_tree, resized, set_priorities

FIRST_ROWS = 1024
MIN_PRIORITY = 1e-6
MIN_WEIGHT = 0.1
"""Importance weights are kept at or above this (EfficientZero V2's code)."""


class TrajectoryReplayBuffer(FilledFromElsewhere, MirroredOnDevice):
    """Prioritised replay of trajectories; memory grows with use.

    :param buffer_size: number of observations kept, all environments together; the last one of an episode counts
    :param observation_space: of the environment, ``Dict`` included
    :param action_space: of the environment; actions are stored as its
        :class:`~sb3_ezv2.common.actions.kind.ActionKind` has them, those of a ``Box`` scaled to [-1, 1]
    :param n_envs: number of environments
    :param alpha: exponent of the priorities; 0 samples uniformly
    :param n_stack: frames in every image of bytes, of which only the newest is stored with each observation; other
        parts of the observations are stored whole, as images are where ``n_stack`` is 1
    :param channels_order: ``"first"`` or ``"last"`` if the frames are not stacked along the axis that
        :func:`~sb3_ezv2.replay.frame_storage.stack_axis` finds
    :param action_masks: whether a mask of the legal actions is stored with every observation, see
        :mod:`sb3_ezv2.common.action_masks`
    :raises ValueError: naming the argument, if a value cannot work, for example because the ring of one environment
        would have fewer than three slots or the observation space has no images of ``n_stack`` frames
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_envs: int = 1,
        alpha: float = 0.6,
        n_stack: int = 1,
        channels_order: str | None = None,
        action_masks: bool = False,
    ) -> None:
        self.buffer_size = Whole(1)("buffer_size", buffer_size)
        self.observation_space = observation_space
        self.action_space = action_space
        self.n_envs = Whole(1)("n_envs", n_envs)
        self.alpha = Real(0.0, 10.0)("alpha", alpha)
        self.n_stack = Whole(1)("n_stack", n_stack)
        self.channels_order = OneOf(("first", "last", None))("channels_order", channels_order)
        self.action_masks = switch("action_masks", action_masks)
        self.max_rows = buffer_size // n_envs
        if self.max_rows < 3:
            raise ValueError(
                f"buffer_size={buffer_size} leaves fewer than 3 observations for each of n_envs={n_envs} environments; "
                "use a larger buffer_size"
            )
        self.reset()

    def reset(self, n_rows: int | None = None) -> None:
        """Forget everything.

        :param n_rows: rows to begin with, at most those of the whole ring; by default a few
        """
        self.n_rows = min(n_rows or FIRST_ROWS, self.max_rows)
        kind = action_kind_of(self.action_space)
        layout = (self.n_rows, self.n_envs)
        self.stacks = new_frame_storages(self.observation_space, self.n_stack, self.channels_order, self.n_slots)
        self.observations = {  # stored whole
            key: np.empty((*layout, *space.shape), space.dtype)  # type: ignore[misc]
            for key, space in self.parts().items()
            if key not in self.stacks
        }
        self.actions = np.zeros((*layout, *kind.shape), kind.dtype)
        self.rewards = np.zeros(layout, np.float32)
        self.kinds = np.full(layout, EMPTY, np.int8)
        self.observation_ids = np.full(layout, -1, np.int64)
        self.sum_tree = new_sum_tree(self.n_rows * self.n_envs)
        self.n_observations = getattr(self, "n_observations", 0)  # ever stored; ids never begin again
        self.n_transitions = 0  # in the buffer now
        self._new_slots: list[np.ndarray] = []
        self.kept = None
        self.frontiers = np.full(self.n_envs, NO_FRONTIER, np.int64)
        self.next_rows = np.zeros(self.n_envs, np.int64)

    largest_weight = 1.0
    """Of the importance weights of the last sample, before they were divided by it."""

    def parts(self) -> dict[str, spaces.Space]:
        """What is stored of an observation by key: its parts and, if there are any, the packed masks."""
        parts = named_spaces(self.observation_space)
        if self.action_masks:
            stored = vars(self).get("observations", {}).get(MASKS)  # none yet where the buffer is being made
            n_bytes = packed_size(action_kind_of(self.action_space)) if stored is None else stored.shape[-1]
            parts[MASKS] = packed_space(n_bytes)
        return parts

    def __len__(self) -> int:
        """Number of transitions that can be sampled."""
        return self.n_transitions

    def size(self) -> int:
        """Number of transitions that can be sampled, under the name that Stable-Baselines3's buffers give it."""
        return self.n_transitions

    @property
    def pos(self) -> int:
        """Row that the first environment's next observation goes to."""
        return int(self.next_rows[0])

    @property
    def full(self) -> bool:
        """Whether the next observation of every environment takes the place of an old one."""
        return bool(
            self.n_rows == self.max_rows and (self.kinds[self.next_rows, np.arange(self.n_envs)] != EMPTY).all()
        )

    # -- writing ---------------------------------------------------------------------------------------------------

    def add(
        self,
        observations: np.ndarray | dict[str, np.ndarray],
        next_observations: np.ndarray | dict[str, np.ndarray],
        actions: np.ndarray,
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> np.ndarray:
        """Store one step of every environment.

        An episode that ends brings its last observation in ``info["terminal_observation"]`` and counts as truncated
        where ``info["TimeLimit.truncated"]`` is true, as in every SB3 ``VecEnv``.

        :param observations: before the step ``[n_envs, ...]``; stored only where a stream begins. With
            ``action_masks`` these and the others are dictionaries that have the packed masks too
        :param next_observations: after the step, already of the next episode where ``dones``
        :param actions: ``[n_envs, *action_shape]``, those of a ``Box`` scaled to [-1, 1]
        :param rewards: ``[n_envs]``
        :param dones: ``[n_envs]``
        :param infos: one dictionary per environment
        :return: slots of the new transitions ``[n_envs]``; they are not sampled before :meth:`update_priorities` has
            given them a priority, see :meth:`take_new_slots`
        :raises ValueError: if an observation has another shape than its space, or images that are not those of the
            observation before, one frame later; then nothing of the step is stored
        """
        parts = self.parts()
        before = checked_observations(parts, observations, self.n_envs)
        after = checked_observations(parts, next_observations, self.n_envs)
        terminals = {
            int(env): checked_observations(parts, infos[env]["terminal_observation"], None)
            for env in np.flatnonzero(dones)
        }
        newest = np.where(
            self.frontiers == NO_FRONTIER, NO_FRONTIER, self.frontiers * self.n_envs + np.arange(self.n_envs)
        )
        check_stacks(self.stacks, self.channels_order, newest, before, after, terminals)
        slots = np.empty(self.n_envs, np.int64)
        for env in range(self.n_envs):
            if self.frontiers[env] == NO_FRONTIER:
                self._write_observation({key: value[env] for key, value in before.items()}, env, begins=True)
            row = self.frontiers[env]
            self.actions[row, env] = actions[env]
            self.rewards[row, env] = rewards[env]
            self.kinds[row, env] = TRANSITION
            self.n_transitions += 1
            slots[env] = row * self.n_envs + env
            if dones[env]:
                self._write_observation(terminals[env], env, begins=False)
                truncated = infos[env].get("TimeLimit.truncated", False)
                self.kinds[self.frontiers[env], env] = TRUNCATED if truncated else TERMINATED
            self._write_observation({key: value[env] for key, value in after.items()}, env, begins=bool(dones[env]))
        self._new_slots.append(slots)
        return slots

    def take_new_slots(self) -> np.ndarray:
        """Slots of the transitions stored since the last call, which have no priority yet."""
        slots = np.concatenate([np.empty(0, np.int64), *self._new_slots])
        self._new_slots = []
        return slots

    def close_streams(self) -> None:
        """End all open episodes as truncated, for example because the environments are about to be reset.

        A step that :meth:`add` was interrupted in counts where it was stored with what followed.
        """
        for env in np.flatnonzero(self.frontiers != NO_FRONTIER):
            self.kinds[self.frontiers[env], env] = TRUNCATED
        self.frontiers[:] = NO_FRONTIER
        self.n_transitions = int((self.kinds == TRANSITION).sum())

    def _write_observation(self, observation: ObservationArrays, env: int, begins: bool) -> None:
        """Put the next observation of a stream into its ring; it becomes the frontier.

        :param observation: by key
        :param env: environment
        :param begins: whether it is the first one of an episode or of a stream
        """
        row = int(self.next_rows[env])
        if row == self.n_rows:
            self._grow()
        if self.kinds[row, env] == TRANSITION:
            self.n_transitions -= 1
            set_priorities(self.sum_tree, np.array([row * self.n_envs + env]), np.zeros(1))
        self.kinds[row, env] = EMPTY
        for key, array in self.observations.items():
            array[row, env] = observation[key]
        previous = None if begins else int(self.frontiers[env]) * self.n_envs + env
        for key, stacks in self.stacks.items():
            stacks.write(row * self.n_envs + env, observation[key], previous)
        self.observation_ids[row, env] = self.n_observations
        self.n_observations += 1
        self.kinds[row, env] = FRONTIER
        self.frontiers[env] = row
        self.next_rows[env] = (row + 1) % self.max_rows

    def _grow(self) -> None:
        """Double the allocated rows, up to the ring's size."""
        added = min(self.n_rows, self.max_rows - self.n_rows)

        def extended(array: np.ndarray, fill: float) -> np.ndarray:
            return np.concatenate([array, np.full((added, *array.shape[1:]), fill, array.dtype)])

        n_rows = self.n_rows + added
        for stacks in self.stacks.values():
            stacks.grow(n_rows * self.n_envs)
        grown = {
            "n_rows": n_rows,
            "observations": {key: extended(array, 0) for key, array in self.observations.items()},
            "actions": extended(self.actions, 0),
            "rewards": extended(self.rewards, 0),
            "kinds": extended(self.kinds, EMPTY),
            "observation_ids": extended(self.observation_ids, -1),
            "sum_tree": resized(self.sum_tree, n_rows * self.n_envs),
        }
        vars(self).update(grown)  # all at once, so that Ctrl-C cannot come in between

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def n_slots(self) -> int:
        """Number of slots allocated so far; a slot is ``row * n_envs + environment``."""
        return self.n_rows * self.n_envs

    def stored_rewards(self, normalizer: Normalizer = UNCHANGED) -> np.ndarray:
        """Rewards ``[n]`` of all transitions in the buffer as the model sees them."""
        return normalizer.rewards(self.rewards[self.kinds == TRANSITION])

    def stored_observations(self, n: int = 1024) -> Iterator[ObservationArrays]:
        """All observations in the buffer as the environment gave them, in pieces of up to ``n``."""
        slots = np.flatnonzero(self.kinds.reshape(-1) != EMPTY)
        for first in range(0, len(slots), n):
            yield self.observations_at(slots[first : first + n])

    def ids_at(self, slots: np.ndarray) -> np.ndarray:
        """Running number of the observation in each slot: changes exactly when the slot is written anew."""
        return self.observation_ids.reshape(-1)[slots]

    def observations_at(self, slots: np.ndarray, normalizer: Normalizer = UNCHANGED) -> ObservationArrays:
        """Observations ``[*slots.shape, ...]`` as the model sees them."""
        found = self.parts_at(slots, named_spaces(self.observation_space))
        named = isinstance(self.observation_space, spaces.Dict)
        return named_arrays(normalizer.observations(found if named else found["observation"]))

    def parts_at(self, slots: np.ndarray, keys: Iterable[str]) -> ObservationArrays:
        """Some of the stored :meth:`parts` ``[*slots.shape, ...]`` as they were given."""
        found = {}
        for key in keys:
            array = self.observations.get(key)
            found[key] = self.stacks[key].read(slots) if array is None else array.reshape(-1, *array.shape[2:])[slots]
        return found

    def masks_at(self, slots: np.ndarray) -> np.ndarray | None:
        """Masks of the legal actions ``[*slots.shape, mask_size]``; ``None`` if none are stored."""
        if not self.action_masks:
            return None
        return unpack(self.parts_at(slots, [MASKS])[MASKS], action_kind_of(self.action_space))

    def sample(
        self,
        batch_size: int,
        unroll_steps: int,
        td_steps: int,
        beta: float,
        rng: np.random.Generator,
        normalizer: Normalizer = UNCHANGED,
    ) -> TrajectoryBatch:
        """Draw positions in proportion to their priorities, with what the losses and the value targets need.

        :param batch_size: number of positions
        :param unroll_steps: dynamics steps of the loss
        :param td_steps: rewards that the value target of the last state may use
        :param beta: exponent of the importance weights ``(n P(i))^-beta``
        :param rng: source of all randomness
        :param normalizer: of observations and rewards
        :raises ValueError: if there are fewer transitions than ``batch_size``
        """
        if self.n_transitions < batch_size:
            raise ValueError(
                f"batch_size={batch_size} is larger than the {self.n_transitions} transitions in the replay buffer; "
                "collect more (learning_starts) or use a smaller batch"
            )
        kept = self.draw_kept(batch_size, rng)
        n_drawn = batch_size - len(kept)
        shares = (np.arange(n_drawn) + rng.random(n_drawn)) / max(n_drawn, 1)
        starts = find_leaves(self.sum_tree, shares)
        probabilities = self.sum_tree[len(self.sum_tree) // 2 + starts] / self.sum_tree[1]
        weights = (self.n_transitions * probabilities) ** -beta
        starts, weights = np.concatenate([kept, starts]), np.concatenate([np.ones(len(kept)), weights])
        self.largest_weight = weights.max()
        weights = np.maximum(weights / self.largest_weight, MIN_WEIGHT).astype(np.float32)

        return self.windows(starts, unroll_steps, td_steps, rng, normalizer)._replace(weights=weights)

    def windows(
        self,
        starts: np.ndarray,
        unroll_steps: int,
        td_steps: int,
        rng: np.random.Generator,
        normalizer: Normalizer = UNCHANGED,
    ) -> TrajectoryBatch:
        """What :meth:`sample` gives for the transitions in the slots ``starts [n]``, all with the weight 1."""
        length = unroll_steps + td_steps
        # The ring closes only when it has its full size; until then the frontier stands before the last row.
        slots, n_ahead = follow_slots(self.kinds.reshape(-1), starts, length, self.n_envs)
        real = np.arange(length) < n_ahead[:, None]
        rewards = normalizer.rewards(self.rewards.reshape(-1)[slots[:, :-1]])
        rewards = np.where(real, rewards, np.float32(0.0))
        states = slots[:, : unroll_steps + 1]
        return TrajectoryBatch(
            slots=slots,
            n_ahead=n_ahead,
            terminated=self.kinds.reshape(-1)[slots[:, -1]] == TERMINATED,
            observations=self.observations_for_model(states, normalizer),
            actions=self._actions_at(states[:, :-1], real[:, :unroll_steps], rng),
            rewards=rewards,
            ages=self.n_observations - self.ids_at(states),
            weights=np.ones(len(starts), np.float32),
        )

    def _actions_at(self, slots: np.ndarray, real: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Stored actions, and random ones past the end of an episode."""
        actions = self.actions.reshape(-1, *self.actions.shape[2:])[slots]
        missing = ~real
        actions[missing] = action_kind_of(self.action_space).random((int(missing.sum()),), rng)
        return actions

    def transitions_at(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rewards, whether the next state is terminal, and the next state's slots, of transitions ``[n]``."""
        chains, _ = follow_slots(self.kinds.reshape(-1), slots, 1, self.n_envs)
        following = chains[:, 1]
        return self.rewards.reshape(-1)[slots], self.kinds.reshape(-1)[following] == TERMINATED, following

    def check_same_layout(self, other: "TrajectoryReplayBuffer") -> None:
        """Refuse a buffer of other spaces or another number of environments.

        :raises ValueError: naming the first difference
        """
        for name in ("observation_space", "action_space", "n_envs", "action_masks"):
            theirs, ours = getattr(other, name), getattr(self, name)
            if theirs != ours:
                raise ValueError(
                    f"the replay buffer has {name}={theirs}, the model has {ours}; load it into a model made for the "
                    "same environments"
                )

    def update_priorities(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Set the priorities of transitions.

        :param slots: ``[n]``; those that hold no transition any more are left alone
        :param priorities: ``[n]``, errors of at least 0; a small constant is added and the sum raised to ``alpha``
        """
        alive = self.kinds.reshape(-1)[slots] == TRANSITION
        set_priorities(
            self.sum_tree, slots[alive], (np.asarray(priorities, np.float64)[alive] + MIN_PRIORITY) ** self.alpha
        )
