"""The algorithm behaves as Stable-Baselines3's own do."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from sb3_ezv2 import EfficientZeroV2, EZV2Policy, MlpPolicy
from sb3_ezv2.policies import PlanningPolicy
from tests.helpers.envs import SMALL_BOX, ProvenanceEnv, RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    TINY_NETWORK,
    all_windows,
    assert_finite_parameters,
    assert_same_parameters,
    assert_windows_name_themselves,
    parameters_of,
    provenance_envs,
    tiny_model,
)

ROOT = Path(__file__).parents[2]
STEPS = 45
"""More than the 30 that precede the first update."""


def random_envs(n_envs: int, **kwargs: Any) -> DummyVecEnv:
    """Several random environments."""
    return DummyVecEnv([lambda: RandomEnv(**kwargs) for _ in range(n_envs)])


def observations_of(model: EfficientZeroV2, n: int) -> Any:
    """Several random observations as one batch."""
    space = model.observation_space
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in space.spaces}
    return np.stack([np.asarray(sample) for sample in samples])


@pytest.fixture(scope="module")
def discrete() -> EfficientZeroV2:
    """A trained model; not to be changed."""
    return tiny_model(RandomEnv()).learn(STEPS)


@pytest.fixture(scope="module")
def continuous() -> EfficientZeroV2:
    """A trained model; not to be changed."""
    return tiny_model(RandomEnv(action_space=SMALL_BOX)).learn(STEPS)


# -- learn -------------------------------------------------------------------------------------------------------------


def test_learn_twice():
    model = tiny_model(provenance_envs())
    assert model.learn(40) is model
    assert model.num_timesteps == 40 and len(model.replay_buffer) == 40
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 60
    assert_windows_name_themselves(model.replay_buffer)  # the episode under way goes on
    before = parameters_of(model)
    model.learn(35)
    assert model.num_timesteps == 35 and len(model.replay_buffer) == 95
    # 60 steps are seven episodes of 7 and 9 in turn and 5 steps of the next one, which the reset cuts short.
    assert_windows_name_themselves(model.replay_buffer, closed={(0, 7, 5)})
    after = parameters_of(model)
    assert any((before[name] != after[name]).any() for name in before)


def test_several_environments_are_streams_of_their_own():
    model = tiny_model(provenance_envs(3)).learn(60)
    assert model.num_timesteps == 60
    assert_windows_name_themselves(model.replay_buffer)
    assert_finite_parameters(model)


@pytest.mark.parametrize(
    "train_freq, gradient_steps, n_envs, updates",
    [
        (1, -1, 1, 30),  # one update per transition after the first 30
        (1, 2, 1, 60),
        (10, 3, 1, 9),
        ((10, "step"), -1, 1, 30),
        (1, -1, 3, 30),
        (2, 1, 3, 5),
        ((1, "episode"), 4, 1, None),
        ((2, "episode"), -1, 3, None),
    ],
)
def test_train_freq_and_gradient_steps(train_freq, gradient_steps, n_envs, updates):
    model = tiny_model(random_envs(n_envs), train_freq=train_freq, gradient_steps=gradient_steps).learn(60)
    if updates is None:
        assert model._n_updates > 0
    else:
        assert model._n_updates == updates
    assert model.num_timesteps >= 60


def test_an_episodic_schedule_ends_rollouts_with_an_episode():
    class Ends(BaseCallback):
        rollouts: list[bool] = []

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            self.rollouts.append(bool(self.locals["dones"].any()))

    callback = Ends()
    tiny_model(RandomEnv(), train_freq=(1, "episode")).learn(40, callback)
    assert len(callback.rollouts) >= 5 and all(callback.rollouts)


def test_learning_rate_schedule(discrete):
    model = tiny_model(RandomEnv(), learning_rate=lambda progress: 0.01 * progress).learn(50)
    (group,) = model.policy.optimizer.param_groups
    assert 0.0 <= group["lr"] <= 0.01 * 2 / 50
    constant = tiny_model(RandomEnv(), learning_rate=2e-3).learn(50)
    assert constant.policy.optimizer.param_groups[0]["lr"] == 2e-3


def test_the_callers_arguments_are_not_changed():
    policy_kwargs = {**TINY_NETWORK, "optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.01}}
    buffer_kwargs = {"alpha": 0.3}
    before = copy.deepcopy((policy_kwargs, buffer_kwargs))
    model = tiny_model(RandomEnv(), policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs).learn(35)
    assert (policy_kwargs, buffer_kwargs) == before
    assert isinstance(model.policy.optimizer, th.optim.AdamW)
    assert model.policy.optimizer.param_groups[0]["weight_decay"] == 0.01
    assert model.replay_buffer.alpha == 0.3


def test_a_policy_class_instead_of_its_name():
    assert type(tiny_model(RandomEnv(), policy=MlpPolicy).learn(35).policy) is MlpPolicy


def test_an_environment_by_its_name():
    model = tiny_model("CartPole-v1").learn(35)
    assert model.predict(np.zeros(4, np.float32))[0] in (0, 1)


def test_the_network_is_on_the_device_asked_for(discrete):
    assert discrete.device == th.device("cpu")
    assert {parameter.device for parameter in discrete.policy.parameters()} == {th.device("cpu")}


@pytest.mark.parametrize("n_threads, within", [(1, 1), (3, 3), (None, 2)])
def test_threads_are_set_for_learning_only(n_threads, within):
    seen: set[int] = set()

    def look(*_: Any) -> bool:
        seen.add(th.get_num_threads())
        raise KeyboardInterrupt

    before = th.get_num_threads()
    th.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            tiny_model(RandomEnv(), n_threads=n_threads).learn(5, look)
        assert seen == {within} and th.get_num_threads() == 2
    finally:
        th.set_num_threads(before)


def test_the_first_search_of_a_process_leaves_the_threads_alone():
    """Whoever starts numba's own threads sets those of torch, which changes the rounding of gradients."""
    program = (
        "import torch as th; from tests.helpers.envs import RandomEnv; from tests.helpers.tiny import tiny_model; "
        "seen = []; "
        "tiny_model(RandomEnv()).learn(40, lambda *_: seen.append(th.get_num_threads()) or True); print(*set(seen))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.split()) == (0, ["1"]), result.stderr


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_eval_callback_with_a_threshold(tmp_path):
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1000.0)
    callback = EvalCallback(
        Monitor(RandomEnv()),
        callback_on_new_best=stop,
        eval_freq=20,
        n_eval_episodes=2,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    model = tiny_model(RandomEnv()).learn(60, callback)
    assert model.num_timesteps == 20
    assert callback.last_mean_reward > 0
    assert (tmp_path / "best_model.zip").exists() and (tmp_path / "evaluations.npz").exists()
    EfficientZeroV2.load(tmp_path / "best_model.zip").predict(RandomEnv().reset()[0])


def test_no_improvement_ends_training():
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=1)
    evaluation = EvalCallback(
        Monitor(RandomEnv(length=2)), eval_freq=5, n_eval_episodes=1, callback_after_eval=stop, verbose=0
    )
    assert tiny_model(RandomEnv()).learn(300, evaluation).num_timesteps < 100


def test_checkpoint_callback_with_replay_buffer(tmp_path):
    callback = CheckpointCallback(20, str(tmp_path), name_prefix="m", save_replay_buffer=True)
    tiny_model(RandomEnv()).learn(45, callback)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"m_20_steps.zip", "m_40_steps.zip", "m_replay_buffer_20_steps.pkl", "m_replay_buffer_40_steps.pkl"} <= names
    model = EfficientZeroV2.load(tmp_path / "m_40_steps.zip", env=RandomEnv())
    model.load_replay_buffer(tmp_path / "m_replay_buffer_40_steps.pkl")
    assert model.num_timesteps == 40 and len(model.replay_buffer) == 40
    model.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_stop_on_max_episodes(n_envs):
    model = tiny_model(random_envs(n_envs)).learn(500, StopTrainingOnMaxEpisodes(max_episodes=3))
    assert model.num_timesteps < 100


def test_every_n_timesteps_and_callback_list():
    seen: list[int] = []
    every = EveryNTimesteps(15, callback=ConvertedRecorder(seen))
    model = tiny_model(RandomEnv()).learn(50, CallbackList([every, StopTrainingOnMaxEpisodes(100)]))
    assert seen == [15, 30, 45] and model.num_timesteps == 50


class ConvertedRecorder(BaseCallback):
    """Notes when it is called."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def _on_step(self) -> bool:
        self.seen.append(self.num_timesteps)
        return True


def test_a_list_and_a_function_as_callback():
    calls: list[int] = []

    def function(local_variables: dict, global_variables: dict) -> bool:
        calls.append(local_variables["self"].num_timesteps)
        return len(calls) < 33

    model = tiny_model(RandomEnv()).learn(60, function)
    assert calls == list(range(1, 34)) and model.num_timesteps == 33
    seen: list[int] = []
    model.learn(5, [ConvertedRecorder(seen)], reset_num_timesteps=False)
    assert seen == [34, 35, 36, 37, 38]


def test_progress_bar():
    assert tiny_model(random_envs(2)).learn(40, progress_bar=True).num_timesteps == 40


def test_order_of_events_and_locals():
    class Events(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[str] = []

        def _on_training_start(self) -> None:
            assert self.locals["total_timesteps"] == 40
            self.events.append("training_start")

        def _on_rollout_start(self) -> None:
            self.events.append("rollout_start")

        def _on_step(self) -> bool:
            assert self.locals["dones"].shape == (1,) and len(self.locals["infos"]) == 1
            assert self.model.replay_buffer is not None and self.training_env is self.model.env
            self.events.append("step")
            return True

        def _on_rollout_end(self) -> None:
            self.events.append("rollout_end")

        def _on_training_end(self) -> None:
            self.events.append("training_end")

    callback = Events()
    tiny_model(RandomEnv(), train_freq=20).learn(40, callback)
    rollout = ["rollout_start", *["step"] * 20, "rollout_end"]
    assert callback.events == ["training_start", *rollout, *rollout, "training_end"]


# -- predict -----------------------------------------------------------------------------------------------------------

ACTION_SPACES = {
    "discrete": spaces.Discrete(4),
    "discrete_from_5": spaces.Discrete(3, start=5),
    "box": SMALL_BOX,
    "box64": spaces.Box(-1.0, 3.0, (1,), np.float64),
    "matrix": spaces.Box(np.full((2, 3), -5.0, np.float32), np.arange(6, dtype=np.float32).reshape(2, 3)),
}


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_actions_are_legal_in_training_and_prediction(kind):
    space = ACTION_SPACES[kind]
    model = tiny_model(RandomEnv(action_space=space)).learn(STEPS)  # the environment checks them
    batch = observations_of(model, 20)
    for deterministic in (True, False):
        actions, state = model.predict(batch, deterministic=deterministic)
        assert state is None and actions.shape == (20, *space.shape)
        for action in actions:
            assert space.contains(action), (action, action.dtype)
        single, _ = model.predict(batch[0], deterministic=deterministic)
        assert np.shape(single) == space.shape and space.contains(single)


@pytest.mark.parametrize("kind", ["discrete", "box", "matrix"])
def test_deterministic_prediction_depends_on_the_observation_alone(kind):
    model = tiny_model(RandomEnv(action_space=ACTION_SPACES[kind])).learn(STEPS)
    batch = observations_of(model, 12)
    first, _ = model.predict(batch, deterministic=True)
    model.predict(batch, deterministic=False)
    set_random_seed(99)
    second, _ = model.predict(batch, deterministic=True)
    np.testing.assert_array_equal(first, second)
    for observation, action in zip(batch, first, strict=True):
        single, _ = model.predict(observation, deterministic=True)
        np.testing.assert_allclose(single, action, rtol=1e-4, atol=1e-4)
    backwards, _ = model.predict(batch[::-1], deterministic=True)
    np.testing.assert_allclose(backwards[::-1], first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("space", [ACTION_SPACES["box64"], spaces.Discrete(50)], ids=["box", "discrete"])
def test_first_actions_are_random_and_held(space, monkeypatch):
    searched = []
    search = PlanningPolicy.search
    monkeypatch.setattr(
        PlanningPolicy, "search", lambda *args, **given: searched.append(len(searched)) or search(*args, **given)
    )
    steps: list[np.ndarray] = []
    model = tiny_model(provenance_envs(2, space), learning_starts=80, seed=3)
    model.learn(80, callback=lambda found, _: steps.append(found["buffer_actions"]) or True)
    taken = np.stack(steps).reshape(40, 2)
    changes = np.diff(taken, axis=0) != 0
    assert not searched and (taken[:, 0] != taken[:, 1]).any()
    assert 0 < changes.sum() < changes.size
    model.learn(20, reset_num_timesteps=False)
    assert len(searched) >= 10


@pytest.mark.parametrize("space, expected", [(spaces.Discrete(2), 10), (SMALL_BOX, 5)], ids=["discrete", "box"])
def test_steps_of_the_multi_step_return_suit_the_actions(space, expected, tmp_path):
    model = tiny_model(RandomEnv(action_space=space)).learn(40)
    model.save(tmp_path / "model")
    for some in (model, EfficientZeroV2.load(tmp_path / "model")):
        assert some.arguments.targets.n_step(some.policy.action_kind) == expected
    given = tiny_model(RandomEnv(action_space=space), td_steps=3)
    assert given.arguments.targets.n_step(given.policy.action_kind) == 3


def test_prediction_explores_unless_it_is_deterministic(continuous):
    batch = observations_of(continuous, 10)
    first, second = (continuous.predict(batch)[0] for _ in range(2))
    assert (first != second).any()


def test_every_dimension_has_its_own_bounds(continuous):
    actions = np.concatenate([continuous.predict(observations_of(continuous, 50))[0] for _ in range(4)])
    middle = (SMALL_BOX.low + SMALL_BOX.high) / 2
    assert ((actions < middle).any(axis=0) & (actions > middle).any(axis=0)).all()
    spread = actions.max(axis=0) - actions.min(axis=0)
    assert spread[1] > 2 * spread[0]  # widths 3 and 10


def test_evaluate_policy(discrete):
    returns, lengths = evaluate_policy(discrete, Monitor(RandomEnv()), n_eval_episodes=5, return_episode_rewards=True)
    assert lengths == [7, 7, 8, 7, 7]
    assert returns == [28.0, 28.0, 36.0, 28.0, 28.0]
    mean, _ = evaluate_policy(discrete, random_envs(2), n_eval_episodes=4, warn=False)
    assert mean > 0


# -- policy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["discrete_from_5", "box", "matrix"])
def test_plan_shows_the_search(kind):
    space = ACTION_SPACES[kind]
    model = tiny_model(RandomEnv(action_space=space)).learn(STEPS)
    batch = observations_of(model, 6)
    for deterministic in (True, False):
        plan = model.policy.plan(batch, deterministic=deterministic)
        n_candidates = plan.candidates.shape[1]
        assert plan.candidates.shape == (6, n_candidates, *space.shape)
        assert plan.improved_policy.shape == plan.visit_counts.shape == (6, n_candidates)
        np.testing.assert_allclose(plan.improved_policy.sum(axis=1), 1.0, rtol=1e-5)
        assert (plan.visit_counts.sum(axis=1) == model.n_simulations).all()
        assert plan.root_values.shape == (6,) and np.isfinite(plan.root_values).all()
        for row in range(6):
            assert space.contains(plan.actions[row])
            assert any((plan.actions[row] == candidate).all() for candidate in plan.candidates[row])
    np.testing.assert_allclose(
        model.policy.plan(batch, deterministic=True).actions, model.predict(batch, deterministic=True)[0], rtol=1e-6
    )
    assert model.policy.plan(batch[0]).root_values.shape == (1,)


def test_predict_values(discrete):
    batch = observations_of(discrete, 7)
    tensors, _ = discrete.policy.obs_to_tensor(batch)
    values = discrete.policy.predict_values(tensors)
    assert values.shape == (7, 1) and th.isfinite(values).all() and not values.requires_grad


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_a_policy_saved_and_loaded_alone_predicts_the_same(kind, tmp_path, request):
    model = request.getfixturevalue(kind)
    model.policy.save(tmp_path / "policy.pkl")
    policy = EZV2Policy.load(tmp_path / "policy.pkl")
    batch = observations_of(model, 15)
    np.testing.assert_array_equal(
        policy.predict(batch, deterministic=True)[0], model.predict(batch, deterministic=True)[0]
    )
    tensors, _ = policy.obs_to_tensor(batch)
    th.testing.assert_close(policy.predict_values(tensors), model.policy.predict_values(tensors), rtol=0, atol=0)


# -- save and load -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("target", ["path", "string", "buffer"])
def test_save_and_load(kind, target, tmp_path, request):
    model = request.getfixturevalue(kind)
    if target == "buffer":
        place: Any = io.BytesIO()
        model.save(place)
        place.seek(0)
    else:
        place = tmp_path / "model.zip" if target == "path" else str(tmp_path / "model")
        model.save(place)
    loaded = EfficientZeroV2.load(place, device="cpu")
    assert_same_parameters(loaded, model)
    assert loaded.num_timesteps == model.num_timesteps and loaded._n_updates == model._n_updates
    ours, theirs = model.policy.optimizer.state_dict(), loaded.policy.optimizer.state_dict()
    assert ours["state"].keys() == theirs["state"].keys() and len(ours["state"]) > 0
    for number, state in ours["state"].items():
        for name, value in state.items():
            th.testing.assert_close(theirs["state"][number][name], value, rtol=0, atol=0)
    batch = observations_of(model, 15)
    for deterministic in (True, False):
        loaded.set_random_seed(3)
        model.set_random_seed(3)
        np.testing.assert_array_equal(
            loaded.predict(batch, deterministic=deterministic)[0], model.predict(batch, deterministic=deterministic)[0]
        )


@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_loaded_model_learns_on(discrete, tmp_path, n_envs):
    discrete.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=random_envs(n_envs))
    before = parameters_of(loaded)
    updates = loaded._n_updates
    loaded.learn(45, reset_num_timesteps=False)
    assert loaded.num_timesteps == STEPS + 45 and loaded.n_envs == n_envs
    assert loaded._n_updates > updates
    assert any((before[name] != after).any() for name, after in parameters_of(loaded).items())
    assert_finite_parameters(loaded)


def test_a_model_loaded_without_environment_gets_one_later(discrete, tmp_path):
    discrete.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model")
    assert loaded.get_env() is None
    loaded.set_env(RandomEnv())
    loaded.learn(40, reset_num_timesteps=False)
    assert loaded.num_timesteps == STEPS + 40


def test_loading_with_other_arguments(discrete, tmp_path):
    discrete.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(
        tmp_path / "model", env=RandomEnv(), custom_objects={"learning_rate": 1e-5, "n_simulations": 6}, batch_size=5
    )
    assert loaded.learning_rate == 1e-5 and loaded.batch_size == 5
    plan = loaded.policy.plan(observations_of(loaded, 1))
    assert plan.visit_counts.sum() == 6
    loaded.learn(40)
    assert loaded.policy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_learning_after_loading_is_learning_without_a_break(tmp_path):
    """Model and buffer saved in the middle, loaded elsewhere: the next updates are the same to the last bit."""
    model = tiny_model(RandomEnv(), target_update_interval=7).learn(50)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=RandomEnv())
    loaded.load_replay_buffer(tmp_path / "buffer")
    model.replay_buffer.close_streams()  # as loading does
    model.reanalyzer.cache.clear()
    for one in (model, loaded):
        one._setup_learn(10, None, False)
        one.set_random_seed(5)
        one.train(10)
    assert_same_parameters(model, loaded)


def test_save_and_load_the_replay_buffer(tmp_path):
    model = tiny_model(provenance_envs(2)).learn(60)
    model.save_replay_buffer(tmp_path / "buffer")
    other = tiny_model(provenance_envs(2))
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    assert len(other.replay_buffer) == 60
    ours, theirs = all_windows(model.replay_buffer), all_windows(other.replay_buffer)
    np.testing.assert_array_equal(ours.observations["observation"], theirs.observations["observation"])
    np.testing.assert_array_equal(ours.rewards, theirs.rewards)
    other.learn(40)
    assert len(other.replay_buffer) == 100
    stream = io.BytesIO()
    model.save_replay_buffer(stream)
    stream.seek(0)
    other.load_replay_buffer(stream)
    assert len(other.replay_buffer) == 60


@pytest.mark.parametrize("truncate", [True, False])
def test_the_open_episode_of_a_loaded_buffer(truncate, tmp_path):
    """Ended where it was, or continued if the environment still stands there."""
    model = tiny_model(provenance_envs(), learning_starts=1000).learn(25)  # 7 + 9 + 7 steps, then 2
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=truncate)
    model.learn(10, reset_num_timesteps=False)
    assert_windows_name_themselves_after_continuation(model, cut=truncate)


def assert_windows_name_themselves_after_continuation(model: EfficientZeroV2, cut: bool) -> None:
    """Episode 3 was saved after its second step and then continued."""
    batch = all_windows(model.replay_buffer)
    observations = batch.observations["observation"]
    (row,) = np.flatnonzero((observations[:, 0] == [0, 3, 0]).all(axis=1))
    assert batch.n_ahead[row] == (2 if cut else 5)
    assert not batch.terminated[row]
    if not cut:
        assert_windows_name_themselves(model.replay_buffer)


def test_a_buffer_collected_without_training_can_be_learnt_from_elsewhere(tmp_path):
    """Its transitions have never had a priority."""
    tiny_model(RandomEnv(), learning_starts=1000).learn(50).save_replay_buffer(tmp_path / "buffer")
    model = tiny_model(RandomEnv(), learning_starts=10)
    model.load_replay_buffer(tmp_path / "buffer")
    model.learn(30)
    assert_finite_parameters(model)
    starts = [model.replay_buffer.sample(8, 1, 1, 0.4, np.random.default_rng(i)).slots[:, 0] for i in range(40)]
    assert len(np.unique(starts)) > 40  # old and new ones


def test_get_and_set_parameters(discrete):
    model = tiny_model(RandomEnv(), seed=8).learn(STEPS)
    parameters = discrete.get_parameters()
    assert "policy" in parameters and "policy.optimizer" in parameters
    model.set_parameters(parameters)
    assert_same_parameters(model, discrete)
    batch = observations_of(model, 10)
    np.testing.assert_array_equal(
        model.predict(batch, deterministic=True)[0], discrete.predict(batch, deterministic=True)[0]
    )
    model.set_parameters({"policy": parameters["policy"]}, exact_match=False)
    model.learn(40)


def test_parameters_set_from_outside_make_old_searches_stale():
    """The cache of search results belongs to the network that made them."""
    model = tiny_model(RandomEnv(), target_update_interval=1000).learn(60)
    model.train(20)
    cached = model.reanalyzer.searched_fraction
    model.set_parameters(tiny_model(RandomEnv(), seed=9).get_parameters())
    model.train(1)
    assert model.reanalyzer.searched_fraction > cached + 0.2


# -- environments ------------------------------------------------------------------------------------------------------


def test_set_env(discrete, tmp_path):
    model = tiny_model(provenance_envs()).learn(40)
    model.set_env(DummyVecEnv([lambda: ProvenanceEnv(1)]))
    model.learn(20, reset_num_timesteps=False)
    assert len(model.replay_buffer) == 60
    assert_windows_name_themselves(model.replay_buffer, closed={(0, 5, 1)})


def test_set_random_seed_repeats_what_follows():
    model = tiny_model(RandomEnv(action_space=CONTINUOUS)).learn(STEPS)
    batch = observations_of(model, 5)
    draws = []
    for seed in (1, 1, 2):
        model.set_random_seed(seed)
        draws.append(model.predict(batch)[0])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_vec_normalize():
    """The buffer holds raw data, terminal observations included; the network sees normalised data."""
    env = VecNormalize(provenance_envs(2), norm_reward=True)
    model = tiny_model(env).learn(80)
    assert model.get_vec_normalize_env() is env
    assert_windows_name_themselves(model.replay_buffer)
    assert_finite_parameters(model)
    batch = env.normalize_obs(np.array([[0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]))
    assert model.predict(batch)[0].shape == (2,)


def test_vec_normalize_scales_the_rewards_that_are_learnt():
    """The reward scale of the model is that of the normalised rewards."""

    def scale_with(factor: float) -> float:
        env = VecNormalize(DummyVecEnv([lambda: gym.wrappers.TransformReward(RandomEnv(), lambda r: factor * r)]))
        return float(tiny_model(env).learn(60).policy.model.reward_scale)

    assert scale_with(1e4) == pytest.approx(scale_with(1.0), rel=0.5)


def test_vec_normalize_with_a_dict(tmp_path):
    space = spaces.Dict({"a": spaces.Box(-100.0, 100.0, (2,)), "b": spaces.Discrete(3)})
    env = VecNormalize(random_envs(2, observation_space=space), norm_obs_keys=["a"])
    model = tiny_model(env, policy="MultiInputPolicy").learn(60)
    assert_finite_parameters(model)


def test_subproc_vec_env():
    env = SubprocVecEnv([lambda i=i: ProvenanceEnv(i) for i in range(2)], start_method="fork")
    try:
        model = tiny_model(env).learn(50)
        assert_windows_name_themselves(model.replay_buffer)
    finally:
        env.close()


OBSERVATION_SPACES = {
    "vector": spaces.Box(-3.0, 3.0, (5,)),
    "vector64": spaces.Box(-3.0, 3.0, (5,), np.float64),
    "unbounded": spaces.Box(-np.inf, np.inf, (4,)),
    "matrix": spaces.Box(-3.0, 3.0, (3, 4)),
    "integers": spaces.Box(-5, 5, (3,), np.int64),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "discrete": spaces.Discrete(6),
    "discrete_from_minus_2": spaces.Discrete(6, start=-2),
    "multi_discrete": spaces.MultiDiscrete([2, 5]),
    "multi_discrete_from": spaces.MultiDiscrete([2, 5], start=[3, -1]),
    "multi_binary": spaces.MultiBinary(4),
    "multi_binary_matrix": spaces.MultiBinary((2, 3)),
    "dict": spaces.Dict(
        {
            "vector": spaces.Box(-1.0, 1.0, (3,)),
            "image": spaces.Box(0, 255, (12, 12, 1), np.uint8),
            "discrete": spaces.Discrete(3, start=1),
            "multi_discrete": spaces.MultiDiscrete([2, 3]),
            "multi_binary": spaces.MultiBinary(2),
        }
    ),
}


@pytest.mark.parametrize("kind", OBSERVATION_SPACES)
def test_observation_spaces(kind, tmp_path):
    space = OBSERVATION_SPACES[kind]
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = tiny_model(random_envs(2, observation_space=space), policy=policy).learn(50)
    assert_finite_parameters(model)
    space.seed(0)
    observation = space.sample()
    action, _ = model.predict(observation, deterministic=True)
    assert model.action_space.contains(action)
    if isinstance(space, spaces.Dict):
        batch: Any = {key: np.stack([np.asarray(value)] * 3) for key, value in observation.items()}
    else:
        batch = np.stack([np.asarray(observation)] * 3)
    # Actions may differ between batch sizes: rounding decides between equally good ones.
    value = model.policy.plan(observation, deterministic=True).root_values
    np.testing.assert_allclose(model.policy.plan(batch, deterministic=True).root_values, np.repeat(value, 3), atol=1e-2)
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model")
    for given in (observation, batch):
        expected = model.predict(given, deterministic=True)[0]
        np.testing.assert_array_equal(loaded.predict(given, deterministic=True)[0], expected)


# -- logs --------------------------------------------------------------------------------------------------------------


def documented_keys() -> set[str]:
    """Keys in the tables of the page on logging."""
    page = (Path(__file__).parents[2] / "docs" / "logging.md").read_text(encoding="utf-8")
    return {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}


def test_csv_has_all_documented_keys(tmp_path):
    model = tiny_model(RandomEnv(), verbose=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(60, log_interval=7)
    header, *rows = (tmp_path / "progress.csv").read_text(encoding="utf-8").splitlines()
    written = set(header.split(","))
    expected = {key for key in documented_keys() if not key.startswith(("eval/", "inspect/", "pictures/"))}
    assert expected <= written, expected - written
    assert written <= documented_keys(), written - documented_keys()
    assert len(rows) == 1
    for name, value in zip(header.split(","), rows[0].split(","), strict=True):
        assert np.isfinite(float(value)), name


def test_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    model = tiny_model(RandomEnv(), tensorboard_log=str(tmp_path)).learn(60, log_interval=2, tb_log_name="run")
    model.learn(20, log_interval=2, tb_log_name="run", reset_num_timesteps=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run_1"]
    keys: set[str] = set()
    for path in (tmp_path / "run_1").iterdir():
        events = accumulator.EventAccumulator(str(path))
        events.Reload()
        keys |= set(events.Tags()["scalars"])
    assert {"train/loss", "rollout/ep_rew_mean", "time/fps"} <= keys <= documented_keys()


def test_printed_table(capsys):
    tiny_model(RandomEnv(), verbose=1).learn(60, log_interval=7)
    printed = capsys.readouterr().out
    assert "value_loss" in printed and "ep_rew_mean" in printed


def test_monitor_and_stats_window_size():
    model = tiny_model(Monitor(RandomEnv()), stats_window_size=3).learn(60)
    assert len(model.ep_info_buffer) == model.ep_info_buffer.maxlen == 3
    # The last three of eight episodes: 7, 8, 7 steps in turn.
    assert sorted(info["l"] for info in model.ep_info_buffer) == [7, 7, 8]
    assert {info["r"] for info in model.ep_info_buffer} == {28.0, 36.0}


def test_no_log_without_an_interval(capsys):
    tiny_model(RandomEnv(), verbose=1).learn(40, log_interval=None)
    assert "ep_rew_mean" not in capsys.readouterr().out
