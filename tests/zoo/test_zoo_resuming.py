"""What ``ezv2-train -i`` goes on with."""

import json
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_ezv2 import EfficientZeroV2, command_line
from sb3_ezv2.checkpoint_files import checkpoints_in
from sb3_ezv2.zoo.progress import ReturnProgressBar
from sb3_ezv2.zoo.resuming import CHECKPOINTS, JOURNAL, Origin, find_origin, missed_updates
from tests.helpers.tiny import tiny_model
from tests.helpers.zoo import TINY
from tests.zoo.test_zoo_saving import ARGUMENTS, RUN, Ends, ended, fail, in_an_empty_folder

__all__ = ["in_an_empty_folder"]
RESUMED = RUN.with_name("CartPole-v1_2")
RESUME = ["--env", "CartPole-v1", "--seed", "0", "--eval-freq", "-1", "--verbose", "0"]


def resume(path: Path, *arguments: str) -> None:
    command_line.run("train", [*RESUME, "-i", str(path), *arguments])


def model_of(run: Path) -> EfficientZeroV2:
    return EfficientZeroV2.load(run / "CartPole-v1.zip", device="cpu")


def assert_equal(ours: EfficientZeroV2, theirs: EfficientZeroV2) -> None:
    assert (ours.num_timesteps, ours._n_updates) == (theirs.num_timesteps, theirs._n_updates)
    for name, value in ours.policy.state_dict().items():
        assert th.equal(value, theirs.policy.state_dict()[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing stops."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("whole"))
    try:
        Ends.does = staticmethod(lambda: None)
        settings = [*TINY, "n_timesteps:100", f"callback:'{Ends.__module__}.Ends'"]
        command_line.run("train", [*ARGUMENTS, "-params", *settings])
        return model_of(RUN)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("what", ["signal", "error"])
def test_a_resumed_run_is_the_run_that_nothing_stopped(what, whole, capsys):
    """Through the command, without any setting said again: parameters are equal bit for bit."""
    assert ended((lambda: os.kill(os.getpid(), signal.SIGTERM)) if what == "signal" else fail) != 0
    assert model_of(RUN).num_timesteps == 60
    assert f"-i {RUN}" in capsys.readouterr().err
    resume(RUN)
    assert "Going on from step 60 to step 100" in capsys.readouterr().out
    assert_equal(model_of(RESUMED), whole)


def test_from_a_checkpoint_of_save_freq(whole):
    """The callback's error at step 60 is lost with everything after step 50."""
    assert ended(fail, "--save-freq", "25") == 1
    names = [path.name for path in checkpoints_in(RUN / CHECKPOINTS)]
    assert names == ["checkpoint_000002_50_steps", "checkpoint_000003_60_steps"]
    assert {"rl_model_25_steps.zip", "rl_model_50_steps.zip"} <= {path.name for path in RUN.iterdir()}
    shutil.rmtree(checkpoints_in(RUN / CHECKPOINTS)[-1])
    (RUN / JOURNAL).unlink()
    (RUN / "CartPole-v1.zip").unlink()
    Ends.does = staticmethod(lambda: None)
    resume(RUN)
    assert_equal(model_of(RESUMED), whole)


def test_the_journal_has_what_came_after_the_checkpoint(capsys):
    assert ended(fail, "--save-freq", "50") == 1
    shutil.rmtree(checkpoints_in(RUN / CHECKPOINTS)[-1])  # as if it had been killed
    (RUN / "CartPole-v1.zip").unlink()
    resume(RUN, "--save-replay-buffer")
    said = capsys.readouterr().out
    assert f"10 transitions come from {RUN / JOURNAL}; the environments start anew" in said
    assert "updates for them come first" in said
    assert "Going on from step 60 to step 100" in said
    model = model_of(RESUMED)
    model.load_replay_buffer(RESUMED / "replay_buffer.pkl")
    assert model.num_timesteps == len(model.replay_buffer) == 100
    assert model._n_updates == 4 * 60  # for the steps after the first 40


def test_a_run_that_left_nothing_but_its_journal(capsys):
    assert ended(fail) == 1
    shutil.rmtree(RUN / CHECKPOINTS)
    (RUN / "CartPole-v1.zip").unlink()
    assert find_origin(str(RUN), "CartPole-v1") == Origin(RUN, None)
    resume(RUN, "--save-replay-buffer")
    said = capsys.readouterr().out
    assert f"60 transitions come from {RUN / JOURNAL}" in said and "Going on from step 60 to step 100" in said
    model = model_of(RESUMED)
    model.load_replay_buffer(RESUMED / "replay_buffer.pkl")
    assert len(model.replay_buffer) == model.num_timesteps == 100
    assert model._n_updates == 4 * 60
    assert find_origin(str(RESUMED), "CartPole-v1").run == RESUMED


def test_a_journal_alone_goes_on_to_the_steps_that_were_asked_for(capsys):
    assert ended(fail, "-n", "90") == 1
    shutil.rmtree(RUN / CHECKPOINTS)
    (RUN / "CartPole-v1.zip").unlink()
    resume(RUN)
    assert "Going on from step 60 to step 90" in capsys.readouterr().out


def test_a_resumed_run_can_be_resumed_from_its_first_step_on(capsys):
    """Its own folder holds all that it needs, before it has made a step."""
    assert ended(fail) == 1
    resume(RUN)
    for path in [*RESUMED.glob("*.zip"), RESUMED / JOURNAL]:
        path.unlink()
    shutil.rmtree(RUN)
    (checkpoint,) = checkpoints_in(RESUMED / CHECKPOINTS)
    capsys.readouterr()
    resume(RESUMED)
    assert "Going on from step 60 to step 100" in capsys.readouterr().out
    assert checkpoint.name == "checkpoint_000001_60_steps"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(capsys):
    assert ended(fail, "--save-freq", "25") == 1
    newest = checkpoints_in(RUN / CHECKPOINTS)[-1]
    content = bytearray((newest / "replay_buffer.pkl").read_bytes())
    content[len(content) // 2] ^= 4
    (newest / "replay_buffer.pkl").write_bytes(content)
    resume(RUN)
    said = capsys.readouterr()
    assert "Not used: " in said.err and "checkpoint_000003_60_steps" in said.err
    assert f"10 transitions come from {RUN / JOURNAL}" in said.out and "Going on from step 60 to step 100" in said.out


def test_a_journal_of_another_run_is_read_as_well(capsys):
    assert ended(fail) == 1
    checkpoint = checkpoints_in(RUN / CHECKPOINTS)[-1]
    assert ended(fail) == 1
    shutil.copytree(checkpoint, RESUMED / CHECKPOINTS / "checkpoint_000009_60_steps")
    resume(RESUMED)
    said = capsys.readouterr().out
    assert "does not know the run" in said and "60 transitions come from" in said


def test_what_i_means(tmp_path, capsys):
    run = tmp_path / "logs" / "A-v0_1"
    run.mkdir(parents=True)
    for path in (run, tmp_path / "nothing"):
        with pytest.raises(ValueError, match="holds no checkpoint, no A-v0.zip and no journal.sqlite"):
            find_origin(str(path), "A-v0")
    sqlite3.connect(run / JOURNAL).close()
    (run / JOURNAL).touch()
    assert find_origin(str(run), "A-v0") == Origin(run, None)
    model = tiny_model("CartPole-v1")
    model.save(run / "A-v0")
    model.save(run / "best_model")
    assert find_origin(str(run), "A-v0") == find_origin(str(run / "A-v0.zip"), "A-v0") == Origin(run, run / "A-v0.zip")
    first = model.save_checkpoint(run / CHECKPOINTS)
    model.num_timesteps = 7
    second = model.save_checkpoint(run / CHECKPOINTS)
    for path in (run, run / "A-v0.zip", run / CHECKPOINTS, second, second / "model.zip"):
        found = find_origin(str(path), "A-v0")
        assert (found.run, found.model, found.checkpoint) == (run, second / "model.zip", second)
    assert find_origin(str(first), "A-v0").checkpoint == first
    assert find_origin(str(run / "best_model.zip"), "A-v0") == Origin(run, run / "best_model.zip")
    model.num_timesteps = 8
    model.save(run / "A-v0")
    assert find_origin(str(run), "A-v0") == Origin(run, run / "A-v0.zip")  # a finished run has learned since
    (second / "manifest.json").write_text(json.dumps({}))
    (run / "A-v0.zip").unlink()
    assert find_origin(str(run), "A-v0").checkpoint == first
    assert f"Not used: {second / 'manifest.json'} is damaged" in capsys.readouterr().err


def test_a_folder_that_holds_nothing_is_named(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        command_line.run("train", ["--env", "CartPole-v1", "-i", "empty"])
    assert "-i/--trained-agent: empty holds no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, n_updates",
    [
        ({"gradient_steps": -1}, 60),
        ({"gradient_steps": 2, "train_freq": 5}, 24),
        ({"gradient_steps": 2, "train_freq": (1, "episode")}, 0),
        ({"gradient_steps": -1, "train_freq": (1, "episode")}, 60),
    ],
)
def test_updates_that_a_killed_run_did_not_make(arguments, n_updates):
    model = tiny_model("CartPole-v1", learning_starts=40, **arguments)
    assert missed_updates(model, 10, 100) == n_updates
    assert missed_updates(model, 0, 40) == 0


def test_going_on_with_a_policy_that_was_handed_on(capsys):
    """From the hub come no optimiser, no steps and no replay buffer."""
    RUN.mkdir(parents=True)
    tiny_model("CartPole-v1").save_policy(RUN / "CartPole-v1.zip")
    resume(RUN, "-n", "50", "-params", *TINY)
    said = capsys.readouterr().out
    assert "the replay buffer starts empty" in said and "Going on from step 0 to step 50" in said
    assert model_of(RESUMED)._n_updates > 0


def test_the_best_model_is_the_one_that_was_asked_for(capsys):
    """It learns from all that the run has stored, and counts on from its own steps."""
    assert ended(fail) == 1
    model = model_of(RUN)
    model.num_timesteps = 30
    model.save(RUN / "best_model")
    resume(RUN / "best_model.zip", "-n", "10")
    said = capsys.readouterr().out
    assert "60 transitions come from" in said and "Going on from step 30 to step 40" in said


def test_other_algorithms_are_saved_as_the_zoo_does(capsys):
    Ends.does = staticmethod(fail)
    settings = ["n_timesteps:100", f"callback:'{Ends.__module__}.Ends'", "learning_starts:1000"]
    with pytest.raises(SystemExit):
        command_line.run("train", [*ARGUMENTS, "--algo", "dqn", "-params", *settings])
    run = Path("logs/dqn/CartPole-v1_1")
    assert capsys.readouterr().err.strip().endswith(f"-i {run}/CartPole-v1.zip")
    assert {"CartPole-v1.zip", "replay_buffer.pkl"} <= {path.name for path in run.iterdir()}
    assert not (run / CHECKPOINTS).exists()


def test_the_environments_are_closed_after_they_are_saved(monkeypatch):
    closed = []
    close = DummyVecEnv.close

    def noted(self):
        closed.append(sorted(path.name for path in RUN.glob("*.zip")))
        close(self)

    monkeypatch.setattr(DummyVecEnv, "close", noted)
    assert ended(fail) == 1
    assert closed == [["CartPole-v1.zip"]]


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_the_progress_bar_leaves_the_terminal_as_it_was_after_an_error(monkeypatch, capsys):
    bars = []
    clean = ReturnProgressBar.clean

    def noted(self):
        clean(self)
        bars.append(self.pbar)

    monkeypatch.setattr(ReturnProgressBar, "clean", noted)
    assert ended(fail, "-P") == 1
    (bar,) = bars
    assert bar._prog.finished or not bar._prog.live.is_started
    assert "ZeroDivisionError ended the run at step 60" in capsys.readouterr().err
