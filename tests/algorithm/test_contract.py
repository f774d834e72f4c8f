"""What Stable-Baselines3's users may rely on: arguments, their assignment, files, callbacks, random numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)

import sb3_ezv2
from sb3_ezv2 import CnnPolicy, EfficientZeroV2, EZV2Policy, MlpPolicy, MultiInputPolicy
from tests.helpers.envs import SMALL_BOX, ProvenanceEnv, RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    TINY_NETWORK,
    assert_finite_parameters,
    assert_same_parameters,
    parameters_of,
    provenance_envs,
    tiny_model,
)

OLD = Path(__file__).parents[1] / "release_0_1"
IMAGE = spaces.Box(0, 255, (32, 32, 1), np.uint8)
TINY_IMAGES = {
    **{"stem_channels": 2, "latent_channels": 2, "action_channels": 2, "head_channels": 1, "projection_dim": 4},
    **{"net_size": "paper", "prediction_dim": 4, "hidden_dim": 4},
}


# -- a run does not depend on how long it is planned to be -------------------------------------------------------------


class StopAt(BaseCallback):
    def __init__(self, n_steps: int) -> None:
        super().__init__()
        self.n_steps = n_steps

    def _on_step(self) -> bool:
        return self.num_timesteps < self.n_steps


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), CONTINUOUS], ids=["discrete", "continuous"])
def test_the_planned_length_does_not_matter(action_space):
    def run(*lengths: int, stop: int = 1_001) -> EfficientZeroV2:
        # Both phases of the value target are reached, and so are several target networks.
        env = RandomEnv(action_space=action_space)
        model = tiny_model(env, td_phase=60, td_fresh=200, train_freq=5, gradient_steps=1, target_update_interval=30)
        for number, length in enumerate(lengths):
            model.learn(length, StopAt(stop), reset_num_timesteps=number == 0)
        return model

    whole, pieces = run(1_000), run(250, 250, 250, 250)
    assert whole.num_timesteps == pieces.num_timesteps == 1_000 and whole._n_updates == 194
    assert_same_parameters(whole, pieces)
    short, long = run(20_000, stop=500), run(1_000_000, stop=500)
    assert short.num_timesteps == long.num_timesteps == 500 and short._n_updates > 60
    assert_same_parameters(short, long)


def test_defaults_are_no_functions_of_the_progress():
    model = tiny_model(RandomEnv())
    assert model.lr_schedule(1.0) == model.lr_schedule(0.0) == 1e-3
    assert type(model.td_phase) is int and type(model.td_fresh) is int


@pytest.mark.parametrize("name", ["td_phase", "td_fresh"])
@pytest.mark.parametrize("share", [0.1, 1.0, np.float32(0.1)])
def test_shares_of_a_run_are_refused(name, share, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}=.*must be an integer.*no share of the run"):
        tiny_model(RandomEnv(), **{name: share})
    tiny_model(RandomEnv()).save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"{name}=.*no share of the run"):
        EfficientZeroV2.load(tmp_path / "model", **{name: share})


def test_shares_in_files_of_release_0_1_become_counts():
    with pytest.warns(UserWarning, match="td_phase=400 instead of 0.1") as caught:
        model = EfficientZeroV2.load(OLD / "discrete")
    assert len([one for one in caught if "td_phase" in str(one.message)]) == 1
    assert model.td_phase == 400


def test_a_converted_file_is_not_converted_again(tmp_path):
    with pytest.warns(UserWarning, match="td_phase"):
        EfficientZeroV2.load(OLD / "discrete").save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert EfficientZeroV2.load(tmp_path / "model").td_phase == 400


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_are_attributes_of_the_same_name():
    given = {"n_simulations": np.int64(7), "tau": np.float32(0.25), "td_steps": 3, "mixed_precision": np.bool_(False)}
    model = tiny_model(RandomEnv(), **given)
    assert {name: getattr(model, name) for name in given} == given
    assert [type(getattr(model, name)) for name in given] == [int, float, int, bool]
    assert model.arguments.search.n_simulations == 7 and model.arguments.losses.tau == 0.25


def test_an_assigned_argument_holds():
    model = tiny_model(RandomEnv()).learn(35)
    observation = np.zeros(3, np.float32)
    model.n_simulations = 6
    assert model.n_simulations == 6 and model.policy.plan(observation).visit_counts.sum() == 6
    assert model.reanalyzer.planner.n_simulations == 6
    model.learning_rate = 1e-5
    model.batch_size, model.train_freq, model.gradient_steps = 5, (5, "step"), 2
    model.use_target_cache = False
    updates = model._n_updates
    model.learn(10, reset_num_timesteps=False)
    assert model._n_updates == updates + 4
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-5
    assert model.reanalyzer.searched_fraction == 1.0
    assert model.arguments.replay.batch_size == 5


def test_what_is_assigned_is_saved(tmp_path):
    model = tiny_model(RandomEnv())
    model.n_simulations, model.train_freq = 6, (2, "episode")
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model")
    assert loaded.n_simulations == 6 and loaded.train_freq == (2, "episode")
    assert loaded.policy.planner.n_simulations == 6


@pytest.mark.parametrize(
    "name, value",
    [
        ("gamma", 0.9),
        ("buffer_size", 100),
        ("n_candidates", 3),
        ("policy_kwargs", {"latent_dim": 8}),
        ("replay_buffer_kwargs", {"alpha": 0.1}),
        ("seed", 3),
        ("device", "cuda"),
    ],
)
def test_what_cannot_change_cannot_be_assigned(name, value):
    model = tiny_model(RandomEnv())
    before = getattr(model, name)
    with pytest.raises(ValueError, match=f"(?s){name}=.*cannot be assigned"):
        setattr(model, name, value)
    assert getattr(model, name) == before


@pytest.mark.parametrize("name, value", [("n_simulations", 0), ("n_considered", 4), ("tau", "no"), ("td_phase", 0.1)])
def test_a_bad_assignment_changes_nothing(name, value):
    model = tiny_model(RandomEnv())  # three actions
    before = getattr(model, name), model.arguments
    with pytest.raises(ValueError, match=f"{name}="):
        setattr(model, name, value)
    assert (getattr(model, name), model.arguments) == before
    model.learn(35)


# -- files -------------------------------------------------------------------------------------------------------------

CHANGED_BY_JSON: dict[str, Any] = {
    "train_freq": (2, "episode"),
    "policy_kwargs": {**TINY_NETWORK, "optimizer_kwargs": {"betas": (0.8, 0.9)}},
}


@pytest.mark.parametrize("name", CHANGED_BY_JSON)
def test_what_json_changes_comes_back_as_it_was(name, tmp_path):
    value = CHANGED_BY_JSON[name]
    model = tiny_model(RandomEnv(), **{name: value}).learn(40)
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=RandomEnv())
    assert getattr(loaded, name) == value
    loaded.learn(20, reset_num_timesteps=False)
    loaded.save(tmp_path / "again")
    assert getattr(EfficientZeroV2.load(tmp_path / "again"), name) == value


def test_an_argument_of_load_has_precedence(tmp_path):
    tiny_model(RandomEnv(), train_freq=(2, "episode")).save(tmp_path / "model")
    assert EfficientZeroV2.load(tmp_path / "model", train_freq=3).train_freq == 3
    assert EfficientZeroV2.load(tmp_path / "model", train_freq=[3, "step"]).train_freq == (3, "step")
    with pytest.raises(ValueError, match="'n_simulation' is not among.*'n_simulations'"):
        EfficientZeroV2.load(tmp_path / "model", n_simulation=3)


def test_an_environment_by_its_name(tmp_path):
    tiny_model("CartPole-v1").save(tmp_path / "model")
    model = EfficientZeroV2.load(tmp_path / "model", env="CartPole-v1").learn(35)
    assert_finite_parameters(model)
    model.set_env("CartPole-v1")
    with pytest.raises(ValueError, match=r"env='NoSuch-v0'"):
        EfficientZeroV2.load(tmp_path / "model", env="NoSuch-v0")


def test_learning_without_an_environment(tmp_path):
    tiny_model(RandomEnv()).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"env=None.*set_env"):
        EfficientZeroV2.load(tmp_path / "model").learn(10)


def test_the_version():
    assert sb3_ezv2.__version__ == (Path(sb3_ezv2.__file__).parent / "version.txt").read_text().strip()


# -- callbacks and logs ------------------------------------------------------------------------------------------------


class Recorder(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.seen.append(dict(self.locals))
        return True


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=5), SMALL_BOX], ids=["discrete", "box"])
def test_callbacks_see_actions_of_the_environment(space):
    recorder = Recorder()
    model = tiny_model(provenance_envs(2, space)).learn(80, recorder)
    for seen in recorder.seen:
        assert all(space.contains(action) for action in seen["actions"])
    last = recorder.seen[-1]
    np.testing.assert_array_equal(last["actions"], model.policy.to_env_actions(last["buffer_actions"]))
    assert last["replay_buffer"] is model.replay_buffer and last["learning_starts"] == 30
    assert last["num_collected_steps"] == 1 and last["num_collected_episodes"] == 0
    assert {"new_obs", "rewards", "dones", "infos", "env", "callback", "train_freq", "log_interval"} <= last.keys()


def test_the_mean_over_all_updates_is_logged(tmp_path):
    model = tiny_model(RandomEnv(), learning_starts=30)
    losses: list[float] = []
    update = model.updater

    def recorded(*args: Any) -> Any:
        output = update(*args)
        losses.append(float(output.logs["loss"]))
        return output

    model.updater = recorded
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(60, log_interval=1000)
    model.gradient_steps = 3
    model.learn(4, log_interval=1000, reset_num_timesteps=False)
    model.dump_logs()
    header, row = (tmp_path / "progress.csv").read_text(encoding="utf-8").splitlines()
    logged = dict(zip(header.split(","), row.split(","), strict=True))
    assert len(losses) == 30 + 12
    assert float(logged["train/loss"]) == pytest.approx(np.mean(losses), rel=1e-5)


# -- predictions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [spaces.Discrete(3), CONTINUOUS], ids=["discrete", "continuous"])
def test_predictions_draw_from_a_generator_of_their_own(action_space):
    """SB3's global seed governs it, and learning never uses it."""
    batch = np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32)

    def run(look: bool) -> EfficientZeroV2:
        model = tiny_model(RandomEnv(action_space=action_space)).learn(40)
        if look:
            model.predict(batch)
            model.policy.plan(batch)
            set_random_seed(5)
        else:
            set_random_seed(5)
            np.random.default_rng().random()
        return model.learn(20, reset_num_timesteps=False)

    th.manual_seed(0)
    looked_at, other = run(True), run(False)
    assert_same_parameters(looked_at, other)
    draws = []
    for seed in (1, 1, 2):
        set_random_seed(seed)
        draws.append([looked_at.predict(batch)[0] for _ in range(2)])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0][0] != draws[0][1]).any() and (draws[0][0] != draws[2][0]).any()


def test_a_prediction_with_another_number_of_simulations():
    model = tiny_model(RandomEnv()).learn(35)
    observation = np.zeros(3, np.float32)
    seen: list[int] = []
    plan = model.policy.search

    def search(*args: Any) -> Any:
        found = plan(*args)
        seen.append(int(found.visit_counts.sum()))
        return found

    model.policy.search = search
    for n_simulations in (None, 1, 20):
        action, _ = model.predict(observation, deterministic=True, n_simulations=n_simulations)
        assert model.action_space.contains(action)
    assert seen == [4, 1, 20] and model.n_simulations == model.policy.planner.n_simulations == 4
    with pytest.raises(ValueError, match="n_simulations=0"):
        model.predict(observation, n_simulations=0)


def test_warming_up_changes_nothing():
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(3)})

    def run(warm: bool) -> EfficientZeroV2:
        model = tiny_model(RandomEnv(space), policy="MultiInputPolicy")
        if warm:
            model.warm_up()
            model.warm_up(4)
        return model.learn(40)

    assert_same_parameters(run(True), run(False))


# -- policies ----------------------------------------------------------------------------------------------------------


def test_only_the_policy_for_dictionaries_gives_way_to_the_one_for_images():
    space = spaces.Dict({"image": spaces.Box(0, 255, (1, 32, 32), np.uint8), "vector": spaces.Box(-1.0, 1.0, (2,))})
    assert MlpPolicy is EZV2Policy and MultiInputPolicy is not MlpPolicy
    seen = tiny_model(RandomEnv(space), "MultiInputPolicy", policy_kwargs=TINY_IMAGES).policy
    flattened = tiny_model(RandomEnv(space), MlpPolicy).policy
    assert type(seen) is CnnPolicy and type(flattened) is EZV2Policy
    assert type(tiny_model(RandomEnv(), "MultiInputPolicy").policy) is MultiInputPolicy


def test_sizes_of_a_network_are_kept(tmp_path):
    model = tiny_model(RandomEnv())
    assert model.policy.network.latent_dim == 16 and model.policy.network.lstm_dim == 512
    model.policy.save(tmp_path / "policy")
    assert EZV2Policy.load(tmp_path / "policy").network == model.policy.network


# -- environments ------------------------------------------------------------------------------------------------------


class WithoutTerminalObservation(VecEnvWrapper):
    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        infos = [{key: value for key, value in info.items() if key != "terminal_observation"} for info in infos]
        return observations, rewards, dones, infos


def test_an_environment_without_terminal_observations():
    model = tiny_model(WithoutTerminalObservation(provenance_envs(2)))
    with pytest.raises(ValueError, match=r"environment 0 .*terminal_observation.*VecEnv"):
        model.learn(40)
    assert len(model.replay_buffer) == 12  # nothing of the step that ended an episode


def image_envs(n_envs: int = 2, space: spaces.Space = IMAGE) -> DummyVecEnv:
    return DummyVecEnv([lambda: RandomEnv(space)] * n_envs)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: VecNormalize(env, norm_obs=False),  # SB3 transposes outside of it
        lambda env: VecNormalize(VecTransposeImage(env), norm_obs=False),
        lambda env: VecFrameStack(VecNormalize(env, norm_obs=False), 2),
        lambda env: VecNormalize(VecFrameStack(env, 2), norm_obs=False),
    ],
)
def test_normalised_rewards_around_images(wrap):
    model = tiny_model(wrap(image_envs()), "CnnPolicy", policy_kwargs=TINY_IMAGES).learn(50)
    assert_finite_parameters(model)
    stored = model.replay_buffer.observations_at(np.array([0]))["observation"]
    assert stored.dtype == np.uint8 and stored.shape[1:] == model.observation_space.shape
    assert 1.0 in model.replay_buffer.rewards  # raw


def test_normalised_vectors_beside_images():
    space = spaces.Dict({"image": IMAGE, "vector": spaces.Box(-100.0, 100.0, (2,))})
    env = VecNormalize(image_envs(space=space), norm_obs_keys=["vector"])
    model = tiny_model(env, "MultiInputPolicy", policy_kwargs=TINY_IMAGES)
    assert isinstance(model.env, VecTransposeImage)  # outside of VecNormalize
    model.learn(50)
    stored = model.replay_buffer.observations_at(np.arange(40))
    assert stored["image"].shape == (40, 1, 32, 32) and np.abs(stored["vector"]).max() > 20  # raw
    seen = model.replay_buffer.observations_at(np.arange(40), model.normalizer)
    np.testing.assert_array_equal(seen["image"], stored["image"])
    assert np.abs(seen["vector"]).max() < 5


@pytest.mark.parametrize(
    "wrap, name",
    [
        (lambda: VecFrameStack(VecNormalize(DummyVecEnv([ProvenanceEnv])), 4), "VecFrameStack"),
        (
            lambda: VecExtractDictObs(
                VecNormalize(DummyVecEnv([lambda: RandomEnv(spaces.Dict({"a": spaces.Box(-1.0, 1.0, (3,))}))])), "a"
            ),
            "VecExtractDictObs",
        ),
    ],
)
def test_wrappers_that_hide_what_was_observed(wrap, name, tmp_path):
    with pytest.raises(ValueError, match=rf"{name} around VecNormalize.*VecNormalize\({name}\(env"):
        tiny_model(wrap())


def test_names_of_the_replay_buffer_in_sb3():
    model = tiny_model(provenance_envs(2), buffer_size=60, batch_size=4)
    assert model.replay_buffer.size() == 0 and model.replay_buffer.pos == 0 and not model.replay_buffer.full
    model.learn(40)
    assert model.replay_buffer.size() == len(model.replay_buffer) == 40
    assert model.replay_buffer.pos == 23 and not model.replay_buffer.full  # 20 transitions and 2 last observations
    model.learn(40, reset_num_timesteps=False)
    assert model.replay_buffer.full


def test_parameters_change_only_by_learning():
    model = tiny_model(gym.make("CartPole-v1"))
    before = parameters_of(model)
    model.warm_up()
    for name, value in parameters_of(model).items():
        np.testing.assert_array_equal(value, before[name])
