"""Small environments with images, made for checking that learning from pixels works at all."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

IMAGE_SIZE = 32
N_CELLS = 8
CELL = 3
MARGIN = 4
"""Pixels around the field: as many as augmentation shifts an image by, so that nothing is ever moved out of sight."""
BEST_RETURN = 1.0
RANDOM_RETURN = -0.25
"""Wherever the paddle is in the end, it covers three columns of eight."""
SMALL_IMAGE_NETWORK = {
    "net_size": "paper",
    "stem_channels": 8,
    "latent_channels": 16,
    "action_channels": 8,
    "head_channels": 8,
    "projection_dim": 128,
    "prediction_dim": 64,
}
"""``policy_kwargs`` of the paper's network with few channels, which a CPU trains in minutes."""
FIELD_GREY, PADDLE_GREY, BALL_GREY = 50, 150, 255


class Catch(gym.Env):
    """Catch a falling ball with a paddle.

    The field has 8 x 8 cells. The ball starts in a random column of the top row and falls by one cell a step; the
    paddle, three cells wide, starts around column 4 of the bottom row and stays (action 0) or moves one column to the
    left (1) or to the right (2). After seven steps the ball arrives: the reward is 1 if the paddle is there, otherwise
    -1. All other rewards are 0.

    Every ball can be caught, so the best mean return is ``BEST_RETURN``; random actions, like everything that does not
    look at the ball, have ``RANDOM_RETURN``. Observations are images ``[32, 32, 1]`` of bytes.
    """

    observation_space: spaces.Space = spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self.row = self.column = 0
        self.paddle: float = N_CELLS // 2  # column of its middle

    def _image(self) -> Any:
        paddle = (N_CELLS - 1, self.paddle - 1, 3, PADDLE_GREY)
        return self._picture((paddle, (self.row, self.column, 1, BALL_GREY)))

    @staticmethod
    def _picture(things: tuple[tuple[int, float, int, int], ...]) -> np.ndarray:
        """The field with things in it: row, column, width and grey."""
        image = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 1), np.uint8)
        image[MARGIN : MARGIN + N_CELLS * CELL, MARGIN : MARGIN + N_CELLS * CELL] = FIELD_GREY
        for row, column, width, grey in things:
            top, left = MARGIN + CELL * row, MARGIN + round(CELL * column)
            image[top : top + CELL, left : left + CELL * width] = grey
        return image

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Drop the next ball."""
        super().reset(seed=seed)
        self.row, self.paddle = 0, N_CELLS // 2
        self.column = int(self.np_random.integers(N_CELLS))
        return self._image(), {}

    def _shift(self, action: Any) -> float:
        """Columns that the paddle moves to the right."""
        return (0, -1, 1)[int(action)]

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the paddle, then let the ball fall by one cell."""
        self.paddle = min(max(self.paddle + self._shift(action), 1), N_CELLS - 2)
        self.row += 1
        done = self.row == N_CELLS - 1
        reward = (1.0 if abs(self.paddle - self.column) <= 1.5 else -1.0) if done else 0.0
        return self._image(), reward, done, False, {}


class CatchContinuous(Catch):
    """Catch a falling ball with a paddle that stops anywhere.

    As :class:`Catch`, but the action is how far the paddle moves to the right, from -1 to 1 columns, so that it can
    stand between two columns; the image shows its place to a third of a column. Best and random return are the same.
    """

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _shift(self, action: Any) -> float:
        return float(np.clip(action[0], -1.0, 1.0))


class CatchDict(Catch):
    """Catch a falling ball that is seen with a paddle that is felt.

    As :class:`Catch`, but the image shows the ball alone, and the paddle's place comes as a number beside it, -1 at the
    left and 1 at the right. Best and random return are the same.
    """

    observation_space = spaces.Dict(  # type: ignore[assignment]
        {"image": Catch.observation_space, "paddle": spaces.Box(-1.0, 1.0, (1,), np.float32)}
    )

    def _image(self) -> Any:
        image = self._picture(((self.row, self.column, 1, BALL_GREY),))
        return {"image": image, "paddle": np.array([2.0 * self.paddle / (N_CELLS - 1) - 1.0], np.float32)}


IDS: dict[str, type[Catch]] = {
    "pixels/Catch-v0": Catch,
    "pixels/CatchContinuous-v0": CatchContinuous,
    "pixels/CatchDict-v0": CatchDict,
}
"""Environments by their id."""

for name, kind in IDS.items():
    if name not in gym.registry:
        gym.register(name, entry_point=f"{__name__}:{kind.__name__}")
