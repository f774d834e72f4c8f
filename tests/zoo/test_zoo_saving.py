"""Whatever ends a run, it is saved."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_ezv2 import EfficientZeroV2, command_line
from sb3_ezv2.common import files as replacing_files
from sb3_ezv2.zoo import saving, stopping
from sb3_ezv2.zoo.evaluation import Evaluation
from sb3_ezv2.zoo.resuming import CHECKPOINTS
from sb3_ezv2.zoo.stopping import StopAfterStep, Stopped, Stopper, is_interrupt, workers_without_ctrl_c
from tests.helpers.tiny import tiny_model
from tests.helpers.zoo import TINY, environment, files, start

ARGUMENTS = ["--env", "CartPole-v1", "--seed", "0", "--eval-freq", "-1", "--verbose", "0"]
RUN = Path("logs/ezv2/CartPole-v1_1")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command_line.DEBUG_VARIABLE, raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Ends(BaseCallback):
    """Does something at step 60."""

    does = staticmethod(lambda: None)

    def _on_step(self) -> bool:
        if self.num_timesteps == 60:
            Ends.does()
        return True


def ended(does, *arguments: str) -> int:
    """Status of a run in which something happens at step 60."""
    Ends.does = staticmethod(does)
    settings = [*TINY, "n_timesteps:100", f"callback:'{__name__}.Ends'"]
    with pytest.raises(SystemExit) as left:
        command_line.run("train", [*ARGUMENTS, *arguments, "-params", *settings])
    return left.value.code


def assert_saved(folder: Path, n_steps: int) -> None:
    """The model that ``enjoy`` shows, and a checkpoint to go on with."""
    assert EfficientZeroV2.load(folder / "CartPole-v1.zip", device="cpu").num_timesteps == n_steps
    env = make_vec_env("CartPole-v1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the zoo's environments have other wrappers
        model = EfficientZeroV2.load_checkpoint(folder / CHECKPOINTS, env, device="cpu")
    assert model.num_timesteps == len(model.replay_buffer) == n_steps


def assert_finished(folder: Path, n_steps: int) -> None:
    model = EfficientZeroV2.load(folder / "CartPole-v1.zip", device="cpu")
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    assert model.num_timesteps == len(model.replay_buffer) == n_steps


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_saves_after_the_step_and_the_run_goes_on_later(capfd, name):
    number = getattr(signal, name)
    assert ended(lambda: os.kill(os.getpid(), number)) == 128 + number
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"{name} ended the run at step 60; it was saved to {RUN}, go on with: ezv2-train ")
    assert_saved(RUN, 60)
    arguments = last[last.index("--algo") :].split()
    command_line.run("train", [*arguments, "-n", "10", "--eval-freq", "-1", "-params", *TINY])
    assert "Going on from step 60 to step 70" in capfd.readouterr().out


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def hang_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    assert ended(hang_up) == 128 + signal.SIGTERM


def fail() -> None:
    raise ZeroDivisionError("of the environment")


def test_an_error_keeps_its_traceback_and_the_last_line_says_where_the_run_is(capsys):
    assert ended(fail) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert any("in fail" in line for line in lines) and "ZeroDivisionError: of the environment" in lines
    assert lines[-1].startswith(f"ZeroDivisionError ended the run at step 60; it was saved to {RUN}")
    assert_saved(RUN, 60)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, "SystemError"])
def test_ctrl_c_in_a_compiled_function(kind):
    def interrupt() -> None:
        if kind is KeyboardInterrupt:
            raise KeyboardInterrupt
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("CPUDispatcher returned a result with an exception set") from error

    assert ended(interrupt) == 130
    assert_saved(RUN, 60)


def test_a_step_that_does_not_end_is_interrupted(monkeypatch, capsys):
    monkeypatch.setattr(stopping, "PATIENCE", 0.2)
    monkeypatch.setattr(stopping, "AGAIN", 0.1)

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    begun = time.monotonic()
    assert ended(hang) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 30
    assert_saved(RUN, 60)


def test_signals_while_saving_wait_until_the_files_stand(monkeypatch):
    save = EfficientZeroV2.save

    def interrupted_save(self, *args, **kwargs):
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        save(self, *args, **kwargs)

    monkeypatch.setattr(EfficientZeroV2, "save", interrupted_save)
    assert ended(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
    assert_saved(RUN, 60)


def test_a_signal_during_the_last_save_of_a_finished_run(monkeypatch):
    save = EfficientZeroV2.save

    def interrupted_save(self, *args, **kwargs):
        save(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(EfficientZeroV2, "save", interrupted_save)
    assert ended(lambda: None, "--save-replay-buffer") == 128 + signal.SIGTERM
    assert_finished(RUN, 100)


def full_below(folder: Path, monkeypatch) -> None:
    """Let every file below a folder meet a full disk."""
    write = replacing_files._Raw.write
    create = replacing_files._create_like

    def no_space(target, temporary):
        if folder.resolve() in Path(target).resolve().parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))
        create(target, temporary)

    monkeypatch.setattr(replacing_files, "_create_like", no_space)
    assert write is replacing_files._Raw.write


def test_a_full_disk_leads_to_another_place(monkeypatch, capsys, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.setattr(saving.tempfile, "gettempdir", lambda: str(other))

    def fill() -> None:
        full_below(tmp_path / "logs", monkeypatch)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert ended(fill) == 1
    said = capsys.readouterr().err
    (place,) = (other / saving.OTHER_PLACE).iterdir()
    assert (
        f"Cannot save in {RUN}: [Errno {errno.ENOSPC}]" in said
        and f"{RUN}/{CHECKPOINTS}/checkpoint_000001_60_steps/model.zip" in said
    )
    assert said.strip().splitlines()[-1].startswith(f"OSError ended the run at step 60; it was saved to {place}")
    assert_saved(place, 60)
    assert {"CartPole-v1/config.yml", "CartPole-v1/args.yml"} <= files(place)
    assert not (RUN / "CartPole-v1.zip").exists()


def test_a_finished_run_on_a_full_disk(monkeypatch, capsys, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.setattr(saving.tempfile, "gettempdir", lambda: str(other))
    assert ended(lambda: full_below(tmp_path / "logs", monkeypatch), "--save-replay-buffer") == 1
    (place,) = (other / saving.OTHER_PLACE).iterdir()
    assert f"The run was saved to {place}" in capsys.readouterr().out
    assert_finished(place, 100)


def test_no_place_at_all(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(saving, "other_places", lambda run: [])

    def fill() -> None:
        full_below(tmp_path / "logs", monkeypatch)
        fail()

    assert ended(fill) == 1
    assert capsys.readouterr().err.strip().endswith("The run stopped at step 60 and could not be saved anywhere")


def test_a_lost_terminal(tmp_path):
    """Nobody reads what the run says any more, and it is saved."""
    process = start("train", *ARGUMENTS, "-params", *TINY, "n_timesteps:1000000", cwd=tmp_path)
    monitor = tmp_path / RUN / "0.monitor.csv"
    deadline = time.time() + 300
    while not (monitor.is_file() and len(monitor.read_text().splitlines()) > 6):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.1)
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert_saved(tmp_path / RUN, EfficientZeroV2.load(tmp_path / RUN / "CartPole-v1.zip", device="cpu").num_timesteps)


def test_ctrl_c_reaches_the_processes_of_environments_too(tmp_path):
    """As a terminal does it: the whole group gets the signal."""
    command = ["train", *ARGUMENTS, "--vec-env", "subproc", "-params", *TINY, "n_timesteps:1000000", "n_envs:2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sb3_ezv2.train", *command[1:]],
        cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    monitor = tmp_path / RUN / "1.monitor.csv"
    deadline = time.time() + 300
    while not (monitor.is_file() and len(monitor.read_text().splitlines()) > 4):
        assert process.poll() is None, process.communicate()[1]
        assert time.time() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "it was saved to" in said.strip().splitlines()[-1]


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_outside_learning_a_signal_raises():
    with pytest.raises(Stopped, match="SIGTERM"), Stopper() as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stopper.received == signal.SIGTERM


def test_a_second_signal_interrupts_the_step():
    with pytest.raises(Stopped, match="SIGINT"), Stopper() as stopper, stopper.learning():
        os.kill(os.getpid(), signal.SIGINT)
        assert stopper.received == signal.SIGINT
        assert not StopAfterStep(stopper)._on_step()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_handlers_are_as_before_after_a_run_without_signals():
    before = signal.getsignal(signal.SIGTERM)
    with Stopper():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_receive_no_signals():
    def use() -> None:
        with Stopper(), workers_without_ctrl_c():
            assert signal.getsignal(signal.SIGTERM) == before

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()


def test_what_counts_as_ctrl_c():
    assert is_interrupt(KeyboardInterrupt()) and not is_interrupt(SystemError()) and not is_interrupt(None)


def test_the_best_model_is_one_that_has_learned(tmp_path):
    """Before the first update even an excellent evaluation is of an untrained model."""
    model = tiny_model("CartPole-v1", learning_starts=30)
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"))
    callback = Evaluation(
        env, n_eval_episodes=1, eval_freq=20, best_model_save_path=str(tmp_path), log_path=str(tmp_path), verbose=0
    )
    model.learn(20, callback=callback)
    assert not (tmp_path / "best_model.zip").exists()
    assert callback.best_mean_reward == -np.inf
    model.learn(40, callback=callback, reset_num_timesteps=False)
    assert EfficientZeroV2.load(tmp_path / "best_model.zip", device="cpu")._n_updates > 0
    with np.load(tmp_path / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [20, 40, 60]
    assert files(tmp_path) == {"best_model.zip", "evaluations.npz"}
