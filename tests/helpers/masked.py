"""An environment whose legal actions change with every state and that refuses all others."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_ezv2.common.actions import action_kind_of


class MaskedEnv(gym.Env):
    """Random observations and random masks; an illegal action is an error.

    The observation begins with the mask that belongs to it, so that a stored one can be checked. The reward is 1.

    :param action_space: anything but ``Box``
    :param length: steps of an episode; every second one is truncated
    """

    def __init__(self, action_space: spaces.Space | None = None, length: int = 7) -> None:
        self.action_space = action_space or spaces.Discrete(6)
        self.kind = action_kind_of(self.action_space)
        self.observation_space = spaces.Box(0.0, 1.0, (self.kind.mask_size,))
        self.length = length
        self.episodes = 0

    def action_masks(self) -> np.ndarray:
        """Mask of the state, as sb3-contrib asks for it."""
        return self.mask

    def _observe(self) -> np.ndarray:
        self.mask = self.np_random.random(self.kind.mask_size) < 0.4
        while not self.kind.have_legal(self.mask[None])[0]:
            self.mask = self.np_random.random(self.kind.mask_size) < 0.4
        return self.mask.astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episodes += 1
        self.steps = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        numbers = np.asarray(action).reshape(1, -1) - np.asarray(getattr(self.action_space, "start", 0)).reshape(-1)
        numbers = numbers.astype(self.kind.dtype)
        stored = numbers if self.kind.shape else numbers[:, 0]
        assert self.kind.are_legal(stored, self.mask[None])[0], f"{action} is illegal under {self.mask}"
        self.steps += 1
        ended = self.steps >= self.length
        return self._observe(), 1.0, ended and self.episodes % 2 == 0, ended and self.episodes % 2 == 1, {}
