"""Random actions and how long they are held."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ezv2.common.actions import action_kind_of
from sb3_ezv2.learning.exploration import LONGEST, RandomActions


@pytest.mark.parametrize("space", [spaces.Discrete(1_000), spaces.Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_durations_are_of_all_sizes(space):
    random_actions, rng = RandomActions(action_kind_of(space), 2), np.random.default_rng(0)
    drawn = np.stack([random_actions.draw(rng) for _ in range(20_000)])
    assert (drawn[:, 0] != drawn[:, 1]).any()  # the environments have their own
    flat = drawn[:, 0].reshape(20_000, -1)
    durations = np.diff(np.flatnonzero((np.diff(flat, axis=0) != 0).any(axis=1)))
    # Steps spent in actions that are held for so long, by orders of magnitude: none is rare.
    sizes = ((1, 4), (4, 16), (16, 200))
    shares = [durations[(durations >= low) & (durations < high)].sum() / 20_000 for low, high in sizes]
    assert min(shares) > 0.15 and durations.max() > LONGEST
    if isinstance(space, spaces.Box):
        assert 0.35 < (np.abs(flat) == 1.0).all(axis=1).mean() < 0.65
        assert np.abs(flat).max() <= 1.0


def test_a_seed_gives_the_same_actions():
    first, second = (RandomActions(action_kind_of(spaces.Discrete(9)), 3) for _ in range(2))
    ours, theirs = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(100):
        np.testing.assert_array_equal(first.draw(ours), second.draw(theirs))
