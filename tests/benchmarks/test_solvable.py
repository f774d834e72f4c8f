"""The solvable environments pay what they say: played by hand, by chance, and by their best policy."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.env_checker import check_env

from benchmarks.learning.solvable import IDS, Solvable, SparseThermostat, StochasticQueue, best_return, best_value

Act = Callable[[Solvable, int], Any]


def thermostat(env: Solvable, t: int) -> np.ndarray:
    """Full power, then what the leak takes."""
    assert isinstance(env, SparseThermostat)
    wanted = env.aim - env.temperature * (1.0 - env.leak)
    return np.array([2.0 * min(wanted / env.power, 1.0) - 1.0, -1.0])


BEST: dict[str, Act] = {
    "Corridor": lambda env, t: env.best_actions[t],
    "TruncatedDoor": lambda env, t: 0,
    "ConstantReward": lambda env, t: 3,
    "BangBang": lambda env, t: env.observe(),
    "SparseThermostat": thermostat,
    "StochasticQueue": lambda env, t: int(env.length >= 3),
}


def mean_return(env_id: str, act: Act, n_episodes: int) -> float:
    """Mean over episodes."""
    env = gym.make(env_id)
    total = 0.0
    env.reset(seed=0)
    for _ in range(n_episodes):
        env.reset()
        done, t = False, 0
        while not done:
            _, reward, terminated, truncated, _ = env.step(act(env.unwrapped, t))
            total, done, t = total + float(reward), terminated or truncated, t + 1
    return total / n_episodes


@pytest.mark.parametrize("env_id", IDS)
def test_the_best_policy_returns_what_is_said(env_id):
    check_env(gym.make(env_id).unwrapped)
    is_random = env_id == "solvable/StochasticQueue-v0"
    found = mean_return(env_id, BEST[IDS[env_id].__name__], 400 if is_random else 2)
    assert found == pytest.approx(best_return(env_id), abs=0.9 if is_random else 1e-6)  # three standard errors


def test_best_values_by_hand():
    assert best_value("solvable/TruncatedDoor-v0", 0.99) == pytest.approx(50.0)
    assert best_value("solvable/TruncatedDoor-v0", 0.9) == 8.0
    assert best_value("solvable/ConstantReward-v0", 0.9) == pytest.approx(10.0)
    assert best_value("solvable/Corridor-v0", 0.999999) == pytest.approx(8.7, abs=1e-4)
    assert best_value("solvable/SparseThermostat-v0", 0.5) == pytest.approx(0.25)  # rewards from the fourth step on


def test_the_best_policy_of_the_queue_depends_on_its_length():
    np.testing.assert_array_equal(StochasticQueue.best_policy(0.99), [0, 0, 0, *[1] * 8])
    transitions, _ = StochasticQueue.model()
    np.testing.assert_allclose(transitions.sum(axis=-1), 1.0)
    best = best_value("solvable/StochasticQueue-v0", 0.99)
    for action in (0, 1):
        assert StochasticQueue.values_of(np.full(11, action), 0.99)[0] < best


def test_a_fall_ends_the_episode():
    env = gym.make("solvable/Corridor-v0")
    env.reset(seed=0)
    rewards = [env.step(1)[1:3] for _ in range(5)]
    assert rewards[-1] == (-10.1, True) and not any(ended for _, ended in rewards[:-1])


def test_chance_hardly_finds_the_sparse_reward():
    rng = np.random.default_rng(0)
    found = mean_return("solvable/SparseThermostat-v0", lambda env, t: rng.uniform(-1.0, 1.0, 2), 300)
    assert 0.0 < found < 0.6
