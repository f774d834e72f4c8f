"""Where a replay buffer gets what was not collected just now, and what of it keeps a share of every batch."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sb3_ezv2.common.arguments import Real
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.replay.episodes import add_episodes
from sb3_ezv2.replay.journal_reader import JournalSummary, add_journal
from sb3_ezv2.replay.slots import NO_FRONTIER, TERMINATED, TRANSITION, TRUNCATED


class Kept(NamedTuple):
    """Transitions that keep a share of every batch."""

    share: float
    slots: np.ndarray  # [n] int64
    ids: np.ndarray  # [n] int64, running numbers of the observations in these slots when they were written


class FilledFromElsewhere:
    """The part of :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer` that takes in old data."""

    n_envs: int
    n_transitions: int
    kinds: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    frontiers: np.ndarray
    observation_ids: np.ndarray
    _new_slots: list[np.ndarray]
    _write_observation: Callable[[ObservationArrays, int, bool], None]
    kept: Kept | None = None
    has_old_data = False
    """Whether something was added that the statistics of the observations do not know yet."""

    def add_journal(self, path: str | os.PathLike, after: tuple[str, int] | None = None) -> JournalSummary:
        """Store the steps of a journal as if they happened now; see :class:`~sb3_ezv2.callbacks.TransitionJournal`.

        Open episodes are ended as truncated, before and after; where there is no step to store, nothing changes.

        :param path: of the journal
        :param after: ``(run_id, step)`` of the checkpoint that this buffer comes from, to store only what came later
        :return: what was read; of a damaged journal that is what is whole, and a warning says so
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if it is no journal, or one of other spaces or environments
        """
        summary = add_journal(self, path, after)  # type: ignore[arg-type]
        self.has_old_data = self.has_old_data or summary.n_transitions > 0
        return summary

    def add_episodes(self, episodes: Any, share: float = 0.0) -> int:
        """Store whole episodes as if they happened now; see :class:`~sb3_ezv2.replay.episodes.Episode`.

        They are what the environment gives: observations and rewards before ``VecNormalize``, actions in its own units,
        images with their channels first or last. Open episodes of the buffer are ended as truncated.

        :param episodes: a list of ``Episode`` or of what has the attributes of Minari's ``EpisodeData``; a dataset of
            Minari or its id; or a ``ReplayBuffer`` of Stable-Baselines3, of which each unbroken piece is an episode
        :param share: of every batch that is drawn from these episodes from now on, in place of those that had one
            before; the rest is drawn from everything by priority. They lose it as newer data takes their place
        :return: transitions that were added
        :raises ValueError: naming the first thing that does not fit the buffer's spaces; then nothing was stored
        """
        share = Real(0.0, 1.0)("share", share)
        slots = add_episodes(self, episodes)  # type: ignore[arg-type]
        self.has_old_data = True
        if share > 0.0:
            self.kept = Kept(share, slots, self.observation_ids.reshape(-1)[slots])
        return len(slots)

    def write_episode(
        self, env: int, observations: ObservationArrays, actions: np.ndarray, rewards: np.ndarray, terminated: bool
    ) -> np.ndarray:
        """Store a whole episode in one environment's stream, which has no open episode before and after.

        :param env: environment
        :param observations: ``[n + 1, ...]`` by key
        :param actions: ``[n, *action_shape]``, those of a ``Box`` scaled to [-1, 1]
        :param rewards: ``[n]``
        :param terminated: whether the last observation is terminal
        :return: slots of the transitions ``[n]``
        """
        n = len(rewards)
        slots = np.empty(n, np.int64)
        for step in range(n + 1):
            self._write_observation({key: part[step] for key, part in observations.items()}, env, step == 0)
            row = int(self.frontiers[env])
            if step < n:
                self.actions[row, env], self.rewards[row, env] = actions[step], rewards[step]
                self.kinds[row, env] = TRANSITION
                self.n_transitions += 1
                slots[step] = row * self.n_envs + env
            else:
                self.kinds[row, env] = TERMINATED if terminated else TRUNCATED
        self.frontiers[env] = NO_FRONTIER
        self._new_slots.append(slots)
        return slots

    def draw_kept(self, batch_size: int, rng: np.random.Generator) -> np.ndarray:
        """Slots of the part of a batch that is kept for some transitions, drawn uniformly; empty without such.

        :param batch_size: of the whole batch
        :param rng: source of all randomness
        """
        if self.kept is None:
            return np.empty(0, np.int64)
        share, slots, ids = self.kept
        alive = (self.observation_ids.reshape(-1)[slots] == ids) & (self.kinds.reshape(-1)[slots] == TRANSITION)
        slots = slots[alive]
        return slots[rng.integers(len(slots), size=round(share * batch_size))] if len(slots) else slots
