"""The scale of rewards and observations: robust against outliers, and always that of the data as it is now."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.learning.statistics import N_KNOWN, DataStatistics, normalised_outside, set_rewards, typical_size
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import DISCRETE, tiny_model, tiny_network


def test_the_typical_size_by_hand():
    assert typical_size(np.array([1.0, -4.0, 0.0, 9.0])) == pytest.approx(((1 + 2 + 3) / 3) ** 2)
    assert typical_size(np.zeros(5)) == 0.0 and typical_size(np.empty(0)) == 0.0


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_typical_size_has_the_units_of_a_reward(factor):
    rewards = np.random.default_rng(0).normal(size=1_000)
    assert typical_size(factor * rewards) == pytest.approx(factor * typical_size(rewards))


def test_one_outlier_does_not_own_the_unit():
    rewards = np.ones(10_000)
    rewards[0] = -10_000.0
    assert typical_size(rewards) == pytest.approx(1.02, abs=0.01)


def test_unit_and_reach_of_a_model():
    model = tiny_network(DISCRETE)
    set_rewards(np.array([0.0, 2.0, 2.0, -100.0]), 0.0, model)
    unit = typical_size(np.array([2.0, 2.0, 100.0]))
    assert float(model.reward_scale) == pytest.approx(unit)
    assert float(model.reward_support.reach) * unit >= 100.0
    assert float(model.value_support.reach) * unit >= 100.0 / (1.0 - 0.97)
    heads = [output.weight.clone() for output in model.heads.outputs]
    set_rewards(np.array([0.5]), 0.0, model)
    assert float(model.reward_scale) == 0.5
    assert all(th.equal(before, output.weight) for before, output in zip(heads, model.heads.outputs, strict=True))
    set_rewards(np.zeros(3), 0.0, model)  # nothing is known of rewards: nothing changes
    assert float(model.reward_scale) == 0.5


def test_the_unit_follows_the_raw_rewards_under_the_present_normalisation():
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    model = tiny_model(env, target_update_interval=5).learn(60)
    model._refresh_target()
    raw = model.replay_buffer.rewards[model.replay_buffer.kinds == 1]
    expected = typical_size(env.normalize_reward(raw))
    assert float(model.policy.model.reward_scale) == pytest.approx(expected, rel=1e-6)
    first = env.normalize_reward(raw[:1])
    assert expected < 0.5 * typical_size(raw) or abs(float(first[0])) < 10.0  # not the clip of the first reward


def test_rewards_of_a_loaded_buffer_count():
    """The buffer has larger rewards than the model has seen."""
    env = DummyVecEnv([lambda: gym.wrappers.TransformReward(RandomEnv(), lambda r: 100.0 * r)])
    large = tiny_model(env).learn(60)
    model = tiny_model(DummyVecEnv([RandomEnv])).learn(40)
    before = float(model.policy.model.reward_scale)
    model.replay_buffer = large.replay_buffer
    model._replay_buffer_loaded()
    model._refresh_target()
    assert float(model.policy.model.reward_scale) > 50.0 * before
    rewards = th.as_tensor(model.replay_buffer.stored_rewards())
    assert not model.policy.model.reward_support.outside(rewards, model.policy.model.reward_scale).any()


def test_the_observations_of_a_loaded_buffer_count(tmp_path):
    space = spaces.Box(-100.0, 100.0, (2,))
    model = tiny_model(RandomEnv(space)).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    other = tiny_model(RandomEnv(space))
    other.load_replay_buffer(tmp_path / "buffer")
    stored = np.concatenate([part["observation"] for part in model.replay_buffer.stored_observations()])
    np.testing.assert_allclose(other.statistics.observations.mean, stored.mean(0), rtol=1e-3)
    np.testing.assert_allclose(other.statistics.observations.var, stored.var(0), rtol=1e-2)


def test_statistics_come_with_the_parameters():
    space = spaces.Box(-100.0, 100.0, (2,))
    model = tiny_model(RandomEnv(space)).learn(60)
    other = tiny_model(RandomEnv(space))
    other.set_parameters(model.get_parameters())
    other._refresh_target()
    for name in ("observation_mean", "observation_std"):
        ours, theirs = getattr(other.policy.model, name), getattr(model.policy.model, name)
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_huge_number_does_not_hide_the_others():
    rng = np.random.default_rng(0)
    statistics = DataStatistics(2)
    for k in range(2_000):
        observation = rng.normal(size=(1, 2)) * [1.0, 5.0]
        if k > N_KNOWN and k % 200 == 0:
            observation[0, 0] = 3e38
        statistics.update(observation)
    std = np.sqrt(statistics.observations.var)
    assert std[0] < 5.0 and std[1] == pytest.approx(5.0, rel=0.1)


def test_what_was_constant_may_begin_to_move():
    statistics = DataStatistics(1)
    for _ in range(2 * N_KNOWN):
        statistics.update(np.zeros((1, 1)))
    for _ in range(N_KNOWN):
        statistics.update(np.ones((1, 1)))
    assert statistics.observations.mean[0] > 0.25


def test_what_vec_normalize_has_normalised_is_left_alone():
    space = spaces.Dict({"a": spaces.Box(-100.0, 100.0, (2,)), "b": spaces.Discrete(3)})
    env = VecNormalize(DummyVecEnv([lambda: RandomEnv(space)]), norm_obs_keys=["a"])
    model = tiny_model(env, policy="MultiInputPolicy").learn(60)
    network = model.policy.model
    assert normalised_outside(network, Normalizer(env)).tolist() == [True, True, False, False, False]
    assert network.observation_mean[:2].tolist() == [0.0, 0.0] and network.observation_std[:2].tolist() == [1.0, 1.0]
    assert (network.observation_mean[2:] > 0.0).all()
    assert not normalised_outside(network, Normalizer()).any()
