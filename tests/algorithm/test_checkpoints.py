"""A run resumed from a checkpoint is bit for bit the run that was not stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize

from sb3_ezv2 import EfficientZeroV2, ResumableCheckpointCallback
from sb3_ezv2.checkpoint_files import checkpoints_in, find_checkpoint, read_manifest
from sb3_ezv2.common import files
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, TINY_NETWORK, assert_same_parameters, tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

TOTAL = 66


class SaveAt(BaseCallback):
    """Saves a checkpoint once ``num_timesteps`` has reached a number, and stops there if ``stop``."""

    def __init__(self, step: int, folder, stop: bool) -> None:
        super().__init__()
        self.step, self.folder, self.stop = step, folder, stop
        self.done = False

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.step and not self.done:
            self.model.save_checkpoint(self.folder)
            self.done = True
            return not self.stop
        return True


def frame_stack():
    return VecFrameStack(DummyVecEnv([lambda: RandomEnv(spaces.Box(0, 255, (32, 32, 1), np.uint8))]), 2)


CASES = {
    "CartPole": (lambda: make_vec_env("CartPole-v1", 1), {}),
    "CartPole, 3 environments": (lambda: make_vec_env("CartPole-v1", 3), {}),
    "Pendulum": (lambda: make_vec_env("Pendulum-v1", 1), {}),
    "Pendulum, 3 environments": (lambda: make_vec_env("Pendulum-v1", 3), {}),
    "VecNormalize": (lambda: VecNormalize(make_vec_env("Pendulum-v1", 3)), {}),
    "images": (lambda: RandomEnv(GREY, CONTINUOUS), {"policy": "CnnPolicy", "policy_kwargs": TINY_IMAGE_NETWORK}),
    "stacked frames": (frame_stack, {"policy": "CnnPolicy", "policy_kwargs": TINY_IMAGE_NETWORK}),
    "random actions": (lambda: make_vec_env("Pendulum-v1", 2), {"learning_starts": 50}),
    "novelty": (lambda: make_vec_env("MountainCar-v0", 1), {}),
    "4 steps": (lambda: make_vec_env("CartPole-v1", 1), {"train_freq": 4}),
    "an episode": (lambda: make_vec_env("CartPole-v1", 1), {"train_freq": (1, "episode")}),
    "2 episodes, 3 updates": (lambda: RandomEnv(), {"train_freq": (2, "episode"), "gradient_steps": 3}),
    "no cache": (lambda: make_vec_env("CartPole-v1", 1), {"use_target_cache": False}),
}


def new_run(case: str, callback=None):
    make, settings = CASES[case]
    model = tiny_model(make(), **{"target_update_interval": 7, **settings})
    return model.learn(TOTAL, callback=callback, log_interval=None)


def assert_same_run(ours: EfficientZeroV2, theirs: EfficientZeroV2) -> None:
    """Everything that what comes next depends on."""
    assert_same_parameters(ours, theirs)
    for name in ("num_timesteps", "_n_updates", "_episode_num", "target_version", "_total_timesteps", "run_id"):
        if name != "run_id":
            assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rng.bit_generator.state == theirs.rng.bit_generator.state
    assert ours.policy.rng.bit_generator.state == theirs.policy.rng.bit_generator.state
    one, other = ours.replay_buffer, theirs.replay_buffer
    np.testing.assert_array_equal(one.sum_tree, other.sum_tree)
    np.testing.assert_array_equal(one.rewards[one.kinds == 1], other.rewards[other.kinds == 1])
    for mine, their in zip(ours.policy.optimizer.state.values(), theirs.policy.optimizer.state.values(), strict=True):
        for name in mine:
            np.testing.assert_array_equal(mine[name].numpy(), their[name].numpy())


@pytest.mark.parametrize("step", [20, 41, 52])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_run_that_was_not_stopped(case, step, tmp_path):
    whole = new_run(case)
    stopped = new_run(case, SaveAt(step, tmp_path, stop=True))
    assert stopped.num_timesteps < TOTAL
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = EfficientZeroV2.load_checkpoint(tmp_path, CASES[case][0](), device="cpu")
    assert resumed.run_id == stopped.run_id != whole.run_id
    for model in (stopped, resumed):
        model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False, log_interval=None)
        assert_same_run(model, whole)


def test_saving_does_not_change_the_run(tmp_path):
    assert_same_run(new_run("CartPole", SaveAt(45, tmp_path, stop=False)), new_run("CartPole"))


def test_no_update_is_lost_by_stops(tmp_path):
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls % 9 != 0

    model = tiny_model(make_vec_env("CartPole-v1", 1), train_freq=(1, "episode"))
    whole = tiny_model(make_vec_env("CartPole-v1", 1), train_freq=(1, "episode")).learn(90)
    while model.num_timesteps < 90 or model._is_in_between:
        model.learn(90 - model.num_timesteps, Stop(), reset_num_timesteps=False)
    assert model._n_updates == whole._n_updates
    assert_same_parameters(model, whole)


def test_updates_interrupted_between_two_of_them_go_on(monkeypatch, tmp_path):
    def run(stop: bool):
        model = tiny_model(make_vec_env("CartPole-v1", 1), train_freq=10)
        if stop:
            sample = model.replay_buffer.sample

            def interrupted(*args):
                if model._n_updates == 13:
                    monkeypatch.undo()
                    raise KeyboardInterrupt
                return sample(*args)

            monkeypatch.setattr(model.replay_buffer, "sample", interrupted)
            with pytest.raises(KeyboardInterrupt):
                model.learn(TOTAL)
            assert model._updates_due == 7
            model.save_checkpoint(tmp_path)
            model = EfficientZeroV2.load_checkpoint(tmp_path, make_vec_env("CartPole-v1", 1), device="cpu")
        return model.learn(TOTAL - model.num_timesteps, reset_num_timesteps=False)

    assert_same_run(run(True), run(False))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model(VecNormalize(make_vec_env("Pendulum-v1", 1))).learn(40)
    model.save_checkpoint(folder)
    model.learn(5, reset_num_timesteps=False)
    model.save_checkpoint(folder)
    return folder


def load(folder, env=None):
    return EfficientZeroV2.load_checkpoint(folder, env or VecNormalize(make_vec_env("Pendulum-v1", 1)), device="cpu")


def test_the_newest_one_is_loaded_and_each_by_its_name(checkpoint):
    first, second = checkpoints_in(checkpoint)
    assert [path.name for path in (first, second)] == ["checkpoint_000001_40_steps", "checkpoint_000002_45_steps"]
    assert find_checkpoint(checkpoint) == second and find_checkpoint(first) == first
    assert load(checkpoint).num_timesteps == 45 and load(first).num_timesteps == 40
    manifest = read_manifest(second)
    assert manifest["num_timesteps"] == 45 and manifest["run_id"] == load(first).run_id


def test_parts_of_different_checkpoints_are_refused(checkpoint, tmp_path):
    first, second = checkpoints_in(checkpoint)
    for name in read_manifest(first)["files"]:
        mixed = shutil.copytree(second, tmp_path / name)
        shutil.copy(first / name, mixed / name)
        with pytest.raises(ValueError, match=f"{name} is .*another checkpoint"):
            load(mixed)
        (mixed / name).unlink()
        with pytest.raises(ValueError, match=f"{name} is missing"):
            load(mixed)


def test_a_later_format_and_a_folder_without_one_are_refused(checkpoint, tmp_path):
    from sb3_ezv2.checkpoint_files import _digest_of

    later = shutil.copytree(find_checkpoint(checkpoint), tmp_path / "later")
    content = read_manifest(later) | {"format_version": 99}
    (later / "manifest.json").write_text(json.dumps({"content": content, "sha256": _digest_of(content)}))
    with pytest.raises(ValueError, match="format version 99; this release reads 1"):
        load(later)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
            load(folder)


def test_other_environments_are_refused_or_begin_a_new_episode(checkpoint):
    with pytest.raises(ValueError, match="n_envs=1, env has 2"):
        load(checkpoint, make_vec_env("Pendulum-v1", 2))
    with pytest.raises(ValueError, match=r"wrap them: VecNormalize\(env\)"):
        load(checkpoint, make_vec_env("Pendulum-v1", 1))
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    with pytest.warns(UserWarning, match="a new episode begins, the environments have other wrappers"):
        model = load(checkpoint, env)
    count = model.replay_buffer.n_observations
    np.testing.assert_array_equal(env.obs_rms.mean, load(checkpoint).get_env().obs_rms.mean)
    model.learn(3, reset_num_timesteps=False)
    assert model.replay_buffer.n_observations == count + 4  # the first one of the episode too


def test_environments_out_of_reach_begin_a_new_episode(tmp_path):
    envs = [lambda: gym.make("CartPole-v1")]
    model = tiny_model(SubprocVecEnv(envs)).learn(35)
    model.save_checkpoint(tmp_path)
    model.get_env().close()
    env = SubprocVecEnv(envs)
    with pytest.warns(UserWarning, match="a new episode begins, .*SubprocVecEnv are out of reach"):
        loaded = EfficientZeroV2.load_checkpoint(tmp_path, env, device="cpu")
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 40
    env.close()


def test_a_monitor_goes_on_writing_to_the_file_at_hand(tmp_path):
    def make(name):
        return make_vec_env("CartPole-v1", 1, monitor_dir=str(tmp_path / name))

    model = tiny_model(make("first"), learning_starts=100).learn(40)
    model.save_checkpoint(tmp_path / "checkpoints")
    env = make("second")
    loaded = EfficientZeroV2.load_checkpoint(tmp_path / "checkpoints", env, device="cpu")
    begun = len(env.envs[0].rewards)
    assert begun == len(model.get_env().envs[0].rewards)
    loaded.learn(200, reset_num_timesteps=False)
    first_episode = (tmp_path / "second" / "0.monitor.csv").read_text().splitlines()[2]
    assert int(first_episode.split(",")[1]) > begun


def test_the_callback_keeps_the_newest(tmp_path):
    callback = ResumableCheckpointCallback(10, tmp_path, keep=2)
    model = tiny_model(make_vec_env("CartPole-v1", 3), learning_starts=100).learn(60, callback)
    assert [path.name for path in checkpoints_in(tmp_path)] == [
        "checkpoint_000005_51_steps",
        "checkpoint_000006_60_steps",
    ]
    other = tiny_model(make_vec_env("CartPole-v1", 1), learning_starts=100)
    other.save_checkpoint(tmp_path, keep=1)
    assert len(checkpoints_in(tmp_path)) == 3  # those of another run stay
    model.learn(3, callback, reset_num_timesteps=False)
    assert len(checkpoints_in(tmp_path)) == 3


def test_what_a_killed_process_left_behind_is_removed(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = tmp_path / f".checkpoint_000001_7_steps.{files._HOST}-{gone.pid}-01234567.tmp"
    left.mkdir()
    (left / "model.zip").write_bytes(b"part")
    tiny_model(RandomEnv()).save_checkpoint(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_000001_0_steps"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="keep=0"):
        tiny_model(RandomEnv()).save_checkpoint(tmp_path, keep=0)
    for kwargs, name in (({"save_freq": 0}, "save_freq=0"), ({"save_freq": 1, "keep": 0}, "keep=0")):
        with pytest.raises(ValueError, match=name):
            ResumableCheckpointCallback(folder=tmp_path, **kwargs)


def test_device_and_settings_of_the_network_are_those_of_the_model(checkpoint):
    model = load(checkpoint)
    assert model.policy._get_constructor_parameters()["latent_dim"] == TINY_NETWORK["latent_dim"]
