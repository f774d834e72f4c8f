"""The tasks that learning is measured on: environment, budget, evaluation interval and settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym

from sb3_ezv2.envs.dmc import make_dmc


class Task(NamedTuple):
    """One benchmark task."""

    make_env: Callable[[], gym.Env]
    n_steps: int  # environment steps, or decisions where actions are repeated
    eval_interval: int
    settings: dict[str, Any]  # of the constructor; empty for the plain defaults


SWINGUP_SETTINGS = {"target_update_interval": 200}
WALKER_SETTINGS = {
    "target_update_interval": 400,
    "learning_rate": 5e-4,
    "learning_starts": 1_000,
    "batch_size": 128,
    "n_simulations": 32,
    "n_considered": 16,
    "ent_coef": 0.05,
}

TASKS = {
    "CartPole-v1": Task(lambda: gym.make("CartPole-v1"), 5_000, 1_000, {}),
    "Pendulum-v1": Task(lambda: gym.make("Pendulum-v1"), 5_000, 1_000, {}),
    "cartpole-swingup": Task(lambda: make_dmc("cartpole-swingup"), 50_000, 2_000, SWINGUP_SETTINGS),
    "walker-walk": Task(lambda: make_dmc("walker-walk"), 50_000, 2_500, WALKER_SETTINGS),
}
