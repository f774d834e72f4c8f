"""What SB3's users expect of any algorithm with a replay buffer: saving, loading, the log of the rollouts."""

import io
import pathlib
import sys
import time
from abc import abstractmethod

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.utils import safe_mean

from sb3_ezv2.replay_buffer import TrajectoryReplayBuffer


class ReplayAlgorithm(BaseAlgorithm):
    """An SB3 algorithm that learns from a :class:`~sb3_ezv2.replay_buffer.TrajectoryReplayBuffer`.

    ``OffPolicyAlgorithm`` would bring action noise, ``tau`` and a buffer of single transitions, which do not fit.
    """

    replay_buffer: TrajectoryReplayBuffer

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
