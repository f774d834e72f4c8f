"""The search space, pruning, and several processes on one study."""

import contextlib
import json
import math
import os
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import sb3_ezv2.zoo
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common import processes
from sb3_ezv2.zoo import tuning
from sb3_ezv2.zoo.search_space import COUNTED, NETWORKS, POWERS_OF_TWO, convert_ezv2_params, sample_ezv2_params
from sb3_ezv2.zoo.settings import ZOO_NAMES, hyperparameter_file, read_entries
from tests.helpers.zoo import run, start

TRIAL = ["-n", "60", "-optimize", "--eval-episodes", "1", "--n-eval-envs", "1", "--no-optim-plots", "--verbose", "0"]


def suggest(n_actions: int, seed: int) -> tuple[dict, dict]:
    """A drawn set of hyperparameters, and the numbers that the study stores."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    return sample_ezv2_params(trial, n_actions, 1, {}), trial.params


@pytest.mark.parametrize("n_actions", [0, 2])
def test_every_suggestion_is_a_valid_model(n_actions):
    env = "CartPole-v1" if n_actions == 0 else "Pendulum-v1"
    for seed in range(5):
        hyperparams, stored = suggest(n_actions, seed)
        model = EfficientZeroV2("MlpPolicy", env, device="cpu", **hyperparams)
        assert model.n_simulations in (8, 16, 32, 64)
        assert ("n_candidates" in hyperparams) == (n_actions > 0)
        assert convert_ezv2_params(stored) == hyperparams


def test_the_space_covers_what_matters():
    hyperparams, _ = suggest(1, 0)
    assert hyperparams.keys() == {
        "n_simulations", "n_candidates", "unroll_steps", "td_steps", "td_phase", "td_fresh", "gamma", "learning_rate",
        "batch_size", "target_update_interval", "train_freq", "gradient_steps", "policy_kwargs", "ent_coef",
        "search_value",
    }  # fmt: skip


def test_the_space_contains_the_shipped_settings():
    study = optuna.create_study()
    trial = study.ask()
    sample_ezv2_params(trial, 1, 1, {})
    space = trial.distributions
    for env, entry in read_entries(hyperparameter_file()).items():
        for name, value in entry.items():
            stored = {argument: number for number, argument in COUNTED.items()}.get(name, name)
            if isinstance(value, str) and name == "learning_rate":
                value = float(value.rpartition("_")[2])
            if name in POWERS_OF_TWO:
                stored, value = f"{name}_pow", math.log2(value)
            elif name == "gamma":
                stored, value = "one_minus_gamma", 1 - value
            elif name == "gradient_steps":
                stored, value = "updates_per_step", value / entry.get("train_freq", 1)
            if name not in NOT_TUNED:
                assert space[stored]._contains(space[stored].to_internal_repr(value)), (env, name, value)


NOT_TUNED = ZOO_NAMES | {
    "learning_starts", "novelty_coef", "train_freq", "policy_kwargs", "n_considered", "consistency_coef",
}  # fmt: skip


def test_trials_of_release_0_1_are_understood():
    _, stored = suggest(0, 0)
    old = {name: value for name, value in stored.items() if name not in (*COUNTED, "updates_per_step")}
    converted = convert_ezv2_params({**old, "td_phase": 0.5, "td_fresh": 0.25, "replay_ratio": 2.0})
    assert (converted["td_phase"], converted["td_fresh"], converted["gradient_steps"]) == (0.5, 0.25, 2)


@pytest.mark.parametrize("ratio, train_freq, gradient_steps", [(0.25, 4, 1), (0.5, 2, 1), (1.0, 1, 1), (8.0, 1, 8)])
def test_updates_per_step(ratio, train_freq, gradient_steps):
    _, stored = suggest(0, 0)
    converted = convert_ezv2_params({**stored, "updates_per_step": ratio, "network": "small"})
    assert (converted["train_freq"], converted["gradient_steps"]) == (train_freq, gradient_steps)
    converted["policy_kwargs"]["latent_dim"] = 0
    assert NETWORKS["small"]["latent_dim"] == 64  # callers get a copy


def test_registration():
    import rl_zoo3
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    assert rl_zoo3.ALGOS[sb3_ezv2.zoo.ALGO] is EfficientZeroV2
    assert HYPERPARAMS_SAMPLER["ezv2"] is sample_ezv2_params
    assert HYPERPARAMS_CONVERTER["ezv2"] is convert_ezv2_params


def open_study(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=tuning.open_storage(str(path)))


def test_pruning_ends_bad_trials_early(tmp_path):
    """A trial that is below the median after its first evaluation does not go on."""
    path = tmp_path / "study.log"
    study = optuna.create_study(study_name="study", storage=tuning.open_storage(str(path)), direction="maximize")
    for _ in range(3):  # better than anything that a few steps can reach
        trial = study.ask()
        for step in range(1, 7):
            trial.report(1_000.0, step)
        study.tell(trial, 1_000.0)
    arguments = ["--env", "CartPole-v1", "--storage", str(path), "--study-name", "study", "--n-trials", "1"]
    run("train", *arguments, *TRIAL, "--n-startup-trials", "1", "--n-evaluations", "6", cwd=tmp_path)
    last = open_study(path).trials[-1]
    assert last.state == TrialState.PRUNED
    assert 1 <= len(last.intermediate_values) < 6
    assert "report" in str(next((tmp_path / "logs" / "ezv2").glob("report_*.csv")))


def test_two_workers_share_a_journal_and_no_trial_is_lost_when_one_is_killed(tmp_path):
    path = tmp_path / "study.log"
    arguments = ["--env", "CartPole-v1", "--storage", str(path), "--study-name", "study", "--max-total-trials", "4"]
    settings = ["-params", "learning_starts:30"]
    first, second = (start("train", *arguments, *TRIAL, *settings, cwd=tmp_path) for _ in range(2))
    killed = kill_in_a_trial(first, path)
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output
    trials = open_study(path).trials
    assert f"Trial {killed.number} was left behind" in output
    assert trials[killed.number].state == TrialState.FAIL
    (retry,) = [trial for trial in trials if trial.user_attrs.get("retry_of") == killed.number]
    assert retry.state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert retry.params == killed.params
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(finished) == 4


def kill_in_a_trial(worker: subprocess.Popen, path: Path) -> optuna.trial.FrozenTrial:
    """Kill a worker while it runs a trial and another worker runs one too; the trial that it leaves behind."""
    deadline = time.time() + 300
    while time.time() < deadline:
        assert worker.poll() is None, worker.communicate()[0]
        with contextlib.suppress(KeyError, FileNotFoundError):  # not created yet
            running = [trial for trial in open_study(path).trials if trial.state == TrialState.RUNNING]
            theirs = [trial for trial in running if trial.user_attrs.get(tuning.WORKER, "").endswith(f":{worker.pid}")]
            if len(running) == 2 and len(theirs) == 1 and len(theirs[0].params) == 13:
                worker.kill()
                worker.communicate(timeout=60)
                return theirs[0]
        time.sleep(0.1)
    raise AssertionError("the workers never ran two trials at the same time")


def test_only_dead_workers_of_this_machine_are_rescued(tmp_path):
    study = optuna.create_study()
    alive, dead, elsewhere, unknown = (study.ask() for _ in range(4))
    for trial in (alive, dead, elsewhere, unknown):
        trial.suggest_float("x", 0, 1)
    tuning.claim(alive)
    host = alive.user_attrs[tuning.WORKER].rpartition(":")[0]
    dead.set_user_attr(tuning.WORKER, f"{host}:{2**22 + 1}")  # above the largest process number of Linux
    elsewhere.set_user_attr(tuning.WORKER, f"not-{host}:{2**22 + 1}")
    assert tuning.rescue_trials(study) == [dead.number]
    assert tuning.rescue_trials(study) == []
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING, TrialState.RUNNING, TrialState.WAITING]
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == dead.params["x"]


def test_a_trial_of_another_machine_comes_back_when_it_gives_no_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "HEARTBEAT_SECONDS", 1)
    study = optuna.create_study(storage=tuning.open_storage(f"sqlite:///{tmp_path}/study.db"))
    gone = study.ask()
    gone.suggest_float("x", 0, 1)
    gone.set_user_attr(tuning.WORKER, "elsewhere:1")
    study._storage.record_heartbeat(gone._trial_id)
    assert tuning.rescue_trials(study) == []
    time.sleep(4.5)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    first, second = study.trials
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert second.params == first.params and second.user_attrs["retry_of"] == 0


# -- damaged journals --------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path):
    """A study with three trials, in a journal."""
    path = tmp_path / "study.log"
    study = optuna.create_study(study_name="study", storage=tuning.open_storage(str(path)))
    for value in range(3):
        study.tell(study.ask(), float(value))
    return path


def test_a_half_written_line_at_the_end_is_removed(journal, capsys):
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker')
    study = open_study(journal)
    assert "cut short" in capsys.readouterr().out
    assert journal.read_bytes() == whole
    study.tell(study.ask(), 3.0)
    assert [trial.value for trial in open_study(journal).trials] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("half", [b'{"op_code":4,"worker', b'{"op_code":6,"value":1'])
def test_a_damaged_line_names_the_file_and_a_remedy_that_works(journal, half):
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[-1] = half + lines[-1]  # the next worker wrote behind what a killed one left
    journal.write_bytes(b"".join(lines))
    with pytest.raises(
        ValueError, match=rf"study.log is damaged in line {len(lines)}, .* remove the first {len(half)} "
    ):
        tuning.open_storage(str(journal))
    lines[-1] = lines[-1][len(half) :]
    journal.write_bytes(b"".join(lines))
    assert [trial.value for trial in open_study(journal).trials] == [0.0, 1.0, 2.0]


def test_a_line_of_something_else(journal):
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:2], b"\x00\xff\n", *lines[2:]]))
    with pytest.raises(ValueError, match="damaged in line 3, .*head -n 2"):
        tuning.open_storage(str(journal))
    journal.write_bytes(b"".join(lines[:2]))
    tuning.open_storage(str(journal))
    journal.write_bytes(json.dumps([1]).encode() + b"\n")
    with pytest.raises(ValueError, match="damaged in line 1"):
        tuning.open_storage(str(journal))


def test_a_database_that_cannot_be_opened():
    with pytest.raises(ValueError, match="--storage nonsense cannot be opened"):
        tuning.open_storage("nonsense")


# -- Windows -----------------------------------------------------------------------------------------------------------


def test_processes_are_looked_up_without_a_signal_on_windows(monkeypatch):
    """There, ``os.kill`` sends Ctrl-C or ends the process."""
    asked = []

    class Kernel:
        OpenProcess = staticmethod(lambda rights, inherit, process: asked.append(process) or process)
        WaitForSingleObject = staticmethod(lambda handle, timeout: 0x102 if handle == 7 else 0)
        CloseHandle = staticmethod(lambda handle: 1)
        GetLastError = staticmethod(lambda: 0)

    def kill(process: int, number: int) -> None:
        raise AssertionError("a signal was sent")

    monkeypatch.setattr(processes.ctypes, "windll", type("Dlls", (), {"kernel32": Kernel}), raising=False)
    monkeypatch.setattr(processes, "os", type("Windows", (), {"name": "nt", "kill": staticmethod(kill)}))
    assert processes.is_alive(7) and not processes.is_alive(8)
    assert asked == [7, 8]


def test_processes_are_looked_up_here():
    assert processes.is_alive(os.getpid())
    assert not processes.is_alive(2**22 + 1)  # above the largest process number of Linux
