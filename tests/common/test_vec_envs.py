"""Somebody else's steps and resets are noticed."""

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ezv2.common.vec_envs import CallCounter
from tests.helpers.envs import ProvenanceEnv, RandomEnv
from tests.helpers.tiny import all_windows, assert_windows_name_themselves, provenance_envs, tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK


def test_calls_are_counted_through_wrappers():
    inner = DummyVecEnv([ProvenanceEnv])
    env = VecNormalize(inner)
    counter, again = CallCounter(env), CallCounter(inner)
    env.reset()
    env.step(np.zeros(1, int))
    inner.step(np.zeros(1, int))
    assert counter.n_calls == again.n_calls == 3


def test_an_environment_used_between_two_calls_of_learn_begins_anew():
    model = tiny_model(provenance_envs(2)).learn(40)
    evaluate_policy(model, model.get_env(), 2)
    model.learn(60, reset_num_timesteps=False)
    places = all_windows(model.replay_buffer).observations["observation"]
    assert len(model.replay_buffer) == 100
    assert_windows_name_themselves(model.replay_buffer, closed=AnyPlace())
    assert places[..., 1].max() >= 4  # the episodes of the evaluation are missing, not joined


def test_an_environment_used_by_a_callback_begins_anew():
    model = tiny_model(provenance_envs(1))

    def use(found, _):
        if model.num_timesteps == 33:
            model.get_env().reset()
            model.get_env().step(np.zeros(1, int))
        return True

    model.learn(60, use)
    assert len(model.replay_buffer) == 60
    assert_windows_name_themselves(model.replay_buffer, closed=AnyPlace())


def test_a_reset_is_noticed_where_the_observation_is_the_same_array():
    """``VecFrameStack`` changes the array that it returned before."""
    env = VecFrameStack(DummyVecEnv([lambda: RandomEnv(GREY)]), 2)
    model = tiny_model(env, "CnnPolicy", policy_kwargs=TINY_IMAGE_NETWORK).learn(8)
    model.learn(8)
    assert len(model.replay_buffer) == 16


class AnyPlace:
    """Episodes may be cut short anywhere."""

    def __contains__(self, place: object) -> bool:
        return True
