"""The intrinsic reward: when there is one, and what for."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.normalization import UNCHANGED
from sb3_ezv2.learning.novelty import ENOUGH, Novelty, as_vectors, cost_features, n_informative
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK


def features(numbers: np.ndarray) -> np.ndarray:
    return np.hstack([np.ones((len(numbers), 1)), numbers, np.abs(numbers), numbers**2])


def test_features_of_actions():
    for space in (spaces.Box(-2.0, 2.0, (2,)), spaces.Discrete(3), spaces.Discrete(300), spaces.MultiBinary(2)):
        kind = tiny_model(RandomEnv(action_space=space)).policy.model.action_kind
        actions = kind.random((20,), np.random.default_rng(0))
        expected = features(actions.astype(np.float64)) if kind.scaled else np.ones((20, 1))
        np.testing.assert_array_equal(cost_features(kind, actions), expected)


@pytest.mark.parametrize("low, high, rest", [(-2.0, 2.0, 0.0), (0.0, 4.0, -1.0), (-3.0, 1.0, 0.5), (-3.0, -1.0, 1.0)])
def test_the_action_at_rest(low, high, rest):
    kind = tiny_model(RandomEnv(action_space=spaces.Box(low, high, (2,)))).policy.model.action_kind
    np.testing.assert_allclose(kind.at_rest, [rest, rest])


def test_what_tells_something():
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (200, 2))
    numbers, (rest,) = features(actions), features(np.zeros((1, 2)))
    choices = np.ones((200, 1))
    assert n_informative(np.empty(0), np.empty((0, 2)), np.empty(2)) == 0
    for given, at_rest in ((numbers, rest), (choices, choices[0])):
        assert n_informative(np.zeros(200), given, at_rest) == 0
        assert n_informative(np.full(200, -1.0), given, at_rest) == 0
        assert n_informative(rng.normal(size=200), given, at_rest) > 150
        goal = np.where(np.arange(200) == 7, 100.0, 0.0)
        assert n_informative(goal, given, at_rest) == 1
        assert n_informative(goal - 1.0, given, at_rest) == 1
    cost = -0.1 * (actions**2).sum(1) - 0.03 * np.abs(actions[:, 0])
    for constant in (0.0, 1.0, -1.0):
        assert n_informative((cost + constant).astype(np.float32), numbers, rest) == 0
        assert n_informative(cost + constant + goal, numbers, rest) == 1
    # What is best when it is not at rest is a task, not a cost.
    for gain in (-((actions - 0.3) ** 2).sum(1), actions[:, 0], -cost):
        assert n_informative(gain, numbers, rest) == 200
    for values in ([0.0, -1.0, 2.0], [0.0, -1.0, -1.0], [-1.0, -0.5, -1.0]):
        assert n_informative(np.array(values)[rng.integers(3, size=200)], choices, choices[0]) > 20


class Bandit(gym.Env):
    """The reward is a function of the action alone: minus its distance from the best one."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        best = 2 if isinstance(self.action_space, spaces.Discrete) else 0.5
        return np.zeros(1, np.float32), -float(abs(np.asarray(action).item() - best)), False, self.time == 10, {}


def test_a_bandit_is_learnt():
    """Its rewards tell no states apart, but actions."""
    model = EfficientZeroV2("MlpPolicy", Bandit(spaces.Discrete(4)), seed=0, device="cpu", learning_starts=50)
    model.learn(300)
    assert model.reanalyzer.novelty.share == 0.0
    assert model.predict(model.env.reset(), deterministic=True)[0].item() == 2
    assert tiny_model(Bandit(spaces.Box(-1.0, 1.0, (1,)))).learn(60).reanalyzer.novelty.share == 0.0


class Line(gym.Env):
    """A walk on a line from 0, one step to the left or to the right; a reward at ``goal``, and no end."""

    def __init__(self, goal: int = 10**6) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.goal = goal

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place += 1 if action else -1
        return np.array([self.place], np.float32), float(self.place == self.goal), False, False, {}


def refreshed(model, coefficient: float = 1.0) -> Novelty:
    novelty = Novelty()
    rewards = model.replay_buffer.stored_rewards()
    novelty.refresh(coefficient, rewards, model.replay_buffer, model.policy.model, UNCHANGED, np.random.default_rng(0))
    return novelty


def test_rare_places_pay_more_and_the_mean_pays_nothing():
    model = tiny_model(Line(), learning_starts=300).learn(300)
    buffer, novelty = model.replay_buffer, refreshed(model)
    places = buffer.observations["observation"].reshape(-1)[: len(buffer)]
    found = novelty.bonus(np.arange(len(buffer)), buffer, model.policy.model, UNCHANGED)
    assert novelty.share == novelty.weight == 1.0 and np.abs(found).max() < 1.0
    assert abs(found.mean()) < 0.05
    common = np.abs(places - np.median(places)) <= 2
    farthest = np.argsort(-np.abs(places - np.median(places)))[:3]
    assert found[farthest].min() > found[common].mean()
    assert refreshed(model, 3.0).weight == 3.0
    assert refreshed(model, 0.0).share == 0.0


def test_rewards_that_tell_something_end_it():
    model = tiny_model(Line(goal=10**6), learning_starts=190).learn(200)
    model.replay_buffer.rewards[:5] = 1.0
    assert refreshed(model).share == pytest.approx(1.0 - 5 / ENOUGH)
    model.replay_buffer.rewards[:ENOUGH] = 1.0
    novelty = refreshed(model)
    assert novelty.share == 0.0
    batch = model._sample()
    assert novelty.mixed_batch(batch, model.replay_buffer, model.policy.model, UNCHANGED) is batch


def test_it_takes_the_place_of_rewards_inside_the_episode():
    model = tiny_model(RandomEnv(), learning_starts=190).learn(200)
    batch, buffer, newest = model._sample(), model.replay_buffer, model.policy.model
    novelty = Novelty()
    novelty.share, novelty.weight = 0.25, 2.0
    novelty.references = np.zeros((3, newest.observation_mean.numel()), np.float32)
    rewards = novelty.mixed_batch(batch, buffer, newest, UNCHANGED).rewards
    n = batch.rewards.shape[1]
    inside = np.arange(n) < batch.n_ahead[:, None]
    assert (rewards[~inside] == 0.0).all() and inside.any() and not inside.all()
    bonus = novelty.bonus(batch.slots[:, 1 : n + 1][inside], buffer, newest, UNCHANGED)
    np.testing.assert_allclose(rewards[inside], 0.75 * batch.rewards[inside] + 0.25 * bonus, atol=1e-5)


def test_images_are_compared_too():
    model = tiny_model(RandomEnv(GREY), "CnnPolicy", policy_kwargs=TINY_IMAGE_NETWORK)
    images = th.zeros(2, *model.policy.observation_space.shape, dtype=th.uint8)
    images[1] = 255
    key = next(iter(model.policy.model.spaces))
    found = as_vectors(model.policy.model, {key: images})
    assert found.shape[0] == 2 and (found[1] - found[0]).norm() > 1.0


def test_a_far_goal_is_found_only_with_it():
    def visited(coefficient: float) -> int:
        model = tiny_model(Line(), learning_starts=100, novelty_coef=coefficient, seed=1).learn(600)
        return int(np.abs(model.replay_buffer.observations["observation"][: len(model.replay_buffer)]).max())

    assert visited(1.0) > 2 * visited(0.0)
