"""Learning from data that is already there, without an environment."""

import os
import time
from abc import abstractmethod
from typing import Any, TypeVar

from gymnasium import spaces
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_ezv2.checkpoints import CheckpointedAlgorithm
from sb3_ezv2.common.arguments import Whole, shown
from sb3_ezv2.policies import PlanningPolicy
from sb3_ezv2.replay.episodes import load_minari
from sb3_ezv2.replay.journal_reader import spaces_of_journal

SelfOffline = TypeVar("SelfOffline", bound="OfflineAlgorithm")


class OfflineAlgorithm(CheckpointedAlgorithm):
    """An algorithm that also learns from a fixed set of transitions."""

    @abstractmethod
    def _begin_run(self) -> None:
        """Get ready for updates, with all data that there is."""

    @classmethod
    def from_data(
        cls: type[SelfOffline],
        policy: str | type[PlanningPolicy],
        data: Any,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        n_envs: int = 1,
        **kwargs: Any,
    ) -> SelfOffline:
        """A model without an environment that holds the data and takes its spaces from it.

        :meth:`learn_offline` trains it; after ``set_env``, ``learn`` goes on.

        :param policy: as for the constructor
        :param data: what ``replay_buffer.add_episodes`` takes, or the path of a journal
        :param observation_space: of the data, where it does not say, as lists of episodes do not
        :param action_space: of the data, where it does not say
        :param n_envs: environments that the model is to learn in afterwards; a journal has its own number
        :param kwargs: of the constructor
        :raises ValueError: if the spaces are not known, or the data does not fit them
        """
        is_journal = isinstance(data, os.PathLike) or (isinstance(data, str) and os.path.isfile(data))
        found: list[Any]
        if is_journal:
            *found, n_envs = spaces_of_journal(data)
        else:
            data = load_minari(data) if isinstance(data, str) else data
            found = [getattr(data, name, None) for name in ("observation_space", "action_space")]
        observations, actions = observation_space or found[0], action_space or found[1]
        for name, space in (("observation_space", observations), ("action_space", actions)):
            if not isinstance(space, spaces.Space):
                raise ValueError(f"{name}={shown(space)}: the data does not say its spaces; pass {name}=...")
        model = cls(policy, None, _init_setup_model=False, **kwargs)
        model.observation_space, model.action_space = _channels_first(observations), actions
        model.n_envs = Whole(1)("n_envs", n_envs)
        model._from_release_0_1 = model._from_before_net_size = False
        model._setup_model()
        if is_journal:
            model.replay_buffer.add_journal(data)
        else:
            model.replay_buffer.add_episodes(data)
        return model

    def learn_offline(
        self: SelfOffline,
        n_updates: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 100,
        tb_log_name: str = "EfficientZeroV2_offline",
    ) -> SelfOffline:
        """Learn from the transitions in the replay buffer; no environment is needed and none is stepped.

        The value targets of old data come from searches with the newest models (MuZero Unplugged). ``num_timesteps``
        stays as it is; callbacks are called once for every update.

        :param n_updates: optimiser steps
        :param callback: one or several, as for ``learn``; those that look at the training environments, such as
            ``EvalCallback``, need ``set_env`` before
        :param log_interval: updates between two logs; ``None`` for no logs
        :param tb_log_name: of the folder of the TensorBoard log
        :raises ValueError: if there are fewer transitions than ``batch_size``
        """
        Whole(1)("n_updates", n_updates)
        if log_interval is not None:
            Whole(1)("log_interval", log_interval)
        if len(self.replay_buffer) < self.ranks.share("batch_size", self.batch_size):
            raise ValueError(
                f"the replay buffer has {len(self.replay_buffer)} transitions, batch_size={self.batch_size} asks for "
                "more: call replay_buffer.add_episodes, replay_buffer.add_journal or load_replay_buffer first"
            )
        self._join_ranks(n_updates)
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, self._n_updates == 0)
        self._begin_run()
        hooks = self._init_callback(CallbackList([]) if callback is None else callback)
        hooks.on_training_start(locals(), globals())
        begin = time.perf_counter()
        with self._bound_threads():
            for update in range(1, n_updates + 1):
                self._update_current_progress_remaining(update - 1, n_updates)
                self.train(1)
                hooks.update_locals(locals())
                goes_on = hooks.on_step()
                if log_interval and (update % log_interval == 0 or update == n_updates or not goes_on):
                    self.logger.record("time/time_elapsed", int(time.perf_counter() - begin), exclude="tensorboard")
                    self.logger.dump(step=self._n_updates)
                if not goes_on:
                    break
        hooks.on_training_end()
        return self


def _channels_first(space: spaces.Space) -> spaces.Space:
    """The space as the model sees it behind ``VecTransposeImage``, which SB3 puts around images."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(part) for key, part in space.spaces.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space
