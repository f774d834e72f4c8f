"""What SB3's users expect of any algorithm with a replay buffer.

Whole streams from the environments to the buffer, saving and loading.
"""

import io
import pathlib
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, BinaryIO, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import open_path
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.common.action_masks import masks_of, offers_masks, with_masks
from sb3_ezv2.common.arguments import argument_names, check_known
from sb3_ezv2.common.files import open_to_replace
from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.spaces import check_finite
from sb3_ezv2.common.vec_envs import CallCounter
from sb3_ezv2.ranked_algorithm import NO_ROLLOUT, RankedAlgorithm
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.frame_storage import frames_stacked_by
from sb3_ezv2.replay.saving import load_buffer, save_buffer


@contextmanager
def opened_to_save(path: str | pathlib.Path | io.BufferedIOBase, suffix: str) -> Iterator[BinaryIO]:
    """Open what SB3's ``save`` functions accept: a file object, or a path whose file is replaced as a whole.

    :param path: file to write, or a file object; missing folders are made
    :param suffix: added to a path that has none
    """
    if not isinstance(path, str | pathlib.Path):
        yield cast(BinaryIO, open_path(path, "w"))
        return
    target = pathlib.Path(path)
    target = target if target.suffix else target.with_name(f"{target.name}.{suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_to_replace(target) as file:
        yield file


class ReplayAlgorithm(RankedAlgorithm):
    """An SB3 algorithm that learns from a :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer`.

    ``OffPolicyAlgorithm`` would bring action noise and a buffer of single transitions, which do not fit.
    """

    replay_buffer: TrajectoryReplayBuffer
    _stream_is_whole = True  # whether the buffer holds all that the environments did
    _n_own_calls: int | None = None  # of the environments' steps and resets, up to the last step here
    _updates_due = 0  # for what has been collected
    has_action_masks = False  # whether the environments say which actions are legal; saved with the model
    _last_masks: np.ndarray | None = None  # of the last observations, None before they are asked for
    _n_stack = 1  # of VecFrameStack; saved with the model, which may be loaded without environments

    def _setup_model(self) -> None:
        super()._setup_model()
        if not hasattr(self, "run_id"):  # a loaded model goes on with its own
            self.run_id = uuid.uuid4().hex

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        n_simulations: int | None = None,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for one or several observations; see ``BasePolicy.predict``.

        :param observation: one or several
        :param state: not used
        :param episode_start: not used
        :param deterministic: greedy instead of exploring. Exploring draws from a generator of its own, which
            Stable-Baselines3's ``set_random_seed`` governs, and leaves the random numbers of learning alone
        :param n_simulations: model calls of this search, for a quicker or a deeper plan; ``None`` for the usual number
        :param action_masks: which actions are legal, as ``sb3_contrib.common.maskable.utils.get_action_masks`` gives
            them, one mask for every observation; ``None`` for all. Illegal ones are never chosen
        :return: actions in the environment's own units, and ``state``
        :raises ValueError: if the masks are none of these observations, or allow nothing
        """
        if n_simulations is None and action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        with self.policy.simulations(n_simulations), self.policy.masked(action_masks):
            return super().predict(observation, state, episode_start, deterministic)

    def warm_up(self, n_observations: int = 1) -> None:
        """Compile what predictions need, which otherwise the first one does; nothing else changes.

        :param n_observations: how many observations a prediction will be for
        """
        space = deepcopy(self.observation_space)
        observations = [space.sample() for _ in range(n_observations)]
        batch = (
            {key: np.stack([part[key] for part in observations]) for key in observations[0]}
            if isinstance(space, spaces.Dict)
            else np.stack(observations)
        )
        tensors, _ = self.policy.obs_to_tensor(batch)
        for deterministic in (True, False):
            self.policy.search(tensors, deterministic, np.random.default_rng(0))

    @property
    def normalizer(self) -> Normalizer:
        """Gives data as the environments did and as the model sees it."""
        return Normalizer(self.env)

    # -- replay ------------------------------------------------------------------------------------------------------

    def _new_replay_buffer(self) -> TrajectoryReplayBuffer:
        """An empty buffer that stores each frame once where ``VecFrameStack`` is around the environments."""
        arguments = self.arguments.replay
        kwargs = dict(arguments.replay_buffer_kwargs or {})
        if self.env is not None:
            self._n_stack = frames_stacked_by(self.env)
            self.has_action_masks = offers_masks(self.env)
        buffer_class = arguments.replay_buffer_class or TrajectoryReplayBuffer
        given = {"self", "buffer_size", "observation_space", "action_space", "n_envs"}
        known = argument_names(TrajectoryReplayBuffer.__init__) | argument_names(buffer_class.__init__)
        check_known(kwargs, known - given, f"{buffer_class.__name__}'s replay_buffer_kwargs")
        if buffer_class is TrajectoryReplayBuffer:
            kwargs.setdefault("n_stack", self._n_stack)
        if self.has_action_masks:
            kwargs["action_masks"] = True
        # In the worst case every episode is one step long and takes two places, the newest observations one each.
        size = arguments.buffer_size // self.ranks.size
        fewest = self.n_envs * ((size // self.n_envs - 1) // 2)
        if fewest < self.ranks.share("batch_size", arguments.batch_size):
            raise ValueError(
                f"batch_size={arguments.batch_size} must be at most {fewest}, or nothing may ever be learnt: more "
                f"transitions need not fit into buffer_size={arguments.buffer_size} of n_envs={self.n_envs} "
                "environments; use a larger buffer or a smaller batch"
            )
        return buffer_class(size, self.observation_space, self.action_space, n_envs=self.n_envs, **kwargs)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if not self._stream_is_whole or self._others_used_the_environments:
            # The last step was interrupted between the environment and the buffer, or the environments are no longer
            # where it left them: begin again from a reset.
            self._last_obs = None
        if self.env is not None and offers_masks(self.env) != self.has_action_masks:
            now, then = ("do not have", "had") if self.has_action_masks else ("have", "had not")
            raise ValueError(
                f"the environments {now} action_masks(), and those that the model was made for {then}; make or load a "
                "model with these"
            )
        before = self._n_calls
        result = super()._setup_learn(*args, **kwargs)
        if self.num_timesteps == 0:  # a new run
            self._begun_rollout, self._updates_due, self._logged_episodes = NO_ROLLOUT, 0, 0
        if self._n_calls != before:
            self._start_streams()
        self._stream_is_whole, self._n_own_calls = True, self._n_calls
        return result

    @property
    def _n_calls(self) -> int:
        """Steps and resets of the environments so far, whoever made them."""
        return 0 if self.env is None else CallCounter(self.env).n_calls

    @property
    def _others_used_the_environments(self) -> bool:
        """Whether somebody reset or stepped them since the last step here, as ``evaluate_policy`` does."""
        return self._n_own_calls is not None and self._n_calls != self._n_own_calls

    def _begin_again_if_others_used(self, env: VecEnv) -> None:
        """Reset environments that are not where the last step left them: a transition would join two episodes."""
        if self._others_used_the_environments:
            self._last_obs = env.reset()  # type: ignore[assignment]
            self._start_streams()
            self._n_own_calls = self._n_calls

    def _start_streams(self) -> None:
        """Begin new streams with the first observations after a reset, and check these."""
        self.replay_buffer.close_streams()
        self._last_masks = None
        assert self._last_obs is not None
        first = self.normalizer.raw_observations(self._last_obs)
        try:
            check_finite("the first observation", first)
            self._masks()
        except ValueError:
            self._last_obs = None  # the next call of learn resets the environments again
            raise
        self._last_original_obs = first

    def _masks(self) -> np.ndarray | None:
        """Masks of the last observations ``[n_envs, mask_size]``; ``None`` if the environments have none.

        :raises ValueError: naming the environment whose mask is none
        """
        if self.has_action_masks and self._last_masks is None:
            assert self.env is not None
            self._last_masks = masks_of(self.env, self.policy.action_kind)
        return self._last_masks

    # -- collecting --------------------------------------------------------------------------------------------------

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: TrajectoryReplayBuffer,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Step all environments until ``train_freq`` is reached and store what happens.

        :param env: the training environments
        :param callback: called after every step; its ``locals`` are those of SB3's off-policy algorithms, where
            ``actions`` are in the environment's own units and ``buffer_actions`` those that are stored
        :param train_freq: how much to collect
        :param replay_buffer: of this algorithm
        :param learning_starts: transitions collected with random actions
        :param log_interval: log every so many episodes
        :return: transitions, episodes, and whether the callbacks want to go on
        """
        num_collected_steps, num_collected_transitions, num_collected_episodes = self._begun_rollout
        callback.on_rollout_start()
        self._dump_logs_if_due(log_interval)
        while should_collect_more_steps(train_freq, num_collected_steps, num_collected_episodes):
            self._begin_again_if_others_used(env)
            self.ranks.enter("choosing actions")
            buffer_actions = self._choose_actions(env.num_envs, learning_starts)
            actions = self.policy.to_env_actions(buffer_actions)
            self.ranks.enter("stepping the environments")
            with self._whole_step():
                new_obs, rewards, dones, infos = env.step(actions)
                self._store(buffer_actions, new_obs, rewards, dones, infos)
            num_collected_steps, num_collected_transitions, num_collected_episodes = self._count_step(infos, dones)
            callback.update_locals(locals())
            if not callback.on_step():
                return RolloutReturn(num_collected_transitions, num_collected_episodes, False)
            self._dump_logs_if_due(log_interval)
        callback.on_rollout_end()
        self._begun_rollout = NO_ROLLOUT
        return RolloutReturn(num_collected_transitions, num_collected_episodes, True)

    @abstractmethod
    def _choose_actions(self, n_envs: int, learning_starts: int) -> np.ndarray:
        """Actions of the next step, as they are stored."""

    @abstractmethod
    def _store(
        self, actions: np.ndarray, new_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Keep one step of every environment."""

    @contextmanager
    def _whole_step(self) -> Iterator[None]:
        """Notice when a step of the environments does not reach the buffer."""
        self._stream_is_whole = False
        yield
        self._stream_is_whole, self._n_own_calls = True, self._n_calls

    def _add_to_buffer(
        self, actions: np.ndarray, new_obs: Any, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Store one step of every environment as it was before ``VecNormalize``.

        :raises ValueError: if an observation or a reward is not finite, or an episode's last observation is missing;
            then nothing is stored
        """
        normalizer = self.normalizer
        before, after = self._last_original_obs, normalizer.raw_observations(new_obs)
        rewards = normalizer.raw_rewards(rewards)
        terminals = {}
        for i in map(int, np.flatnonzero(dones)):
            if "terminal_observation" not in infos[i]:
                raise ValueError(
                    f"environment {i} ended an episode without info['terminal_observation'], its last observation, "
                    "which every VecEnv of Stable-Baselines3 gives; let your VecEnv's step_wait add it. The step was "
                    "not stored"
                )
            terminals[i] = normalizer.raw_observation(infos[i]["terminal_observation"])
        check_finite("observation", after)
        check_finite("reward", rewards)
        for terminal in terminals.values():
            check_finite("terminal observation", terminal)
        assert before is not None
        old_masks, self._last_masks = self._last_masks, None
        masks = self._masks()
        stored = (with_masks(before, old_masks), with_masks(after, masks))
        ends = {i: with_masks(part, None if masks is None else np.ones_like(masks[i])) for i, part in terminals.items()}
        raw_infos = [info | {"terminal_observation": ends.get(i)} for i, info in enumerate(infos)]
        self.replay_buffer.add(*stored, actions, rewards, dones, raw_infos)
        self._last_obs, self._last_original_obs = new_obs, after

    @property
    def _has_a_batch(self) -> bool:
        """Whether every rank has stored enough transitions for its part of a batch."""
        return self.ranks.all_agree(len(self.replay_buffer) >= self.ranks.share("batch_size", self.batch_size))

    @property
    def _is_in_between(self) -> bool:
        """Whether learning stopped in the middle of a rollout, or before all updates for it were made."""
        return self._updates_due > 0 or any(self._begun_rollout)

    # -- saving and logs -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _replay_buffer_loaded(self) -> None:
        """Forget what was derived from the previous replay buffer."""

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save what training needs, without the replay buffer; see ``BaseAlgorithm.save``.

        :param path: file to write, replaced as a whole; ``.zip`` is added if it has no suffix
        :param exclude: names of attributes to leave out
        :param include: names of attributes to save that are left out by default
        :raises OSError: if the file cannot be written; then the one before it stands
        """
        if self.ranks.rank > 0 and isinstance(path, str | pathlib.Path):
            return  # the first rank writes it
        with opened_to_save(path, "zip") as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save the replay buffer as plain arrays; see :meth:`load_replay_buffer` and :mod:`sb3_ezv2.replay.saving`.

        Of several ranks only the first one's share is saved; :meth:`save_checkpoint` saves all.

        :param path: file to write, replaced as a whole; ``.pkl`` is added if it has no suffix, as in SB3
        :raises OSError: if the file cannot be written; then the one before it stands
        """
        if self.ranks.rank > 0 and isinstance(path, str | pathlib.Path):
            return
        with opened_to_save(path, "pkl") as file:
            save_buffer(self.replay_buffer, file)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Load a replay buffer.

        :param path: file written by :meth:`save_replay_buffer`, by release 0.1 too
        :param truncate_last_traj: end the episodes that were open when the buffer was saved; without, the next step
            is stored as their continuation, which is right only if the environments stand where they stood
        :raises ValueError: if the file is damaged or holds something else, or a buffer of other spaces or environments;
            then the buffer stays as it was
        """
        file = open_path(path, "r", self.verbose, "pkl")
        try:
            loaded = load_buffer(file, str(path), self.replay_buffer)
        finally:
            if isinstance(path, str | pathlib.Path):
                file.close()
        self.replay_buffer = loaded
        self._replay_buffer_loaded()
        if truncate_last_traj:
            loaded.close_streams()
