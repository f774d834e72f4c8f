"""The time of a run is the sum of its parts, and what cannot be timed is refused."""

import numpy as np
import pytest

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2 import run_time as module
from sb3_ezv2.command_line import run
from sb3_ezv2.run_time import RunTime, duration, estimate_run_time, searched_fraction, updates_per_step
from tests.helpers.tiny import TINY_NETWORK


@pytest.fixture(autouse=True)
def few_repeats(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)


def new_model(**arguments) -> EfficientZeroV2:
    settings = {"n_simulations": 2, "batch_size": 4, "policy_kwargs": TINY_NETWORK, "seed": 0, **arguments}
    return EfficientZeroV2("MlpPolicy", "CartPole-v1", **settings)


def test_the_searched_fraction_is_that_of_uniform_draws():
    rng, n, n_draws = np.random.default_rng(0), 500, 1_200
    searched = np.mean([len(set(rng.integers(n, size=n_draws))) / n_draws for _ in range(50)])
    assert searched_fraction(np.array(float(n)), np.array(float(n_draws))) == pytest.approx(searched, rel=0.02)


def test_the_total_is_the_sum_of_the_parts():
    parts = RunTime(1_000, 800.0, 0.001, 0.002, 0.01, 0.0001, 384, 0.5, 10.0, "cpu")
    assert parts.seconds == pytest.approx(
        {"environment": 1.0, "acting": 2.0, "updates": 8.0, "reanalysis": 15.36, "start": 10.0}
    )
    assert parts.total == pytest.approx(36.36)
    assert "about 36 seconds" in str(parts) and "reanalysis 42%" in str(parts)


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 seconds"), (150, "2.5 minutes"), (9_000, "2.5 hours"), (216_000, "2.5 days")]
)
def test_durations_are_said_in_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text


def test_a_run_is_timed_without_learning_it():
    model = new_model(learning_starts=100, target_update_interval=10)
    found = estimate_run_time(model, 1_000)
    assert (found.n_steps, found.n_updates, found.n_states) == (1_000, 900.0, 24)
    assert min(found.environment, found.acting, found.update + found.search) > 0.0  # the last two are told apart badly
    assert found.searched_fraction == pytest.approx(
        searched_fraction(np.linspace(101, 1_001, 1_000), np.array(240.0)).mean()
    )
    assert model.num_timesteps < 300  # only what is needed to time it


def test_without_a_cache_everything_is_searched():
    found = estimate_run_time(new_model(use_target_cache=False), 1_000)
    assert found.searched_fraction == 1.0 and found.update == 0.0 and found.search > 0.0


@pytest.mark.parametrize(
    ("arguments", "ratio"),
    [({}, 1.0), ({"gradient_steps": 4}, 4.0), ({"gradient_steps": 1, "train_freq": 2}, 0.5)],
)
def test_the_update_to_data_ratio(arguments, ratio):
    assert updates_per_step(new_model(**arguments)) == ratio


@pytest.mark.parametrize(
    ("arguments", "steps", "named"),
    [
        ({"gradient_steps": 1, "train_freq": (1, "episode")}, 10, "train_freq=.*gradient_steps=1"),
        ({}, 0, "total_timesteps=0"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments, steps, named):
    with pytest.raises(ValueError, match=named):
        estimate_run_time(new_model(**arguments), steps)


def test_a_model_that_has_learned_or_has_no_environment_is_refused():
    model = new_model(learning_starts=20).learn(10)
    with pytest.raises(ValueError, match="has made 10 steps"):
        estimate_run_time(model, 10)
    model.env = None
    with pytest.raises(ValueError, match="env=None"):
        estimate_run_time(model, 10)


def test_the_command_times_a_run_of_the_zoo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["-params", "n_simulations:2", "batch_size:4", "learning_starts:100"]
    run("estimate", ["--env", "CartPole-v1", "-n", "500", *settings])
    assert "500 steps with 1,600 updates on cpu: about" in capsys.readouterr().out  # the zoo's entry makes four a step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "named"), [(["--algo", "sac"], "--algo sac"), (["-optimize"], "-optimize"), (["-n", "x"], "-n")]
)
def test_the_command_names_what_is_wrong(words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run("estimate", ["--env", "Pendulum-v1", *words])
    assert ended.value.code == 1 and named in capsys.readouterr().err
