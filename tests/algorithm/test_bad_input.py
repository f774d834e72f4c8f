"""What cannot work is refused by name, with its value and a remedy, and the model stays usable."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ezv2 import EfficientZeroV2, TrajectoryReplayBuffer
from sb3_ezv2.common.spaces import check_observation_space
from tests.helpers.envs import ProvenanceEnv, RandomEnv, Tampered
from tests.helpers.tiny import (
    assert_finite_parameters,
    assert_windows_name_themselves,
    parameters_of,
    provenance_envs,
    tiny_model,
)


def assert_usable(model: EfficientZeroV2, path: Path) -> None:
    """It predicts, saves, loads and learns on."""
    observation = model.observation_space.sample()
    action, _ = model.predict(observation, deterministic=True)
    assert model.action_space.contains(action)
    model.save(path / "usable")
    loaded, _ = EfficientZeroV2.load(path / "usable").predict(observation, deterministic=True)
    np.testing.assert_allclose(loaded, action)
    n_updates, n_steps = model._n_updates, model.num_timesteps
    model.learn(40, reset_num_timesteps=False)
    assert model.num_timesteps == n_steps + 40
    assert model._n_updates > n_updates or model.batch_size > 40
    assert_finite_parameters(model)


# -- spaces ------------------------------------------------------------------------------------------------------------

BAD_ACTION_SPACES = {
    "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,)))),
    "Dict": spaces.Dict({"a": spaces.Discrete(2)}),
    "equal_bounds": spaces.Box(np.array([0.0, 1.0], np.float32), np.array([1.0, 1.0], np.float32)),
}


class Declared(gym.Env):
    """An environment that only declares its spaces."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}


@pytest.mark.parametrize("kind", BAD_ACTION_SPACES)
def test_action_spaces(kind):
    space = BAD_ACTION_SPACES[kind]
    with pytest.raises(ValueError) as error:
        tiny_model(Declared(spaces.Box(-1.0, 1.0, (2,)), space))
    message = str(error.value)
    assert "action space" in message and str(space) in message
    assert "Discrete" in message or "finite" in message


@pytest.mark.parametrize("bound", [-np.inf, np.nan])
def test_action_space_with_a_bound_that_is_not_finite(bound):
    space = spaces.Box(-1.0, 1.0, (2,))
    space.low = np.array([bound, -1.0], np.float32)
    with pytest.raises((ValueError, AssertionError), match=r"(?s)action space.*finite"):  # SB3 has an own check
        tiny_model(Declared(spaces.Box(-1.0, 1.0, (2,)), space))


def test_action_space_of_integers_is_refused_or_respected():
    """A ``Box`` of integers: whatever is predicted belongs to it."""
    space = spaces.Box(0, 10, (2,), np.int32)
    try:
        model = tiny_model(RandomEnv(action_space=space))
    except ValueError as error:
        assert "action space" in str(error)
        return
    model.learn(40)
    for deterministic in (True, False):
        action, _ = model.predict(np.zeros(3, np.float32), deterministic=deterministic)
        assert space.contains(action), (action, action.dtype)


BAD_OBSERVATION_SPACES = {
    "Text": spaces.Text(5),
    "Tuple": spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))),
    "Sequence": spaces.Sequence(spaces.Discrete(2)),
    "Graph": spaces.Graph(spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(2)),
    "nested": spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}),
    "part": spaces.Dict({"good": spaces.Discrete(2), "a": spaces.Text(3)}),
}


@pytest.mark.parametrize("kind", BAD_OBSERVATION_SPACES)
def test_observation_spaces(kind):
    """Checked directly: SB3 cannot even wrap an environment with some of them."""
    space = BAD_OBSERVATION_SPACES[kind]
    with pytest.raises(ValueError, match=r"(?s)observation space.*use Box, Discrete") as error:
        check_observation_space(space)
    part = space["a"] if isinstance(space, spaces.Dict) else space
    assert str(part) in str(error.value)


def test_a_matrix_of_discrete_observations():
    """SB3 flattens only vectors of discrete values."""
    space = spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]))
    with pytest.raises(ValueError, match=r"(?s)observation space.*MultiDiscrete"):
        tiny_model(Declared(space, spaces.Discrete(2)))


# -- numbers -----------------------------------------------------------------------------------------------------------

BAD_ARGUMENTS: dict[str, list[Any]] = {
    "buffer_size": [0, -5],
    "batch_size": [0, -1],
    "n_simulations": [0, -3],
    "n_candidates": [0],
    "n_considered": [0, -1, 100],
    "max_depth": [0, -1, 1.5],
    "n_policy_candidates": [-1, 100],
    "flatten_factor": [0.5, float("nan")],
    "unroll_steps": [0],
    "td_steps": [0, 2.5],
    "novelty_coef": [-1.0, float("nan"), "much"],
    "td_phase": [-1, -0.5],
    "td_fresh": [-1, -0.5],
    "value_target": ["td", None],
    "search_value": ["root", 1],
    "act_with": ["random", None],
    "target_update_interval": [0],
    "priority_beta": [-0.1],
    "learning_starts": [-1],
    "gamma": [-0.1, 1.1, float("nan")],
    "gradient_steps": [-2],
    "train_freq": [0, -1, (0, "step"), (1, "minute")],
    "max_grad_norm": [0.0, -1.0],
    "n_threads": [0, -2],
    "reward_coef": [-1.0],
    "value_coef": [-1.0],
    "policy_coef": [-1.0],
    "consistency_coef": [-1.0],
    "ent_coef": [-1.0, float("nan")],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD_ARGUMENTS.items() for value in values])
def test_arguments(name, value):
    with pytest.raises(ValueError) as error:
        tiny_model(RandomEnv(), **{name: value})
    message = str(error.value)
    assert name in message, message
    number = (
        value[0] if isinstance(value, tuple) and value[1] == "step" else value[1] if isinstance(value, tuple) else value
    )
    assert str(number) in message, message
    assert any(word in message for word in ("must", "use", "lower", "larger", "smaller")), message


def test_more_considered_actions_than_candidates():
    with pytest.raises(ValueError, match=r"n_considered=4.*3.*lower"):
        tiny_model(RandomEnv(), n_considered=4)  # three discrete actions
    with pytest.raises(ValueError, match=r"n_considered=9.*8.*(lower|raise)"):
        tiny_model(RandomEnv(action_space=spaces.Box(-1.0, 1.0, (1,))), n_considered=9, n_candidates=8)
    assert tiny_model(RandomEnv(), n_considered=3).policy.planner.n_considered == 3


def test_a_batch_larger_than_the_buffer():
    with pytest.raises(ValueError, match=r"batch_size=64.*buffer_size=50.*(larger|smaller)"):
        tiny_model(RandomEnv(), batch_size=64, buffer_size=50)


def test_a_buffer_too_small_for_the_environments():
    with pytest.raises(ValueError, match=r"buffer_size=8.*n_envs=4"):
        tiny_model(DummyVecEnv([RandomEnv] * 4), buffer_size=8, batch_size=4)


def test_a_batch_larger_than_the_data(tmp_path):
    model = tiny_model(RandomEnv(), batch_size=64).learn(40)
    assert model._n_updates == 0  # learning waits for enough data
    with pytest.raises(ValueError, match=r"batch_size=64.*40 transitions"):
        model.train(1)
    assert_usable(model, tmp_path)


def test_no_updates_asked_for():
    """``gradient_steps=0`` collects only."""
    model = tiny_model(RandomEnv(), gradient_steps=0)
    before = parameters_of(model)
    model.learn(40)
    assert model._n_updates == 0
    for name, value in parameters_of(model).items():
        np.testing.assert_array_equal(value, before[name])


def test_unknown_policy():
    with pytest.raises(ValueError, match="NoSuchPolicy"):
        tiny_model(RandomEnv(), policy="NoSuchPolicy")


def test_a_policy_of_another_algorithm():
    with pytest.raises(ValueError, match="ActorCriticPolicy"):
        EfficientZeroV2(PPO.policy_aliases["MlpPolicy"], RandomEnv())


def test_unknown_policy_argument():
    with pytest.raises(
        ValueError, match="'net_architecture' is not among EZV2Policy's policy_kwargs; the nearest name is"
    ):
        tiny_model(RandomEnv(), policy_kwargs={"net_architecture": [64]})
    with pytest.raises(ValueError, match="'n_simulations' is not among"):
        tiny_model(RandomEnv(), policy_kwargs={"n_simulations": 4})


# -- observations at a call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2,), (4,), (5, 4), (2, 3, 3)])
def test_wrong_observation_shape(shape, tmp_path):
    model = tiny_model(RandomEnv()).learn(35)
    for call in (model.predict, model.policy.plan):
        with pytest.raises(ValueError, match=r"(?s)shape"):
            call(np.zeros(shape, np.float32))
    assert_usable(model, tmp_path)


def test_missing_key_of_a_dict_observation():
    space = spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(2)})
    model = tiny_model(RandomEnv(space), policy="MultiInputPolicy")
    with pytest.raises((ValueError, KeyError)):
        model.predict({"a": np.zeros(2, np.float32)})


def test_environment_of_other_spaces(tmp_path):
    model = tiny_model(RandomEnv()).learn(35)
    with pytest.raises(ValueError, match="[Oo]bservation"):
        model.set_env(RandomEnv(spaces.Box(-1.0, 1.0, (4,))))
    with pytest.raises(ValueError, match="[Aa]ction"):
        model.set_env(RandomEnv(action_space=spaces.Discrete(4)))
    assert_usable(model, tmp_path)


# -- what the environment returns --------------------------------------------------------------------------------------


def with_value(value: float, part: str) -> Callable[[Any, float], tuple[Any, float]]:
    """Puts a bad number into the observation or the reward."""

    def change(observation: np.ndarray, reward: float) -> tuple[np.ndarray, float]:
        if part == "reward":
            return observation, value
        observation = observation.copy()
        observation[1] = value
        return observation, reward

    return change


# Of the steps of ``ProvenanceEnv``, the 7th and the 16th end an episode (one by termination, one by a time limit).
@pytest.mark.parametrize("at, value", [(1, np.nan), (5, np.inf), (7, np.nan), (16, -np.inf), (33, np.nan)])
@pytest.mark.parametrize("part", ["observation", "reward"])
def test_bad_number_from_the_environment(at, value, part):
    env = DummyVecEnv([ProvenanceEnv, lambda: Tampered(ProvenanceEnv(1), at, with_value(value, part))])
    model = tiny_model(env)
    with pytest.raises(ValueError) as error:
        model.learn(100)
    message = str(error.value)
    assert part in message and str(value) in message and "1" in message and "wrapper" in message
    assert model.num_timesteps == len(model.replay_buffer) == 2 * (at - 1)  # nothing of that step, of no environment
    assert_finite_parameters(model)
    episode, step = {1: (0, 0), 5: (0, 4), 7: (0, 6), 16: (1, 8), 33: (4, 0)}[at]
    model.learn(50, reset_num_timesteps=False)
    assert_windows_name_themselves(model.replay_buffer, closed={(0, episode, step), (1, episode, step)})
    assert_finite_parameters(model)
    assert model._n_updates > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_number_in_the_first_observation(value):
    model = tiny_model(Tampered(ProvenanceEnv(), 0, with_value(value, "observation")))
    with pytest.raises(ValueError, match="observation"):
        model.learn(40)
    assert len(model.replay_buffer) == 0
    model.learn(60)
    assert_windows_name_themselves(model.replay_buffer)
    assert_finite_parameters(model)


def test_parameters_that_are_not_finite_are_reported_as_such():
    """Not as a failure somewhere inside the search: hyperparameter searches go on after a ``ValueError``."""
    model = tiny_model(RandomEnv()).learn(35)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.fill_(np.nan)
    with pytest.raises((ValueError, AssertionError)):
        model.learn(5, reset_num_timesteps=False)


def test_bad_number_in_a_part_of_a_dict():
    space = spaces.Dict({"fine": spaces.Discrete(2), "bad": spaces.Box(-1.0, 1.0, (2,))})

    def change(observation: dict[str, Any], reward: float) -> tuple[dict[str, Any], float]:
        return {**observation, "bad": np.array([0.0, np.nan], np.float32)}, reward

    model = tiny_model(Tampered(RandomEnv(space), 20, change), policy="MultiInputPolicy")
    with pytest.raises(ValueError, match=r"observation.*bad"):
        model.learn(100)
    assert len(model.replay_buffer) == 19
    model.learn(60, reset_num_timesteps=False)
    assert_finite_parameters(model)


def test_an_error_of_the_environment_passes_through(tmp_path):
    def change(observation: Any, reward: float) -> tuple[Any, float]:
        raise RuntimeError("the simulator is gone")

    model = tiny_model(DummyVecEnv([lambda: Tampered(ProvenanceEnv(), 38, change)]))
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        model.learn(100)
    assert len(model.replay_buffer) == 37
    assert_usable(model, tmp_path)
    # Step 38 would have been the 6th of episode 4.
    assert_windows_name_themselves(model.replay_buffer, closed={(0, 4, 5)})


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "text.zip").write_text("not a model", encoding="utf-8")
    with pytest.raises(ValueError, match="zip"):
        EfficientZeroV2.load(tmp_path / "text.zip")
    with pytest.raises(FileNotFoundError):
        EfficientZeroV2.load(tmp_path / "missing.zip")


def test_a_truncated_model(tmp_path):
    model = tiny_model(RandomEnv())
    model.save(tmp_path / "model.zip")
    contents = (tmp_path / "model.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(contents[: len(contents) // 2])
    with pytest.raises((ValueError, AssertionError), match=r"zip|No data"):  # SB3's own
        EfficientZeroV2.load(tmp_path / "cut.zip")
    with pytest.raises(ValueError):
        model.set_parameters(str(tmp_path / "cut.zip"))
    assert_usable(model, tmp_path)


def test_a_zip_file_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises((ValueError, AssertionError), match="is not a model of this algorithm"):  # SB3's own
        EfficientZeroV2.load(tmp_path / "other.zip")


def test_a_model_of_another_algorithm(tmp_path):
    PPO("MlpPolicy", RandomEnv(), n_steps=8, batch_size=8, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(ValueError, match="(?i)policy|EfficientZeroV2"):
        EfficientZeroV2.load(tmp_path / "ppo")


def test_parameters_of_another_network(tmp_path):
    model = tiny_model(RandomEnv())
    other = tiny_model(RandomEnv(), policy_kwargs={"latent_dim": 8, "hidden_dim": 8, "projection_dim": 8})
    with pytest.raises((ValueError, RuntimeError), match="(?s)size|shape"):
        model.set_parameters(other.get_parameters())
    assert_finite_parameters(model)


def test_a_corrupt_replay_buffer(tmp_path):
    model = tiny_model(RandomEnv()).learn(35)
    model.save_replay_buffer(tmp_path / "buffer")
    contents = (tmp_path / "buffer.pkl").read_bytes()
    for name, corrupt in {"cut": contents[: len(contents) // 2], "text": b"not a buffer", "empty": b""}.items():
        (tmp_path / f"{name}.pkl").write_bytes(corrupt)
        before = model.replay_buffer
        with pytest.raises((ValueError, pickle.UnpicklingError, EOFError)):
            model.load_replay_buffer(tmp_path / f"{name}.pkl")
        assert model.replay_buffer is before
    assert_usable(model, tmp_path)


def test_a_pickle_of_something_else(tmp_path):
    model = tiny_model(RandomEnv()).learn(35)
    stream = io.BytesIO(pickle.dumps({"not": "a buffer"}))
    before = model.replay_buffer
    with pytest.raises(ValueError, match="dict.*TrajectoryReplayBuffer"):
        model.load_replay_buffer(stream)
    assert model.replay_buffer is before
    assert_usable(model, tmp_path)


@pytest.mark.parametrize(
    "env, name",
    [
        (RandomEnv(spaces.Box(-1.0, 1.0, (4,))), "observation_space"),
        (RandomEnv(action_space=spaces.Discrete(4)), "action_space"),
        (DummyVecEnv([RandomEnv, RandomEnv]), "n_envs"),
    ],
    ids=["observations", "actions", "n_envs"],
)
def test_a_replay_buffer_of_other_spaces(env, name, tmp_path):
    tiny_model(env).save_replay_buffer(tmp_path / "other")
    model = tiny_model(RandomEnv()).learn(35)
    before = model.replay_buffer
    with pytest.raises(ValueError, match=rf"(?s){name}=.*model has"):
        model.load_replay_buffer(tmp_path / "other.pkl")
    assert model.replay_buffer is before and isinstance(before, TrajectoryReplayBuffer)
    assert_usable(model, tmp_path)


# -- interruption ------------------------------------------------------------------------------------------------------


def interrupt(observation: Any, reward: float) -> tuple[Any, float]:
    """Ctrl-C in the middle of a step."""
    raise KeyboardInterrupt


class Interrupt(BaseCallback):
    """Ctrl-C after a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            raise KeyboardInterrupt
        return True


@pytest.mark.parametrize("at, reset_num_timesteps", [(1, True), (16, True), (16, False), (38, False)])
def test_ctrl_c_inside_a_step(at, reset_num_timesteps, tmp_path):
    """The second of two environments is interrupted after the first one has made its step."""
    model = tiny_model(DummyVecEnv([ProvenanceEnv, lambda: Tampered(ProvenanceEnv(1), at, interrupt)]))
    with pytest.raises(KeyboardInterrupt):
        model.learn(200)
    assert len(model.replay_buffer) == 2 * (at - 1)
    episode, step = {1: (0, 0), 16: (1, 8), 38: (4, 5)}[at]
    model.learn(50, reset_num_timesteps=reset_num_timesteps)
    assert_windows_name_themselves(model.replay_buffer, closed={(env, episode, step) for env in (0, 1)})
    assert_usable(model, tmp_path)


def test_ctrl_c_in_a_callback(tmp_path):
    model = tiny_model(provenance_envs(2))
    with pytest.raises(KeyboardInterrupt):
        model.learn(200, Interrupt(37))
    assert len(model.replay_buffer) == model.num_timesteps == 74
    model.learn(20, reset_num_timesteps=False)
    assert_windows_name_themselves(model.replay_buffer)  # the step was complete: the episodes go on
    assert_usable(model, tmp_path)
    assert_windows_name_themselves(model.replay_buffer)


@pytest.mark.parametrize("method", ["sample", "update_priorities"])
def test_ctrl_c_in_an_update(method, tmp_path, monkeypatch):
    model = tiny_model(provenance_envs()).learn(35)
    original, calls = getattr(model.replay_buffer, method), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(model.replay_buffer, method, interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.learn(60, reset_num_timesteps=False)
    monkeypatch.undo()
    assert_usable(model, tmp_path)
    assert_windows_name_themselves(model.replay_buffer)


def test_ctrl_c_between_saving_and_loading(tmp_path):
    """A model saved right after an interruption learns on from a reset when loaded."""
    model = tiny_model(DummyVecEnv([lambda: Tampered(ProvenanceEnv(), 38, interrupt)]))
    with pytest.raises(KeyboardInterrupt):
        model.learn(200)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=provenance_envs())
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert len(loaded.replay_buffer) == 37
    loaded.learn(20, reset_num_timesteps=False)
    assert len(loaded.replay_buffer) == 57
    assert_finite_parameters(loaded)
