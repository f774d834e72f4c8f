"""The tasks that learning is measured on: environment, budget, evaluation interval and settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
from stable_baselines3.common.utils import LinearSchedule

from benchmarks.learning.pixel_tasks import Catch, CatchContinuous
from sb3_ezv2.envs.dmc import make_dmc


class Task(NamedTuple):
    """One benchmark task."""

    make_env: Callable[[], gym.Env]
    n_steps: int  # environment steps, or decisions where actions are repeated
    eval_interval: int
    settings: dict[str, Any]  # of the constructor; empty for the plain defaults
    asked: dict[int, float]  # mean return to be reached, by step
    policy: str = "MlpPolicy"


SWINGUP_SETTINGS = {
    "target_update_interval": 200,
    "learning_starts": 500,
    "n_candidates": 8,
    "td_steps": 10,
    "td_phase": 1_000,
}
WALKER_SETTINGS = {
    "target_update_interval": 200,
    "learning_rate": LinearSchedule(7e-4, 1e-4, 1.0),
    "learning_starts": 1_000,
    "td_steps": 10,
    "td_phase": 2_000,
    "ent_coef": 0.05,
}
SMALL_IMAGE_NETWORK = {
    "stem_channels": 8,
    "latent_channels": 16,
    "action_channels": 8,
    "head_channels": 8,
    "projection_dim": 128,
    "prediction_dim": 64,
}
CATCH_SETTINGS = {"policy_kwargs": SMALL_IMAGE_NETWORK, "td_steps": 5, "batch_size": 32}

TASKS = {
    "CartPole-v1": Task(lambda: gym.make("CartPole-v1"), 5_000, 1_000, {}, {3_000: 475, 5_000: 475}),
    "Pendulum-v1": Task(lambda: gym.make("Pendulum-v1"), 5_000, 1_000, {}, {3_000: -200, 5_000: -160}),
    "cartpole-swingup": Task(
        lambda: make_dmc("cartpole-swingup"), 50_000, 2_000, SWINGUP_SETTINGS, {16_000: 780, 50_000: 850}
    ),
    "walker-walk": Task(lambda: make_dmc("walker-walk"), 50_000, 2_500, WALKER_SETTINGS, {50_000: 940}),
    "catch": Task(Catch, 5_000, 500, CATCH_SETTINGS, {5_000: 0.95}, "CnnPolicy"),
    "catch-continuous": Task(CatchContinuous, 5_000, 500, CATCH_SETTINGS, {5_000: 0.9}, "CnnPolicy"),
}
