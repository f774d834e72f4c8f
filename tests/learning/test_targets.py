"""Multi-step returns, the mixed value target and the masks, against values worked out by hand or by linear algebra."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ezv2.learning.targets import loss_masks, n_step_returns, uses_td


def targets_of(rewards, values, n_ahead, terminated, discount, td_steps):
    """Multi-step targets of one sample from its rewards and the values of the states of its chain."""
    returns, bootstrap, discounts = n_step_returns(
        np.array([rewards], np.float32), np.array([n_ahead]), np.array([terminated]), discount, td_steps
    )
    assert returns.shape == bootstrap.shape == discounts.shape == (1, len(rewards) - td_steps + 1)
    assert returns.dtype == discounts.dtype == np.float32
    return (returns + discounts * np.asarray(values)[bootstrap])[0]


# A chain of rewards 1, 2, 3, 4 whose states have the network values 10, 20, 30, 40, 50; discount 1/2, two steps.
REWARDS, VALUES = [1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0, 50.0]


def test_in_the_middle_of_an_episode():
    # 1 + 2/2 + 30/4, 2 + 3/2 + 40/4, 3 + 4/2 + 50/4
    np.testing.assert_allclose(targets_of(REWARDS, VALUES, 4, False, 0.5, 2), [9.5, 13.5, 17.5])


def test_shortened_at_a_terminal_state():
    # Terminal after three transitions: 1 + 2/2 + 30/4; 2 + 3/2; 3.
    np.testing.assert_allclose(targets_of([1, 2, 3, 0], VALUES, 3, True, 0.5, 2), [9.5, 3.5, 3.0])


def test_the_terminal_state_and_those_past_it_are_worth_nothing():
    np.testing.assert_allclose(targets_of([1, 0, 0, 0], VALUES, 1, True, 0.5, 2), [1.0, 0.0, 0.0])


def test_shortened_at_a_truncated_end_with_bootstrap():
    # The last observation is the one after three transitions: 1 + 2/2 + 30/4; 2 + 3/2 + 40/4; 3 + 40/2.
    np.testing.assert_allclose(targets_of([1, 2, 3, 0], VALUES, 3, False, 0.5, 2), [9.5, 13.5, 23.0])


def test_past_a_truncated_end_the_target_is_the_last_value():
    np.testing.assert_allclose(targets_of([1, 0, 0, 0], VALUES, 1, False, 0.5, 2), [1 + 20 / 2, 20.0, 20.0])


@given(data=st.data(), unroll=st.integers(0, 6), td_steps=st.integers(1, 6), discount=st.floats(0.0, 1.0))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_sample_equals_a_loop(data, unroll, td_steps, discount):
    length = unroll + td_steps
    n_ahead = data.draw(st.integers(1, length))
    terminated = data.draw(st.booleans())
    numbers = st.floats(-100.0, 100.0, width=32)
    rewards = data.draw(st.lists(numbers, min_size=n_ahead, max_size=n_ahead)) + [0.0] * (length - n_ahead)
    values = data.draw(st.lists(numbers, min_size=n_ahead + 1, max_size=n_ahead + 1))
    result = targets_of(rewards, values + [np.nan] * (length - n_ahead), n_ahead, terminated, discount, td_steps)
    for j in range(unroll + 1):
        expected, factor, state = 0.0, 1.0, min(j, n_ahead)
        for _ in range(td_steps):
            if state < n_ahead:
                expected += factor * rewards[state]
                factor *= discount
                state += 1
        if not (terminated and state == n_ahead):
            expected += factor * values[state]
        np.testing.assert_allclose(result[j], expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("terminated", [False, True])
def test_one_step_is_reward_plus_discounted_value(terminated):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=5), rng.normal(size=6)
    expected = rewards + 0.9 * values[1:] * np.where(np.arange(5) == 4, not terminated, True)
    result = targets_of(rewards, values, 5, terminated, 0.9, 1)
    np.testing.assert_allclose(result[:5], expected, rtol=1e-5)


def test_rows_are_independent():
    rng = np.random.default_rng(1)
    rewards = rng.normal(size=(4, 8)).astype(np.float32)
    n_ahead, terminated = np.array([8, 3, 1, 5]), np.array([False, True, False, True])
    together = n_step_returns(rewards, n_ahead, terminated, 0.97, 3)
    for row in range(4):
        alone = n_step_returns(rewards[row : row + 1], n_ahead[row : row + 1], terminated[row : row + 1], 0.97, 3)
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_array_equal(ours[row], theirs[0])


def test_deterministic_chain_with_exact_values():
    """Five states in a row, reward 1 for every step and 10 for the last: every target is the exact value."""
    discount, rewards = 0.9, np.array([1.0, 1.0, 1.0, 1.0, 10.0])
    values = np.zeros(6)
    for state in reversed(range(5)):
        values[state] = rewards[state] + discount * values[state + 1]
    for td_steps in (1, 2, 3, 5):
        for start in range(5):
            chain = np.concatenate([rewards[start:], np.zeros(10)])[: 3 + td_steps]
            ahead = min(5 - start, 3 + td_steps)
            result = targets_of(
                chain, np.append(values[start:], np.zeros(12)), ahead, ahead == 5 - start, discount, td_steps
            )
            np.testing.assert_allclose(result, np.append(values[start:], np.zeros(3))[:4], rtol=1e-6)


@pytest.mark.parametrize("td_steps", [1, 3, 5])
def test_random_walk_with_exact_values(td_steps):
    """Seven states, steps left or right with equal chance, terminal on both sides, noise on the rewards.

    With the exact value function as bootstrap the targets' mean is the exact value at every state, whatever the number
    of steps; it is also exact with a time limit, which truncates.
    """
    n_states, discount, unroll, limit = 7, 0.95, 2, 6
    transition = 0.5 * (np.eye(n_states, k=1) + np.eye(n_states, k=-1))
    mean_rewards = np.zeros(n_states)
    mean_rewards[0], mean_rewards[-1] = 0.5 * -1.0, 0.5 * 2.0
    exact = np.linalg.solve(np.eye(n_states) - discount * transition, mean_rewards)
    padded = np.append(exact, 0.0)  # index -1: terminal

    rng = np.random.default_rng(0)
    n_samples, length = 40_000, unroll + td_steps
    states = np.full((n_samples, length + 1), -1)
    states[:, 0] = rng.integers(n_states, size=n_samples)
    rewards = np.zeros((n_samples, length), np.float32)
    n_ahead = np.zeros(n_samples, np.int64)
    limits = np.where(rng.random(n_samples) < 0.5, limit, length)
    terminated = np.zeros(n_samples, bool)
    for k in range(length):
        alive = ~terminated & (k < limits)
        following = states[:, k] + rng.choice([-1, 1], size=n_samples)
        rewards[alive, k] = ((following == n_states) * 2.0 - (following == -1) * 1.0 + rng.normal(size=n_samples))[
            alive
        ]
        terminated |= alive & ((following < 0) | (following == n_states))
        states[:, k + 1] = np.where(alive, np.where(terminated, -1, following), states[:, k])
        n_ahead += alive
    returns, bootstrap, discounts = n_step_returns(rewards, n_ahead, terminated, discount, td_steps)
    targets = returns + discounts * padded[np.take_along_axis(states, bootstrap, axis=1)]
    for j in range(unroll + 1):
        for state in range(n_states):
            here = targets[(states[:, j] == state) & (n_ahead >= j), j]
            error = here.std() / np.sqrt(len(here))
            assert abs(here.mean() - exact[state]) < 4.5 * error, (j, state)
        ended = terminated & (n_ahead <= j)
        assert (targets[ended, j] == 0).all()


def test_masks_in_the_middle_of_an_episode():
    masks = loss_masks(np.array([7]), 3)
    for mask, size in zip(masks, (4, 3), strict=True):
        np.testing.assert_array_equal(mask, np.ones((1, size)))
        assert mask.dtype == np.float32


def test_masks_past_the_last_observation():
    """Policy and consistency are not learnt there."""
    masks = loss_masks(np.array([2]), 4)
    np.testing.assert_array_equal(masks.policies, [[1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(masks.consistency, [[1, 1, 0, 0]])


def test_the_end_may_lie_just_behind_the_window():
    assert all((mask == 1).all() for mask in loss_masks(np.array([4]), 3))


def test_returns_are_used_in_the_td_phase_and_for_fresh_states():
    ages, n_ahead = np.array([[1, 5, 6], [100, 4, 7]]), np.array([9, 9])
    assert uses_td(ages, n_ahead, td_phase=True, fresh=0).all()
    fresh = uses_td(ages, n_ahead, td_phase=False, fresh=5.0)
    np.testing.assert_array_equal(fresh, [[True, True, False], [False, True, False]])
    assert not uses_td(ages, n_ahead, td_phase=False, fresh=0).any()


def test_returns_are_used_for_the_last_observation_at_any_age():
    ages = np.full((2, 4), 1_000)
    found = uses_td(ages, np.array([2, 7]), td_phase=False, fresh=0)
    np.testing.assert_array_equal(found, [[False, False, True, True], [False] * 4])


@pytest.mark.parametrize("td_steps", [1, 3])
def test_the_target_of_the_last_observation_is_its_own_value(td_steps):
    """Truncated or newest: no reward is known behind it, and what returns before it bootstrap from is its value."""
    rewards = np.ones((1, 4 + td_steps), np.float32) * (np.arange(4 + td_steps) < 2)
    returns = n_step_returns(rewards, np.array([2]), np.array([False]), 0.9, td_steps)
    assert returns.sums[0, 2] == 0.0 and returns.discounts[0, 2] == 1.0 and returns.bootstrap[0, 2] == 2
