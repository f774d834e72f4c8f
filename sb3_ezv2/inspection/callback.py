"""Inspections while a run learns."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Figure
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_ezv2.common.arguments import shown
from sb3_ezv2.inspection.report import inspect_model

ONLY_TENSORBOARD = ("stdout", "log", "json", "csv")
"""Formats of the logger that show no pictures."""


class InspectionCallback(BaseCallback):
    """Inspects the model every so many steps: numbers and pictures into the log, pages into a folder.

    Numbers are logged as ``inspect/<name>``, pictures as ``pictures/<name>`` for TensorBoard, and each page is called
    ``inspection_<steps>.html``. A seed gives the same run with or without it.

    :param env: environments to play in, not those that the run learns from, or the id of a registered one; with a
        ``VecNormalize`` around those of the run this needs one too, which gets its statistics
    :param every: environment steps between two inspections
    :param folder: of the pages; ``None`` for the folder of the run's log (``tensorboard_log``)
    :param n_episodes: episodes of an inspection
    :param max_steps: of all of them together
    :param verbose: 1 says where a page is
    :raises ValueError: if ``every`` is no whole number of at least 1; when training begins, if there is no folder
    """

    def __init__(
        self,
        env: gym.Env | VecEnv | str,
        every: int = 5_000,
        folder: str | Path | None = None,
        n_episodes: int = 2,
        max_steps: int = 500,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every={shown(every)} must be a whole number of at least 1")
        self.env, self.every, self.n_episodes, self.max_steps = env, every, n_episodes, max_steps
        self.folder = None if folder is None else Path(folder)
        self._next = every

    def _on_training_start(self) -> None:
        if self.folder is None and self.logger.get_dir() is None:
            raise ValueError(
                "folder=None: the run writes no log to a folder; name a folder for the pages, or give the model "
                "tensorboard_log"
            )
        self._next = (self.num_timesteps // self.every + 1) * self.every

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next = (self.num_timesteps // self.every + 1) * self.every
            self._inspect()
        return True

    def _inspect(self) -> None:
        model: Any = self.model
        if isinstance(self.env, VecEnv) and model.get_vec_normalize_env() is not None:
            sync_envs_normalization(model.env, self.env)
        report = inspect_model(model, self.env, self.n_episodes, self.max_steps)
        for name, number in report.numbers().items():
            if math.isfinite(number):
                self.logger.record(f"inspect/{name}", number)
        figures = report.figures()
        for name, figure in figures.items():
            self.logger.record(f"pictures/{name}", Figure(figure, close=False), exclude=ONLY_TENSORBOARD)
        folder = self.folder or self.logger.get_dir()
        assert folder is not None
        path = report.write(Path(folder, f"inspection_{self.num_timesteps}.html"), figures)
        # At once: the algorithm logs when episodes end, and pictures would stand at a later step.
        self.logger.dump(self.num_timesteps)
        if self.verbose > 0:
            print(f"Inspection of step {self.num_timesteps}: {path}")
