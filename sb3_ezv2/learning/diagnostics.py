"""Numbers for the log that say whether values, model and search are to be trusted; learning never reads them."""

import math
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.learning.calibration import Calibration
from sb3_ezv2.learning.model_errors import inspect_model
from sb3_ezv2.learning.symptoms import Symptoms
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.slots import TERMINATED

INTERVAL, FIRST = 50, 10
"""Updates between two inspections, and before the first one, when there is nothing to see yet. An inspection costs half
as much as an update of 64 samples, hence a hundredth of the updates between."""


class Diagnostics:
    """Collects the numbers of a run and gives them to its logger.

    Nothing of it is saved, and it draws no random number of the run: with or without it, in a run that goes on from a
    checkpoint too, a seed gives the same parameters.

    :param discount: of one step
    :param n_envs: number of environments
    :param warns: whether to warn where something is wrong
    """

    def __init__(self, discount: float, n_envs: int, warns: bool = True) -> None:
        self.discount = discount
        self.calibration = Calibration(discount, n_envs)
        self.symptoms = Symptoms(warns)
        self.root_values: np.ndarray | None = None  # of the searches that chose the next actions
        self._waiting: dict[tuple[str, str], th.Tensor] = {}  # by group and name, on the model's device

    # -- what happens ------------------------------------------------------------------------------------------------

    def begin_streams(self) -> None:
        """The environments were reset."""
        self.calibration.begin_streams()

    def see_step(self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Take in one step of every environment, after the searches that left ``root_values``.

        :param rewards: as the model sees them ``[n_envs]``
        :param dones: ``[n_envs]``
        :param infos: one dictionary per environment
        """
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos], bool)
        self.calibration.add(self.root_values, rewards, dones, dones & ~truncated)
        self.root_values = None

    def see_rewards(
        self, rewards: np.ndarray, buffer: TrajectoryReplayBuffer, learning_starts: int, logger: Logger
    ) -> None:
        """Log how many stored transitions have a reward.

        :param rewards: of all stored transitions ``[n]``
        :param buffer: that stores them
        :param learning_starts: transitions collected with random actions
        :param logger: of the run
        """
        n_with = np.count_nonzero(rewards)
        logger.record("values/rewarded_fraction", n_with / max(len(rewards), 1))
        any_terminal = bool(n_with > 0 and (buffer.kinds == TERMINATED).any())
        self.symptoms.see_rewards(rewards, any_terminal, learning_starts)

    def inspect(
        self,
        model: EfficientZeroModel,
        buffer: TrajectoryReplayBuffer,
        age: float,
        unroll: int,
        td_steps: int,
        normalizer: Normalizer,
    ) -> None:
        """Measure errors on fresh data; see :func:`~sb3_ezv2.learning.model_errors.inspect_model`."""
        values, errors = inspect_model(model, buffer, age, unroll, td_steps, self.discount, normalizer)
        self.keep("values", values)
        self.keep("model", errors)

    # -- what is logged ------------------------------------------------------------------------------------------------

    def keep(self, group: str, numbers: dict[str, th.Tensor]) -> None:
        """Let scalars wait for the next copy to the host."""
        self._waiting |= {(group, name): number.float() for name, number in numbers.items()}

    def copied_with(self, logs: list[th.Tensor]) -> list[list[float]]:
        """Copy the logs of updates and what waits to the host, all together.

        :param logs: one vector per update, of equal length
        :return: the same vectors; behind them, if anything waits, the numbers that :meth:`write` reads
        """
        rows = [*logs, th.stack([*self._waiting.values()])] if self._waiting else logs
        sizes = [len(row) for row in rows]
        together = iter(th.cat(rows).tolist())
        return [[next(together) for _ in range(size)] for size in sizes]

    def log_updates(
        self, names: list[str], logs: list[th.Tensor], logger: Logger, n_steps: int, total_steps: int
    ) -> None:
        """Record means over updates, which the logger takes over all since the log was written last, and what waits.

        :param names: of the numbers of an update
        :param logs: one vector per update
        :param logger: of the run
        :param n_steps: of the environments so far
        :param total_steps: planned
        """
        rows = self.copied_with(logs)
        for values in rows[: len(logs)]:
            for name, value in zip(names, values, strict=True):
                logger.record_mean(f"train/{name}", value)
        if len(rows) > len(logs):
            self.write(rows[-1], logger, n_steps, total_steps)

    def write(self, numbers: list[float], logger: Logger, n_steps: int, total_steps: int) -> None:
        """Give the logger what waited, and warn where it shows that something is wrong.

        :param numbers: the last of :meth:`copied_with`
        :param logger: of the run
        :param n_steps: of the environments so far
        :param total_steps: planned
        """
        found = dict(zip(self._waiting, numbers, strict=True))
        self._waiting = {}
        for (group, name), number in found.items():
            if not math.isfinite(number):
                continue  # nothing to measure it on
            if group == "values":
                logger.record_mean(f"values/{name}", number)
            elif group == "model":
                logger.record_mean(f"model/{name}", number)
            else:
                logger.record_mean(f"search/{name}", number)
        if ("values", "mean") in found:
            self.symptoms.see_values(found["values", "mean"], self.calibration.largest_return)
            self.symptoms.see_progress(n_steps, total_steps)

    def record_calibration(self, logger: Logger) -> None:
        """Log root values against the returns that followed, as far as these are known."""
        found = self.calibration.summary()
        if found is None:
            return
        logger.record("values/known_returns", found.n_known)
        logger.record("values/root_mean", found.mean_value)
        logger.record("values/return_mean", found.mean_return)
        logger.record("values/root_bias", found.bias)
        if math.isfinite(found.error):
            logger.record("values/root_error", found.error)
