"""Action masks with sb3-contrib's conventions, from the environment to the target and through every file."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.callbacks import TransitionJournal
from sb3_ezv2.common.action_masks import MASKS, checked_masks, pack, packed_size, unpack
from sb3_ezv2.common.actions import MANY_ACTIONS, action_kind_of
from tests.helpers.envs import RandomEnv
from tests.helpers.masked import MaskedEnv
from tests.helpers.tiny import assert_finite_parameters, assert_same_parameters, tiny_model

SPACES = {
    "discrete": spaces.Discrete(9, start=2),
    "many": spaces.Discrete(MANY_ACTIONS),
    "multi": spaces.MultiDiscrete([3, 5, 2], start=[1, 0, 4]),
    "binary": spaces.MultiBinary(5),
}


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def space(request) -> spaces.Space:
    return request.param


def masked_envs(space: spaces.Space | None = None, n_envs: int = 2, vec_env=DummyVecEnv):
    return vec_env([lambda: MaskedEnv(space) for _ in range(n_envs)])


def stored_masks_are_those_of_their_states(model: EfficientZeroV2) -> None:
    """``MaskedEnv`` observes its mask."""
    buffer = model.replay_buffer
    slots = np.flatnonzero(buffer.kinds.reshape(-1) == 1)
    masks, observations = buffer.masks_at(slots), buffer.observations_at(slots)["observation"]
    np.testing.assert_array_equal(masks, observations > 0)
    assert len(slots) > 20


def test_only_legal_actions_are_taken_and_masks_are_stored(space):
    """The environment raises where an action is illegal: random ones and those of a search."""
    model = tiny_model(masked_envs(space)).learn(80)
    assert_finite_parameters(model)
    stored_masks_are_those_of_their_states(model)
    kind = model.policy.action_kind
    assert model.replay_buffer.observations[MASKS].shape[-1] == -(-kind.mask_size // 8)


def test_storing_a_step_makes_no_space_or_kind_of_action_anew(space, monkeypatch):
    """Both take longer than storing itself."""
    model = tiny_model(masked_envs(space)).learn(20)
    before = model.replay_buffer.parts()
    monkeypatch.setattr("sb3_ezv2.replay.buffer.action_kind_of", lambda space: pytest.fail("made anew"))
    assert model.replay_buffer.parts()[MASKS] is before[MASKS]
    assert before[MASKS].shape == (packed_size(model.policy.action_kind),)


def test_nothing_illegal_is_a_candidate_or_has_a_visit_or_probability(space):
    env = MaskedEnv(space)
    model = tiny_model(env, n_simulations=8, n_candidates=12)
    observations = np.stack([env.reset(seed=i)[0] for i in range(30)])
    masks = observations > 0
    kind = model.policy.action_kind
    for deterministic in (True, False):
        tensors, _ = model.policy.obs_to_tensor(observations)
        plan = model.policy.search(tensors, deterministic, np.random.default_rng(0), masks)
        counts = plan.visit_counts
        assert (counts.sum(1) == 8).all()
        np.testing.assert_allclose(plan.improved_policy.sum(1), 1.0, rtol=1e-5)
        for i in range(30):
            legal = kind.are_legal(plan.candidates[i], np.repeat(masks[i : i + 1], kind.n_candidates, 0))
            assert not counts[i, ~legal].any() and not plan.improved_policy[i, ~legal].any()
        assert kind.are_legal(plan.actions, masks).all()
    targets = kind.policy_targets(plan)
    if kind.target_shape == (0,) or kind.n_targets == 1:
        shares = targets.weights if kind.n_targets > 1 else targets.actions[:, 0]
        assert not shares[~masks].any()


def test_a_mask_that_allows_everything_changes_nothing(space):
    env = MaskedEnv(space)
    model = tiny_model(env)
    observations = np.stack([env.reset(seed=i)[0] for i in range(6)])
    everything = np.ones((6, model.policy.action_kind.mask_size), bool)
    tensors, _ = model.policy.obs_to_tensor(observations)
    free = model.policy.search(tensors, False, np.random.default_rng(0))
    masked = model.policy.search(tensors, False, np.random.default_rng(0), everything)
    for ours, theirs in zip(free, masked, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_legal_action_is_chosen():
    model = tiny_model(MaskedEnv(spaces.Discrete(9)))
    observations = np.zeros((9, 9), np.float32)
    for deterministic in (True, False):
        actions, _ = model.predict(observations, deterministic=deterministic, action_masks=np.eye(9, dtype=np.int8))
        np.testing.assert_array_equal(actions, np.arange(9))
    assert model.predict(observations[0], action_masks=np.eye(9, dtype=bool)[4])[0] == 4
    assert model.predict(observations[0], n_simulations=9, action_masks=np.eye(9, dtype=bool)[4])[0] == 4
    plan = model.policy.plan(observations[0], action_masks=np.eye(9, dtype=bool)[4])
    assert plan.actions == 4 and plan.visit_counts[0, 4] == model.n_simulations


def test_subprocesses_and_normalised_observations():
    env = VecNormalize(masked_envs(vec_env=SubprocVecEnv))
    try:
        model = tiny_model(env).learn(60)
        stored_masks_are_those_of_their_states(model)
    finally:
        env.close()


def test_masks_are_part_of_every_file(space, tmp_path):
    journal = TransitionJournal(tmp_path / "journal.sqlite")
    model = tiny_model(masked_envs(space)).learn(70, callback=journal)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=masked_envs(space))
    loaded.load_replay_buffer(tmp_path / "buffer")
    stored_masks_are_those_of_their_states(loaded)
    loaded.learn(20)
    again = tiny_model(masked_envs(space))
    assert again.replay_buffer.add_journal(tmp_path / "journal.sqlite").n_transitions == 70
    stored_masks_are_those_of_their_states(again)


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path):
    whole = tiny_model(masked_envs()).learn(90)
    half = tiny_model(masked_envs()).learn(50)
    resumed = EfficientZeroV2.load_checkpoint(half.save_checkpoint(tmp_path), masked_envs())
    resumed.learn(40, reset_num_timesteps=False)
    stored_masks_are_those_of_their_states(resumed)
    whole_again = tiny_model(masked_envs()).learn(50)
    whole_again.learn(40, reset_num_timesteps=False)
    assert_same_parameters(resumed, whole_again)
    assert_same_parameters(whole, whole_again)


def test_a_buffer_with_masks_fits_no_model_without(tmp_path):
    space = spaces.Discrete(6)
    model = tiny_model(DummyVecEnv([lambda: MaskedEnv(space)])).learn(40)
    model.save_replay_buffer(tmp_path / "buffer")
    other = tiny_model(RandomEnv(model.observation_space, space))
    with pytest.raises(ValueError, match="the replay buffer has action_masks=True, the model has False"):
        other.load_replay_buffer(tmp_path / "buffer")


class BadMasks(MaskedEnv):
    """Returns what ``given`` is from step ``first`` on."""

    def __init__(self, given, first: int = 0) -> None:
        super().__init__(spaces.Discrete(6))
        self.given, self.first, self.total = given, first, 0

    def step(self, action):
        self.total += 1
        return super().step(action)

    def action_masks(self):
        return self.given if self.total >= self.first else super().action_masks()


BAD = {
    "too short": (np.ones(5, bool), r"(?s)of environment 0=.*shape \(5,\).*of the shape \(1, 6\)"),
    "a number": (np.full(6, 0.5), r"(?s)of environment 0=.*dtype float64.*must be booleans"),
    "nothing": (None, r"of environment 0=None"),
    "no legal action": (np.zeros(6, bool), r"of environment 0: state 0 has no legal action.*end the episode"),
}


@pytest.mark.parametrize("given, message", BAD.values(), ids=BAD)
@pytest.mark.parametrize("first", [0, 4, 40])
def test_bad_masks_are_refused_and_the_step_is_not_stored(given, message, first):
    model = tiny_model(BadMasks(given, first))
    with pytest.raises(ValueError, match=message):
        model.learn(60)
    assert len(model.replay_buffer) == max(first - 1, 0)
    assert_finite_parameters(model)


def test_masks_from_some_environments_only_are_refused():
    space = spaces.Box(0.0, 1.0, (6,))
    for vec_env in (DummyVecEnv, SubprocVecEnv):
        env = vec_env([lambda: MaskedEnv(spaces.Discrete(6)), lambda: RandomEnv(space, spaces.Discrete(6))])
        with pytest.raises(ValueError, match=r"environments \[1\] have no method action_masks\(\), the others have"):
            tiny_model(env)
        env.close()


class MaskedBox(RandomEnv):
    def action_masks(self):
        return np.ones(2, bool)


def test_masks_of_a_box_are_refused():
    with pytest.raises(ValueError, match="action_masks.*actions of a Box have no masks"):
        tiny_model(MaskedBox(action_space=spaces.Box(-1.0, 1.0, (2,)))).learn(40)


def test_other_environments_than_those_of_the_model_are_refused():
    model = tiny_model(masked_envs(n_envs=1)).learn(40)
    model.set_env(RandomEnv(model.observation_space, model.action_space))
    with pytest.raises(ValueError, match="do not have action_masks"):
        model.learn(20)


@pytest.mark.parametrize(
    "masks, message",
    [
        (np.ones(6, bool), r"(?s)action_masks=.*\(2, 6\)"),
        (np.ones((2, 5), bool), r"(?s)action_masks=.*\(2, 6\)"),
        (np.array([[1] * 6, [0] * 6]), "action_masks: state 1 has no legal action"),
        ([[True] * 6, [True] * 5], r"(?s)action_masks=.*\(2, 6\)"),
        ("all", r"action_masks='all'"),
    ],
)
def test_bad_masks_of_predict_are_refused(masks, message):
    model = tiny_model(MaskedEnv(spaces.Discrete(6)))
    with pytest.raises(ValueError, match=message):
        model.predict(np.zeros((2, 6), np.float32), action_masks=masks)
    assert model.policy._given_masks is None


def test_packing_is_one_bit_an_action():
    kind = action_kind_of(spaces.Discrete(50))
    masks = np.random.default_rng(0).random((4, 50)) < 0.3
    assert pack(masks).shape == (4, 7)
    np.testing.assert_array_equal(unpack(pack(masks), kind), masks)
    np.testing.assert_array_equal(checked_masks(masks.astype(np.int64), 4, kind, "masks"), masks)


def test_helpers_and_callbacks_of_sb3_contrib(tmp_path):
    pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
    from sb3_contrib.common.maskable.evaluation import evaluate_policy
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
    from sb3_contrib.common.wrappers import ActionMasker

    class Inner(gym.Wrapper):
        """Has its masks under another name."""

        def legal(self) -> np.ndarray:
            return self.env.mask

        def get_wrapper_attr(self, name: str):
            if name == "action_masks":
                raise AttributeError(name)
            return super().get_wrapper_attr(name)

    def make() -> gym.Env:
        return ActionMasker(Inner(MaskedEnv()), lambda env: env.legal())

    env = DummyVecEnv([make, make])
    assert is_masking_supported(env)
    callback = MaskableEvalCallback(DummyVecEnv([make]), eval_freq=20, n_eval_episodes=2, verbose=0, warn=False)
    model = tiny_model(env).learn(60, callback=callback)
    assert callback.last_mean_reward == 7.0
    assert evaluate_policy(model, DummyVecEnv([make]), n_eval_episodes=3, warn=False) == (7.0, 0.0)
    observations = env.reset()
    model.predict(observations, action_masks=get_action_masks(env))
    stored_masks_are_those_of_their_states(model)


def test_the_zoo_evaluates_with_masks(tmp_path):
    pytest.importorskip("rl_zoo3")
    from sb3_ezv2.zoo.evaluation import Evaluation

    callback = Evaluation(
        masked_envs(),
        eval_freq=20,
        n_eval_episodes=4,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        warn=False,
    )
    model = tiny_model(masked_envs()).learn(80, callback=callback)
    assert callback.last_mean_reward == 7.0 and callback.model is model
    EfficientZeroV2.load(tmp_path / "best_model")
