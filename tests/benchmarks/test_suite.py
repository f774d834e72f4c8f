"""The suite of learning runs: its table of tasks, its processes, its records and its tables."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sb3_ezv2
from benchmarks.learning import jobs, suite, training
from benchmarks.learning.tables import nearest, read_published
from benchmarks.learning.tasks import GROUPS, TASKS, chosen

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published"
TINY = ["--set", "learning_starts=20", "batch_size=4", "n_simulations=2", "policy_kwargs.latent_dim=16"]
SHORT = ["--steps", "30", "--eval-interval", "15", "--episodes", "2"]


def store(folder: Path, task: str, seed: int, last: float, algo: str = "ezv2") -> None:
    """A run with two evaluations."""
    path = training.result_path(folder, task, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    evaluations = [{"step": 50_000 * i, "mean_return": last / (3 - i), "training_seconds": 1.0} for i in (1, 2)]
    path.write_text(json.dumps({"task": task, "algo": algo, "seed": seed, "evaluations": evaluations}))


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_the_published_games_are_those_of_the_table():
    rows = read_published([PUBLISHED / "atari_100k.csv"])
    games = {name for name, task in TASKS.items() if task.group == "atari"}
    assert len(games) == 26 and len(rows) == 3 * 26
    assert {(row.task, row.algo) for row in rows} == {(g, algo) for g in games for algo in ("random", "human", "ezv2")}


def test_the_table_has_the_papers_tasks_and_no_settings():
    of_the_paper = {task.published for task in TASKS.values() if task.group == "dmc"}
    table_2 = [row for row in read_published([PUBLISHED / "dmc_proprio.csv"]) if "Table 2" in row.source]
    assert len(of_the_paper) == 20 and of_the_paper == {row.task for row in table_2 if row.algo == "ezv2"}
    for name, task in TASKS.items():
        if task.group == "dmc":  # the paper's budget
            assert nearest(table_2, name, "ezv2", task.n_steps).frames == 2 * task.n_steps
        assert task.n_steps % task.eval_interval == 0
    arguments = set(inspect.signature(sb3_ezv2.EfficientZeroV2).parameters)
    assert not arguments & set(next(iter(TASKS.values()))._fields)


def test_groups_and_names_choose_tasks():
    assert list(chosen(["pixels", "CartPole-v1"])) == ["catch", "catch-continuous", "catch-dict", "CartPole-v1"]
    with pytest.raises(ValueError, match="--tasks nothing"):
        chosen(["nothing"])


def test_a_missing_package_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(suite, "find_spec", lambda module: None)
    listed = suite.list_tasks()
    assert all(name in listed for name in (*TASKS, *GROUPS))
    assert "minatar: minatar is not installed; pip install 'sb3_ezv2[benchmarks]'" in listed.splitlines()
    with pytest.raises(SystemExit, match="^suite: minatar: minatar is not installed"):
        suite.main(["run", "--tasks", "MinAtar-Breakout", "--out", "nowhere"])


@pytest.mark.parametrize("name", ["CartPole-v1-rewards-1e4", "CartPole-v1-normalised", "CartPole-v1"])
def test_wrappers_are_of_training_only(name):
    env, eval_env = training.make_envs(TASKS[name], 0, 2)
    rewards = []
    for each in (env, eval_env):
        each.reset()
        rewards.append(each.step(np.zeros(each.num_envs, int))[1])
    assert rewards[1] == pytest.approx([1.0, 1.0])
    assert (rewards[0] == pytest.approx([1.0])) == (name == "CartPole-v1")


def test_runs_need_no_more_than_the_algorithm():
    """A machine that only makes runs has the path to the sources and few packages."""
    code = """
import sys
for name in ("rl_zoo3", "optuna", "yaml", "pandas", "huggingface_sb3", "dm_control", "Box2D", "minatar", "shimmy"):
    sys.modules[name] = None
from benchmarks.learning import suite, training
print(suite.list_tasks())
"""
    environment = {**os.environ, "PYTHONPATH": str(jobs.ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert "CartPole-v1" in done.stdout and "dmc: dm_control is not installed" in done.stdout


# -- runs --------------------------------------------------------------------------------------------------------------


def test_settings_are_parsed():
    given = ["batch_size=8", "gamma=0.9", "policy_kwargs.latent_dim=16", "policy_kwargs.n_blocks=1", "device=cpu"]
    parsed = training.parse_settings(given)
    assert parsed == {
        "batch_size": 8, "gamma": 0.9, "policy_kwargs": {"latent_dim": 16, "n_blocks": 1}, "device": "cpu",
    }  # fmt: skip
    for wrong in (["batch_size"], ["=3"], ["gamma=1", "gamma.x=2"]):
        with pytest.raises(ValueError, match="--set"):
            training.parse_settings(wrong)


def test_runs_are_stored_once(tmp_path, capsys):
    command = ["run", "--tasks", "Corridor-v0", "--seeds", "3", "4", "--out", str(tmp_path), "--jobs", "2"]
    command += [*SHORT, *TINY]
    with pytest.raises(SystemExit) as ended:
        suite.main(command)
    assert ended.value.code == 0
    record = json.loads((tmp_path / "Corridor-v0" / "seed-4.json").read_text())
    assert record["complete"] and [each["step"] for each in record["evaluations"]] == [15, 30]
    assert [len(each["returns"]) for each in record["evaluations"]] == [2, 2]
    assert record["settings"]["policy_kwargs"] == {"latent_dim": 16} and record["seed"] == 4
    assert record["command"].startswith("python -m benchmarks.learning.training Corridor-v0 --seed 4")
    assert record["processor_seconds"] > 0 and record["commit"] and record["versions"]["torch"]
    before = (tmp_path / "Corridor-v0" / "seed-4.json").stat().st_mtime_ns
    with pytest.raises(SystemExit) as ended:
        suite.main(command)
    assert ended.value.code == 0 and "seed-4.json is complete" in capsys.readouterr().out
    assert (tmp_path / "Corridor-v0" / "seed-4.json").stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match="other settings"):
        suite.main([*command[:-1], "policy_kwargs.latent_dim=8"])


def parameters(path: Path) -> list[np.ndarray]:
    """Of a stored agent."""
    policy = sb3_ezv2.EfficientZeroV2.load(path, device="cpu").policy
    return [value.numpy() for value in policy.state_dict().values()]


def test_a_run_in_legs_is_the_run_that_was_not_stopped(tmp_path):
    command = ["Corridor-v0", "--seed", "3", *SHORT, "--last-episodes", "2"]
    whole, legs = ([*command, "--out", str(tmp_path / name), "--agents", str(tmp_path / name)] for name in "ab")
    training.main([*whole, *TINY])
    legs += ["--checkpoints", str(tmp_path / "checkpoints")]
    for limit in (["--leg-seconds", "0"], ["--leg-seconds", "0"], []):
        training.main([*legs, *limit, *TINY])
    records = [json.loads((tmp_path / name / "Corridor-v0" / "seed-3.json").read_text()) for name in "ab"]
    assert [leg["to"] for leg in records[1]["legs"]] == [1, 2, 30]
    expected, found = ([each["returns"] for each in (*record["evaluations"], record["last"])] for record in records)
    assert found == expected
    assert all(record["complete"] and record["seconds"] > 0 for record in records)
    expected, found = (parameters(tmp_path / name / "Corridor-v0" / "seed-3.zip") for name in "ab")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="--leg-seconds needs --checkpoints"):
        training.main([*command, "--out", str(tmp_path / "c"), "--leg-seconds", "1", *TINY])
    with pytest.raises(ValueError, match="not --algo dqn"):
        training.main([*command, "--out", str(tmp_path / "c"), "--checkpoints", "c", "--algo", "dqn"])


def test_a_leg_notes_the_returns_of_its_episodes(tmp_path):
    command = ["Corridor-v0", "--seed", "3", *SHORT, "--checkpoints", str(tmp_path / "checkpoints")]
    training.main([*command, "--out", str(tmp_path / "a"), "--leg-seconds", "1000", *TINY])
    record = json.loads((tmp_path / "a" / "Corridor-v0" / "seed-3.json").read_text())
    steps = [step for step, _ in record["training_returns"]]
    assert steps and steps == sorted(steps) and steps[-1] <= record["legs"][-1]["to"] == 30


def test_a_failed_run_is_told(tmp_path, capsys):
    command = ["run", "--tasks", "Corridor-v0", "--out", str(tmp_path), "--set", "batch_size=-1"]
    with pytest.raises(SystemExit) as ended:
        suite.main(command)
    assert ended.value.code == 1
    assert "failed (1)" in (said := capsys.readouterr().out) and "batch_size" in said


# -- processes ---------------------------------------------------------------------------------------------------------


def state(pid: int) -> str:
    """``T`` for a stopped process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(condition, seconds: float = 20.0) -> None:
    """Fail if the condition does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_pause_stops_and_resume_continues_every_run(tmp_path):
    files, logs = tmp_path / "processes", tmp_path / "logs"
    starter = f"""
from pathlib import Path
from benchmarks.learning.jobs import run_all
commands = {{Path({str(logs)!r}) / str(i): ["-c", "import time; time.sleep(60)"] for i in range(3)}}
for log, code in run_all(commands, 2, Path({str(files)!r})):
    pass
"""
    parent = subprocess.Popen([sys.executable, "-c", starter], env=jobs.environment())
    try:
        wait_until(lambda: len(list(files.glob("*.json"))) == 1 and len(jobs.named_processes(files)[0]) == 3)
        pids = jobs.named_processes(files)[0]
        assert pids[0] == parent.pid
        assert jobs.pause(files) == 3
        wait_until(lambda: [state(pid) for pid in pids] == ["T"] * 3)
        assert jobs.resume(files) == 3
        wait_until(lambda: "T" not in [state(pid) for pid in pids])
        os.kill(pids[1], signal.SIGTERM)  # the third takes its place
        wait_until(lambda: pids[1] not in jobs.named_processes(files)[0] and len(jobs.named_processes(files)[0]) == 3)
    finally:
        left = [pid for pids in jobs.named_processes(files) for pid in pids]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        parent.wait()
    wait_until(lambda: jobs.named_processes(files) == [])
    assert list(files.glob("*.json")) == []


def test_a_number_that_another_process_has_by_now_is_left_alone(tmp_path):
    (tmp_path / "1.json").write_text(json.dumps([[os.getpid(), "0"], [2**30, "17"]]))
    assert jobs.pause(tmp_path) == 0 and not list(tmp_path.iterdir())


def test_what_is_printed_is_kept_and_the_codes_are_told(tmp_path):
    commands = {tmp_path / "a" / "0": ["-c", "print(7)"], tmp_path / "a" / "1": ["-c", "raise SystemExit(3)"]}
    assert dict(jobs.run_all(commands, 2, tmp_path / "p")) == {tmp_path / "a" / "0": 0, tmp_path / "a" / "1": 3}
    assert (tmp_path / "a" / "0").read_text() == "7\n"


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_table_compares_with_what_is_published(tmp_path, capsys):
    for seed, last in enumerate([900.0, 910.0, 980.0]):
        store(tmp_path, "walker-walk", seed, last)
        store(tmp_path, "cartpole-swingup", seed, 700.0 + seed)
    store(tmp_path, "CartPole-v1", 0, 500.0, "dqn")
    suite.main(
        ["table", "--out", str(tmp_path), "--against", str(PUBLISHED / "dmc_proprio.csv"), "--source", "Table 2",
         "--pictures", str(tmp_path / "pictures")]
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert "| CartPole-v1 | dqn | 100,000 | 1 | 500.0 | one seed | 500.0 | one seed |" in lines
    assert any(line.startswith("| walker-walk | ezv2 | 100,000 | 3 | 930.0 | 9") for line in lines)
    assert any(
        line.startswith("| walker-walk | 930.0 | 200,000 | 944.0 | 100,000 | 0.33 | 0.00 to 1.00 ") for line in lines
    )
    assert any(line.startswith("Over these tasks the probability of improvement is 0.17") for line in lines)
    assert "Mean over its 2 tasks of dmc: 815.5, published 874.7." in lines
    assert any(line.startswith("ezv2, 2 of 20 tasks of dmc: mean 815.5 (") for line in lines)
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {
        "CartPole-v1",
        "walker-walk",
        "cartpole-swingup",
    }


def test_scores_of_games_are_human_normalised(tmp_path, capsys):
    for task, last in {"Pong": 14.6, "Boxing": 6.1}.items():  # a human, and half of the way to one
        store(tmp_path, task, 0, last)
    suite.main(["table", "--out", str(tmp_path), "--against", str(PUBLISHED / "atari_100k.csv")])
    lines = capsys.readouterr().out.splitlines()
    normalised = "ezv2, 2 of 26 tasks of atari, human-normalised: mean 0.750 (one seed), median 0.750 (one seed), "
    assert any(line.startswith(normalised) for line in lines)
    assert "Mean over its 2 tasks of atari, human-normalised: 0.750, published 3.709." in lines
    suite.main(["table", "--out", str(tmp_path)])
    assert "human-normalised" not in capsys.readouterr().out  # without the scores of a human


def test_what_cannot_be_compared_is_told(tmp_path):
    with pytest.raises(SystemExit, match="has no runs"):
        suite.main(["table", "--out", str(tmp_path)])
    store(tmp_path, "walker-walk", 0, 1.0)
    (tmp_path / "a.csv").write_text("task,score\n")
    with pytest.raises(SystemExit, match="columns"):
        suite.main(["table", "--out", str(tmp_path), "--against", str(tmp_path / "a.csv")])
