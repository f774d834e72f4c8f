"""Evaluation in another process finds what ``EvalCallback`` finds, of the weights that were due."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ezv2 import BackgroundEvalCallback, EfficientZeroV2
from tests.helpers.tiny import assert_same_parameters, parameters_of, tiny_model


def new_env(n_envs: int, training: bool):
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs, seed=5), training=training, norm_reward=training)
    env.seed(7)
    return env


def stored(folder):
    with np.load(folder / "evaluations.npz") as found:
        return {name: found[name].tolist() for name in found}


def test_it_finds_what_eval_callback_finds(tmp_path):
    models = []
    for name in ("beside", "within"):
        arguments = {"n_eval_episodes": 4, "eval_freq": 20, "verbose": 0, "log_path": str(tmp_path / name)}
        arguments["best_model_save_path"] = str(tmp_path / name)
        if name == "beside":
            callback = BackgroundEvalCallback(lambda: new_env(1, False), **arguments)
        else:
            callback = EvalCallback(new_env(1, False), **arguments)
        models.append(tiny_model(new_env(2, True)).learn(150, callback, log_interval=None))
    assert_same_parameters(*models)
    beside, within = stored(tmp_path / "beside"), stored(tmp_path / "within")
    assert beside == within and beside["timesteps"] == [40, 80, 120]
    best = [EfficientZeroV2.load(tmp_path / name / "best_model.zip", device="cpu") for name in ("beside", "within")]
    assert_same_parameters(*best)
    assert any((value != parameters_of(models[0])[name]).any() for name, value in parameters_of(best[0]).items())


def test_a_new_best_may_stop_the_run_and_a_broken_environment_says_so():
    def broken():
        raise RuntimeError("no simulator here")

    callback = BackgroundEvalCallback(broken, eval_freq=5, verbose=0)
    with pytest.raises(RuntimeError, match="the process that evaluates has ended with status 1"):
        tiny_model("CartPole-v1", learning_starts=10_000).learn(500, callback)
    stop = StopTrainingOnRewardThreshold(1.0)
    callback = BackgroundEvalCallback(lambda: new_env(1, False), stop, eval_freq=5, n_eval_episodes=1, verbose=0)
    model = tiny_model(new_env(1, True), learning_starts=10_000).learn(1_000_000, callback)
    assert model.num_timesteps < 1_000_000 and callback.best_mean_reward >= 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"make_eval_env": make_vec_env("CartPole-v1", 1)}, "make_eval_env=.* must be a function that makes"),
        ({"eval_freq": 0}, "eval_freq=0 must be an integer of at least 1"),
        ({"n_eval_episodes": 1.5}, "n_eval_episodes=1.5 must be an integer"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BackgroundEvalCallback(**{"make_eval_env": lambda: None, **arguments})
