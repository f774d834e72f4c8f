"""Stacks of vectors are stored once and come back bit for bit, through everything that a run may have besides."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecFrameStack, VecMonitor, VecNormalize

from sb3_ezv2 import EfficientZeroV2, TransitionJournal
from tests.algorithm.test_checkpoints import assert_same_run
from tests.helpers.tiny import assert_same_parameters, tiny_model

N_STACK = 4


class Positions(gym.ObservationWrapper):
    """CartPole without its velocities; with ``named``, as a ``Dict``."""

    def __init__(self, env: gym.Env, named: bool = False) -> None:
        super().__init__(env)
        self.named = named
        part = spaces.Box(-10.0, 10.0, (1,))
        both = spaces.Dict({"cart": part, "pole": part})
        self.observation_space = both if named else spaces.Box(-10.0, 10.0, (2,))

    def observation(self, observation: np.ndarray):
        if self.named:
            return {"cart": observation[:1], "pole": observation[2:3]}
        return observation[[0, 2]]


def stacked_in_vectors(n_envs: int, named: bool = False) -> VecFrameStack:
    return VecFrameStack(make_vec_env(lambda: Positions(gym.make("CartPole-v1"), named), n_envs), N_STACK)


def stacked_by_gymnasium(n_envs: int) -> DummyVecEnv:
    def make() -> gym.Env:
        return FrameStackObservation(Positions(gym.make("CartPole-v1")), N_STACK)

    return make_vec_env(make, n_envs)


CASES = {
    "VecFrameStack": (stacked_in_vectors, {}),
    "Dict": (lambda n: stacked_in_vectors(n, named=True), {"policy": "MultiInputPolicy"}),
    "around": (lambda n: VecMonitor(VecCheckNan(stacked_in_vectors(n))), {}),
    "rewards normalised": (lambda n: VecNormalize(stacked_in_vectors(n), norm_obs=False), {}),
    "FrameStackObservation": (stacked_by_gymnasium, {"replay_buffer_kwargs": {"n_stack": N_STACK}}),
}


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_runs_are_the_same_as_with_whole_observations(name, n_envs, tmp_path):
    make, settings = CASES[name]
    whole = tiny_model(make(n_envs), **settings | {"replay_buffer_kwargs": {"n_stack": 1}}).learn(66, log_interval=None)
    ours = tiny_model(make(n_envs), **settings).learn(66, log_interval=None)
    assert whole.replay_buffer.stacks == {}
    assert (
        set(ours.replay_buffer.stacks) == set(whole.replay_buffer.observations) and not ours.replay_buffer.observations
    )
    assert_same_parameters(ours, whole)
    slots = np.flatnonzero(ours.replay_buffer.kinds.reshape(-1) != 0)
    for key, found in ours.replay_buffer.observations_at(slots).items():
        expected = whole.replay_buffer.observations_at(slots)[key]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    for storage in ours.replay_buffer.stacks.values():
        n_new = len(slots) + (N_STACK - 1) * (ours._episode_num + n_envs)
        assert (storage.users > 0).sum() <= n_new < N_STACK * len(slots)


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_files_and_journals(name, tmp_path):
    make, settings = CASES[name]
    settings = settings | {"target_update_interval": 7}
    journal = TransitionJournal(tmp_path / "journal.sqlite")
    whole = tiny_model(make(2), **settings).learn(66, callback=journal, log_interval=None)
    stopped = tiny_model(make(2), **settings).learn(42, log_interval=None)
    stopped.save_checkpoint(tmp_path / "checkpoints")
    resumed = EfficientZeroV2.load_checkpoint(tmp_path / "checkpoints", make(2), device="cpu")
    assert set(resumed.replay_buffer.stacks) == set(whole.replay_buffer.stacks)
    assert_same_run(resumed.learn(24, reset_num_timesteps=False, log_interval=None), whole)
    again = tiny_model(make(2), **settings)
    assert again.replay_buffer.add_journal(tmp_path / "journal.sqlite").n_transitions == 66
    slots = np.flatnonzero(whole.replay_buffer.kinds.reshape(-1) != 0)
    for key, part in whole.replay_buffer.observations_at(slots).items():
        np.testing.assert_array_equal(again.replay_buffer.observations_at(slots)[key], part)


def test_normalised_stacks_are_stored_whole():
    model = tiny_model(VecNormalize(stacked_in_vectors(2))).learn(60)
    assert model.replay_buffer.stacks == {} and model._n_updates > 0


def test_a_wrong_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="n_stack=3 does not divide the length 8 of axis 0"):
        tiny_model(stacked_in_vectors(1), replay_buffer_kwargs={"n_stack": 3})
    model = tiny_model(stacked_in_vectors(1), replay_buffer_kwargs={"n_stack": 2})
    with pytest.raises(ValueError, match="n_stack=2 and .*do not fit observation"):
        model.learn(20)


def test_single_numbers_have_no_frames():
    with pytest.raises(ValueError, match="n_stack=2, but the observation space .* has no stacked frames"):
        tiny_model(make_vec_env("FrozenLake-v1"), replay_buffer_kwargs={"n_stack": 2})
