"""Whole inspections: an exact model, a page without anything outside, what is left out, and bad input."""

from __future__ import annotations

import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from sb3_ezv2.inspection import InspectionCallback, inspect_model
from sb3_ezv2.inspection.page import SECTIONS
from sb3_ezv2.networks.model import NetworkOutput
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, assert_same_parameters, tiny_model

GAMMA, LENGTH = 0.9, 8
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


class Chain(gym.Env):
    """Episodes begin in states 0 to 4 in turn and end in the state 8; the step from ``s`` gives ``s + 1``."""

    observation_space = spaces.Box(0.0, 10.0, (1,))
    action_space = DISCRETE
    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.begun = render_mode, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.begun % 5
        self.begun += 1
        return np.array([self.state], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.state += 1
        return np.array([self.state], np.float32), float(self.state), self.state == LENGTH, False, {}

    def render(self) -> np.ndarray:
        return np.full((20, 30, 3), 10 * self.state, np.uint8)


def returns(states: th.Tensor) -> th.Tensor:
    table = [sum(GAMMA**i * (s + 1) for i, s in enumerate(range(first, LENGTH))) for first in range(LENGTH + 1)]
    return th.tensor(table)[states.long().clamp(max=LENGTH)]


class ExactModel(nn.Module):
    """Knows the chain; its values are too large by ``shift``."""

    def __init__(self, action_kind: Any, shift: float) -> None:
        super().__init__()
        self.action_kind, self.shift = action_kind, shift
        self.representation = self.dynamics = self.heads = self.value_prefix = None
        self.register_buffer("reward_scale", th.ones(()))
        self.register_buffer("observation_count", th.ones(()))

    def projection(self, latents: th.Tensor) -> th.Tensor:
        return th.cat([latents.div(LENGTH).cos(), latents.div(LENGTH).sin()], dim=1)

    def _output(self, latents: th.Tensor, rewards: th.Tensor) -> NetworkOutput:
        policies = latents.new_zeros(len(latents), self.action_kind.output_dim)
        return NetworkOutput(latents, rewards, returns(latents[:, 0]) + self.shift, policies, latents[:, :0])

    def initial_inference(self, observations: dict[str, th.Tensor]) -> NetworkOutput:
        latents = observations["observation"].float()
        return self._output(latents, latents[:, 0] * 0.0)

    def recurrent_inference(self, latents: th.Tensor, actions: th.Tensor, memories: Any = None) -> NetworkOutput:
        rewards = th.where(latents[:, 0] < LENGTH, latents[:, 0] + 1.0, 0.0)
        return self._output((latents + 1.0).clamp(max=LENGTH), rewards)


@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_an_exact_model_and_one_whose_values_are_shifted(shift):
    model = tiny_model(Chain(), gamma=GAMMA)
    model.policy.average_model = ExactModel(model.policy.action_kind, shift)
    report = inspect_model(model, Chain(render_mode="rgb_array"), n_episodes=4)
    found = report.numbers()
    assert (found["episodes"], found["steps"], found["known_returns"]) == (4.0, 8 + 7 + 6 + 5, 26.0)
    assert found["return"] == pytest.approx(np.mean([36, 35, 33, 30]))
    assert found["network_bias"] == pytest.approx(shift, abs=1e-4)
    # Searches discount the shift by as many steps as their nodes are deep.
    assert GAMMA**4 * shift - 1e-4 <= found["root_bias"] <= shift + 1e-4
    assert found["network_error"] == pytest.approx(shift**2 / report.calibration.returns.var(), abs=1e-4)
    for name in ("reward_error_1", "value_error_1", "latent_error_1", "reward_error_5", "latent_error_5"):
        assert found[name] == pytest.approx(0.0, abs=1e-5), name
    assert math.isnan(found["reward_error_15"])
    assert found["policy_entropy"] == pytest.approx(np.log(3), rel=1e-4)
    assert report.left_out == []
    np.testing.assert_allclose(report.imagined.imagined_rewards, np.arange(1.0, 9.0))
    assert report.episodes[0].frames[4].max() == 40 and report.decision_step == 4


CASES = {
    "discrete": ("MlpPolicy", None, DISCRETE),
    "box": ("MlpPolicy", None, CONTINUOUS),
    "box1": ("MlpPolicy", None, ONE_DIMENSION),
    "box3": ("MlpPolicy", None, spaces.Box(-1.0, 1.0, (3,))),
    "images": ("CnnPolicy", IMAGE, DISCRETE),
    "dict": (
        "MultiInputPolicy",
        spaces.Dict({"image": IMAGE, "place": spaces.Box(-1.0, 1.0, (2,)), "kind": spaces.Discrete(3, start=1)}),
        CONTINUOUS,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_page_for_every_space(case, tmp_path):
    policy, observation_space, action_space = CASES[case]
    network = {} if policy == "MlpPolicy" else {"policy_kwargs": {}}

    def make() -> RandomEnv:
        return RandomEnv(observation_space, action_space)

    model = tiny_model(make(), policy, **network)
    model.learn(45)
    before = model.get_parameters()
    report = inspect_model(model, make(), n_episodes=2, seed=1)
    figures = report.figures()
    drawn = {name for names, _ in SECTIONS.values() for name in names}
    assert set(figures) <= drawn
    absent = drawn - set(figures)
    has_image = case in ("images", "dict")
    assert absent == (
        (set() if has_image else {"nearest_frames", "decision_frame"})
        | (set() if case in ("box", "box1", "dict") else {"decision_box"})
    )
    text = report.write(tmp_path / "new" / "page.html", figures).read_text(encoding="utf-8")
    assert text.count('<img alt="') == len(figures) == text.count("data:image/png;base64,")
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text  # nothing from outside
    assert any("renders nothing" in line for line in report.left_out)
    assert any("3 dimensions" in line for line in report.left_out) == (case == "box3")
    for name in report.numbers():
        assert f"<code>{name}</code>" in text
    after = model.get_parameters()
    for part, tensors in before["policy"].items():
        assert th.equal(tensors, after["policy"][part])


def test_a_seed_gives_the_same_report():
    model = tiny_model(RandomEnv()).learn(45)
    first, second = (inspect_model(model, RandomEnv(), deterministic=False, seed=3).numbers() for _ in range(2))
    np.testing.assert_equal(first, second)
    other = inspect_model(model, RandomEnv(), deterministic=False, seed=4).numbers()
    assert other["root_mean"] != first["root_mean"]


def test_several_environments_share_the_episodes():
    model = tiny_model(RandomEnv()).learn(45)
    report = inspect_model(model, DummyVecEnv([RandomEnv] * 3), n_episodes=4)
    assert len(report.episodes) == 4 and report.numbers()["episodes"] == 4.0


def test_the_statistics_of_vec_normalize_stand_still():
    env = VecNormalize(DummyVecEnv([RandomEnv]))
    model = tiny_model(env).learn(45)
    other = VecNormalize(DummyVecEnv([RandomEnv]))
    other.obs_rms, other.ret_rms = env.obs_rms, env.ret_rms
    count = env.obs_rms.count
    report = inspect_model(model, other, n_episodes=2)
    assert env.obs_rms.count == count and other.training
    assert abs(report.episodes[0].rewards).max() < 7  # normalised, as the values are


# -- what is left out, and bad input -----------------------------------------------------------------------------------


def test_a_report_says_what_it_left_out():
    untrained = tiny_model(RandomEnv())
    report = inspect_model(untrained, RandomEnv(length=50), n_episodes=3, max_steps=30)
    assert len(report.episodes) == 1 and report.numbers()["episodes"] == 0.0
    lines = report.left_out
    assert any("has made no update" in line for line in lines)
    assert any("the end of 3 of 3 episodes: the budget of 30 steps" in line for line in lines)
    assert any("no return is known to 1 %" in line for line in lines)
    assert any("renders nothing; make it with render_mode='rgb_array'" in line for line in lines)
    assert not any("\n" in line for line in lines)
    assert report.calibration is None and "calibration_root" not in report.figures()
    assert math.isnan(report.numbers()["root_bias"])


def test_a_policy_that_was_handed_on_is_not_called_untrained(tmp_path):
    model = tiny_model(RandomEnv()).learn(45)
    model.save_policy(tmp_path / "policy.pt")
    loaded = type(model).load(tmp_path / "policy.pt", device="cpu")
    assert not any("no update" in line for line in inspect_model(loaded, RandomEnv(), n_episodes=1).left_out)


def test_rendering_that_fails_is_no_error():
    class Broken(Chain):
        def render(self) -> np.ndarray:
            raise RuntimeError("no display")

    report = inspect_model(tiny_model(Chain()), Broken(render_mode="rgb_array"), n_episodes=1)
    assert "the rendered frame: rendering failed: RuntimeError: no display" in report.left_out


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_episodes": 0}, "n_episodes=0 must be a whole number of at least 1"),
        ({"n_episodes": 1.5}, "n_episodes=1.5 must be"),
        ({"max_steps": -3}, "max_steps=-3 must be"),
        ({"env": "NoSuchTask-v0"}, "env='NoSuchTask-v0' cannot be made"),
        ({"env": 7}, "env=7 must be a Gymnasium environment"),
        ({"env": RandomEnv(spaces.Box(-1.0, 1.0, (5,)))}, "Observation spaces do not match"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        inspect_model(tiny_model(RandomEnv()), **{"env": RandomEnv(), **change})
    assert "\n" not in str(caught.value)


def test_a_model_of_another_algorithm_is_refused():
    other = PPO("MlpPolicy", "CartPole-v1", device="cpu")
    with pytest.raises(ValueError, match="is a PPO; only models of EfficientZeroV2") as caught:
        inspect_model(other, "CartPole-v1")
    assert "\n" not in str(caught.value)


# -- the callback ------------------------------------------------------------------------------------------------------


def test_a_run_is_the_same_with_the_callback(tmp_path):
    callback = InspectionCallback(RandomEnv(), every=40, folder=tmp_path / "pages", n_episodes=1)
    looked_at = tiny_model(RandomEnv()).learn(90, callback=callback)
    assert_same_parameters(looked_at, tiny_model(RandomEnv()).learn(90))
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {"inspection_40.html", "inspection_80.html"}


def test_pictures_reach_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = tiny_model(RandomEnv(), tensorboard_log=str(tmp_path))
    model.learn(50, callback=InspectionCallback(RandomEnv(), every=45))
    (run,) = tmp_path.iterdir()
    assert (run / "inspection_45.html").is_file()
    found = events.EventAccumulator(str(run)).Reload()
    assert "pictures/model_error" in found.Tags()["images"] and len(found.Tags()["images"]) > 8
    assert found.Scalars("inspect/departure_rate")[0].step == 45


def test_a_callback_follows_vec_normalize(tmp_path):
    env, other = (VecNormalize(DummyVecEnv([RandomEnv])) for _ in range(2))
    model = tiny_model(env)
    model.learn(45, callback=InspectionCallback(other, every=40, folder=tmp_path))
    assert other.obs_rms.count == pytest.approx(env.obs_rms.count, abs=6)


@pytest.mark.parametrize("every", [0, -1, 2.5, True])
def test_a_callback_needs_a_whole_number(every):
    with pytest.raises(ValueError, match=f"every={every} must be a whole number"):
        InspectionCallback("CartPole-v1", every=every)


def test_a_callback_needs_a_folder():
    model = tiny_model(RandomEnv())
    model.set_logger(Logger(None, []))
    with pytest.raises(ValueError, match="folder=None"):
        model.learn(40, callback=InspectionCallback(RandomEnv()))
