"""Scalars as categories: h and its inverse, two-hot distributions and their means."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sb3_ezv2.networks.supports import Support, TransformedSupport, compress, decompress, expectation, two_hot

# Spacing of numbers near 1, with room for a few roundings.
TOLERANCES = {th.float32: 2e-6, th.float64: 2e-14}

magnitudes = st.floats(1e-30, 1e30)
signs = st.sampled_from([-1.0, 1.0])


@pytest.mark.parametrize("dtype", TOLERANCES)
@given(magnitude=magnitudes, sign=signs)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_compress_and_decompress_are_inverse(dtype, magnitude, sign):
    x = th.tensor(sign * magnitude, dtype=dtype)
    assert compress(x).dtype == decompress(x).dtype == dtype
    assert math.isclose(decompress(compress(x)), x, rel_tol=TOLERANCES[dtype])
    y = th.tensor(sign * min(magnitude, 1e15), dtype=dtype)
    assert math.isclose(compress(decompress(y)), y, rel_tol=TOLERANCES[dtype])


@given(magnitude=st.floats(1e-6, 1e12), sign=signs)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_compress_is_the_published_formula(magnitude, sign):
    expected = sign * (math.sqrt(magnitude + 1.0) - 1.0) + 0.001 * sign * magnitude
    # The formula itself loses digits of small numbers: sqrt(1 + m) - 1 is known to 2e-16 at best.
    assert math.isclose(compress(th.tensor(sign * magnitude, dtype=th.float64)), expected, rel_tol=1e-12, abs_tol=5e-16)


def test_values_known_by_hand():
    x = th.tensor([0.0, 3.0, -3.0, 99.0, -9999.0], dtype=th.float64)
    y = th.tensor([0.0, 1.003, -1.003, 9.099, -108.999], dtype=th.float64)
    th.testing.assert_close(compress(x), y)
    th.testing.assert_close(decompress(y), x)


def test_compress_is_odd_and_increasing():
    x = th.logspace(-8, 8, 400, dtype=th.float64)
    th.testing.assert_close(compress(-x), -compress(x), rtol=0, atol=0)
    both = th.cat([-x.flip(0), th.zeros(1, dtype=th.float64), x])
    assert (compress(both).diff() > 0).all()
    assert (decompress(both).diff() > 0).all()


def test_gradients_are_finite_and_positive():
    x = th.tensor([-1e6, -1.0, -1e-6, 1e-6, 1.0, 1e6], dtype=th.float64, requires_grad=True)
    for function in (compress, decompress):
        (gradient,) = th.autograd.grad(function(x).sum(), x)
        assert th.isfinite(gradient).all() and (gradient > 0).all()
    assert th.autograd.gradcheck(compress, x[1:-1].detach().requires_grad_(), eps=1e-8, atol=1e-5)


positions = st.lists(st.floats(-300.0, 300.0), min_size=2, max_size=601, unique=True).map(sorted)


@given(points=positions, share=st.floats(0.0, 1.0))
@settings(max_examples=300, deadline=None, derandomize=True)
@example(points=[0.0, 5e-324, 111.0], share=1.0)
def test_two_hot_round_trip_inside_the_support(points, share):
    support = th.tensor(points, dtype=th.float64)
    low, width, n_bins = points[0], points[-1] - points[0], len(points)
    x = th.tensor([low + share * width], dtype=th.float64).clamp(support[0], support[-1])
    probabilities = two_hot(x, support)
    assert probabilities.shape == (1, n_bins) and probabilities.dtype == th.float64
    assert (probabilities >= 0).all() and math.isclose(probabilities.sum(), 1.0, abs_tol=1e-12)
    positive = probabilities[0].nonzero().flatten()
    assert len(positive) == 1 or (len(positive) == 2 and positive[1] == positive[0] + 1)
    assert abs(float(probabilities[0] @ support - x[0])) < 1e-9 * width + 1e-12 * abs(low)
    assert support[positive[0]] <= x[0] + 1e-12 * width and support[positive[-1]] >= x[0] - 1e-12 * width
    logits = probabilities.clamp(min=1e-300).log()
    assert abs(float(expectation(logits, support)[0] - x[0])) < 1e-9 * width + 1e-12 * abs(low)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("n_bins", [2, 51, 601])
def test_two_hot_of_the_points_is_one_hot(dtype, n_bins):
    points = th.linspace(-75.0, 75.0, n_bins, dtype=dtype)
    th.testing.assert_close(two_hot(points, points), th.eye(n_bins, dtype=dtype), rtol=0, atol=1e-4)


@pytest.mark.parametrize("outside, inside", [(-1e30, -3.0), (-3.001, -3.0), (5.5, 5.0), (math.inf, 5.0)])
def test_what_lies_outside_is_moved_to_the_nearest_end(outside, inside):
    points = th.linspace(-3.0, 5.0, 9)
    there = two_hot(th.tensor([[outside]]), points)
    assert there.shape == (1, 1, 9)
    th.testing.assert_close(there, two_hot(th.tensor([[inside]]), points), rtol=0, atol=0)
    assert there.max() == 1.0


@given(data=st.data(), n_bins=st.integers(2, 40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_expectation_is_the_mean_of_the_categories(data, n_bins):
    logits = data.draw(st.lists(st.floats(-20.0, 20.0), min_size=n_bins, max_size=n_bins))
    weights = np.exp(np.array(logits) - max(logits))
    mean = (weights * np.linspace(-2.0, 7.0, n_bins)).sum() / weights.sum()
    tensor = th.tensor([logits, logits], dtype=th.float64)
    for shifted in (tensor, tensor + 1000.0):
        result = expectation(shifted, th.linspace(-2.0, 7.0, n_bins, dtype=th.float64))
        assert result.shape == (2,)
        np.testing.assert_allclose(result.numpy(), mean, rtol=1e-9, atol=1e-9)


KINDS = pytest.mark.parametrize("kind", [Support, TransformedSupport])
ONE = th.ones(())


@KINDS
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scalars_survive_the_support(kind, scale):
    """The whole way of a value target: encode, decode."""
    support = kind(800.0, 251)
    support.set_reach(800.0)
    x = scale * th.tensor([-790.0, -200.0, -1.0, -1e-3, 0.0, 0.3, 17.0, 400.0])
    logits = support.encode(x, th.tensor(scale)).clamp(min=1e-30).log()
    th.testing.assert_close(support.decode(logits, th.tensor(scale)), x, rtol=1e-4, atol=1e-4 * scale)
    assert not support.outside(x, th.tensor(scale)).any()
    assert support.outside(th.tensor([801.0 * scale, -2e9 * scale]), th.tensor(scale)).all()


@KINDS
def test_equal_logits_mean_zero(kind):
    support = kind(8.0, 51)
    for reach in (8.0, 0.5, 3000.0, 1e9, 0.0):
        support.set_reach(reach)
        assert float(support.decode(th.zeros(3, 4, support.n_bins), ONE).abs().max()) < 1e-5 * max(reach, 1.0)


def test_points_are_dense_where_rewards_are_typical_and_reach_far():
    points = Support(8.0, 51).points
    assert len(points) == 51 + 2 * 17
    th.testing.assert_close(points, -points.flip(0), rtol=0, atol=0)
    assert (points.diff() > 0).all() and points[-1] > 1e6
    dense = points[17:-17]
    th.testing.assert_close(compress(dense).diff(), th.full((50,), 2 * float(compress(th.tensor(8.0))) / 50))
    th.testing.assert_close(points[-17:] / points[-18:-1], th.full((17,), 2.0))


def test_the_reach_is_the_first_point_that_is_large_enough():
    support = Support(8.0, 51)
    for largest in (0.0, 1e-3, 1.0, 7.99, 8.0, 100.0, 1e6, 1e30):
        support.set_reach(largest)
        assert float(support.reach) >= min(largest, float(support.points[-1]))
        below = support.points[support.points < support.reach]
        assert largest == 0.0 or float(below[-1]) < largest
        used = support.used(th.zeros(support.n_bins)) == 0.0
        assert int(used.sum()) == int((support.points.abs() <= support.reach).sum())


def test_a_mean_over_random_outcomes_is_exact():
    """Half the time -100 and half the time nothing: -50. In transformed space the mean is nearer to zero."""
    outcomes = th.tensor([-100.0, 0.0])
    found = {}
    for kind in (Support, TransformedSupport):
        support = kind(128.0, 101)
        support.set_reach(128.0)
        mixture = support.encode(outcomes, ONE).mean(0)
        found[kind] = float(support.decode(mixture.clamp(min=1e-30).log(), ONE))
    assert found[Support] == pytest.approx(-50.0, rel=1e-3)
    assert found[TransformedSupport] > -40.0
