"""Learning rates that change."""

import math

from stable_baselines3.common.type_aliases import Schedule


class InverseSqrt:
    """Falls with the number of updates, however long the run is planned to be: ``rate / sqrt(1 + n / n_updates)``.

    :param rate: at first
    :param n_updates: after so many updates the rate has fallen to 0.71 of the first one, after 99 times as many to 0.1
    :raises ValueError: unless both are positive
    """

    def __init__(self, rate: float, n_updates: float) -> None:
        if not (0.0 < rate < math.inf and 0.0 < n_updates < math.inf):
            raise ValueError(f"rate={rate} and n_updates={n_updates} must be positive numbers")
        self.rate = rate
        self.n_updates = n_updates

    def after(self, n: int) -> float:
        """The learning rate of update number ``n``, from 0 on."""
        return self.rate / math.sqrt(1.0 + n / self.n_updates)

    def __call__(self, progress_remaining: float) -> float:
        """The first rate, for whoever knows of Stable-Baselines3's schedules alone."""
        return self.rate

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InverseSqrt) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.rate, self.n_updates))

    def __repr__(self) -> str:
        return f"InverseSqrt(rate={self.rate!r}, n_updates={self.n_updates!r})"


class WarmUp:
    """Rises linearly from 0 at the share ``begin`` of the run to the whole rate at the share ``end``.

    The paper's optimiser for images is ``SGD`` with a rate of 0.2, momentum 0.9, weight decay 1e-4 and a warm-up over
    the first hundredth of the updates, which begin after ``learning_starts``::

        EfficientZeroV2(
            "CnnPolicy", env, learning_starts=2_000, learning_rate=WarmUp(0.2, begin=0.02, end=0.03),
            policy_kwargs={
                "optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 1e-4}
            },
        ).learn(100_000)

    :param rate: a number, or a function of the remaining progress (from 1 to 0)
    :param begin: share of the run at which the rate is 0
    :param end: share of the run from which on the rate is whole
    :raises ValueError: unless ``0 <= begin < end <= 1``
    """

    def __init__(self, rate: float | Schedule, begin: float = 0.0, end: float = 0.01) -> None:
        if not 0.0 <= begin < end <= 1.0:
            raise ValueError(f"begin={begin} and end={end} must be shares of the run, the first one smaller")
        self.rate = rate
        self.begin = begin
        self.end = end

    def __call__(self, progress_remaining: float) -> float:
        """The learning rate when ``progress_remaining`` of the run (from 1 to 0) is left."""
        whole = self.rate(progress_remaining) if callable(self.rate) else self.rate
        risen = (1.0 - progress_remaining - self.begin) / (self.end - self.begin)
        return whole * min(max(risen, 0.0), 1.0)

    def __repr__(self) -> str:
        return f"WarmUp(rate={self.rate!r}, begin={self.begin}, end={self.end})"
