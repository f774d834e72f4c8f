"""Root values of acting searches against the returns that followed."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

REMAINDER = 0.01
"""A return is known where the episode terminated, or where what follows weighs less than this."""
MAX_STEPS = 10_000
"""Steps of a stream that are kept at most; where the discount needs more, only terminal ends make returns known."""
WINDOW = 1_000
"""Newest states with a known return that the numbers are made of."""


class CalibrationSummary(NamedTuple):
    """Over the newest states whose return is known."""

    n_known: int
    mean_value: float  # of their root values
    mean_return: float
    bias: float  # mean_value - mean_return
    error: float  # mean squared error divided by the variance of the returns; NaN where these are all alike


class Calibration:
    """Keeps root values until the discounted return from their states is known to 1 %.

    Memory is bounded: at most ``2 MAX_STEPS`` steps per environment and :data:`WINDOW` pairs. Nothing of it is saved
    with a model or a checkpoint, where it begins anew; learning never reads it.

    :param discount: of one step, in [0, 1]
    :param n_envs: number of environments
    """

    def __init__(self, discount: float, n_envs: int) -> None:
        self.discount = discount
        n_steps = steps_until_known(discount)
        self.known_by_length = n_steps is not None
        self.n_steps = MAX_STEPS if n_steps is None else n_steps
        self.values: list[list[float]] = [[] for _ in range(n_envs)]  # NaN where no search acted
        self.rewards: list[list[float]] = [[] for _ in range(n_envs)]
        self.pairs = np.empty((0, 2))  # value and return, the newest last
        self.largest_return = 0.0  # in absolute terms; of streams that were cut, if they had gone on as they were

    def begin_streams(self) -> None:
        """Forget the states that wait for their return, because the environments were reset."""
        for waiting in (*self.values, *self.rewards):
            waiting.clear()

    def add(
        self, root_values: np.ndarray | None, rewards: np.ndarray, dones: np.ndarray, terminated: np.ndarray
    ) -> None:
        """Take in one step of every environment.

        :param root_values: of the searches that chose the actions ``[n_envs]``; ``None`` if they were random
        :param rewards: that followed ``[n_envs]``, in the units of the root values
        :param dones: whether the episodes ended ``[n_envs]``
        :param terminated: whether they ended in a terminal state ``[n_envs]``
        """
        found = [math.nan] * len(rewards) if root_values is None else root_values.tolist()
        steps = zip(found, rewards.tolist(), dones.tolist(), terminated.tolist(), strict=True)
        for env, (value, reward, done, terminal) in enumerate(steps):
            values, received = self.values[env], self.rewards[env]
            values.append(value)
            received.append(reward)
            if done:
                self._settle(env, terminal, len(values) if terminal else self._known_before_the_end(len(values)))
                values.clear()
                received.clear()
            elif len(values) == 2 * self.n_steps:
                self._settle(env, False, self.n_steps if self.known_by_length else 0)
                del values[: self.n_steps], received[: self.n_steps]

    def _known_before_the_end(self, n: int) -> int:
        """How many of the oldest of ``n`` states have enough steps behind them."""
        return max(n - self.n_steps + 1, 0) if self.known_by_length else 0

    def _settle(self, env: int, terminal: bool, n: int) -> None:
        """Pair the oldest ``n`` states of a stream with their returns ``G_t = r_t + discount * G_{t+1}``."""
        returns = discounted_returns(self.rewards[env], self.discount)
        left = 0.0 if terminal else self.discount ** len(returns)
        largest = abs(returns[0]) / (1.0 - left) if left < 1.0 else math.inf
        self.largest_return = max(self.largest_return, float(largest))
        pairs = np.stack([np.array(self.values[env][:n]), returns[:n]], axis=1)
        self.pairs = np.concatenate([self.pairs, pairs[np.isfinite(pairs).all(axis=1)]])[-WINDOW:]

    def summary(self) -> CalibrationSummary | None:
        """The numbers of the log; ``None`` where no return is known yet."""
        return None if len(self.pairs) == 0 else summarise(*self.pairs.T)


def summarise(values: np.ndarray, returns: np.ndarray) -> CalibrationSummary:
    """The numbers of the log.

    :param values: of states ``[n]``, at least one
    :param returns: that followed ``[n]``
    """
    variance = float(returns.var())
    alike = variance <= 1e-6 * float((returns**2).mean())
    return CalibrationSummary(
        n_known=len(values),
        mean_value=float(values.mean()),
        mean_return=float(returns.mean()),
        bias=float((values - returns).mean()),
        error=math.nan if alike else float(((values - returns) ** 2).mean()) / variance,
    )


def steps_until_known(discount: float) -> int | None:
    """Steps after which a return is known wherever the stream goes; ``None`` if only a terminal end makes it known.

    :param discount: of one step, in [0, 1]
    """
    needed = MAX_STEPS if discount == 1.0 else 1 if discount == 0.0 else math.log(REMAINDER) / math.log(discount)
    return math.floor(needed) + 1 if discount < 1.0 and needed < MAX_STEPS else None


def discounted_returns(rewards: Sequence[float], discount: float) -> np.ndarray:
    """``G_t = r_t + discount * G_{t+1}`` of a stream ``[n]``, with nothing behind its last reward."""
    backwards = accumulate(reversed(rewards), lambda later, reward: reward + discount * later)
    return np.array(list(backwards))[::-1]
