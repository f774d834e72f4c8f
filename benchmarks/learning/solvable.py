"""Small environments whose best return and best values are known: each asks one thing of an agent.

Importing this module registers them with Gymnasium as ``solvable/Corridor-v0`` and so on, see :data:`IDS`. None shows
the time, so time limits are truncations and values go on behind them. :func:`best_return` has what the best policy that
does not see the time collects in an episode; :func:`best_value` its discounted value at the start, as if episodes were
never truncated.
"""

from abc import abstractmethod
from itertools import product
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Solvable(gym.Env):
    """What the environments share: a state that is a vector, and no end but the one that a step tells."""

    n_steps: ClassVar[int]
    """Steps after which an episode is truncated."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.begin()
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        reward, terminated = self.advance(action)
        return self.observe(), float(reward), terminated, False, {}

    @abstractmethod
    def begin(self) -> None:
        """Set the first state."""

    @abstractmethod
    def observe(self) -> np.ndarray:
        """The state as the agent sees it."""

    @abstractmethod
    def advance(self, action: Any) -> tuple[float, bool]:
        """Change the state; reward and whether the episode ends."""

    @classmethod
    @abstractmethod
    def best_return(cls) -> float:
        """Expected return of an episode."""

    @classmethod
    @abstractmethod
    def best_value(cls, discount: float) -> float:
        """Expected discounted value of the start, with ``0 < discount < 1``."""


class Corridor(Solvable):
    """Reach the end of a corridor with a gap in its middle: rare ends, good and bad.

    Cells 0 to 10, seen one-hot; the start is 0. Walk back (action 0), ahead (1), or jump two cells ahead (2). A walk
    costs 0.1, a jump 0.5; cell 5 is the gap, where the episode ends with -10, cell 10 the goal, where it ends with +10.
    Best: four walks, a jump and four walks, ``10 - 8 * 0.1 - 0.5 = 8.7``.
    """

    n_steps = 50
    gap, goal = 5, 10
    best_actions = (1, 1, 1, 1, 2, 1, 1, 1, 1)
    costs = (0.1, 0.1, 0.5)
    observation_space = spaces.Box(0.0, 1.0, (goal + 1,), np.float32)
    action_space = spaces.Discrete(3)

    def begin(self) -> None:  # noqa: D102
        self.cell = 0

    def observe(self) -> np.ndarray:  # noqa: D102
        return np.eye(self.goal + 1, dtype=np.float32)[self.cell]

    def advance(self, action: Any) -> tuple[float, bool]:  # noqa: D102
        self.cell = min(max(self.cell + (-1, 1, 2)[int(action)], 0), self.goal)
        ends = {self.gap: -10.0, self.goal: 10.0}
        return ends.get(self.cell, 0.0) - self.costs[int(action)], self.cell in ends

    @classmethod
    def best_return(cls) -> float:  # noqa: D102
        return 10.0 - sum(cls.costs[action] for action in cls.best_actions)

    @classmethod
    def best_value(cls, discount: float) -> float:  # noqa: D102
        paid = sum(discount**t * cls.costs[action] for t, action in enumerate(cls.best_actions))
        return discount ** (len(cls.best_actions) - 1) * 10.0 - paid


class TruncatedDoor(Solvable):
    """Stay for a small reward or leave for a large one: truncations are no ends.

    One state. Staying (action 0) pays 0.5, leaving (1) pays 8 and ends the episode; it is truncated after 20 steps.
    Staying is best for a discount above 0.94, ``0.5 / (1 - discount)``, and returns 10; who takes truncations for ends
    believes that it is worth 5 and leaves for 8.
    """

    n_steps = 20
    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def begin(self) -> None:  # noqa: D102
        pass

    def observe(self) -> np.ndarray:  # noqa: D102
        return np.ones(1, np.float32)

    def advance(self, action: Any) -> tuple[float, bool]:  # noqa: D102
        return (8.0, True) if action == 1 else (0.5, False)

    @classmethod
    def best_return(cls) -> float:  # noqa: D102
        return 0.5 * cls.n_steps

    @classmethod
    def best_value(cls, discount: float) -> float:  # noqa: D102
        return max(0.5 / (1.0 - discount), 8.0)


class ConstantReward(Solvable):
    """Get 1 whatever is done: rewards without meaning, in which nothing should be found.

    Four numbers walk at random between -1 and 1; the four actions do nothing. Every policy returns 50, every state is
    worth ``1 / (1 - discount)``.
    """

    n_steps = 50
    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Discrete(4)

    def begin(self) -> None:  # noqa: D102
        self.state = self.np_random.uniform(-1.0, 1.0, 4)

    def observe(self) -> np.ndarray:  # noqa: D102
        return self.state.astype(np.float32)

    def advance(self, action: Any) -> tuple[float, bool]:  # noqa: D102
        self.state = np.clip(self.state + self.np_random.normal(scale=0.1, size=4), -1.0, 1.0)
        return 1.0, False

    @classmethod
    def best_return(cls) -> float:  # noqa: D102
        return 1.0 * cls.n_steps

    @classmethod
    def best_value(cls, discount: float) -> float:  # noqa: D102
        return 1.0 / (1.0 - discount)


class BangBang(Solvable):
    """Push every action to the bound that its sign asks for: the best action is a corner.

    Eight signs are drawn for an episode of 20 steps and shown; the reward is the mean of sign times action, by 20.
    Best: the signs themselves, 1 an episode. Actions that stop at tanh(2) of the bound return 0.96.
    """

    n_steps = 20
    n_actions = 8
    observation_space = spaces.Box(-1.0, 1.0, (n_actions,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (n_actions,), np.float32)

    def begin(self) -> None:  # noqa: D102
        self.signs = self.np_random.choice([-1.0, 1.0], self.n_actions)

    def observe(self) -> np.ndarray:  # noqa: D102
        return self.signs.astype(np.float32)

    def advance(self, action: Any) -> tuple[float, bool]:  # noqa: D102
        return np.mean(self.signs * np.clip(action, -1.0, 1.0)) / self.n_steps, False

    @classmethod
    def best_return(cls) -> float:  # noqa: D102
        return 1.0

    @classmethod
    def best_value(cls, discount: float) -> float:  # noqa: D102
        return 1.0 / (cls.n_steps * (1.0 - discount))


class SparseThermostat(Solvable):
    """Heat a room to 0.4 and keep it there: two actions, and no reward until then.

    A heater and a window, each from -1 (off) to 1; a step adds a tenth of what the heater is on, takes a tenth of what
    the window is open and a twentieth of the temperature, which starts at 0 and never falls below. The reward is 1
    where the temperature is within 0.03 of 0.4. Best: heat for four steps and keep it, which returns 97 in 100
    steps. Random actions return 0.2.
    """

    n_steps = 100
    aim, tolerance, power, leak = 0.4, 0.03, 0.1, 0.05
    observation_space = spaces.Box(0.0, 2.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def begin(self) -> None:  # noqa: D102
        self.temperature = 0.0

    def observe(self) -> np.ndarray:  # noqa: D102
        return np.array([self.temperature], np.float32)

    def advance(self, action: Any) -> tuple[float, bool]:  # noqa: D102
        heater, window = (np.clip(action, -1.0, 1.0) + 1.0) / 2.0
        self.temperature += self.power * (heater - window) - self.leak * self.temperature
        self.temperature = max(self.temperature, 0.0)
        return float(abs(self.temperature - self.aim) < self.tolerance), False

    @classmethod
    def n_heating(cls) -> int:
        """Steps without reward at the beginning."""
        temperature, n = 0.0, 0
        while (temperature := temperature * (1.0 - cls.leak) + cls.power) <= cls.aim - cls.tolerance:
            n += 1
        return n

    @classmethod
    def best_return(cls) -> float:  # noqa: D102
        return float(cls.n_steps - cls.n_heating())

    @classmethod
    def best_value(cls, discount: float) -> float:  # noqa: D102
        return discount ** cls.n_heating() / (1.0 - discount)


class StochasticQueue(Solvable):
    """Serve a queue at two speeds: chance in rewards and states, where mean values decide.

    Up to 10 customers wait, seen as their share. In a step one is served with probability 0.45 (action 0) or 0.9 (1,
    which costs 0.5), then one arrives with probability 0.4 and goes away if 10 wait; waiting costs 0.1 a customer.
    Best: serve fast when three or more wait, -18.6 in 100 steps; always slow returns -25.1, always fast -54.8.
    """

    n_steps = 100
    size, arrival, service, costs, waiting = 10, 0.4, (0.45, 0.9), (0.0, 0.5), 0.1
    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def begin(self) -> None:  # noqa: D102
        self.length = 0

    def observe(self) -> np.ndarray:  # noqa: D102
        return np.array([self.length / self.size], np.float32)

    def advance(self, action: Any) -> tuple[float, bool]:  # noqa: D102
        served, arrived = self.np_random.random(2) < (self.service[int(action)], self.arrival)
        self.length = min(max(self.length - int(served), 0) + int(arrived), self.size)
        return -self.costs[int(action)] - self.waiting * self.length, False

    @classmethod
    def best_return(cls) -> float:  # noqa: D102
        transitions, rewards = cls.model()
        policy = cls.best_policy(0.999)
        values = np.zeros(cls.size + 1)
        for _ in range(cls.n_steps):
            values = rewards[policy, range(cls.size + 1)] + transitions[policy, range(cls.size + 1)] @ values
        return float(values[0])

    @classmethod
    def best_value(cls, discount: float) -> float:  # noqa: D102
        return float(cls.values_of(cls.best_policy(discount), discount)[0])

    @classmethod
    def model(cls) -> tuple[np.ndarray, np.ndarray]:
        """Transition probabilities ``[2, size + 1, size + 1]`` and mean rewards ``[2, size + 1]`` by action."""
        transitions = np.zeros((2, cls.size + 1, cls.size + 1))
        for (action, p), length, served, arrived in product(enumerate(cls.service), range(cls.size + 1), *2 * [(0, 1)]):
            after = min(max(length - served, 0) + arrived, cls.size)
            transitions[action, length, after] += (p if served else 1 - p) * (
                cls.arrival if arrived else 1 - cls.arrival
            )
        return transitions, -np.array(cls.costs)[:, None] - cls.waiting * transitions @ np.arange(cls.size + 1)

    @classmethod
    def values_of(cls, policy: np.ndarray, discount: float) -> np.ndarray:
        """Discounted values ``[size + 1]`` of a policy, an action for every length."""
        transitions, rewards = (part[policy, range(cls.size + 1)] for part in cls.model())
        return np.linalg.solve(np.eye(cls.size + 1) - discount * transitions, rewards)

    @classmethod
    def best_policy(cls, discount: float) -> np.ndarray:
        """Policy iteration."""
        transitions, rewards = cls.model()
        policy, before = np.zeros(cls.size + 1, int), None
        while not np.array_equal(policy, before):
            before = policy
            policy = np.argmax(rewards + discount * transitions @ cls.values_of(policy, discount), axis=0)
        return policy


IDS: dict[str, type[Solvable]] = {
    f"solvable/{kind.__name__}-v0": kind
    for kind in (Corridor, TruncatedDoor, ConstantReward, BangBang, SparseThermostat, StochasticQueue)
}
"""Environments by their id."""

for name, kind in IDS.items():
    if name not in gym.registry:
        gym.register(name, entry_point=f"{__name__}:{kind.__name__}", max_episode_steps=kind.n_steps)


def best_return(env_id: str) -> float:
    """Expected return of an episode under the best policy that does not see the time."""
    return IDS[env_id].best_return()


def best_value(env_id: str, discount: float) -> float:
    """Expected discounted value of the start under the best policy, as if episodes were never truncated."""
    return IDS[env_id].best_value(discount)
