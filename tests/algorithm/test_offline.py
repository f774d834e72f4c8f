"""Learning from data that is there already: alone, and with everything that a run may have besides."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_ezv2 import EfficientZeroV2, Episode, TransitionJournal
from tests.algorithm.test_checkpoints import assert_same_run
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import TINY_NETWORK, assert_same_parameters, tiny_model
from tests.networks.test_cnn import TINY_IMAGE_NETWORK

SETTINGS = {
    **{"learning_starts": 30, "batch_size": 8, "n_simulations": 4, "n_candidates": 4, "n_policy_candidates": 2},
    **{"policy_kwargs": TINY_NETWORK, "device": "cpu", "seed": 0, "target_update_interval": 7},
}


def episodes_of(env: gym.Env, n: int = 6, seed: int = 0, length: int = 20) -> list[Episode]:
    env.action_space.seed(seed)
    found = []
    for number in range(n):
        observation, _ = env.reset(seed=seed + number)
        observations, actions, rewards, terminated, truncated = [observation], [], [], False, False
        while not (terminated or truncated or len(rewards) == length):
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        found.append(Episode(np.array(observations), np.array(actions), np.array(rewards), terminated))
    return found


def spaces_of(env_id: str) -> tuple[spaces.Space, spaces.Space]:
    env = gym.make(env_id)
    return env.observation_space, env.action_space


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_model_without_an_environment_learns_and_goes_on_in_one(env_id, tmp_path):
    episodes = episodes_of(gym.make(env_id))
    model = EfficientZeroV2.from_data("MlpPolicy", episodes, *spaces_of(env_id), **SETTINGS)
    assert model.get_env() is None and len(model.replay_buffer) == sum(len(episode.rewards) for episode in episodes)
    before = model.policy.state_dict()["model.representation.layers.0.weight"].clone()
    assert model.learn_offline(20) is model and model._n_updates == 20 and model.num_timesteps == 0
    assert not np.array_equal(before, model.policy.state_dict()["model.representation.layers.0.weight"])
    seen = np.concatenate([episode.observations for episode in episodes])
    np.testing.assert_allclose(model.policy.model.observation_mean, seen.mean(axis=0), atol=0.02 + 0.05 * seen.std())
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", device="cpu")
    assert_same_parameters(loaded, model)
    assert loaded.get_env() is None
    loaded.replay_buffer.add_episodes(episodes)
    assert loaded.learn_offline(3)._n_updates == 23
    model.set_env(gym.make(env_id))
    model.learning_starts = 0
    model.learn(12)
    assert model.num_timesteps == 12 and model._n_updates > 20
    assert len(model.replay_buffer) > sum(len(episode.rewards) for episode in episodes)


def make_normalized(n_envs: int) -> VecNormalize:
    return VecNormalize(make_vec_env("Pendulum-v1", n_envs))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(
    "make", [lambda n: make_vec_env("Pendulum-v1", n), make_normalized], ids=["plain", "normalized"]
)
def test_old_data_and_demonstrations_go_through_checkpoints(make, n_envs, tmp_path):
    episodes = episodes_of(gym.make("Pendulum-v1"))

    def begin() -> EfficientZeroV2:
        model = tiny_model(make(n_envs), target_update_interval=7)
        model.replay_buffer.add_episodes(episodes, share=0.25)
        model.learn_offline(9, log_interval=None)
        return model.learn(36, reset_num_timesteps=False, log_interval=None)

    whole, stopped = begin(), begin()
    stopped.save_checkpoint(tmp_path)
    resumed = EfficientZeroV2.load_checkpoint(tmp_path, make(n_envs), device="cpu")
    assert resumed.replay_buffer.kept.share == 0.25
    for model in (whole, resumed):
        model.learn(60 - model.num_timesteps, reset_num_timesteps=False, log_interval=None)
        model.learn_offline(5, log_interval=None)
    assert whole._n_updates > 20
    assert_same_run(resumed, whole)


def test_an_offline_run_without_an_environment_is_resumed_bit_for_bit(tmp_path):
    episodes, known = episodes_of(gym.make("CartPole-v1")), spaces_of("CartPole-v1")
    whole = EfficientZeroV2.from_data("MlpPolicy", episodes, *known, **SETTINGS).learn_offline(24)
    stopped = EfficientZeroV2.from_data("MlpPolicy", episodes, *known, **SETTINGS).learn_offline(10)
    stopped.save_checkpoint(tmp_path)
    resumed = EfficientZeroV2.load_checkpoint(tmp_path, device="cpu")
    assert resumed.get_env() is None
    assert_same_run(resumed.learn_offline(14), whole)


def test_a_seed_gives_the_same_run_again():
    episodes, known = episodes_of(gym.make("Pendulum-v1")), spaces_of("Pendulum-v1")
    runs = [EfficientZeroV2.from_data("MlpPolicy", episodes, *known, **SETTINGS).learn_offline(12) for _ in range(2)]
    assert_same_run(*runs)


def test_data_says_its_spaces(tmp_path):
    path = tmp_path / "journal.sqlite"
    one = tiny_model(make_vec_env("CartPole-v1", 2)).learn(40, callback=TransitionJournal(path))
    for source in (path, str(path)):
        model = EfficientZeroV2.from_data("MlpPolicy", source, **SETTINGS)
        assert (model.observation_space, model.action_space) == (one.observation_space, one.action_space)
        assert model.n_envs == 2 and len(model.replay_buffer) == 40
        assert model.learn_offline(5)._n_updates == 5
    theirs = ReplayBuffer(100, one.observation_space, one.action_space)
    for step in range(50):
        place = np.full(4, step, np.float32)
        theirs.add(place, place + 1, np.array([step % 2]), np.array([1.0]), np.array([step % 9 == 8]), [{}])
    assert len(EfficientZeroV2.from_data("MlpPolicy", theirs, n_envs=2, **SETTINGS).replay_buffer) == 50
    with pytest.raises(ValueError, match=r"observation_space=None: the data does not say its spaces; pass"):
        EfficientZeroV2.from_data("MlpPolicy", episodes_of(gym.make("CartPole-v1"), 1), **SETTINGS)


def test_images_are_as_the_environments_of_stable_baselines_have_them():
    env = RandomEnv(spaces.Box(0, 255, (32, 32, 3), np.uint8))
    settings = SETTINGS | {"policy_kwargs": TINY_IMAGE_NETWORK}
    known = env.observation_space, env.action_space
    model = EfficientZeroV2.from_data("CnnPolicy", episodes_of(env), *known, **settings)
    assert model.observation_space.shape == (3, 32, 32)
    model.learn_offline(2).set_env(env)
    assert model.learn(4).num_timesteps == 4


def test_stacks_of_added_episodes_are_stored_once_and_checked():
    image = spaces.Box(0, 255, (32, 32, 1), np.uint8)
    env = VecFrameStack(DummyVecEnv([lambda: RandomEnv(image)]), 2)
    model = tiny_model(env, policy="CnnPolicy", policy_kwargs=TINY_IMAGE_NETWORK)
    frames = np.random.default_rng(0).integers(1, 256, (8, 1, 32, 32), np.uint8)
    stacked = np.concatenate([frames[:-1], frames[1:]], axis=1)
    episode = Episode(stacked, np.zeros(6, int), np.zeros(6), True)
    model.replay_buffer.add_episodes([episode])
    np.testing.assert_array_equal(model.replay_buffer.observations_at(np.arange(7))["observation"], stacked)
    with pytest.raises(ValueError, match="'observation' of step 1 is not the stack before it, one frame later"):
        model.replay_buffer.add_episodes([episode._replace(observations=stacked[::-1])])
    assert len(model.replay_buffer) == 6


def test_callbacks_see_every_update_and_can_stop():
    class Counting(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def _on_step(self) -> bool:
            self.seen.append(self.locals["update"])
            return len(self.seen) < 5

    model = EfficientZeroV2.from_data("MlpPolicy", episodes_of(RandomEnv()), *known_random(), **SETTINGS)
    callback = Counting()
    assert model.learn_offline(50, callback)._n_updates == 5
    assert callback.seen == [1, 2, 3, 4, 5]


def known_random() -> tuple[spaces.Space, spaces.Space]:
    return RandomEnv().observation_space, RandomEnv().action_space


def test_logs_are_written(tmp_path):
    episodes = episodes_of(RandomEnv())
    model = EfficientZeroV2.from_data(
        "MlpPolicy", episodes, *known_random(), tensorboard_log=str(tmp_path), verbose=0, **SETTINGS
    )
    model.learn_offline(6, log_interval=2)
    assert list(tmp_path.rglob("events.out*"))


@pytest.mark.parametrize(
    "arguments", [{"n_updates": 0}, {"n_updates": 2.5}, {"n_updates": 3, "log_interval": 0}], ids=str
)
def test_bad_arguments_are_refused(arguments):
    model = EfficientZeroV2.from_data("MlpPolicy", episodes_of(RandomEnv()), *known_random(), **SETTINGS)
    with pytest.raises(ValueError, match="n_updates=|log_interval="):
        model.learn_offline(**arguments)
    assert model._n_updates == 0


def test_too_little_data_is_refused():
    model = tiny_model(RandomEnv())
    with pytest.raises(ValueError, match="the replay buffer has 0 transitions, batch_size=8 asks for more"):
        model.learn_offline(3)


def test_a_loaded_replay_buffer_is_enough_to_train(tmp_path):
    tiny_model(RandomEnv()).learn(40).save_replay_buffer(tmp_path / "buffer")
    model = tiny_model(RandomEnv())
    model.load_replay_buffer(tmp_path / "buffer")
    model.train(3)
    assert model.learn_offline(2)._n_updates == 5
