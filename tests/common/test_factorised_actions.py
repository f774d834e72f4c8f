"""Sampled actions of several dimensions: their distribution, their targets and their masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.actions import FactorisedActions, Sampling
from sb3_ezv2.common.type_aliases import Plan

SPACES = {
    "ragged": spaces.MultiDiscrete([3, 20, 2]),
    "binary": spaces.MultiBinary(4),
    "discrete": spaces.Discrete(30),
    "many": spaces.MultiBinary(9),
}
N = 4_000


def made(space: spaces.Space, n_candidates: int = N, n_policy_candidates: int = N // 2) -> FactorisedActions:
    return FactorisedActions(space, Sampling(n_candidates, n_policy_candidates, 3.0))


def outputs_of(kind: FactorisedActions, n: int = 2) -> th.Tensor:
    return th.randn(n, kind.output_dim, generator=th.Generator().manual_seed(0))


def by_hand(kind: FactorisedActions, outputs: th.Tensor) -> list[th.Tensor]:
    """Probabilities of every dimension."""
    return [part.softmax(-1) for part in outputs.split(kind.sizes.tolist(), dim=-1)]


def noise_of(kind: FactorisedActions, n: int = 2) -> th.Tensor:
    return th.randn(n, kind.n_candidates, kind.noise_dim, generator=th.Generator().manual_seed(1))


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def space(request) -> spaces.Space:
    return request.param


@pytest.fixture
def kind(space) -> FactorisedActions:
    return made(space)


def shares(kind: FactorisedActions, found, dimension: int, rows: slice = slice(None)) -> th.Tensor:
    """How often each choice of a dimension was drawn at the first root, merged candidates counted."""
    numbers = found.actions[0].reshape(N, -1)[rows, dimension].long()
    weights = found.logits[0, rows].exp()
    return th.zeros(int(kind.sizes[dimension])).scatter_add_(0, numbers, weights) / weights.sum()


def test_exploring_candidates_come_from_the_policy(kind):
    kind.n_policy_candidates = N
    outputs = outputs_of(kind)
    found = kind.candidates(outputs, noise_of(kind), explore=True)
    np.testing.assert_allclose(found.logits.exp().sum(1), N, rtol=1e-4)
    for dimension, expected in enumerate(by_hand(kind, outputs)):
        np.testing.assert_allclose(shares(kind, found, dimension), expected[0], atol=0.03)


def test_greedy_candidates_are_the_best_action_and_those_around_it(kind):
    """Four dimensions are drawn from the policy on average, or all if there are no more."""
    outputs = outputs_of(kind)
    found = kind.candidates(outputs, noise_of(kind), explore=False)
    np.testing.assert_allclose(found.logits.exp().sum(1), N, rtol=1e-4)
    for dimension, expected in enumerate(by_hand(kind, outputs)):
        nearer = expected[0] * min(1.0, 4 / len(kind.sizes))
        nearer[expected[0].argmax()] += 1.0 - nearer.sum()
        np.testing.assert_allclose(shares(kind, found, dimension), nearer, atol=0.03)
    best = [int(part[0].argmax()) for part in by_hand(kind, outputs)]
    assert found.actions[0, 0].reshape(-1).tolist() == best


def test_exploring_candidates_come_from_the_flattened_policy_too(kind):
    kind.n_policy_candidates = 0
    outputs = 2.0 * outputs_of(kind)
    found = kind.candidates(outputs, noise_of(kind), explore=True)
    assert kind.temperature == pytest.approx(1.0 + 2.0 / len(kind.sizes) ** 0.5)
    for dimension, expected in enumerate(by_hand(kind, outputs / kind.temperature)):
        np.testing.assert_allclose(shares(kind, found, dimension), expected[0], atol=0.03)


def test_equal_candidates_are_merged():
    kind = made(spaces.MultiBinary(2), 16, 16)
    found = kind.candidates(th.zeros(5, 4), noise_of(kind, 5), explore=True)
    for actions, logits in zip(found.actions.tolist(), found.logits, strict=True):
        distinct = list(dict.fromkeys(map(tuple, actions)))
        counted = {
            tuple(action): float(logit.exp()) for action, logit in zip(actions, logits, strict=True) if logit > -1
        }
        assert list(counted) == distinct
        for action, count in counted.items():
            assert round(count) == sum(tuple(other) == action for other in actions)


def test_likelihood_entropy_and_code(kind):
    outputs, rng = outputs_of(kind, 3), np.random.default_rng(0)
    actions = th.from_numpy(kind.random((3, 5), rng))
    numbers = actions.reshape(3, 5, -1).long()
    probabilities = by_hand(kind, outputs)
    expected = sum(part.log().gather(1, numbers[..., d]) for d, part in enumerate(probabilities))
    np.testing.assert_allclose(kind.log_prob(outputs, actions), expected, rtol=1e-5)
    entropy = -sum((part * part.log()).sum(1) for part in probabilities)
    np.testing.assert_allclose(kind.entropy(outputs), entropy, rtol=1e-5)
    parts = kind.encode(actions).split(kind.sizes.tolist(), dim=-1)
    assert all((part.argmax(-1) == numbers[..., d]).all() and (part.sum(-1) == 1).all() for d, part in enumerate(parts))


def test_targets_are_what_the_improved_policy_gives(space):
    """The loss of the target is that of all candidates with their weights."""
    kind = made(space, 6, 3)
    rng, n = np.random.default_rng(0), 4
    candidates = kind.random((n, 6), rng)
    policy = rng.dirichlet(np.ones(6), n).astype(np.float32)
    targets = kind.policy_targets(
        Plan(candidates[:, 0], candidates, policy, np.zeros((n, 6), np.int32), *[np.zeros(n)] * 3)
    )
    assert targets.actions.shape == (n, kind.n_targets, *kind.target_shape)
    outputs = outputs_of(kind, n)
    expected = (th.from_numpy(policy) * kind.log_prob(outputs, th.from_numpy(candidates))).sum(1)
    found = kind.log_likelihood(outputs, *map(th.from_numpy, targets))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_masked_choices_are_never_drawn(space, kind):
    rng = np.random.default_rng(0)
    masks = rng.random((50, kind.mask_size)) < 0.3
    firsts = np.concatenate([[0], kind.sizes.cumsum()])
    for row in masks:  # one choice at least, the first and the last ones among them
        for begin, end in zip(firsts[:-1], firsts[1:], strict=True):
            row[rng.choice([begin, end - 1])] = True
    assert kind.have_legal(masks).all() and not kind.have_legal(np.zeros_like(masks)).any()
    assert kind.are_legal(kind.random((50,), rng, masks=masks), masks).all()
    kind = made(space, 300, 150)
    extreme = th.full((50, 300, kind.noise_dim), 20.0)
    extreme[:, ::2] = -20.0
    for noise in (extreme, noise_of(kind, 50)):
        for explore in (True, False):
            found = kind.candidates(outputs_of(kind, 50), noise, explore, th.from_numpy(masks))
            for row, mask in zip(found.actions.numpy(), masks, strict=True):
                assert kind.are_legal(row, np.repeat(mask[None], 300, 0)).all()


def test_numbers_are_checked():
    kind = made(SPACES["ragged"])
    assert kind.are_valid(np.array([[2, 19, 1], [0, 0, 0]], np.uint8))
    assert not kind.are_valid(np.array([[2, 20, 1]], np.uint8))
    assert kind.dtype is np.uint8 and made(spaces.Discrete(257)).dtype is np.int16
    assert made(spaces.MultiDiscrete([2, 40_000])).dtype is np.int32


def test_to_the_environment_and_back(space, kind):
    actions = kind.random((50,), np.random.default_rng(0))
    there = kind.to_env(actions)
    np.testing.assert_array_equal(kind.from_env(there, 50), actions)
    np.testing.assert_array_equal(kind.tensor_to_env(th.from_numpy(actions.astype(np.int64))).numpy(), there)
    with pytest.raises(ValueError, match="shape"):
        kind.from_env(there, 49)
    with pytest.raises(ValueError, match="none of the space"):
        kind.from_env(np.full_like(there, 99, np.int64), 50)
