"""The small tasks with images: their scores are what they say, and the algorithm accepts them."""

from typing import Any

import numpy as np
import pytest

from benchmarks.learning.pixel_tasks import (
    BEST_RETURN,
    N_CELLS,
    RANDOM_RETURN,
    SMALL_IMAGE_NETWORK,
    Catch,
    CatchContinuous,
)
from benchmarks.learning.tasks import TASKS, policy_for
from sb3_ezv2 import CnnPolicy, EfficientZeroV2


def play(env: Catch, choose: Any) -> float:
    """Return of one episode."""
    done, total = False, 0.0
    while not done:
        image, reward, done, _, _ = env.step(choose(env))
        assert env.observation_space.contains(image)
        total += reward
    return total


def test_catch_scores():
    env = Catch()
    env.reset(seed=0)
    best, still, at_random = [], [], []
    rng = np.random.default_rng(0)
    for returns, choose in (
        (best, lambda env: 0 if env.paddle == env.column else 1 if env.column < env.paddle else 2),
        (still, lambda env: 0),
        (at_random, lambda env: rng.integers(3)),
    ):
        for column in list(range(N_CELLS)) * 60:
            env.reset()
            env.column = column
            returns.append(play(env, choose))
    assert np.mean(best) == BEST_RETURN
    assert np.mean(still) == RANDOM_RETURN
    assert abs(np.mean(at_random) - RANDOM_RETURN) < 0.1  # more than three standard errors


def test_scores_of_catch_with_continuous_actions():
    env = CatchContinuous()
    env.reset(seed=0)
    best, at_random = [], []
    rng = np.random.default_rng(0)
    for returns, choose in (
        (best, lambda env: np.float32([np.clip(env.column - env.paddle, -1.0, 1.0)])),
        (at_random, lambda env: rng.uniform(-1.0, 1.0, 1)),
    ):
        for column in list(range(N_CELLS)) * 60:
            env.reset()
            env.column = column
            returns.append(play(env, choose))
    assert np.mean(best) == BEST_RETURN
    assert abs(np.mean(at_random) - RANDOM_RETURN) < 0.13  # three standard errors


def test_the_paddle_of_continuous_catch_moves_by_pixels():
    env = CatchContinuous()
    before, _ = env.reset(seed=0)
    after = env.step(np.float32([0.34]))[0]
    middle = [np.flatnonzero(image[27, :, 0] == 150).mean() for image in (before, after)]
    assert middle[1] == middle[0] + 1


@pytest.mark.parametrize("name", ["catch", "catch-continuous"])
def test_catch_is_a_task(name):
    env = TASKS[name].make_env()
    policy = policy_for(env.observation_space)
    model = EfficientZeroV2(policy, env, seed=0, device="cpu", policy_kwargs=SMALL_IMAGE_NETWORK)
    assert isinstance(model.policy, CnnPolicy)
    assert sum(parameter.numel() for parameter in model.policy.model.parameters()) < 200_000
