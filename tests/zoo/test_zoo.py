"""Train, enjoy, record, plot, resume and tune with the zoo's commands, as their users do."""

import ctypes.util
import signal
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch as th
import yaml
from matplotlib.image import imread
from stable_baselines3.common.env_util import make_vec_env

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.inspection.plan_frames import WIDTH
from sb3_ezv2.policies import PlanningPolicy
from tests.helpers.zoo import TINY, files, run, start, train

WALKER = "dm_control/walker-walk-v0"
ENVS = ["CartPole-v1", "Pendulum-v1", WALKER]
N_STEPS = 120


class Run(NamedTuple):
    env: str
    name: str  # of the run's files
    cwd: Path
    folder: Path
    output: str


@pytest.fixture(scope="module", params=ENVS)
def trained(request, tmp_path_factory) -> Run:
    cwd = tmp_path_factory.mktemp("zoo")
    env, name = request.param, request.param.replace("/", "-")
    output = train(env, N_STEPS, "--save-replay-buffer", "-P", cwd=cwd)
    return Run(env, name, cwd, cwd / "logs" / "ezv2" / f"{name}_1", output)


def load(path: Path) -> EfficientZeroV2:
    return EfficientZeroV2.load(path, device="cpu")


def test_a_run_leaves_everything_in_its_folder(trained):
    found = files(trained.folder)
    assert found >= {
        f"{trained.name}.zip",
        f"{trained.name}/config.yml",
        f"{trained.name}/args.yml",
        f"{trained.name}/command.txt",
        "0.monitor.csv",
        "evaluations.npz",
        "best_model.zip",
        "replay_buffer.pkl",
        "learning_curve.png",
        "journal.sqlite",
    }
    assert "sb3_ezv2.train" in (trained.folder / trained.name / "command.txt").read_text()
    picture = imread(trained.folder / "learning_curve.png")
    assert picture.shape[2] == 4 and picture.std() > 0.01
    assert load(trained.folder / f"{trained.name}.zip").num_timesteps == N_STEPS


def test_a_short_run_is_evaluated_five_times(trained):
    with np.load(trained.folder / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [24, 48, 72, 96, 120]
        assert stored["results"].shape == (5, 2)


def test_the_progress_bar_shows_return_and_speed(trained):
    bar = trained.output[trained.output.rindex("return ") :].splitlines()[0]
    assert "120/120" in bar and "steps/s" in bar
    if trained.env == "CartPole-v1":  # the others finish no episode in so few steps
        assert float(bar.removeprefix("return ").split(":")[0]) > 5


def test_enjoy(trained):
    # Ten frames for each decision make the walker's 1,000 frames 100 decisions.
    faster = ["--env-kwargs", "action_repeat:10"] if trained.env == WALKER else []
    output = run("enjoy", "--env", trained.env, "--no-render", "-n", "205", *faster, cwd=trained.cwd)
    assert "Mean reward" in output
    lengths = [int(line.split()[-1]) for line in output.splitlines() if line.startswith("Episode Length")]
    if trained.env == WALKER:
        assert lengths == [100, 100]
    elif trained.env == "Pendulum-v1":
        assert lengths == [200]


def test_record_video(trained):
    if trained.env == WALKER and not (ctypes.util.find_library("EGL") or ctypes.util.find_library("OSMesa")):
        pytest.skip("pictures of MuJoCo need libEGL or libOSMesa on a machine without a display")
    if trained.env != WALKER:
        pytest.importorskip("pygame")
    run("record_video", "--env", trained.env, "-n", "12", cwd=trained.cwd)
    (video,) = (trained.folder / "videos").glob("*.mp4")
    moviepy = pytest.importorskip("moviepy")
    with moviepy.VideoFileClip(str(video)) as clip:
        frames = [frame for frame in clip.iter_frames()]
    assert len(frames) >= 11  # the reader may round the last one away
    assert frames[0].ndim == 3 and frames[0].shape[2] == 3
    assert np.std(frames[0]) > 1
    assert any(not np.array_equal(frames[0], frame) for frame in frames[1:])


def test_plans_beside_the_frames_of_a_video(trained):
    if trained.env == WALKER:
        pytest.skip("drawing MuJoCo is tried by test_record_video")
    pytest.importorskip("pygame")
    moviepy = pytest.importorskip("moviepy")
    output = trained.cwd / "plans"
    run("record_video", "--env", trained.env, "-n", "12", "--plans", "-o", str(output), cwd=trained.cwd)
    (video,) = output.glob("*.mp4")
    with moviepy.VideoFileClip(str(video)) as clip:
        frames = [frame for frame in clip.iter_frames()]
    assert len(frames) >= 11  # the reader may round the last one away
    panels = [frame[:, -WIDTH:] for frame in frames]
    assert all(panel.std() > 10 for panel in panels)
    assert any(not np.array_equal(panels[0], panel) for panel in panels[1:])


def test_inspect(trained):
    output = run("inspect_run", "--env", trained.env, "-n", "1", "--max-steps", "60", "--no-render", cwd=trained.cwd)
    text = (trained.folder / "inspection.html").read_text(encoding="utf-8")
    assert f"EfficientZeroV2 on {trained.env}, {N_STEPS} steps" in text and text.count("<img") > 8
    assert "departure_rate" in output and "Left out: the rendered frame: the environment renders nothing" in output


def test_plot(trained):
    output = run("plot", "-e", trained.env, "-o", "pictures/evaluation.png", cwd=trained.cwd)
    assert f"{trained.name}, ezv2" in output
    assert imread(trained.cwd / "pictures" / "evaluation.png").std() > 0.01


def test_resume_goes_on_where_the_run_stopped(trained):
    before = load(trained.folder / f"{trained.name}.zip")
    output = train(
        trained.env, 30, "-i", str(trained.folder / f"{trained.name}.zip"), "--save-replay-buffer", "-f", "resumed",
        "--eval-freq", "-1", cwd=trained.cwd,
    )  # fmt: skip
    assert f"Going on from step {N_STEPS} to step {N_STEPS + 30}" in output
    folder = trained.cwd / "resumed" / "ezv2" / f"{trained.name}_1"
    parent = yaml.safe_load((trained.folder / "run.yml").read_text())
    record = yaml.safe_load((folder / "run.yml").read_text())
    assert (record["parent"], record["first_step"]) == (parent["id"], N_STEPS)
    after = load(folder / f"{trained.name}.zip")
    assert after.num_timesteps == after._total_timesteps == N_STEPS + 30
    assert after._n_updates == before._n_updates + 30 * max(1, after.gradient_steps)  # -1 is one for each step
    assert after.target_version == 1 + (after._n_updates - 1) // after.target_update_interval
    assert after.target_version > before.target_version
    steps = {float(state["step"]) for state in after.policy.optimizer.state_dict()["state"].values()}
    assert steps == {float(after._n_updates)}
    before.load_replay_buffer(trained.folder / "replay_buffer.pkl")
    after.load_replay_buffer(folder / "replay_buffer.pkl")
    assert len(after.replay_buffer) == len(before.replay_buffer) + 30 == N_STEPS + 30


def test_tune_three_trials(trained):
    faster = ["--env-kwargs", "action_repeat:50"] if trained.env == WALKER else []
    output = run(
        "train", "--env", trained.env, "-n", "50", "-optimize", "--n-trials", "3", "--eval-episodes", "1",
        "--n-eval-envs", "1", "--no-optim-plots", "--n-evaluations", "1", "-f", "tuned", "--seed", "1",
        *faster, "-params", "learning_starts:40", cwd=trained.cwd,
    )  # fmt: skip
    assert "Number of finished trials:  3" in output
    (report,) = (trained.cwd / "tuned" / "ezv2").glob("report_*.csv")
    trials = pd.read_csv(report)
    assert trials["state"].tolist() == ["COMPLETE"] * 3
    assert np.isfinite(trials["value"]).all()
    assert ("params_n_candidates_pow" in trials.columns) == (trained.env != "CartPole-v1")
    # Only reports: no folder that enjoy would take for the latest run.
    assert all("report_" in name for name in files(trained.cwd / "tuned"))


def test_an_interrupted_run_is_saved_and_finished_later(tmp_path):
    arguments = ["--env", "CartPole-v1", "--seed", "0", "--eval-freq", "-1"]
    settings = ["-params", *TINY, "n_timesteps:100000", "learning_rate:'lin_1e-3'"]
    process = start("train", *arguments, *settings, cwd=tmp_path)
    monitor_file = tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "0.monitor.csv"
    deadline = time.time() + 300
    while not (monitor_file.is_file() and len(monitor_file.read_text().splitlines()) > 8):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    stopped = tmp_path / "logs" / "ezv2" / "CartPole-v1_1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a new episode may begin
        before = EfficientZeroV2.load_checkpoint(stopped / "checkpoints", make_vec_env("CartPole-v1"), device="cpu")
    assert 0 < before.num_timesteps < 100_000
    # Shorten the plan, so that it can be finished here: 20 steps are left of it.
    planned = before.num_timesteps + 20
    before._total_timesteps = planned
    before.save_checkpoint(stopped / "checkpoints")
    output = run("train", *arguments, "-i", str(stopped), *settings, cwd=tmp_path)
    assert f"to step {planned}" in output
    after = load(tmp_path / "logs" / "ezv2" / "CartPole-v1_2" / "CartPole-v1.zip")
    assert after.num_timesteps == planned
    assert after._current_progress_remaining == pytest.approx(0.0, abs=1e-9)
    # The rate has fallen along the whole plan and did not start again.
    assert after.policy.optimizer.param_groups[0]["lr"] <= 1e-3 * 21 / planned


@pytest.mark.parametrize("trained", ["Pendulum-v1"], indirect=True)
def test_a_model_travels_through_the_hub_without_a_connection(trained):
    output = run("push_to_hub", "--env", trained.env, "-orga", "us", "--no-render", "--dry-run", cwd=trained.cwd)
    assert "nothing is sent" in output
    repository = trained.cwd / "hub" / f"ezv2-{trained.name}"
    assert {"README.md", "config.yml", "args.yml", f"ezv2-{trained.name}.zip", "results.json"} <= files(repository)
    card = (repository / "README.md").read_text()
    assert f"python -m sb3_ezv2.load_from_hub --algo ezv2 --env {trained.env} -orga us" in card
    assert "rl_zoo3." not in card and "sb3_ezv2[zoo]" in card
    run("load_from_hub", "--env", trained.env, "-orga", "us", "--local", "hub", "-f", "fetched", cwd=trained.cwd)
    fetched = trained.cwd / "fetched" / "ezv2" / f"{trained.name}_1"
    ours, theirs = load(trained.folder / f"{trained.name}.zip"), PlanningPolicy.load(fetched / f"{trained.name}.zip")
    for name, value in theirs.average_model.state_dict().items():
        assert th.equal(value.cpu(), ours.policy.average_model.state_dict()[name]), name
    assert "Mean reward" in run(
        "enjoy", "--env", trained.env, "--no-render", "-f", "fetched", "-n", "210", cwd=trained.cwd
    )


def test_an_explicit_frequency_of_evaluations_is_kept(tmp_path):
    train("CartPole-v1", 60, "--eval-freq", "25", cwd=tmp_path)
    run_folder = tmp_path / "logs" / "ezv2" / "CartPole-v1_1"
    with np.load(run_folder / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [25, 50]
    assert yaml.safe_load((run_folder / "run.yml").read_text())["parent"] is None


def test_the_users_own_file_comes_first(tmp_path):
    (tmp_path / "own.yml").write_text(
        yaml.safe_dump({"CartPole-v1": {"policy": "MlpPolicy", "n_timesteps": 45, "n_simulations": 3, "batch_size": 4}})
    )
    run("train", "--env", "CartPole-v1", "-c", "own.yml", "--eval-freq", "-1", cwd=tmp_path)
    model = load(tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "CartPole-v1.zip")
    assert (model.num_timesteps, model.n_simulations, model.batch_size) == (45, 3, 4)
