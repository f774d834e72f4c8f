"""Models with known errors give the reported numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.inspection.episodes import CUT, TERMINATED, TRUNCATED, Episode
from sb3_ezv2.inspection.measures import (
    MAX_DEPTH,
    by_distance,
    calibrate,
    depth_errors,
    evaluate,
    imagine,
    known_returns,
    line,
    search_numbers,
)
from sb3_ezv2.learning.search_statistics import search_statistics
from sb3_ezv2.planning.planner import Planner
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, tiny_network
from tests.learning.test_diagnostics import DISCOUNT, LENGTH, RETURNS, ChainModel


def chain(first: int = 0, end: str = TERMINATED, shift: float = 0.0, n: int = LENGTH) -> Episode:
    """The chain from state ``first``; the values of its searches are too large by ``shift``."""
    states = np.arange(first, min(first + n, LENGTH) + 1)
    n_steps = len(states) - 1
    root_values = RETURNS[states[:-1]].numpy() + shift
    nothing = np.zeros((n_steps, 3), np.float32)
    plans = Plan(np.zeros(n_steps, np.int64), nothing, nothing, nothing.astype(np.int32), *[root_values] * 3)
    observations = {"observation": states[:, None].astype(np.float32)}
    return Episode(observations, np.zeros(n_steps, np.int64), states[:-1] + 1.0, plans, end, {})


EPISODES = [chain(), chain(3), chain(1), chain(2, TRUNCATED, n=4)]


def test_an_exact_model_has_no_error():
    states = evaluate(ChainModel(), EPISODES)
    found = calibrate(EPISODES, states, DISCOUNT)
    assert found is not None
    for summary, its_line in ((found.root, found.root_line), (found.network, found.network_line)):
        assert summary.n_known == 8 + 5 + 7  # nothing is known of the truncated one
        assert (summary.bias, summary.error) == (pytest.approx(0.0, abs=1e-5), pytest.approx(0.0, abs=1e-5))
        assert its_line == (pytest.approx(1.0, abs=1e-5), pytest.approx(0.0, abs=1e-4))
    errors = depth_errors(ChainModel(), EPISODES, states)
    assert errors.depths.tolist() == list(range(1, LENGTH + 1))
    for curve in (errors.rewards, errors.values, errors.latents):
        measured = curve[np.isfinite(curve)]  # few states are left deep down, and one has no spread
        assert len(measured) >= 5 and measured == pytest.approx(0.0, abs=1e-5)
    imagined = imagine(ChainModel(), EPISODES[0], states, DISCOUNT)
    np.testing.assert_allclose(imagined.imagined_rewards, imagined.rewards)
    np.testing.assert_allclose(imagined.next_rewards, imagined.rewards)
    np.testing.assert_allclose(imagined.imagined_values, RETURNS.numpy(), rtol=1e-6)
    np.testing.assert_allclose(imagined.returns, imagined.values[:-1], rtol=1e-6)


def test_shifted_values_are_a_bias():
    episodes = [chain(first, shift=10.0) for first in (0, 3, 1)]
    found = calibrate(episodes, evaluate(ChainModel(value_shift=-7.0), episodes), DISCOUNT)
    assert found is not None
    assert (found.root.bias, found.network.bias) == (pytest.approx(10.0, abs=1e-5), pytest.approx(-7.0, abs=1e-5))
    assert found.root_line == (pytest.approx(1.0, abs=1e-5), pytest.approx(-10.0, abs=1e-3))
    assert found.root.error == pytest.approx(100.0 / found.returns.var(), rel=1e-4)
    groups = by_distance(found)
    assert (groups[0][0], groups[-1][1]) == (1.0, LENGTH)
    assert sum(len(excess) for _, _, excess in groups) == 8 + 5 + 7
    for _, _, excess in groups:
        assert excess == pytest.approx(10.0, abs=1e-5)


def test_imagination_of_the_mean_has_the_error_one():
    rewards = np.concatenate([episode.rewards for episode in EPISODES])
    errors = depth_errors(ChainModel(mean_reward=float(rewards.mean())), EPISODES, evaluate(ChainModel(), EPISODES))
    assert errors.rewards[0] == pytest.approx(1.0, abs=1e-5)
    assert errors.values[:5] == pytest.approx(0.0, abs=1e-5)


def test_errors_of_the_dynamics_grow_with_depth():
    states = evaluate(ChainModel(), EPISODES)
    errors = depth_errors(ChainModel(step=0.8), EPISODES, states)
    assert errors.latents[0] > 0.001 and np.all(np.diff(errors.latents[:4]) > 0)
    shifted = depth_errors(ChainModel(reward_shift=2.0), EPISODES, states)
    last = [(e.rewards, t) for e in EPISODES for t in range(len(e)) if t + 2 < len(e)]
    real = np.array([rewards[t + 2] for rewards, t in last])
    assert shifted.rewards[2] == pytest.approx(4.0 / real.var(), rel=1e-4)


def test_imagination_goes_no_deeper_than_episodes():
    short = [chain(LENGTH - 2)]
    states = evaluate(ChainModel(), short)
    assert depth_errors(ChainModel(), short, states).depths.tolist() == [1, 2]
    assert len(imagine(ChainModel(), short[0], states, DISCOUNT).imagined_values) == 3
    assert MAX_DEPTH == 15


@pytest.mark.parametrize("end", [TRUNCATED, CUT])
def test_returns_are_known_by_length(end):
    n = 60
    plans = Plan(*(np.zeros((n, 1)) for _ in Plan._fields))
    episode = Episode({"observation": np.zeros((n + 1, 1))}, np.zeros(n), np.ones(n), plans, end, {})
    known = np.isfinite(known_returns(episode, DISCOUNT))
    assert known.sum() == n - 44 + 1 and known[: known.sum()].all()  # 0.9^44 < 0.01
    assert np.isfinite(known_returns(episode, 1.0)).sum() == 0


def test_a_cut_episode_has_no_distance_to_its_end():
    episodes = [chain(end=CUT), chain(3)]
    long = Episode(
        {"observation": np.zeros((61, 1), np.float32)}, np.zeros(60, np.int64), np.ones(60),
        Plan(*(np.zeros(60) for _ in Plan._fields)), CUT, {},
    )  # fmt: skip
    found = calibrate([*episodes, long], evaluate(ChainModel(), [*episodes, long]), DISCOUNT)
    assert found is not None and found.root.n_known == 5 + 17
    assert np.isfinite(found.distances).sum() == 5
    assert calibrate([chain(end=CUT)], evaluate(ChainModel(), [chain(end=CUT)]), DISCOUNT) is None


def test_a_line_needs_values_that_differ():
    assert line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx((2.0, 1.0))
    assert all(map(math.isnan, line(np.full(3, 7.0), np.arange(3.0))))


@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS, ONE_DIMENSION], ids=["discrete", "box", "box1"])
def test_search_numbers_are_those_of_the_log(space: spaces.Space):
    model = tiny_network(space).eval()
    planner, rng = Planner(8, 3, 0.97), np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (21, 3)).astype(np.float32)
    tensors = {"observation": th.as_tensor(observations[:-1])}
    plan = planner.plan(model, tensors, planner.draw_noise(model, 20, rng), explore=True)
    halves = [
        Episode(
            {"observation": observations[begin : begin + 11]}, plan.actions[begin : begin + 10], np.zeros(10),
            Plan(*(part[begin : begin + 10] for part in plan)), CUT, {},
        )
        for begin in (0, 10)
    ]  # fmt: skip
    found = search_numbers(model, halves, evaluate(model, halves))
    for name, number in search_statistics(model, tensors, plan).items():
        assert getattr(found, name) == pytest.approx(float(number), rel=1e-4)
    assert found.departs.mean() == pytest.approx(found.departure_rate)
    assert found.gains.mean() == pytest.approx(found.value_gain)
    assert found.visits.sum() == pytest.approx(1.0) and np.all(np.diff(found.visits) <= 0)
