"""Aggregates of scores over tasks and seeds, as Agarwal et al. (2021, https://arxiv.org/abs/2108.13264) propose them.

Scores are samples: one array ``[n_runs]`` for each task. All aggregates may get resampled runs along ``axis`` and
resamples along the axes before it, so that :func:`sb3_ezv2.zoo.curves.bootstrap_interval` can call them; it draws runs
anew within each task.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.stats

from sb3_ezv2.zoo.curves import bootstrap_interval

Aggregate = Callable[..., np.ndarray]


def mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over tasks of each task's mean."""
    return np.mean([sample.mean(axis=axis) for sample in samples], axis=0)


def median(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Median over tasks of each task's mean."""
    return np.median([sample.mean(axis=axis) for sample in samples], axis=0)


def interquartile_mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half of all runs: a quarter of them, rounded down, is left out at each end."""
    return np.asarray(scipy.stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis))


def improvement_over(others: Sequence[np.ndarray]) -> Aggregate:
    """Probability of improvement: that a run scores higher than one of the others, mean over tasks; ties count half.

    :param others: scores ``[n]`` of each task
    """

    def probability(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        wins = [
            np.sign(np.moveaxis(sample, axis, -1)[..., None] - other).mean(axis=(-1, -2))
            for sample, other in zip(samples, others, strict=True)
        ]
        return (np.mean(wins, axis=0) + 1.0) / 2.0

    return probability


AGGREGATES: dict[str, Aggregate] = {"mean": mean, "median": median, "interquartile mean": interquartile_mean}


def interval_text(aggregate: Aggregate, samples: Sequence[np.ndarray], digits: int) -> str:
    """Bounds of the 95 % interval, or that there is one seed of everything."""
    if max(map(len, samples)) < 2:
        return "one seed"
    low, high = bootstrap_interval(samples, aggregate)
    return f"{low:.{digits}f} to {high:.{digits}f}"
