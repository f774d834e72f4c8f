"""Targets made anew: what is searched, what is reused, and that reuse changes nothing but the cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2 import TrajectoryReplayBuffer
from sb3_ezv2.common.type_aliases import TrainingTargets, TrajectoryBatch
from sb3_ezv2.learning import stored_states
from sb3_ezv2.learning.reanalyze import SEARCH_VALUES, MixedValueRule, Reanalyzer
from sb3_ezv2.learning.stored_states import bellman_errors
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.planner import Noise, Planner
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, tiny_network

DISCOUNT, UNROLL, TD_STEPS = 0.97, 3, 2
ALWAYS_SEARCH = MixedValueRule(td_phase=False, fresh=0)
ALWAYS_TD = MixedValueRule(td_phase=True, fresh=0)


class GreedyPlanner(Planner):
    """Searches without noise, so that every search of a state finds the same."""

    def draw_noise(self, model: EfficientZeroModel, n: int, rng: np.random.Generator) -> Noise:
        noise = super().draw_noise(model, 1, np.random.default_rng(0))
        return noise._replace(gumbel=np.zeros_like(noise.gumbel))


class Setting:
    """A filled buffer and a frozen network."""

    def __init__(
        self, action_space: spaces.Space, planner_class: type[Planner] = Planner, rows: int = 60, cache: bool = True
    ) -> None:
        self.rng = np.random.default_rng(0)
        self.model, self.target_model = tiny_network(action_space, 1), tiny_network(action_space, 2)
        self.action_space = action_space
        self.buffer = TrajectoryReplayBuffer(rows, spaces.Box(-1.0, 1.0, (3,)), action_space)
        self.planner = planner_class(6, 3, DISCOUNT)
        self.reanalyzer = self.new_reanalyzer(cache)
        self.current = self.observation()

    def new_reanalyzer(self, cache: bool) -> Reanalyzer:
        """With nothing in its cache."""
        return Reanalyzer(self.planner, self.model.action_kind, cache)

    def observation(self) -> np.ndarray:
        """A random one, with the batch axis."""
        return self.rng.uniform(-1, 1, (1, 3)).astype(np.float32)

    def add(self, end: str = "step") -> int:
        """One more transition of priority 1; its slot."""
        following, done = self.observation(), end != "step"
        info = (
            {"terminal_observation": self.observation()[0], "TimeLimit.truncated": end == "truncated"} if done else {}
        )
        action = self.action_space.sample() if isinstance(self.action_space, spaces.Box) else self.rng.integers(3)
        slots = self.buffer.add(
            self.current, following, np.array([action]), self.rng.normal(size=1), np.array([done]), [info]
        )
        self.buffer.update_priorities(slots, np.ones(1))
        self.current = following
        return int(slots[0])

    def fill(self, n: int = 40) -> None:
        """Several short episodes."""
        for step in range(1, n + 1):
            self.add("terminated" if step % 12 == 0 else "truncated" if step % 7 == 0 else "step")

    def sample(self, batch_size: int = 20, seed: int = 0) -> TrajectoryBatch:
        """A batch."""
        return self.buffer.sample(batch_size, UNROLL, TD_STEPS, 0.0, np.random.default_rng(seed))

    def targets(
        self,
        batch: TrajectoryBatch,
        version: int = 1,
        rule: MixedValueRule = ALWAYS_SEARCH,
        reanalyzer: Reanalyzer | None = None,
        seed: int = 0,
    ) -> TrainingTargets:
        """Targets of a batch."""
        return (reanalyzer or self.reanalyzer).targets(
            batch, self.buffer, self.model, self.target_model, version, rule, np.random.default_rng(seed)
        )


def assert_equal_targets(first: TrainingTargets, second: TrainingTargets, atol: float = 1e-5) -> None:
    """Equal but for rounding, which depends on how many states are searched in one go."""
    for name in ("rewards", "values"):
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-4, atol=atol, err_msg=name)
    for ours, theirs in zip(first.policies, second.policies, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol)
    for ours, theirs in zip(first.masks, second.masks, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS, ONE_DIMENSION], ids=["discrete", "box", "box1"])
def test_without_noise_the_cache_changes_nothing(action_space):
    setting = Setting(action_space, GreedyPlanner)
    setting.fill()
    uncached = setting.new_reanalyzer(cache=False)
    for seed in range(4):
        batch = setting.sample(seed=seed)
        found = setting.targets(batch, seed=seed)
        assert_equal_targets(found, setting.targets(batch, reanalyzer=uncached, seed=100 + seed), atol=1e-4)
        assert uncached.searched_fraction == 1.0
    assert setting.reanalyzer.searched_fraction < 1.0


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS, ONE_DIMENSION], ids=["discrete", "box", "box1"])
def test_with_noise_the_cache_keeps_the_distribution(action_space):
    """Means and spreads of values and policies over many draws with a frozen network."""
    setting = Setting(action_space)
    setting.fill(12)
    batch = setting.sample(10)
    n = 200
    draws: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for cache, found in draws.items():
        for seed in range(n):
            targets = setting.targets(batch, reanalyzer=setting.new_reanalyzer(cache), seed=seed + n * cache)
            weighted = targets.policies.weights
            if targets.policies.actions.shape[-1] > 0:
                weighted = (targets.policies.actions * weighted[..., None]).sum(-2)
            found.append(np.concatenate([targets.values[..., None], weighted], axis=-1))
    cached, uncached = np.array(draws[True]), np.array(draws[False])
    assert cached.std(axis=0).max() > 0  # there is noise
    errors = np.sqrt((cached.var(axis=0) + uncached.var(axis=0)) / n)
    difference = np.abs(cached.mean(axis=0) - uncached.mean(axis=0))
    assert (difference <= 5.0 * errors + 1e-4).all()
    spreads = cached.std(axis=0).mean(), uncached.std(axis=0).mean()
    assert spreads[0] == pytest.approx(spreads[1], rel=0.15)


def test_a_second_batch_searches_only_what_is_new():
    setting = Setting(DISCRETE)
    setting.fill()
    batch = setting.sample()
    first = setting.targets(batch)
    needed = int((first.masks.policies > 0).sum())
    distinct = len(np.unique(batch.slots[:, : UNROLL + 1][first.masks.policies > 0]))
    assert setting.reanalyzer.searched_fraction == pytest.approx(distinct / needed)
    again = setting.targets(batch, seed=1)
    assert setting.reanalyzer.searched_fraction == 0.0
    assert_equal_targets(first, again, atol=0)  # other noise, but nothing was searched

    other = setting.sample(seed=7)
    found = setting.targets(other, seed=2)
    known = set(batch.slots[:, : UNROLL + 1][first.masks.policies > 0].tolist())
    asked = other.slots[:, : UNROLL + 1][found.masks.policies > 0].tolist()
    assert setting.reanalyzer.searched_fraction == pytest.approx(len(set(asked) - known) / len(asked))


def test_the_same_state_in_two_samples_has_one_target():
    setting = Setting(CONTINUOUS)
    setting.fill()
    batch = setting.sample(40)
    targets = setting.targets(batch)
    seen: dict[int, np.ndarray] = {}
    needed = targets.masks.policies > 0
    for slot, action in zip(batch.slots[:, : UNROLL + 1][needed], targets.policies.actions[needed], strict=True):
        np.testing.assert_array_equal(seen.setdefault(int(slot), action), action)
    assert len(seen) < needed.sum()


def test_a_new_version_makes_everything_stale():
    setting = Setting(DISCRETE, GreedyPlanner)
    setting.fill()
    batch = setting.sample()
    before = setting.targets(batch)
    fraction = setting.reanalyzer.searched_fraction
    setting.target_model.load_state_dict(tiny_network(DISCRETE, 3).state_dict())
    after = setting.targets(batch, version=2)
    assert setting.reanalyzer.searched_fraction == fraction
    searched = before.masks.policies > 0
    assert (np.abs(before.values - after.values)[searched] > 1e-6).mean() > 0.9
    assert_equal_targets(after, setting.targets(batch, reanalyzer=setting.new_reanalyzer(False)), atol=1e-4)


def test_an_overwritten_slot_is_searched_again():
    setting = Setting(DISCRETE, GreedyPlanner, rows=20)
    for _ in range(15):
        setting.add()
    setting.targets(setting.sample(15))
    for _ in range(15):  # round the ring: some slots hold new observations, others the old ones
        setting.add()
    batch = setting.sample(18)
    targets = setting.targets(batch)
    needed = targets.masks.policies > 0
    asked = batch.slots[:, : UNROLL + 1][needed]
    ids = setting.buffer.ids_at(asked)
    # The 15 first transitions were all searched, unless sampling left one out.
    assert (ids > 14).sum() / len(ids) >= setting.reanalyzer.searched_fraction > 0
    assert_equal_targets(targets, setting.targets(batch, reanalyzer=setting.new_reanalyzer(False)), atol=1e-4)


def test_a_growing_buffer_keeps_what_was_searched():
    setting = Setting(DISCRETE, GreedyPlanner, rows=5000)
    for _ in range(20):
        setting.add()
    setting.targets(setting.sample(20))
    old = setting.sample(20)
    for _ in range(1200):  # more than the room at first
        setting.add()
    ahead = old.n_ahead == UNROLL + TD_STEPS  # the others have gained successors
    kept = old._replace(
        **{
            name: getattr(old, name)[ahead]
            for name in ("slots", "n_ahead", "terminated", "actions", "rewards", "ages", "weights")
        },
        observations={key: value[ahead] for key, value in old.observations.items()},
    )
    setting.targets(kept)
    assert setting.reanalyzer.searched_fraction == 0.0
    setting.targets(setting.sample(600))
    assert setting.reanalyzer.searched_fraction > 0.1


def test_a_cleared_cache_searches_again():
    setting = Setting(DISCRETE)
    setting.fill()
    batch = setting.sample()
    setting.targets(batch)
    setting.reanalyzer.cache.clear()
    setting.targets(batch)
    assert setting.reanalyzer.searched_fraction > 0


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("rule", [ALWAYS_SEARCH, ALWAYS_TD], ids=["search", "td"])
def test_terminal_states_are_worth_nothing(rule, cache):
    setting = Setting(DISCRETE, cache=cache)
    setting.fill()
    batch = setting.sample(40)
    targets = setting.targets(batch, rule=rule)
    past = (np.arange(UNROLL + 1) >= batch.n_ahead[:, None]) & batch.terminated[:, None]
    assert past.any()
    assert (targets.values[past] == 0).all()
    assert (targets.masks.policies[past] == 0).all()
    known = (np.arange(UNROLL) < batch.n_ahead[:, None]) | batch.terminated[:, None]
    np.testing.assert_array_equal(targets.rewards[known], batch.rewards[:, :UNROLL][known])


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
def test_past_the_last_observation_the_model_goes_on(action_space):
    """As from the observation itself, under the batch's random actions; terminal states are no such end."""
    setting = Setting(action_space)
    setting.fill()
    batch = setting.sample(40)
    targets = setting.targets(batch, rule=ALWAYS_TD)
    open_ends = 0
    for row in np.flatnonzero((batch.n_ahead < UNROLL) & ~batch.terminated):
        last = int(batch.n_ahead[row])
        with th.no_grad():
            output = setting.model.initial_inference(
                {"observation": th.from_numpy(batch.observations["observation"][row : row + 1, last])}
            )
            assert targets.values[row, last] == pytest.approx(output.values.item(), rel=1e-4, abs=1e-4)
            for k in range(last, UNROLL):
                output = setting.model.recurrent_inference(
                    output.latents, th.as_tensor(batch.actions[row : row + 1, k])
                )
                assert targets.rewards[row, k] == pytest.approx(output.rewards.item(), rel=1e-4, abs=1e-4)
                assert targets.values[row, k + 1] == pytest.approx(output.values.item(), rel=1e-4, abs=1e-4)
        open_ends += 1
    assert open_ends > 3


def test_multi_step_targets_come_from_the_rewards_and_the_values():
    setting = Setting(DISCRETE)
    setting.fill()
    batch = setting.sample(30)
    targets = setting.targets(batch, rule=ALWAYS_TD)
    with th.no_grad():
        chains = setting.buffer.observations_at(batch.slots.reshape(-1))["observation"]
        values = setting.model.values({"observation": th.from_numpy(chains)}).numpy().reshape(batch.slots.shape)
    for row in range(30):
        for j in range(UNROLL + 1):
            if j > batch.n_ahead[row] and not batch.terminated[row]:
                continue  # see test_past_the_last_observation_the_model_goes_on
            expected, factor = 0.0, 1.0
            last = min(j + TD_STEPS, int(batch.n_ahead[row]))
            for k in range(j, last):
                expected += factor * batch.rewards[row, k]
                factor *= DISCOUNT
            if not (batch.terminated[row] and last == batch.n_ahead[row]):
                expected += factor * values[row, last]
            assert targets.values[row, j] == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("space, default", [(DISCRETE, "policy_values"), (ONE_DIMENSION, "improved_values")])
def test_search_targets_are_those_of_a_plan(space, default):
    """Their value is weighted by the policy, or by the improved one where actions are sampled."""
    setting = Setting(space, GreedyPlanner)
    setting.fill()
    batch = setting.sample()
    targets = setting.targets(batch)
    needed = targets.masks.policies > 0
    observations = {"observation": th.from_numpy(batch.observations["observation"][needed])}
    noise = setting.planner.greedy_noise(setting.target_model)
    plan = setting.planner.plan(setting.target_model, observations, noise, explore=True)
    np.testing.assert_allclose(targets.values[needed], getattr(plan, default), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(targets.policies.weights[needed], plan.improved_policy, rtol=1e-3, atol=1e-4)
    for search_value, name in SEARCH_VALUES.items():
        other = Reanalyzer(setting.planner, setting.model.action_kind, True, search_value)
        found = setting.targets(batch, reanalyzer=other).values[needed]
        np.testing.assert_allclose(found, getattr(plan, name), rtol=1e-4, atol=1e-4)
        assert name == default or np.abs(found - targets.values[needed]).max() > 1e-2


def test_policy_targets_of_continuous_actions():
    """Several dimensions: the chosen action alone; one dimension: all candidates with the improved policy."""
    for action_space, several in ((CONTINUOUS, False), (ONE_DIMENSION, True)):
        setting = Setting(action_space)
        setting.fill()
        targets = setting.targets(setting.sample())
        actions, weights = (part[targets.masks.policies > 0] for part in targets.policies)
        assert actions.shape == (*weights.shape, *action_space.shape)
        assert (weights.shape[1] > 1) == several
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-5)
        assert (np.abs(actions) < 1.0).all()


def test_fresh_states_use_returns_and_old_ones_the_search():
    setting = Setting(DISCRETE, GreedyPlanner)
    setting.fill()
    batch = setting.sample(40)
    searched, returns = setting.targets(batch), setting.targets(batch, rule=ALWAYS_TD)
    mixed = setting.targets(batch, rule=MixedValueRule(td_phase=False, fresh=15))
    fresh = batch.ages <= 15
    assert fresh.any() and not fresh.all()
    np.testing.assert_allclose(mixed.values, np.where(fresh, returns.values, searched.values), rtol=1e-5, atol=1e-5)


def test_bellman_errors_are_those_of_the_model():
    setting = Setting(DISCRETE)
    setting.model.reward_scale.fill_(4.0)
    slots = np.array([setting.add(end) for end in ("step", "terminated", "step", "truncated", "step")])
    rewards, terminal, following = setting.buffer.transitions_at(slots)

    def values(at: np.ndarray) -> Any:
        with th.no_grad():
            return setting.model.values(
                {"observation": th.from_numpy(setting.buffer.observations_at(at)["observation"])}
            )

    def h(x: np.ndarray) -> np.ndarray:
        return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.001 * x

    targets = rewards + DISCOUNT * ~terminal * values(following).numpy()
    expected = np.abs(h(values(slots).numpy() / 4.0) - h(targets / 4.0))
    found = bellman_errors(setting.model, setting.buffer, slots, DISCOUNT)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(terminal, [False, True, False, False, False])


@pytest.mark.parametrize("rule", [ALWAYS_TD, ALWAYS_SEARCH])
def test_no_more_states_than_allowed_are_evaluated_at_once(rule, monkeypatch):
    setting = Setting(DISCRETE, GreedyPlanner)
    for _ in range(20):
        setting.add("step")
    batch = setting.sample(8)
    whole = setting.targets(batch, rule=rule)
    errors = bellman_errors(setting.model, setting.buffer, np.arange(20), DISCOUNT)
    sizes = []
    for model in (setting.model, setting.target_model):
        represent = model.represent
        monkeypatch.setattr(model, "represent", lambda o, r=represent: (sizes.append(len(o["observation"])), r(o))[1])
    monkeypatch.setattr(stored_states, "MAX_STATES", 3)
    np.testing.assert_allclose(
        bellman_errors(setting.model, setting.buffer, np.arange(20), DISCOUNT), errors, rtol=1e-4, atol=1e-6
    )
    assert sum(sizes) == 40
    setting.reanalyzer.cache.clear()
    assert_equal_targets(setting.targets(batch, rule=rule), whole)
    assert max(sizes) == 3


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "box"])
@pytest.mark.parametrize(
    "patched, gpu",
    [("_is_recorded", lambda model, n: True), ("_n_rows", lambda model, n: n + 5)],
    ids=["recorded", "padded"],
)
def test_evaluations_as_on_a_gpu_give_the_same_targets(action_space, patched, gpu, monkeypatch):
    """With padded batches, of which the surplus rows hold earlier states or the first one."""
    setting = Setting(action_space)
    setting.fill()
    slots = np.arange(5)

    def found() -> list[Any]:
        targets = [setting.targets(setting.sample(n), rule=ALWAYS_TD) for n in (20, 40, 7)]
        return [*targets, bellman_errors(setting.model, setting.buffer, slots, DISCOUNT)]

    plain = found()
    monkeypatch.setattr(stored_states, patched, gpu)
    *recorded, errors = found()
    for ours, theirs in zip(plain, recorded, strict=False):
        assert_equal_targets(ours, theirs)
    np.testing.assert_allclose(plain[-1], errors, rtol=1e-4, atol=1e-5)
    for function in stored_states.RECORDED.values():
        assert (setting.model in function._recordings) == (patched == "_is_recorded")


@pytest.mark.parametrize("fresh", [0, 15, 10**9])
def test_the_share_of_search_values_among_the_targets(fresh):
    setting = Setting(DISCRETE)
    setting.fill()
    batch = setting.sample()
    setting.targets(batch, rule=MixedValueRule(td_phase=False, fresh=fresh))
    states = np.arange(UNROLL + 1)
    searched = [
        age > fresh and state < ahead
        for ages, ahead in zip(batch.ages, batch.n_ahead, strict=True)
        for age, state in zip(ages, states, strict=True)
    ]
    assert setting.reanalyzer.search_value_fraction == pytest.approx(np.mean(searched))
    assert (0.0 < np.mean(searched) < 1.0) == (fresh < 10**9)
    setting.targets(batch, rule=ALWAYS_TD)
    assert setting.reanalyzer.search_value_fraction == 0.0


def test_statistics_of_a_search_are_made_once_when_they_are_wanted():
    setting = Setting(DISCRETE)
    setting.fill()
    setting.targets(setting.sample())
    assert setting.reanalyzer.take_statistics() == {}
    setting.reanalyzer.wants_statistics = True
    setting.targets(setting.sample())
    assert setting.reanalyzer.take_statistics() == {}  # nothing had to be searched
    setting.targets(setting.sample(), version=2)
    assert len(setting.reanalyzer.take_statistics()) == 4
    assert setting.reanalyzer.take_statistics() == {} and not setting.reanalyzer.wants_statistics
