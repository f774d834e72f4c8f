"""The sum tree against plain numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ezv2.replay.sum_tree import find_leaves, new_sum_tree, resized, set_priorities

priorities_of = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=1, max_size=40)


def filled(priorities):
    """A tree with these priorities."""
    tree = new_sum_tree(len(priorities))
    set_priorities(tree, np.arange(len(priorities)), np.array(priorities, np.float64))
    return tree


def leaves_of(tree, n):
    """The first ``n`` priorities."""
    return tree[len(tree) // 2 :][:n]


@given(priorities=priorities_of, seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_leaves_are_found_as_in_a_cumulative_sum(priorities, seed):
    tree, sums = filled(priorities), np.cumsum(priorities)
    np.testing.assert_array_equal(leaves_of(tree, len(priorities)), priorities)
    np.testing.assert_allclose(tree[1], sums[-1], rtol=1e-12)
    if sums[-1] == 0.0:
        return
    shares = np.concatenate([np.random.default_rng(seed).random(30), [0.0, np.nextafter(1.0, 0.0)]])
    found = find_leaves(tree, shares)
    assert (np.array(priorities)[found] > 0).all()
    # Where rounding decides, either neighbour is right.
    slack = 1e-9 * sums[-1]
    assert (sums[found] >= shares * sums[-1] - slack).all()
    assert (sums[found] - np.array(priorities)[found] <= shares * sums[-1] + slack).all()


@given(priorities=priorities_of, data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_updates_one_after_the_other(priorities, data):
    """The last of several updates of one leaf counts, and all sums follow."""
    tree, expected = filled(priorities), np.array(priorities)
    leaves = data.draw(st.lists(st.integers(0, len(priorities) - 1), max_size=20))
    new = data.draw(st.lists(st.floats(0.0, 100.0), min_size=len(leaves), max_size=len(leaves)))
    set_priorities(tree, np.array(leaves, np.int64), np.array(new, np.float64))
    for leaf, priority in zip(leaves, new, strict=True):
        expected[leaf] = priority
    np.testing.assert_array_equal(leaves_of(tree, len(expected)), expected)
    np.testing.assert_allclose(tree[1], expected.sum(), rtol=1e-12, atol=1e-300)


@given(priorities=priorities_of, extra=st.integers(0, 50))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_resizing_keeps_the_priorities(priorities, extra):
    tree = resized(filled(priorities), len(priorities) + extra)
    larger = leaves_of(tree, len(priorities) + extra)
    assert len(larger) == len(priorities) + extra
    np.testing.assert_array_equal(larger[: len(priorities)], priorities)
    assert (larger[len(priorities) :] == 0).all()
    np.testing.assert_allclose(tree[1], np.sum(priorities), rtol=1e-12)
