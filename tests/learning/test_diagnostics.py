"""The numbers of the log: models with known errors give them, and looking changes nothing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ezv2 import TrajectoryReplayBuffer
from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.learning import symptoms
from sb3_ezv2.learning.calibration import MAX_STEPS, WINDOW, Calibration
from sb3_ezv2.learning.diagnostics import Diagnostics
from sb3_ezv2.learning.model_errors import fresh_states, inspect_model, newest_ends, relative_error
from sb3_ezv2.learning.search_statistics import search_statistics
from sb3_ezv2.learning.symptoms import Symptoms
from sb3_ezv2.networks.model import NetworkOutput
from sb3_ezv2.planning.planner import Planner
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    DISCRETE,
    ONE_DIMENSION,
    assert_same_parameters,
    provenance_envs,
    tiny_model,
    tiny_network,
)

ROOT = Path(__file__).parents[2]
LENGTH, DISCOUNT, UNROLL, TD_STEPS = 8, 0.9, 3, 10


def chain_return(state: float) -> float:
    """Of the chain whose step from ``s`` gives ``s + 1`` and which ends in the state ``LENGTH``."""
    return sum(DISCOUNT**i * (s + 1) for i, s in enumerate(range(int(state), LENGTH)))


RETURNS = th.tensor([chain_return(s) for s in range(LENGTH + 1)])


class ChainModel:
    """Knows the chain, but for known errors.

    :param value_shift: added to all values
    :param reward_shift: added to all rewards
    :param mean_reward: predicted in place of every reward, if given
    :param step: what is added to the latent state at every step, 1 being right
    """

    reward_scale = th.tensor(2.0)

    def __init__(
        self, value_shift: float = 0.0, reward_shift: float = 0.0, mean_reward: float | None = None, step: float = 1.0
    ) -> None:
        self.value_shift, self.reward_shift, self.mean_reward, self.step = value_shift, reward_shift, mean_reward, step

    def values(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        return self._value(observations["observation"])

    def projection(self, latents: th.Tensor) -> th.Tensor:
        return th.cat([latents.div(LENGTH).cos(), latents.div(LENGTH).sin()], dim=1)

    def _value(self, latents: th.Tensor) -> th.Tensor:
        return RETURNS[latents[:, 0].long().clamp(max=LENGTH)] + self.value_shift

    def initial_inference(self, observations: dict[str, th.Tensor]) -> NetworkOutput:
        latents = observations["observation"].float()
        nothing = latents[:, :0]
        return NetworkOutput(latents, latents[:, 0] * 0.0, self._value(latents), nothing, nothing)

    def recurrent_inference(self, latents: th.Tensor, actions: th.Tensor, memories: th.Tensor) -> NetworkOutput:
        rewards = th.where(latents[:, 0] < LENGTH, latents[:, 0] + 1.0, 0.0) + self.reward_shift
        if self.mean_reward is not None:
            rewards = th.full_like(rewards, self.mean_reward)
        latents = (latents + self.step).clamp(max=LENGTH)
        return NetworkOutput(latents, rewards, self._value(latents), memories, memories)


def chain_buffer(n_steps: int, n_envs: int = 1, rows: int = 400) -> TrajectoryReplayBuffer:
    """Several whole episodes of the chain in every environment."""
    buffer = TrajectoryReplayBuffer(rows * n_envs, spaces.Box(0.0, 10.0, (1,)), DISCRETE, n_envs=n_envs)
    state = 0
    for _ in range(n_steps):
        done = state == LENGTH - 1
        following = 0 if done else state + 1
        end = {"terminal_observation": np.array([LENGTH], np.float32)} if done else {}
        buffer.add(
            np.full((n_envs, 1), state, np.float32),
            np.full((n_envs, 1), following, np.float32),
            np.zeros(n_envs, np.int64),
            np.full(n_envs, state + 1.0, np.float32),
            np.full(n_envs, done),
            [dict(end) for _ in range(n_envs)],
        )
        state = following
    return buffer


def inspected(model: ChainModel, **kwargs: Any) -> dict[str, float]:
    values, errors = inspect_model(model, chain_buffer(200), 1_000, UNROLL, TD_STEPS, DISCOUNT, **kwargs)
    return {name: float(number) for name, number in (values | errors).items()}


# -- values and the model ----------------------------------------------------------------------------------------------


def test_an_exact_model_has_no_error():
    found = inspected(ChainModel())
    assert found.pop("mean") == pytest.approx(found.pop("target"), rel=1e-6)
    assert found.pop("reward_unit") == 2.0
    assert len(found) == 9
    assert found == {name: pytest.approx(0.0, abs=1e-5) for name in found}


def test_values_shifted_by_10_have_a_bias_of_10():
    found = inspected(ChainModel(value_shift=10.0))
    assert found["bias"] == pytest.approx(10.0, rel=1e-5)
    assert found["mean"] - found["target"] == pytest.approx(10.0, rel=1e-5)
    assert found["value_behind_end"] == pytest.approx(10.0) and found["reward_behind_end"] == 0.0
    assert found["value_error_all"] == pytest.approx(0.0, abs=1e-6)  # the model is exact, the values are wrong


def test_the_mean_of_rewards_has_an_error_of_1():
    buffer = chain_buffer(200)
    starts = fresh_states(buffer, 1_000)
    mean = float(buffer.rewards.reshape(-1)[starts].mean())
    assert inspected(ChainModel(mean_reward=mean))["reward_error_1"] == pytest.approx(1.0, rel=1e-5)


def test_shifted_rewards_have_the_error_of_the_shift():
    buffer = chain_buffer(200)
    spread = buffer.rewards.reshape(-1)[fresh_states(buffer, 1_000)].var()
    found = inspected(ChainModel(reward_shift=0.5))
    assert found["reward_error_1"] == pytest.approx(0.25 / spread, rel=1e-4)
    assert found["reward_behind_end"] == pytest.approx(0.5)


def test_a_wrong_model_is_worse_after_more_steps():
    found = inspected(ChainModel(step=2.0))
    for name in ("latent", "value"):
        assert 0.01 < found[f"{name}_error_1"] < found[f"{name}_error_all"]


def test_the_relative_error():
    counts = th.tensor([True, True, True, False])
    real = th.tensor([1.0, 2.0, 3.0, 99.0])
    assert relative_error(real, real, counts).item() == 0.0
    assert relative_error(th.full((4,), 2.0), real, counts).item() == 1.0
    assert relative_error(real + 1.0, real, counts).item() == pytest.approx(3.0 / 2.0)
    assert relative_error(real.unsqueeze(1).repeat(1, 2) + 1.0, real.unsqueeze(1).repeat(1, 2), counts) == 1.5
    assert relative_error(real, th.ones(4), counts).isnan() and relative_error(real, real, counts & False).isnan()


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_steps, rows", [(30, 400), (300, 400), (700, 300)])
def test_fresh_states_and_newest_ends(n_envs, n_steps, rows):
    buffer = chain_buffer(n_steps, n_envs, rows)
    kinds, ids = buffer.kinds.reshape(-1), buffer.ids_at(np.arange(buffer.n_slots))
    for age in (0, 100, 10**9):
        slots = fresh_states(buffer, age, n=20)
        assert len(set(slots)) == len(slots) > 5
        ages = buffer.n_observations - ids[slots]
        assert ages.max() <= max(age, 20) + 2 * n_envs
        assert {slot % n_envs for slot in slots} == set(range(n_envs))
        if age == 10**9:
            assert ages.max() > 0.7 * (ids.max() - ids[ids >= 0].min())
    ends = newest_ends(buffer, n=3)
    _, terminal, following = buffer.transitions_at(ends)
    assert len(ends) == min(3, n_steps // LENGTH * n_envs) and terminal.all()
    newest = np.sort(ids[np.flatnonzero(kinds == kinds[following[0]])])[-len(ends) :]
    assert sorted(ids[following]) == newest.tolist()


# -- calibration -------------------------------------------------------------------------------------------------------


def feed(calibration: Calibration, values: Any, rewards: Any, end: str = "") -> None:
    """One environment's stream; ``end`` says how its last step ends."""
    for i, (value, reward) in enumerate(zip(values, rewards, strict=True)):
        done = bool(end) and i == len(rewards) - 1
        root = None if value is None else np.array([value])
        calibration.add(root, np.array([reward]), np.array([done]), np.array([done and end == "terminated"]))


@pytest.mark.parametrize("shift", [0.0, 10.0])
def test_calibration_on_a_chain(shift):
    calibration = Calibration(DISCOUNT, 1)
    for _ in range(3):
        feed(calibration, RETURNS[:-1].numpy() + shift, np.arange(1.0, LENGTH + 1), "terminated")
    found = calibration.summary()
    assert found is not None and found.n_known == 3 * LENGTH
    assert found.bias == pytest.approx(shift, abs=1e-5)
    assert found.error == pytest.approx(shift**2 / RETURNS[:-1].numpy().var(), abs=1e-5)
    assert found.mean_return == pytest.approx(RETURNS[:-1].mean().item())
    assert calibration.largest_return == pytest.approx(RETURNS[0].item())


def test_only_known_returns_count():
    calibration = Calibration(DISCOUNT, 1)
    feed(calibration, np.zeros(LENGTH), np.ones(LENGTH), "truncated")
    assert calibration.summary() is None  # 0.9^8 is far above 0.01
    assert calibration.largest_return == pytest.approx(1.0 / (1.0 - DISCOUNT))  # if it had gone on like this
    feed(calibration, [None, None, 7.0], [1.0, 1.0, 1.0], "terminated")
    assert calibration.pairs.tolist() == [[7.0, 1.0]]  # random actions have no root value
    feed(calibration, [5.0], [1.0])
    calibration.begin_streams()
    feed(calibration, [3.0], [2.0], "terminated")
    assert calibration.pairs.tolist() == [[7.0, 1.0], [3.0, 2.0]]


@pytest.mark.parametrize("end", ["", "truncated"])
def test_returns_are_known_after_enough_steps(end):
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=500)
    calibration = Calibration(DISCOUNT, 1)
    feed(calibration, np.arange(500.0), rewards, end)
    states, returns = calibration.pairs.T
    assert len(states) > 400 and states.tolist() == list(range(len(states)))
    if end:
        assert len(states) == 500 - calibration.n_steps + 1
    for state, found in zip(states.astype(int), returns, strict=True):
        powers = DISCOUNT ** np.arange(500 - state)
        assert found == pytest.approx(powers @ rewards[state:], abs=0.01 / (1 - DISCOUNT) * 3)
        assert DISCOUNT**calibration.n_steps < 0.01


@pytest.mark.parametrize("discount", [0.0, 0.99, 0.99999, 1.0])
def test_calibration_needs_bounded_memory(discount):
    calibration = Calibration(discount, 2)
    ones, never = np.ones(2), np.zeros(2, bool)
    for _ in range(2 * MAX_STEPS + 500):
        calibration.add(ones, ones, never, never)
    assert max(map(len, calibration.values + calibration.rewards)) < 2 * MAX_STEPS
    assert len(calibration.pairs) <= WINDOW
    assert (len(calibration.pairs) > 0) == (discount in (0.0, 0.99))


# -- search ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS, ONE_DIMENSION], ids=["discrete", "box", "box1"])
def test_search_statistics_against_a_loop(space):
    model = tiny_network(space).eval()
    planner, rng = Planner(8, 3, 0.97), np.random.default_rng(0)
    observations = {"observation": th.as_tensor(rng.uniform(-1, 1, (20, 3)), dtype=th.float32)}
    plan = planner.plan(model, observations, planner.draw_noise(model, 20, rng), explore=True)
    root = model.initial_inference(observations)
    policy_entropy, improved_entropy, departures = [], [], []
    kind: ActionKind = model.action_kind
    for row in range(20):
        if kind.sampled:
            prior = np.full(kind.n_candidates, 1 / kind.n_candidates)
            preference = kind.log_prob(root.policies[row], th.as_tensor(plan.candidates[row])).detach().numpy()
        else:
            prior = preference = root.policies[row].softmax(0).detach().numpy()
        improved = plan.improved_policy[row].astype(np.float64)
        policy_entropy.append(-(prior * np.log(prior)).sum())
        improved_entropy.append(-(improved * np.log(improved + 1e-30)).sum())
        departures.append(improved.argmax() != preference.argmax())
    found = {name: float(number) for name, number in search_statistics(model, observations, plan).items()}
    assert found == {
        "policy_entropy": pytest.approx(np.mean(policy_entropy), rel=1e-4),
        "improved_policy_entropy": pytest.approx(np.mean(improved_entropy), rel=1e-4),
        "departure_rate": pytest.approx(np.mean(departures)),
        "value_gain": pytest.approx((plan.improved_values - root.values.detach().numpy()).mean(), rel=1e-4),
    }
    assert 0 < found["departure_rate"] < 1


# -- warnings ----------------------------------------------------------------------------------------------------------


def warned(act: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in caught]


def test_missing_rewards_are_noticed_once():
    watch = Symptoms()
    assert warned(lambda: watch.see_rewards(np.zeros(1_999), True, 200)) == []
    assert warned(lambda: watch.see_rewards(np.zeros(2_999), True, 300)) == []
    (text,) = warned(lambda: [watch.see_rewards(np.zeros(n), True, 200) for n in (2_000, 3_000)])
    assert "no reward in 2000 transitions" in text and "docs/it_does_not_learn.md" in text
    (text,) = warned(lambda: Symptoms().see_rewards(np.full(2_000, -1.0), False, 200))
    assert "all rewards" in text and "are -1" in text
    # Where rewards are alike and episodes terminate, as in CartPole, the ends tell good from bad.
    assert warned(lambda: Symptoms().see_rewards(np.full(2_000, 1.0), True, 200)) == []
    assert warned(lambda: Symptoms().see_rewards(np.arange(2_000) % 2, False, 200)) == []


def test_growing_values_are_noticed_once():
    watch = Symptoms()
    transient = [20.0, 40.0, 40.0, 20.0, 40.0, -40.0]
    assert warned(lambda: [watch.see_values(value, 10.0) for value in transient]) == []
    (text,) = warned(lambda: [watch.see_values(value, 10.0) for value in (50.0, 60.0)])
    assert "is 50, but" in text and "without bound" in text
    assert warned(lambda: [Symptoms().see_values(1e9, 0.0) for _ in range(9)]) == []  # no reward yet
    watch = Symptoms()
    watch.is_intrinsic = True  # values are not those of the returns that were seen
    assert warned(lambda: [watch.see_values(60.0, 10.0) for _ in range(9)]) == []


def test_a_run_of_hours_is_announced_once():
    watch = Symptoms()
    times = range(0, 500, 5)  # 10 steps a second
    (text,) = warned(lambda: [watch.see_progress(10 * now, 1_000_000, now) for now in times])
    assert "10 steps per second" in text and "27.8 hours" in text
    assert warned(lambda: [Symptoms().see_progress(10 * now, 70_000, now) for now in times]) == []


def test_warnings_name_parts_of_the_page():
    page = (ROOT / "docs" / "it_does_not_learn.md").read_text(encoding="utf-8")
    source = (ROOT / "sb3_ezv2" / "learning" / "symptoms.py").read_text(encoding="utf-8")
    parts = {part.split("'")[0] for part in source.split("part '")[1:]}
    assert len(parts) == 3 and {part for part in parts if f"\n## {part}" not in page} == set()
    assert symptoms.PAGE.endswith("(docs/it_does_not_learn.md)")


def test_a_run_without_reward_warns():
    class Poor(RandomEnv):
        def step(self, action: Any) -> Any:
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest

    model = tiny_model(Poor(), gradient_steps=1, train_freq=50)
    assert any("no reward" in text for text in warned(lambda: model.learn(2_600)))


# -- learning is not touched -------------------------------------------------------------------------------------------

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


@pytest.mark.parametrize(
    "policy, observation_space, action_space",
    [("MlpPolicy", None, DISCRETE), ("MlpPolicy", None, CONTINUOUS), ("CnnPolicy", IMAGE, DISCRETE)],
    ids=["discrete", "box", "images"],
)
def test_a_seed_gives_the_same_parameters_without_the_numbers(monkeypatch, policy, observation_space, action_space):
    def run() -> Any:
        network = {"policy_kwargs": {}} if policy == "CnnPolicy" else {}
        env = DummyVecEnv([lambda: RandomEnv(observation_space, action_space) for _ in range(2)])
        return tiny_model(env, policy, **network).learn(60 if network else 140)

    monkeypatch.setattr("sb3_ezv2.ezv2.INTERVAL", 7)
    monkeypatch.setattr("sb3_ezv2.ezv2.FIRST", 3)
    with_numbers = run()
    assert len(with_numbers.diagnostics.calibration.pairs) > 10
    for name in ("see_step", "see_rewards", "inspect", "record_calibration", "begin_streams"):
        monkeypatch.setattr(Diagnostics, name, lambda *args: None)
    monkeypatch.setattr("sb3_ezv2.learning.reanalyze.search_statistics", lambda *args: {})
    without = run()
    assert len(without.diagnostics.calibration.pairs) == 0
    assert_same_parameters(with_numbers, without)


def test_a_loaded_model_begins_calibration_anew(tmp_path):
    model = tiny_model(provenance_envs()).learn(60)
    assert model.diagnostics.calibration.summary() is not None
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=provenance_envs())
    assert loaded.diagnostics.calibration.summary() is None


def test_all_numbers_are_copied_together():
    found = Diagnostics(0.9, 1)
    found.keep("search", {"value_gain": th.tensor(3.0), "policy_entropy": th.tensor(float("nan"))})
    rows = found.copied_with([th.tensor([1.0, 2.0]), th.tensor([3.0, 4.0])])
    assert rows[:2] == [[1.0, 2.0], [3.0, 4.0]] and len(rows) == 3
    logger = Logger(None, [])
    found.write(rows[2], logger, 0, 0)
    assert dict(logger.name_to_value) == {"search/value_gain": 3.0}
    assert found.copied_with([th.tensor([1.0])]) == [[1.0]]
