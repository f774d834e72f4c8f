"""Aggregates over tasks and seeds, and their intervals."""

import numpy as np
import pytest
import scipy.stats

from benchmarks.learning.statistics import AGGREGATES, improvement_over, interquartile_mean, interval_text, mean
from sb3_ezv2.zoo.curves import bootstrap_interval


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([1.0, 2.0]), np.array([3.0, 100.0])) == pytest.approx(2.5)
    assert interquartile_mean(np.array([0.0, 1.0, 2.0]), np.array([3.0, 4.0, 50.0])) == pytest.approx(2.5)


def test_probability_of_improvement_is_that_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 5, 7).astype(float), rng.integers(0, 5, 4).astype(float)
    u = scipy.stats.mannwhitneyu(ours, theirs).statistic
    assert improvement_over([theirs])(ours) == pytest.approx(u / 28)
    assert improvement_over([np.zeros(1), np.ones(1)])(np.ones(3), np.ones(2)) == pytest.approx(0.75)


def test_intervals_hold_the_aggregate_and_shrink_with_more_seeds():
    rng = np.random.default_rng(0)
    widths = []
    for n_seeds in (3, 30):
        runs = [rng.normal(game, 0.5, n_seeds) for game in range(5)]
        for aggregate in (*AGGREGATES.values(), improvement_over([np.array([game + 0.1]) for game in range(5)])):
            low, high = bootstrap_interval(runs, aggregate)
            assert low <= aggregate(*runs) <= high
        low, high = bootstrap_interval(runs, mean)
        widths.append(high - low)
    assert widths[1] < widths[0]
    assert bootstrap_interval([np.full(4, 0.5), np.full(3, 1.5)], mean) == (1.0, 1.0)


def test_a_single_run_beside_several_keeps_its_weight():
    several, single = np.array([1.0, 1.0, 1.0]), np.array([5.0])
    seen = []

    def note(*samples: np.ndarray, axis: int) -> np.ndarray:
        seen.append([sample.shape[axis] for sample in samples])
        return np.concatenate(samples, axis=axis).mean(axis=axis)

    assert bootstrap_interval([several, single], note) == (2.0, 2.0)
    assert bootstrap_interval([single, several], note) == (2.0, 2.0)
    assert {tuple(lengths) for lengths in seen} == {(3, 1), (1, 3)}


def test_one_seed_of_everything_has_no_interval():
    assert interval_text(mean, [np.ones(1), np.zeros(1)], 1) == "one seed"
    assert bootstrap_interval([np.ones(1)], mean) == (1.0, 1.0)
    assert interval_text(mean, [np.array([1.0, 1.0]), np.zeros(1)], 1) == "0.5 to 0.5"
