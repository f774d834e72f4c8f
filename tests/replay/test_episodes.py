"""Episodes from elsewhere: what is stored is what was given; what does not fit is refused before anything is stored."""

from __future__ import annotations

import copy
import io

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ezv2 import Episode, TrajectoryReplayBuffer
from sb3_ezv2.replay.saving import load_buffer, save_buffer
from tests.helpers.envs import ProvenanceEnv, provenance_reward
from tests.helpers.tiny import all_windows, assert_windows_name_themselves

PLACE = spaces.Box(-np.inf, np.inf, (3,))
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))


def provenance_episode(number: int, env_id: int = 0) -> Episode:
    """What ``ProvenanceEnv`` does in its episode of this number."""
    n = 9 if number % 2 else 7
    observations = np.array([[env_id, number, step] for step in range(n + 1)], np.float32)
    rewards = np.array([provenance_reward(env_id, number, step) for step in range(n)])
    return Episode(observations, np.arange(n) % 3, rewards, number % 2 == 0)


def new_buffer(n_envs: int = 1, actions: spaces.Space | None = None, **kwargs) -> TrajectoryReplayBuffer:
    return TrajectoryReplayBuffer(400, PLACE, actions or spaces.Discrete(3), n_envs, **kwargs)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_windows_of_added_episodes_are_pieces_of_them(n_envs):
    buffer = new_buffer(n_envs)
    episodes = [provenance_episode(number) for number in range(10)]
    assert buffer.add_episodes(episodes) == 80 == len(buffer)
    batch = all_windows(buffer)
    for row, (_, number, step) in enumerate(batch.observations["observation"][:, 0].astype(int)):
        ahead = int(batch.n_ahead[row])
        assert ahead == min(len(episodes[number].rewards) - step, batch.rewards.shape[1])
        for k in range(min(ahead, batch.actions.shape[1])):
            assert batch.actions[row, k] == (step + k) % 3
            np.testing.assert_array_equal(batch.observations["observation"][row, k + 1], [0, number, step + k + 1])
        at_end = ahead < batch.rewards.shape[1] or step + ahead == len(episodes[number].rewards)
        assert batch.terminated[row] == (at_end and number % 2 == 0)
    assert (buffer.frontiers < 0).all()


def test_a_stream_goes_on_after_added_episodes():
    buffer, env = new_buffer(), ProvenanceEnv(0)
    observation, _ = env.reset()
    buffer.add_episodes([provenance_episode(40, 5), provenance_episode(41, 5)])
    for _ in range(60):
        before = observation
        observation, reward, terminated, truncated, _ = env.step(0)
        info = {"terminal_observation": observation, "TimeLimit.truncated": truncated}
        if terminated or truncated:
            observation, _ = env.reset()
        done = np.array([terminated or truncated])
        buffer.add(before[None], observation[None], np.array([0]), np.array([reward]), done, [info])
    assert_windows_name_themselves(buffer)


@pytest.mark.parametrize("algorithm, n_envs", [(DQN, 1), (SAC, 1), (SAC, 2)])
def test_episodes_of_a_buffer_of_stable_baselines(algorithm, n_envs):
    actions = spaces.Discrete(3) if algorithm is DQN else BOX
    envs = [lambda i=i: ProvenanceEnv(i, actions) for i in range(n_envs)]
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = algorithm("MlpPolicy", DummyVecEnv(envs), buffer_size=50 * n_envs, learning_starts=1_000, device="cpu")
    model.learn(70 * n_envs)
    assert model.replay_buffer.full
    ours = new_buffer(n_envs, actions)
    assert ours.add_episodes(model.replay_buffer) == 50 * n_envs
    assert_windows_name_themselves(ours, closed=newest_places(model.replay_buffer))
    stored = np.sort(ours.actions[ours.kinds == 1].reshape(50 * n_envs, -1), axis=0)
    theirs = np.sort(model.replay_buffer.actions.reshape(50 * n_envs, -1), axis=0)
    np.testing.assert_allclose(stored, theirs, atol=1e-6)


def newest_places(buffer: ReplayBuffer) -> list[tuple[int, int, int]]:
    last = (buffer.pos - 1) % buffer.buffer_size
    return [tuple(map(int, buffer.next_observations[last, env])) for env in range(buffer.n_envs)]


def test_minari_datasets(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env, episodes = gym.make("CartPole-v1", max_episode_steps=12), []
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        env.action_space.seed(seed)
        found: dict = {
            "observations": [observation],
            "actions": [],
            "rewards": [],
            "terminations": [],
            "truncations": [],
        }
        while not (found["truncations"] and (found["truncations"][-1] or found["terminations"][-1])):
            action = env.action_space.sample()
            values = env.step(action)[:4]
            for key, value in zip(found, (values[0], action, *values[1:]), strict=True):
                found[key].append(value)
        arrays = {key: np.array(part) for key, part in found.items()}
        episodes.append(minari.data_collector.EpisodeBuffer(id=seed, infos={}, **arrays))
    dataset = minari.create_dataset_from_buffers("test/cartpole-v0", episodes, env=env)
    buffer = TrajectoryReplayBuffer(200, dataset.observation_space, dataset.action_space)
    assert buffer.add_episodes("test/cartpole-v0") == dataset.total_steps
    other = TrajectoryReplayBuffer(200, dataset.observation_space, dataset.action_space)
    assert other.add_episodes(dataset) == dataset.total_steps
    first = next(dataset.iterate_episodes())
    n = len(first.rewards)
    np.testing.assert_array_equal(buffer.observations["observation"][: n + 1, 0], first.observations)
    np.testing.assert_array_equal(buffer.actions[:n, 0], first.actions)
    for name in ("kinds", "rewards", "actions"):
        np.testing.assert_array_equal(getattr(buffer, name), getattr(other, name))
    with pytest.raises(ValueError, match="Minari cannot load the dataset 'no/such-v0'"):
        buffer.add_episodes("no/such-v0")
    wrong = TrajectoryReplayBuffer(200, spaces.Box(-1, 1, (3,)), dataset.action_space)
    with pytest.raises(ValueError, match="the dataset has observation_space="):
        wrong.add_episodes(dataset)


def test_transitions_are_cut_into_episodes():
    episodes = [provenance_episode(number) for number in range(4)]
    flat = {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]),
        "next_observations": np.concatenate([e.observations[1:] for e in episodes]),
    }
    ends = np.cumsum([len(e.rewards) for e in episodes]) - 1
    terminations = np.zeros(len(flat["rewards"]), bool)
    terminations[ends[::2]] = True
    truncations = np.zeros_like(terminations)
    truncations[ends[1]] = True  # the last one is left open
    found = Episode.split(**flat, terminations=terminations, truncations=truncations)
    assert len(found) == 4
    for ours, theirs in zip(found, episodes, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="32 transitions have no episode end"):
        one = {key: np.repeat(part[:1], 32, axis=0) for key, part in flat.items()}
        one["next_observations"] = one["observations"]
        Episode.split(**one, terminations=np.zeros(32), truncations=np.zeros(32))
    order = np.random.default_rng(0).permutation(len(terminations))
    with pytest.raises(ValueError, match="transitions do not go on where the one before ended"):
        Episode.split(**{key: part[order] for key, part in flat.items()}, terminations=0 * order, truncations=0 * order)
    with pytest.raises(ValueError, match=r"the arrays have the lengths \[31, 32\]"):
        Episode.split(**flat, terminations=terminations[1:], truncations=truncations)


def test_images_may_have_their_channels_last():
    space = spaces.Box(0, 255, (3, 32, 40), np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 40, 3), np.uint8)
    buffer = TrajectoryReplayBuffer(50, space, spaces.Discrete(2))
    buffer.add_episodes([Episode(images, np.zeros(5, int), np.zeros(5), True)])
    np.testing.assert_array_equal(buffer.observations["observation"][:6, 0], np.moveaxis(images, -1, 1))


def test_a_share_of_every_batch_is_kept_through_files_until_it_is_overwritten():
    buffer = new_buffer()
    buffer.add_episodes([provenance_episode(number) for number in range(8)])
    plain = copy.deepcopy(buffer)
    buffer.add_episodes([provenance_episode(100)], share=0.25)
    for some in (plain, buffer):
        some.update_priorities(np.arange(some.n_slots), np.ones(some.n_slots))
    file = io.BytesIO()
    save_buffer(buffer, file)
    file.seek(0)
    loaded = load_buffer(file, "file", new_buffer())
    for some in (buffer, loaded):
        batch = some.sample(40, 2, 1, 0.5, np.random.default_rng(0))
        from_there = batch.observations["observation"][:, 0, 1] == 100
        assert from_there[:10].all() and from_there.sum() < 20 and batch.weights.max() == 1.0
    for _ in range(6):  # the ring goes round
        buffer.add_episodes([provenance_episode(number) for number in range(8)])
    buffer.update_priorities(np.arange(buffer.n_slots), np.ones(buffer.n_slots))
    found = buffer.sample(40, 2, 1, 0.5, np.random.default_rng(0)).observations["observation"][:, 0, 1]
    assert len(found) == 40 and not (found == 100).any()


def test_without_a_share_nothing_is_drawn_otherwise():
    buffer = new_buffer()
    buffer.add_episodes([provenance_episode(number) for number in range(8)])
    buffer.update_priorities(np.arange(buffer.n_slots), np.ones(buffer.n_slots))
    rng = np.random.default_rng(3)
    batch = buffer.sample(16, 2, 1, 0.5, rng)
    again = np.random.default_rng(3)
    again.random(16)
    assert len(batch.slots) == 16
    state = rng.bit_generator.state
    buffer.windows(batch.slots[:, 0], 2, 1, again)
    assert again.bit_generator.state == state


GOOD = provenance_episode(0)


@pytest.mark.parametrize(
    "episodes, message",
    [
        ([], "has no episode"),
        (GOOD, "must be a list of Episode"),
        (3, "episodes=3 must be a list of Episode"),
        ([GOOD, {"observations": GOOD.observations}], "episode 1 has no 'terminations'"),
        ([GOOD._replace(rewards=GOOD.rewards[1:])], r"episode 0: (actions|an action|'observation')"),
        ([GOOD._replace(rewards=[])], r"episode 0 has rewards=\[\]"),
        ([GOOD._replace(rewards=np.full(7, np.nan))], "episode 0 has rewards=.*finite"),
        ([GOOD._replace(terminated=None)], "episode 0 has terminated=None"),
        ([GOOD, GOOD._replace(actions=np.full(7, 3))], "episode 1: an action is 3; the space has 3 from 0 on"),
        ([GOOD._replace(actions=np.zeros(7))], "episode 0: actions have .*float64"),
        ([GOOD._replace(observations=GOOD.observations[:, :2])], r"'observation' has the shape \(8, 2\)"),
        ([GOOD._replace(observations=GOOD.observations[:-1])], "one observation more than rewards"),
        ([GOOD._replace(observations=GOOD.observations * np.nan)], "not finite or not of its space"),
        ([GOOD._replace(observations={"a": GOOD.observations})], r"observations \['a'\], the space has"),
        ([provenance_episode(n) for n in range(60)], r"buffer_size of at least 540"),
    ],
)
def test_episodes_that_do_not_fit_are_refused_and_nothing_is_stored(episodes, message):
    buffer = new_buffer()
    buffer.add_episodes([provenance_episode(5)])
    before = copy.deepcopy(vars(buffer))
    with pytest.raises(ValueError, match=message):
        buffer.add_episodes(episodes, share=0.5)
    for name, value in before.items():
        np.testing.assert_equal(vars(buffer)[name], value)


@pytest.mark.parametrize("share", [-0.1, 1.5, np.nan, True])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share="):
        new_buffer().add_episodes([GOOD], share)


def test_actions_outside_of_their_bounds_are_refused():
    buffer = new_buffer(actions=BOX)
    episode = GOOD._replace(actions=np.tile(np.array([1.0, 10.0], np.float32), (7, 1)))
    buffer.add_episodes([episode])
    np.testing.assert_array_equal(buffer.actions[:7, 0], 1.0)
    with pytest.raises(ValueError, match="an action is 10.5, outside of the bounds"):
        buffer.add_episodes([episode._replace(actions=episode.actions + np.float32([0.0, 0.5]))])


def test_buffers_that_lack_the_ends_of_episodes_are_refused():
    theirs = ReplayBuffer(20, PLACE, spaces.Discrete(3), optimize_memory_usage=True, handle_timeout_termination=False)
    with pytest.raises(ValueError, match="optimize_memory_usage=True"):
        new_buffer().add_episodes(theirs)
    with pytest.raises(ValueError, match="is empty"):
        new_buffer().add_episodes(ReplayBuffer(20, PLACE, spaces.Discrete(3)))
