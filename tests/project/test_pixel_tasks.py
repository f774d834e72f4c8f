"""The small tasks with images: their scores are what they say, and the algorithm accepts them."""

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.preprocessing import is_image_space

from benchmarks.learning.pixel_tasks import (
    BEST_RETURN,
    N_CELLS,
    RANDOM_RETURN,
    SMALL_IMAGE_NETWORK,
    Catch,
    CatchContinuous,
    CatchDict,
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


def test_where_the_paddle_is_comes_as_a_number():
    env = CatchDict()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert set(np.unique(observation["image"])) == {0, 50, 255}  # no paddle
    places = [float(env.step(1)[0]["paddle"][0]) for _ in range(3)]
    assert places == sorted(places, reverse=True) and -1.0 < places[-1] < places[0] < 1.0


@pytest.mark.parametrize("name", ["catch", "catch-continuous", "catch-dict"])
@pytest.mark.parametrize("network, most", [({}, 400_000), (SMALL_IMAGE_NETWORK, 200_000)])
def test_catch_is_a_task(name, network, most):
    env = TASKS[name].make_env()
    policy = policy_for(env.observation_space)
    model = EfficientZeroV2(policy, env, seed=0, device="cpu", policy_kwargs=network)
    assert isinstance(model.policy, CnnPolicy)
    assert sum(parameter.numel() for parameter in model.policy.model.parameters()) < most


@pytest.mark.parametrize("name, package", [("MinAtar-Seaquest", "minatar"), ("MiniGrid-DoorKey-5x5", "minigrid")])
def test_small_games_are_images(name, package):
    pytest.importorskip(package)
    env = TASKS[name].make_env()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation) and observation.any()
    assert is_image_space(env.observation_space) and policy_for(env.observation_space) == "CnnPolicy"
    assert observation.shape == ((10, 10, 10) if package == "minatar" else (7, 7, 3))
    observation, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
