"""What several ranks agree on, without processes: each of them is asked in turn with what the others say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.ranks import ALONE, Ranks
from sb3_ezv2.learning.agreement import (
    agree_on_normalization,
    agreed_weights,
    merged_moments,
    remember_normalization,
    together,
)
from sb3_ezv2.learning.statistics import typical_size
from sb3_ezv2.replay.buffer import MIN_WEIGHT
from tests.helpers.tiny import provenance_envs, tiny_model


class Told(Ranks):
    """One of several ranks whose words are known beforehand.

    :param rank: this one
    :param words: of every rank, for one question after the other
    """

    def __init__(self, rank: int, *words: list[Any]) -> None:
        self.rank, self.size, self.words = rank, len(words[0]), list(words)

    def gathered(self, item: Any) -> list[Any]:
        return self.words.pop(0)

    def table(self, numbers: Any) -> np.ndarray:
        return np.array(self.words.pop(0), np.float64)


def running(numbers: np.ndarray) -> RunningMeanStd:
    found = RunningMeanStd(epsilon=0.0, shape=numbers.shape[1:])
    found.mean, found.var, found.count = numbers.mean(0), numbers.var(0), len(numbers)
    return found


def moments(found: RunningMeanStd) -> tuple:
    return found.mean, found.var, found.count


def test_moments_of_parts_are_those_of_all():
    rng = np.random.default_rng(0)
    parts = [rng.normal(100.0, 0.1, (n, 3)) for n in (5, 70, 900)]
    ranks = Told(1, [moments(running(part)) for part in parts])
    merged = merged_moments(running(parts[1]), ranks)
    np.testing.assert_allclose(merged.mean, np.concatenate(parts).mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.var, np.concatenate(parts).var(0), rtol=1e-9)
    assert merged.count == 975
    mean, var, count = together([moments(merged), (*moments(running(parts[2]))[:2], -900)])
    np.testing.assert_allclose(var, np.concatenate(parts[:2]).var(0), rtol=1e-6)
    assert count == 75


def test_what_all_ranks_have_counted_counts_once():
    """Three ranks normalise with the same statistics, count on for themselves, and agree: as one that saw it all."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(3.0, 1.0, (50, 3)), [rng.normal(rank, 2.0, (20, 3)) for rank in range(3)]
    wrappers = [VecNormalize(make_vec_env("Pendulum-v1", 1)) for _ in own]
    for wrapper, part in zip(wrappers, own, strict=True):
        wrapper.obs_rms, wrapper.ret_rms = running(common), running(common[:, 0])
        remember_normalization(Normalizer(wrapper))
        wrapper.obs_rms.update(part)
        wrapper.ret_rms.update(part[:, 0])
    words = [[moments(getattr(wrapper, name)) for wrapper in wrappers] for name in ("ret_rms", "obs_rms")]
    everything = np.concatenate([common, *own])
    for rank, wrapper in enumerate(wrappers):
        agree_on_normalization(Normalizer(wrapper), Told(rank, *words))
        np.testing.assert_allclose(wrapper.obs_rms.mean, everything.mean(0))
        np.testing.assert_allclose(wrapper.ret_rms.var, everything[:, 0].var())
        assert wrapper.obs_rms.count == pytest.approx(110)


def test_importance_weights_are_those_of_a_draw_from_all_shards():
    """By hand: a transition is drawn with ``p / (2 S)`` from all, of which there are ``n1 + n2``."""
    beta, models = 0.7, [tiny_model(provenance_envs(), learning_starts=1_000).learn(n) for n in (40, 90)]
    buffers = [model.replay_buffer for model in models]
    for number, buffer in enumerate(buffers):
        slots = buffer.take_new_slots()
        buffer.update_priorities(slots, np.random.default_rng(number).uniform(0.01, 5.0 + number, len(slots)))
    batches = [buffer.sample(16, 3, 2, beta, np.random.default_rng(0)) for buffer in buffers]
    words = [[buffer.largest_weight, len(buffer)] for buffer in buffers]
    raw = []
    for batch, buffer in zip(batches, buffers, strict=True):
        leaves = buffer.sum_tree[len(buffer.sum_tree) // 2 + batch.slots[:, 0]]
        raw.append((sum(map(len, buffers)) * leaves / (2 * buffer.sum_tree[1])) ** -beta)
    largest = max(part.max() for part in raw)
    for rank, (batch, buffer) in enumerate(zip(batches, buffers, strict=True)):
        found = agreed_weights(batch, buffer, beta, Told(rank, words)).weights
        np.testing.assert_allclose(found, np.maximum(raw[rank] / largest, MIN_WEIGHT), rtol=1e-5)
        assert agreed_weights(batch, buffer, beta, ALONE) is batch


def test_the_unit_of_rewards_is_that_of_all_rewards():
    parts = [np.array([1.0, 0.0, -9.0]), np.array([4.0, 4.0])]
    words = [[len(part[part != 0]), np.sqrt(np.abs(part)).sum()] for part in parts]
    assert typical_size(parts[0], Told(0, words)) == pytest.approx(typical_size(np.concatenate(parts)))
