"""Small environments whose every observation, reward and return is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SMALL_BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))


class RandomEnv(gym.Env):
    """Random observations of any space; refuses actions outside its action space.

    Every third episode is truncated after ``length`` steps, the others terminate one step earlier. The reward is the
    number of the step.

    :param observation_space: of the observations
    :param action_space: of the actions
    :param length: steps of a truncated episode
    """

    def __init__(
        self,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        length: int = 8,
    ) -> None:
        self.observation_space = observation_space or spaces.Box(-1.0, 1.0, (3,))
        self.action_space = action_space or spaces.Discrete(3)
        self.length = length
        self.episodes = 0
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.episodes += 1
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.steps += 1
        truncated = self.episodes % 3 == 0 and self.steps >= self.length
        terminated = self.episodes % 3 != 0 and self.steps >= self.length - 1
        return self.observation_space.sample(), float(self.steps), terminated, truncated, {"is_success": terminated}


class ProvenanceEnv(gym.Env):
    """Every observation says where it comes from: ``(environment, episode, step)``; the reward says the same.

    Even episodes terminate after 7 steps, odd ones are truncated after 9.

    :param env_id: number of this environment
    :param action_space: of the actions, which change nothing
    """

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def __init__(self, env_id: int = 0, action_space: spaces.Space | None = None) -> None:
        self.action_space = action_space or spaces.Discrete(2)
        self.env_id = env_id
        self.episode = -1
        self.steps = 0

    def observation(self) -> np.ndarray:
        """Where we are."""
        return np.array([self.env_id, self.episode, self.steps], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.steps = 0
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = provenance_reward(*self.observation())
        self.steps += 1
        odd = self.episode % 2 == 1
        return self.observation(), reward, not odd and self.steps == 7, odd and self.steps == 9, {}


def provenance_reward(env_id: float, episode: float, step: float) -> float:
    """Reward of the step taken at this place, exact in float32."""
    return 10_000.0 * env_id + 20.0 * episode + step


class Tampered(gym.Wrapper):
    """Changes what an environment returns at certain calls, once.

    :param env: environment
    :param at: number of the call of ``step`` (from 1) that is tampered with; 0 for the first ``reset``
    :param change: gets and returns ``(observation, reward)``; may raise
    """

    def __init__(self, env: gym.Env, at: int, change: Callable[[Any, float], tuple[Any, float]]) -> None:
        super().__init__(env)
        self.at, self.change = at, change
        self.calls = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        if self.at == 0 and self.calls == 0:
            self.at = -1
            observation, _ = self.change(observation, 0.0)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.calls += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.calls == self.at:
            observation, reward = self.change(observation, reward)
        return observation, reward, terminated, truncated, info


class Corridor(gym.Env):
    """Walk right to the goal: every step costs a tenth of what the goal is worth.

    :param length: number of steps from the start to the goal
    :param scale: worth of the goal
    """

    action_space = spaces.Discrete(3)

    def __init__(self, length: int = 4, scale: float = 1.0) -> None:
        self.length, self.scale = length, scale
        self.observation_space = spaces.Box(0.0, 1.0, (length + 1,))
        self.position = self.steps = 0

    @property
    def best_return(self) -> float:
        """Of the shortest walk."""
        return self.scale * (1.0 - 0.1 * self.length)

    def observation(self) -> np.ndarray:
        """One-hot position."""
        return np.eye(self.length + 1, dtype=np.float32)[self.position]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.steps = 0
        return self.observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.position = int(np.clip(self.position + (-1, 1, 0)[int(action)], 0, self.length))
        arrived = self.position == self.length
        reward = self.scale * (float(arrived) - 0.1)
        return self.observation(), reward, arrived, self.steps >= 20, {}


class Aim(gym.Env):
    """Episodes of one step: the reward is minus the distance between the action and the observed target.

    The action lies in [0, 10], the target between 2 and 8.
    """

    observation_space = spaces.Box(2.0, 8.0, (1,))
    action_space = spaces.Box(0.0, 10.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.target = self.np_random.uniform(2.0, 8.0, 1).astype(np.float32)
        return self.target, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.target, -float(np.abs(action - self.target)[0]), True, False, {}
