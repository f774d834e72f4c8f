"""Atari games as the Atari 100k benchmark plays them, and the table of their scores."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.learning import training
from benchmarks.learning.tasks import TASKS
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.envs import atari
from sb3_ezv2.envs.atari import GAMES, AtariFrames, make_atari
from sb3_ezv2.zoo import curves
from sb3_ezv2.zoo.settings import for_evaluation, hyperparameter_file, read_entries
from tests.helpers.zoo import run

TINY = {
    "learning_starts": 40,
    "batch_size": 8,
    "n_simulations": 4,
    "policy_kwargs": {
        "net_size": "paper",
        "stem_channels": 4,
        "latent_channels": 4,
        "head_channels": 4,
        "projection_dim": 16,
        "prediction_dim": 16,
    },
}


@pytest.fixture(autouse=True)
def needs_the_emulator():
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")


def play(env, n_steps: int, seed: int = 0):
    """Random play: rewards, whether each step ended an episode, and the lives after it."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    rewards, ends, lives = [], [], []
    for _ in range(n_steps):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        rewards.append(float(reward))
        ends.append(terminated or truncated)
        lives.append(info["lives"])
        if ends[-1]:
            env.reset()
    return np.array(rewards), np.array(ends), np.array(lives)


def test_all_games_exist():
    import gymnasium as gym

    atari.register_atari()
    assert len(set(GAMES)) == 26
    assert {f"ALE/{game}-v5" for game in GAMES} <= set(gym.registry)
    with pytest.raises(ValueError, match=r"game='Pongg'.*'Pong'"):
        make_atari("Pongg", training=True)


def test_frames_are_rgb_of_96_pixels():
    env = make_atari("Pong", training=True)
    assert env.observation_space == spaces.Box(0, 255, (96, 96, 3), np.uint8)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (96, 96, 3) and observation.dtype == np.uint8
    assert len(np.unique(observation.reshape(-1, 3), axis=0)) > 2
    assert (observation[..., 0] != observation[..., 2]).any()


def test_frames_for_a_cpu_are_grey_of_64_pixels():
    env = atari.make_small_atari("Pong")
    observation, _ = env.reset(seed=0)
    assert env.observation_space == spaces.Box(0, 255, (64, 64, 1), np.uint8)
    assert env.observation_space.contains(observation) and len(np.unique(observation)) > 2


def test_a_decision_is_four_frames_and_shows_the_maximum_of_the_last_two():
    """Checked against the emulator's own frames."""
    import cv2

    env, twin = make_atari("Breakout", training=False, noop_max=0), make_atari("Breakout", training=False, noop_max=0)
    env.reset(seed=3)
    twin.reset(seed=3)
    ale = twin.unwrapped.ale
    actions = twin.unwrapped._action_set
    for action in (1, 2, 2, 3, 0, 3):
        before = env.unwrapped.ale.getEpisodeFrameNumber()
        observation, reward, *_ = env.step(action)
        assert env.unwrapped.ale.getEpisodeFrameNumber() == before + 4
        total, screens = 0.0, []
        for _ in range(4):
            total += ale.act(actions[action])
            screens.append(ale.getScreenRGB())
        expected = cv2.resize(np.maximum(*screens[-2:]), (96, 96), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(observation, expected)
        assert reward == total


def test_training_sees_signs_and_lives_and_evaluation_full_games():
    rewards, ends, lives = play(make_atari("MsPacman", training=True), 700)
    assert set(rewards) <= {-1.0, 0.0, 1.0} and 1.0 in rewards
    lost = np.flatnonzero(np.diff(lives) < 0) + 1
    assert len(lost) >= 2 and ends[lost].all()
    assert (lives[ends] > 0).any()

    rewards, ends, lives = play(make_atari("MsPacman", training=False), 700)
    assert rewards.max() >= 10.0
    assert ends.any() and (lives[ends] == 0).all()


def test_the_game_goes_on_after_a_lost_life():
    env = make_atari("MsPacman", training=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    ended = False
    while not ended:
        *_, ended, _, info = env.step(env.action_space.sample())
    assert info["lives"] > 0
    frame = env.unwrapped.ale.getEpisodeFrameNumber()
    env.reset()
    assert env.unwrapped.ale.getEpisodeFrameNumber() == frame + 4


def test_an_episode_has_27000_frames_at_most():
    env = make_atari("Breakout", training=False, noop_max=0)
    env.reset(seed=0)
    n_decisions, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        *_, terminated, truncated, _ = env.step(0)  # never serves the ball
        n_decisions += 1
    assert truncated and not terminated
    assert abs(4 * n_decisions - 27_000) <= 4


@pytest.mark.parametrize("sticky", [False, True])
def test_sticky_actions_are_a_matter_of_choice(sticky):
    env = make_atari("Pong", training=True, sticky_actions=sticky)
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == (0.25 if sticky else 0.0)


def test_games_begin_with_a_random_number_of_noops():
    env = make_atari("Pong", training=False)
    frames = set()
    for seed in range(8):
        env.reset(seed=seed)
        frames.add(env.unwrapped.ale.getEpisodeFrameNumber())
    assert len(frames) > 3 and max(frames) - min(frames) < 30


def test_a_game_that_skips_frames_itself_is_refused():
    import gymnasium as gym

    atari.register_atari()
    with pytest.raises(ValueError, match=r"frameskip=1.*NoFrameskip"):
        AtariFrames(gym.make("ALE/Pong-v5"))


@pytest.mark.parametrize("module", ["ale_py", "cv2"])
def test_a_missing_package_names_the_extra(module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module}.*sb3_ezv2\[atari\]"):
        make_atari("Pong", training=True)


@pytest.fixture
def short_games(monkeypatch):
    """Games that end after 200 decisions."""
    monkeypatch.setattr(atari, "MAX_FRAMES", 800)


def test_the_agent_learns_from_stacks_of_frames_that_are_stored_once(short_games):
    env = VecFrameStack(make_vec_env(lambda: make_atari("Pong", training=True), 1, seed=0), 4)
    model = EfficientZeroV2("CnnPolicy", env, seed=0, device="cpu", **TINY).learn(60)
    assert model._n_updates == 20
    assert model.observation_space.shape == (12, 96, 96)
    full = VecFrameStack(make_vec_env(lambda: make_atari("Pong", training=False), 1, seed=1), 4)
    returns, lengths = evaluate_policy(model, full, 1, return_episode_rewards=True)
    assert -21 <= returns[0] <= 21 and 190 <= lengths[0] <= 200  # no-ops are frames, too


# -- the zoo -----------------------------------------------------------------------------------------------------------


def test_evaluation_does_without_what_belongs_to_training():
    entry = read_entries(hyperparameter_file())["atari"]
    assert entry["env_wrapper"] == ["sb3_ezv2.envs.atari.AtariFrames", "sb3_ezv2.envs.atari.AtariTraining"]
    assert for_evaluation(entry)["env_wrapper"] == ["sb3_ezv2.envs.atari.AtariFrames"]
    assert for_evaluation({"env_wrapper": [{"sb3_ezv2.envs.atari.AtariTraining": {}}]})["env_wrapper"] is None
    assert for_evaluation({"gamma": 0.9}) == {"gamma": 0.9}


def test_train_and_enjoy(tmp_path):
    settings = ["learning_starts:40", "batch_size:8", "n_simulations:4", f"policy_kwargs:{TINY['policy_kwargs']}"]
    short = ["frameskip:1", "repeat_action_probability:0.0", "max_num_frames_per_episode:800"]
    output = run(
        "train", "--env", "PongNoFrameskip-v4", "-n", "50", "--seed", "0", "--eval-freq", "50", "--eval-episodes", "1",
        "--n-eval-envs", "1", "--env-kwargs", *short,
        "-params", *(setting.replace(" ", "") for setting in settings), cwd=tmp_path,
    )  # fmt: skip
    assert "Stacking 4 frames" in output
    (evaluations,) = tmp_path.rglob("evaluations.npz")
    with np.load(evaluations) as stored:
        assert (stored["ep_lengths"] > 700).all()  # the zoo's Monitor counts frames
    output = run("enjoy", "--env", "PongNoFrameskip-v4", "--no-render", "-n", "30", cwd=tmp_path)
    assert "error" not in output.lower()


def test_ids_that_skip_frames_by_default_train_as_well(tmp_path):
    output = run(
        "train", "--env", "ALE/Boxing-v5", "-n", "12", "--eval-freq", "-1", "-params", "batch_size:8",
        "n_simulations:2", cwd=tmp_path,
    )  # fmt: skip
    assert "'frameskip': 1" in output
    run("record_video", "--env", "ALE/Boxing-v5", "-n", "8", "--exp-id", "0", cwd=tmp_path)
    assert list(tmp_path.rglob("*.mp4"))


def test_both_returns_in_the_picture_of_a_run_are_over_decisions(tmp_path, monkeypatch):
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0.0, "env_id": "x"}\nr,l,t\n' + "1.0,400,1.0\n" * 3)
    drawn = []
    draw = curves.draw
    monkeypatch.setattr(
        curves, "draw", lambda axis, label, found, color: drawn.extend(found) or draw(axis, label, found, color)
    )
    curves.draw_run(tmp_path, "a game", frame_skip=4, window=1)
    np.testing.assert_array_equal(drawn[0].x, [100, 200, 300])


# -- the suite ---------------------------------------------------------------------------------------------------------


def test_a_game_in_legs(short_games, tmp_path):
    words = [f"{name}={value}" for name, value in TINY.items() if name != "policy_kwargs"]
    words += [f"policy_kwargs.{name}={value}" for name, value in TINY["policy_kwargs"].items()]
    command = [
        "Freeway", "--steps", "60", "--eval-interval", "60", "--episodes", "1", "--entry", "atari", "--out",
        str(tmp_path / "runs"), "--checkpoints", str(tmp_path / "checkpoints"), "--set", *words,
    ]  # fmt: skip
    path = tmp_path / "runs" / "Freeway" / "seed-0.json"
    training.main([*command[: -len(words) - 1], "--leg-seconds", "0", *command[-len(words) - 1 :]])
    record = json.loads(path.read_text())
    assert not record["complete"] and record["legs"][0]["to"] == 1 and record["evaluations"] == []
    training.main(command)
    record = json.loads(path.read_text())
    assert record["complete"] and [(leg["from"], leg["to"]) for leg in record["legs"]] == [(0, 1), (1, 60)]
    assert record["evaluations"][0]["step"] == 60 and 190 <= record["evaluations"][0]["lengths"][0] <= 200
    (checkpoint,) = (tmp_path / "checkpoints" / "Freeway" / "seed-0").iterdir()
    model = EfficientZeroV2.load(checkpoint / "model.zip", device="cpu")
    assert model.gamma == 0.988 and model.batch_size == 8  # of the entry, and given
    assert model.policy_kwargs["value_prefix"] and model.policy_kwargs["latent_channels"] == 4


def test_training_sees_another_game_than_evaluation():
    env, eval_env = training.make_envs(TASKS["Boxing"], 0, 2)
    assert env.observation_space.shape == eval_env.observation_space.shape == (96, 96, 12)
    assert env.env_is_wrapped(atari.AtariTraining) == [True]
    assert eval_env.env_is_wrapped(atari.AtariTraining) == [False, False]
    with pytest.raises(ValueError, match="--entry nothing"):
        training.of_entry("nothing")
