"""An SB3 algorithm that learns in one process or in several: counts, callbacks and logs of all of them together."""

import platform
import re
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean

from sb3_ezv2.common.arguments import shown
from sb3_ezv2.common.ranks import Ranks, TorchRanks, choose_gpu, ranks_of_process
from sb3_ezv2.common.tensors import torch_threads
from sb3_ezv2.configured_algorithm import ConfiguredAlgorithm
from sb3_ezv2.learning.agreement import remember_normalization
from sb3_ezv2.policies import PlanningPolicy

NO_ROLLOUT = (0, 0, 0)
"""Steps, transitions and episodes of a rollout that has not begun."""
PACKAGES = ("sb3_ezv2", "stable_baselines3", "gymnasium", "numpy", "numba", "torch")
OF_EPISODES = ("episode", "is_success")
"""What the log reads of the ``info`` of a step that ends an episode."""


class RankedAlgorithm(ConfiguredAlgorithm):
    """An SB3 algorithm whose processes under ``torchrun`` are one run; in one process alone nothing is different.

    Numbers of steps, transitions and updates count all ranks. Only the first rank has callbacks, a log and files.
    """

    policy: PlanningPolicy
    ranks: Ranks
    rng: np.random.Generator
    run_id: str
    _begun_rollout = NO_ROLLOUT  # steps, transitions and episodes collected since the last updates
    _logged_episodes = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ranks = ranks_of_process()
        choose_gpu(kwargs.get("device", "auto"))
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if not hasattr(self, "_logger"):  # ``train`` may be called without ``learn``
            self._logger = Logger(None, [])
        if self.ranks.size > 1:
            remember_normalization(self.normalizer)
        if self.ranks.rank > 0:
            self._logger, self._custom_logger = Logger(None, []), True

    def set_logger(self, logger: Logger) -> None:
        """Use this logger; ranks other than the first one log nothing."""
        if self.ranks.rank == 0:
            super().set_logger(logger)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything: torch, numpy, the action space, the environments, replay and search.

        Every rank draws other numbers.
        """
        own = self.ranks.seed(seed)
        super().set_random_seed(own)
        self.rng = np.random.default_rng(own)
        if getattr(self, "policy", None) is not None:
            self.policy.seed_planning(own)
        if own is None and self.ranks.rank > 0 and self.env is not None:
            self.env.seed(int(self.rng.integers(2**31)))  # not as those of the other ranks

    # -- agreement ---------------------------------------------------------------------------------------------------

    def _join_ranks(self, n_planned: int) -> None:
        """See that all ranks are about to do the same, and let them have the same parameters.

        :param n_planned: steps or updates that were asked for
        :raises ValueError: on the first rank, naming the first difference
        """
        if not isinstance(self.ranks, TorchRanks):
            return
        found = self.ranks.gathered(self._facts(n_planned))
        for rank, theirs in enumerate(found):
            for name, ours in found[0].items():
                if theirs[name] != ours:
                    self.ranks.refuse(
                        f"{name}: rank {rank} has {shown(theirs[name])}, rank 0 has {shown(ours)}; start all ranks "
                        "with the same arguments, spaces, seed and versions of the packages"
                    )
        self.run_id = self.ranks.gathered(self.run_id)[0]
        copies = self.policy.copies
        self.ranks.take_weights(
            parameter for model in (copies.model, copies.average, copies.target) for parameter in model.parameters()
        )

    def _facts(self, n_planned: int) -> dict[str, str]:
        """What must be the same on all ranks, by name."""
        versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
        facts = {f"version of {name}": found for name, found in versions.items()}
        facts |= {name: _described(value) for name, value in self.arguments.flat().items()}
        facts |= {
            "policy": _described(type(self.policy)),
            "observation_space": repr(self.observation_space),
            "action_space": repr(self.action_space),
            "environments": repr(self.n_envs),
            "planned steps": repr(n_planned),
            "num_timesteps": repr(self.num_timesteps),
            "updates made": repr(self._n_updates),
            "optimizer": repr([(name, len(part)) for name, part in self.policy.optimizer.state_dict().items()]),
        }
        return facts

    def _bound_threads(self) -> AbstractContextManager[None]:
        """While it learns: as many threads of torch as ``n_threads`` says, on the CPU."""
        return torch_threads(self.arguments.engine.n_threads if self.device.type == "cpu" else None)

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._join_ranks(total_timesteps)
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if self.ranks.size == 1:
            return super()._init_callback(callback, progress_bar)
        leads = self.ranks.rank == 0
        inner = super()._init_callback(callback if leads else [], progress_bar and leads)
        return FirstRankCallback(inner, self)

    # -- counting and logging ------------------------------------------------------------------------------------------

    def _count_step(self, infos: list[dict[str, Any]], dones: np.ndarray) -> tuple[int, int, int]:
        """Count one step of every environment, before the callbacks: what they save is the state after a whole step.

        :return: steps, transitions and episodes of the rollout so far
        """
        if self.ranks.size > 1:
            infos, dones = self._steps_of_all(infos, dones)
        n_steps, n_transitions, n_episodes = self._begun_rollout
        n_ended = int(np.sum(dones))
        self._begun_rollout = (n_steps + 1, n_transitions + len(dones), n_episodes + n_ended)
        self.num_timesteps += len(dones)
        self._episode_num += n_ended
        self._update_info_buffer(infos, dones)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        return self._begun_rollout

    def _steps_of_all(self, infos: list[dict[str, Any]], dones: np.ndarray) -> tuple[list[dict[str, Any]], np.ndarray]:
        """What the log needs to know of one step of all ranks' environments."""
        n_ended = self.ranks.table([np.sum(dones)])
        if not n_ended.any():
            return [{}] * (len(dones) * self.ranks.size), np.zeros(len(dones) * self.ranks.size, bool)
        ours = [{name: info[name] for name in OF_EPISODES if name in info} for info in infos]
        parts = self.ranks.gathered((ours, dones))
        return [info for found, _ in parts for info in found], np.concatenate([ended for _, ended in parts])

    def _dump_logs_if_due(self, log_interval: int | None) -> None:
        """Log if ``log_interval`` episodes or more have ended since the last log."""
        if log_interval and self._episode_num // log_interval > self._logged_episodes // log_interval:
            self._logged_episodes = self._episode_num
            self.dump_logs()

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

    @abstractmethod
    def save_checkpoint(self, folder: Any, keep: int | None = None) -> Any:
        """Save all of the run."""


class FirstRankCallback(BaseCallback):
    """Calls a callback on the first rank; the others wait, do what it asks them to, and stop when it stops.

    :param callback: of the first rank
    :param algorithm: of this rank
    """

    def __init__(self, callback: BaseCallback, algorithm: RankedAlgorithm) -> None:
        super().__init__()
        self.callback, self.algorithm = callback, algorithm

    def _led(self, act: Callable[[], bool | None]) -> bool:
        ranks = self.algorithm.ranks
        ranks.enter("running the callbacks")
        return ranks.led(lambda: act() is not False, self.algorithm.save_checkpoint)

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """See ``BaseCallback.update_locals``."""
        self.callback.update_locals(locals_)

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """See ``BaseCallback.on_training_start``."""
        self._led(lambda: self.callback.on_training_start(locals_, globals_))

    def on_rollout_start(self) -> None:
        """See ``BaseCallback.on_rollout_start``."""
        self._led(self.callback.on_rollout_start)

    def on_step(self) -> bool:
        """See ``BaseCallback.on_step``."""
        return self._led(self.callback.on_step)

    def _on_step(self) -> bool:
        return True  # on_step asks the callback itself

    def on_rollout_end(self) -> None:
        """See ``BaseCallback.on_rollout_end``."""
        self._led(self.callback.on_rollout_end)

    def on_training_end(self) -> None:
        """See ``BaseCallback.on_training_end``."""
        self._led(self.callback.on_training_end)


def _described(value: Any) -> str:
    """A value as text that does not depend on where it lies in memory."""
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
