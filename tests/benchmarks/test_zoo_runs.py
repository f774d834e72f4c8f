"""Runs of the zoo that the suite takes over, and the table of tasks that are solved."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.learning import solved, suite, zoo_runs
from benchmarks.records import RELEASE
from tests.zoo.test_zoo_plots import store_run


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """Three seeds of ours and of DQN on CartPole, made up, and one of ours on Acrobot that fails."""
    logs = tmp_path / "logs"
    monkeypatch.setattr(zoo_runs, "current_commit", lambda folder: f"commit of {folder.parents[1].name}")
    for seed in range(3):
        store_run(logs, "CartPole-v1", [100.0, 480.0 + seed, 500.0], seed=seed)
        store_run(logs, "CartPole-v1", [9.0, 20.0, 490.0], algo="dqn", seed=seed, every=1_000)
    store_run(logs, "Acrobot-v1", [-500.0, -400.0])
    store_run(logs, "Acrobot-v1", [-90.0, -80.0], algo="dqn")
    store_run(logs, "Pendulum-v1", [-150.0])
    suite.main(["store", str(logs), "--out", str(tmp_path / "results")])
    return tmp_path / "results"


def test_stored_runs_are_whole(results):
    stored = json.loads((results / "CartPole-v1" / "dqn-seed-1.json").read_text())
    assert [each["step"] for each in stored["evaluations"]] == [1_000, 2_000, 3_000]
    assert stored["evaluations"][2]["returns"] == [489.0, 491.0] and stored["evaluations"][2]["mean_return"] == 490.0
    assert (stored["seed"], stored["n_steps"], stored["command"]) == (1, 3_000, "python -m a.command")
    assert stored["seconds"] == pytest.approx(108.0) and stored["commit"] == "commit of logs" and stored["complete"]
    assert stored["release"] == RELEASE


def test_the_table_says_what_was_reached_and_what_was_not(results, tmp_path, capsys):
    out = tmp_path / "table.md"
    suite.main(["solved", "--out", str(results), "--page", str(out)])
    lines = out.read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()[-len(lines) :]
    assert "| CartPole-v1 | ezv2 | 300 | 500.0 ± 0.0 (3) | 475 | 200, 200, 200 | 1.8 |" in lines
    assert "| CartPole-v1 | dqn | 3,000 | 490.0 ± 0.0 (3) | 475 | 3,000, 3,000, 3,000 | 1.8 |" in lines
    assert "- CartPole-v1: ezv2 needs 200 steps, dqn 3,000: 0.07 of them. The aim of 0.25 is reached." in lines
    assert "- Acrobot-v1: ezv2 does not solve it in its budget." in lines
    assert "- Pendulum-v1: not measured yet." in lines


def test_a_median_counts_seeds_that_never_solve():
    def run(returns: list[float]) -> dict[str, list[dict[str, float]]]:
        return {"evaluations": [{"step": i + 1, "mean_return": each} for i, each in enumerate(returns)]}

    good, never = run([0.0, 500.0]), run([0.0, 0.0])
    assert solved.median_steps([good, good, never], 475) == 2
    assert solved.median_steps([good, never, never], 475) == np.inf
    assert solved.median_steps([good, never], 475) == np.inf


def test_without_runs_that_is_told(tmp_path):
    with pytest.raises(SystemExit, match="has no runs"):
        suite.main(["solved", "--out", str(tmp_path)])


def test_games_have_the_suites_names(tmp_path):
    names = {"ALE/Pong-v5": "Pong", "PongNoFrameskip-v4": "Pong", "CartPole-v1": "CartPole-v1"}
    assert {env: zoo_runs.task_name(env) for env in names} == names
