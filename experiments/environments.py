"""Environments of the experiments: a grid that may slip, and a narrow optimum away from where a policy begins.

Importing this module registers ``experiments/Grid-v0``, ``experiments/SlipperyGrid-v0`` and ``experiments/Narrow-v0``.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Grid(gym.Env):
    """A 5 x 5 grid with a goal in one corner (+1, the end) and a pit beside it (-1, the end); a step costs 0.02.

    :param slip: how often the move is one of the two beside the one that was chosen
    """

    observation_space, action_space = spaces.Box(0.0, 1.0, (10,), np.float32), spaces.Discrete(4)
    moves = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
    goal, pit = 24, 18
    starts = np.array([cell for cell in range(25) if cell not in (24, 18)])

    def __init__(self, slip: float = 0.0) -> None:
        self.slip = slip

    @classmethod
    def tables(cls) -> tuple[np.ndarray, np.ndarray]:
        """State behind every move ``[26, 4]``, 25 being the end, and its reward."""
        places = np.stack(np.divmod(np.arange(25), 5), axis=1)
        moved = np.clip(places[:, None] + cls.moves, 0, 4) @ [5, 1]
        following = np.concatenate([moved, np.full((1, 4), 25)])
        rewards = np.where(following == cls.goal, 1.0, np.where(following == cls.pit, -1.0, 0.0)) - 0.02
        rewards[25] = 0.0
        return np.where(np.isin(following, (cls.goal, cls.pit)), 25, following), rewards

    @classmethod
    def chances(cls, slip: float) -> tuple[np.ndarray, np.ndarray]:
        """Transition probabilities ``[26, 4, 26]`` and mean rewards ``[26, 4]``."""
        following, rewards = cls.tables()
        certain = np.eye(26)[following]
        around = [np.roll(table, turn, axis=1) for table in (certain, rewards) for turn in (0, 1, -1)]
        mixed = [(1.0 - slip) * around[i] + 0.5 * slip * (around[i + 1] + around[i + 2]) for i in (0, 3)]
        return mixed[0], mixed[1]

    @staticmethod
    def observe(cells: np.ndarray) -> np.ndarray:
        """Row and column, one-hot."""
        return np.concatenate([np.eye(5)[cells // 5], np.eye(5)[cells % 5]], axis=-1).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin anywhere but at an end."""
        super().reset(seed=seed)
        self.cell = int(self.np_random.choice(self.starts))
        return self.observe(np.array(self.cell)), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, perhaps beside where the action leads."""
        move = int(action)
        if self.np_random.random() < self.slip:
            move = (move + int(self.np_random.choice([1, -1]))) % 4
        following, rewards = (table[self.cell, move] for table in self.tables())
        self.cell = int(np.clip(np.array(divmod(self.cell, 5)) + self.moves[move], 0, 4) @ [5, 1])
        return self.observe(np.array(self.cell)), float(rewards), bool(following == 25), False, {}


class Narrow(gym.Env):
    """One state and two actions from -1 to 1: a hill of height 0.3 in the middle, a narrow one of height 1 at 0.8, 0.8.

    The narrow one has a standard deviation of 0.1, the wide one of 0.5. Best: 10 in the 10 steps of an episode.
    """

    observation_space, action_space = spaces.Box(0.0, 1.0, (1,), np.float32), spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Pay the height of the hill."""
        narrow, wide = (
            np.exp(-0.5 * np.sum((np.asarray(action) - at) ** 2) / width**2) for at, width in ((0.8, 0.1), (0, 0.5))
        )
        return np.ones(1, np.float32), float(max(narrow, 0.3 * wide)), False, False, {}


for name, arguments, steps in (("Grid", {}, 50), ("SlipperyGrid", {"slip": 0.3}, 50), ("Narrow", {}, 10)):
    if f"experiments/{name}-v0" not in gym.registry:
        kind = "Narrow" if name == "Narrow" else "Grid"
        gym.register(
            f"experiments/{name}-v0", entry_point=f"{__name__}:{kind}", kwargs=arguments, max_episode_steps=steps
        )
