"""What SB3's users expect of any algorithm with a replay buffer.

Whole streams from the environments to the buffer, saving and loading, the log of the rollouts.
"""

import inspect
import io
import pathlib
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from gymnasium.error import Error as GymnasiumError
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.argument_groups import Arguments, ExactValues, all_names, check_argument, without_shares
from sb3_ezv2.common.arguments import argument_names, check_known, shown
from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.spaces import check_finite
from sb3_ezv2.policies import EZV2Policy, MultiInputPolicy
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.frame_storage import frames_stacked_by

SelfReplayAlgorithm = TypeVar("SelfReplayAlgorithm", bound="ReplayAlgorithm")


class ReplayAlgorithm(BaseAlgorithm):
    """An SB3 algorithm that learns from a :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer`.

    ``OffPolicyAlgorithm`` would bring action noise and a buffer of single transitions, which do not fit.

    Every argument of the constructor is an attribute of the same name, as everywhere in SB3. One that is assigned later
    is checked in the same way and holds from then on; ``gamma``, sizes and other things that the networks or the replay
    buffer were built with cannot be assigned. ``arguments`` has them all in groups.
    """

    arguments: Arguments
    replay_buffer: TrajectoryReplayBuffer
    _from_release_0_1 = False  # whether the attributes were read from a file of that release
    _stream_is_whole = True  # whether the buffer holds all that the environments did
    _n_stack = 1  # of VecFrameStack; saved with the model, which may be loaded without environments

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Type checkers do not see the attributes that the arguments become."""

    # -- arguments ---------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in all_names() and "policy" in vars(self):
            self._use_arguments(self.arguments.changed(name, value))
            self._arguments_changed()
        else:
            super().__setattr__(name, value)

    def _use_arguments(self, arguments: Arguments) -> None:
        """Let attributes and groups be these arguments."""
        self.arguments = arguments
        flat = arguments.flat()
        self._exact_values = ExactValues(flat)
        vars(self).update(flat)

    def _read_arguments(self) -> None:
        """Group the arguments as they stand in the attributes, which may come from a file.

        :raises ValueError: naming the argument, its value and what it must be
        """
        found = vars(self)
        if self._from_release_0_1:
            parameters = inspect.signature(type(self).__init__).parameters
            found.update(without_shares(found, {name: parameter.default for name, parameter in parameters.items()}))
            if self.policy_class is EZV2Policy:  # MlpPolicy and MultiInputPolicy were one class
                self.policy_class = MultiInputPolicy
            self._from_release_0_1 = False
        found.update(self._exact_values.restored(found))
        self._use_arguments(Arguments.of(found))

    @abstractmethod
    def _arguments_changed(self) -> None:
        """Let everything that was built know of an argument that was assigned."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "arguments"]

    # -- environments ------------------------------------------------------------------------------------------------

    @staticmethod
    def _wrap_env(env: GymEnv | str, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Wrap an environment, or make it by its name.

        :raises ValueError: if it is no environment, or if its wrappers hide what was observed
        """
        if isinstance(env, type) or not (isinstance(env, str) or hasattr(env, "step")):
            raise ValueError(f"env={shown(env)} must be an environment, a VecEnv or the name of a registered one")
        try:
            made = maybe_make_env(env, verbose)
        except GymnasiumError as error:
            raise ValueError(f"env={env!r} cannot be made: {error}") from error
        wrapped = BaseAlgorithm._wrap_env(made, verbose, monitor_wrapper)
        Normalizer(wrapped)
        return wrapped

    @classmethod
    def load(
        cls: type[SelfReplayAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SelfReplayAlgorithm:
        """Load a model; see ``BaseAlgorithm.load``.

        :param path: file, or a file-like object
        :param env: environments to learn in from now on, or the name of a registered one
        :param args: of ``BaseAlgorithm.load``
        :param kwargs: of ``BaseAlgorithm.load``, and arguments of the constructor that take the place of saved ones
        :return: the model
        :raises ValueError: if there is no such argument, or if a value is none for it
        """
        known = argument_names(BaseAlgorithm.load) | argument_names(cls.__init__)
        check_known(kwargs, known, f"the arguments of {cls.__name__}.load")
        for name, value in kwargs.items():
            check_argument(name, value)
        return super().load(path, env, *args, **kwargs)  # type: ignore[arg-type]  # _wrap_env makes it

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
        buffer_class = arguments.replay_buffer_class or TrajectoryReplayBuffer
        given = {"self", "buffer_size", "observation_space", "action_space", "n_envs"}
        known = argument_names(TrajectoryReplayBuffer.__init__) | argument_names(buffer_class.__init__)
        check_known(kwargs, known - given, f"{buffer_class.__name__}'s replay_buffer_kwargs")
        if buffer_class is TrajectoryReplayBuffer:
            kwargs.setdefault("n_stack", self._n_stack)
        return buffer_class(
            arguments.buffer_size, self.observation_space, self.action_space, n_envs=self.n_envs, **kwargs
        )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if not self._stream_is_whole:
            # The last step was interrupted between the environment and the buffer: begin again from a reset.
            self._last_obs = None
        before = self._last_obs
        result = super()._setup_learn(*args, **kwargs)
        if self._last_obs is not before:
            self.replay_buffer.close_streams()
            self._start_streams()
        self._stream_is_whole = True
        return result

    def _start_streams(self) -> None:
        """Check the first observations after a reset."""
        assert self._last_obs is not None
        first = self.normalizer.raw_observations(self._last_obs)
        try:
            check_finite("the first observation", first)
        except ValueError:
            self._last_obs = None  # the next call of learn resets the environments again
            raise
        self._last_original_obs = first

    @contextmanager
    def _whole_step(self) -> Iterator[None]:
        """Notice when a step of the environments does not reach the buffer."""
        self._stream_is_whole = False
        yield
        self._stream_is_whole = True

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
        raw_infos = [info | {"terminal_observation": terminals.get(i)} for i, info in enumerate(infos)]
        self.replay_buffer.add(before, after, actions, rewards, dones, raw_infos)
        self._last_obs, self._last_original_obs = new_obs, after

    @abstractmethod
    def _replay_buffer_loaded(self) -> None:
        """Forget what was derived from the previous replay buffer."""

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Save the replay buffer; see :meth:`load_replay_buffer`.

        :param path: file to write, ``.pkl`` is added if it has no suffix
        """
        save_to_pkl(path, self.replay_buffer, self.verbose)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Load a replay buffer.

        :param path: file written by :meth:`save_replay_buffer`
        :param truncate_last_traj: end the episodes that were open when the buffer was saved; without, the next step
            is stored as their continuation, which is right only if the environments stand where they stood
        :raises ValueError: if the file holds something else, or a buffer of other spaces or environments
        """
        loaded = load_from_pkl(path, self.verbose)
        if not isinstance(loaded, TrajectoryReplayBuffer):
            raise ValueError(f"{path} holds a {type(loaded).__name__}, not a TrajectoryReplayBuffer of this package")
        self.replay_buffer.check_same_layout(loaded)
        self.replay_buffer = loaded
        self._replay_buffer_loaded()
        if truncate_last_traj:
            loaded.close_streams()

    def dump_logs(self) -> None:
        """Write the log of the episodes since the last call."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        assert self.ep_info_buffer is not None and self.ep_success_buffer is not None
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        if len(self.ep_info_buffer) > 0 and len(self.ep_info_buffer[0]) > 0:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if len(self.ep_success_buffer) > 0:
            self.logger.record("rollout/success_rate", safe_mean(self.ep_success_buffer))
        self.logger.dump(step=self.num_timesteps)
