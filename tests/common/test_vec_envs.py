"""Somebody else's steps and resets are noticed."""

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ezv2.common.vec_envs import CallCounter
from tests.helpers.envs import ProvenanceEnv


def test_calls_are_counted_through_wrappers():
    inner = DummyVecEnv([ProvenanceEnv])
    env = VecNormalize(inner)
    counter, again = CallCounter(env), CallCounter(inner)
    env.reset()
    env.step(np.zeros(1, int))
    inner.step(np.zeros(1, int))
    assert counter.n_calls == again.n_calls == 3
