"""Scalars as categories: h and its inverse, two-hot distributions and their means."""

import math

import numpy as np
import pytest
import torch as th
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sb3_ezv2.networks.supports import compress, decompress, expectation, two_hot

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


supports = st.tuples(st.floats(-300.0, 299.0), st.floats(0.5, 600.0), st.integers(2, 601))


@given(support=supports, share=st.floats(0.0, 1.0))
@settings(max_examples=300, deadline=None, derandomize=True)
@example(support=(0.0, 111.0, 128), share=1.0)  # rounding puts the last point behind itself
def test_two_hot_round_trip_inside_the_support(support, share):
    low, width, n_bins = support
    high = low + width
    x = th.tensor([low + share * width], dtype=th.float64).clamp(low, high)
    probabilities = two_hot(x, low, high, n_bins)
    assert probabilities.shape == (1, n_bins) and probabilities.dtype == th.float64
    assert (probabilities >= 0).all() and math.isclose(probabilities.sum(), 1.0, abs_tol=1e-12)
    positive = probabilities[0].nonzero().flatten()
    assert len(positive) == 1 or (len(positive) == 2 and positive[1] == positive[0] + 1)
    step = width / (n_bins - 1)
    points = low + step * th.arange(n_bins, dtype=th.float64)
    assert abs(float(probabilities[0] @ points - x[0])) < 1e-9 * width + 1e-12 * abs(low)
    assert (points[positive] - x[0]).abs().max() <= step * (1 + 1e-9)
    logits = probabilities.clamp(min=1e-300).log()
    assert abs(float(expectation(logits, low, high)[0] - x[0])) < 1e-9 * width + 1e-12 * abs(low)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("n_bins", [2, 51, 601])
def test_two_hot_of_the_points_is_one_hot(dtype, n_bins):
    points = th.linspace(-75.0, 75.0, n_bins, dtype=dtype)
    th.testing.assert_close(two_hot(points, -75.0, 75.0, n_bins), th.eye(n_bins, dtype=dtype), rtol=0, atol=1e-4)


@pytest.mark.parametrize("outside, inside", [(-1e30, -3.0), (-3.001, -3.0), (5.5, 5.0), (math.inf, 5.0)])
def test_what_lies_outside_is_moved_to_the_nearest_end(outside, inside):
    there = two_hot(th.tensor([[outside]]), -3.0, 5.0, 9)
    assert there.shape == (1, 1, 9)
    th.testing.assert_close(there, two_hot(th.tensor([[inside]]), -3.0, 5.0, 9), rtol=0, atol=0)
    assert there.max() == 1.0


def test_scalars_survive_compression_and_categories():
    """The whole way of a value target: compress, encode, decode, decompress."""
    x = th.tensor([-4000.0, -200.0, -1.0, -1e-3, 0.0, 0.3, 17.0, 4000.0])
    probabilities = two_hot(compress(x), -75.0, 75.0, 101)
    back = decompress(expectation(probabilities.clamp(min=1e-30).log(), -75.0, 75.0))
    th.testing.assert_close(back, x, rtol=2e-5, atol=2e-5)


@given(data=st.data(), n_bins=st.integers(2, 40))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_expectation_is_the_mean_of_the_categories(data, n_bins):
    logits = data.draw(st.lists(st.floats(-20.0, 20.0), min_size=n_bins, max_size=n_bins))
    weights = np.exp(np.array(logits) - max(logits))
    mean = (weights * np.linspace(-2.0, 7.0, n_bins)).sum() / weights.sum()
    tensor = th.tensor([logits, logits], dtype=th.float64)
    for shifted in (tensor, tensor + 1000.0):
        result = expectation(shifted, -2.0, 7.0)
        assert result.shape == (2,)
        np.testing.assert_allclose(result.numpy(), mean, rtol=1e-9, atol=1e-9)


def test_expectation_of_equal_logits_is_the_middle():
    assert float(expectation(th.zeros(3, 4, 11), -5.0, 5.0).abs().max()) < 1e-6
