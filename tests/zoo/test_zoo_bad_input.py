"""Bad input gets one clear line and a non-zero exit, and nothing is overwritten."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_ezv2 import EfficientZeroV2, command_line
from sb3_ezv2.checkpoint_files import checkpoints_in
from sb3_ezv2.common import user_errors
from sb3_ezv2.zoo.settings import check_names, choose_file, hyperparameter_file
from tests.helpers.tiny import TINY_NETWORK
from tests.helpers.zoo import TINY, environment, files

SHORT = ["-n", "45", "--eval-freq", "-1", "--verbose", "0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command_line.DEBUG_VARIABLE, raising=False)


def refused(capsys, command: str, *arguments: str) -> str:
    """The one line that a command leaves with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command_line.run(command, arguments)
    assert left.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ezv2-")]
    assert line.startswith(f"ezv2-{command.replace('_', '-')}: error: ")
    return line


@pytest.fixture
def model_file(tmp_path) -> Path:
    """A model as ``train`` leaves it, untrained."""
    path = tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "CartPole-v1.zip"
    path.parent.mkdir(parents=True)
    EfficientZeroV2("MlpPolicy", "CartPole-v1", policy_kwargs=TINY_NETWORK, device="cpu").save(path)
    return path


# -- train -------------------------------------------------------------------------------------------------------------


def test_unknown_environment_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "sb3_ezv2.train", "--env", "CartPol-v1"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "CartPole-v1" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert files(tmp_path) == set()


def test_unknown_hyperparameter(capsys, tmp_path):
    line = refused(capsys, "train", "--env", "CartPole-v1", *SHORT, "-params", "n_simulation:4")
    assert "'n_simulation'" in line and "'n_simulations'" in line
    line = refused(capsys, "train", "--env", "CartPole-v1", *SHORT, "-params", "policy_kwargs:dict(latent_dims=4)")
    assert "'latent_dims'" in line and "'latent_dim'" in line
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_cannot_work_leaves_no_folder(capsys, tmp_path):
    line = refused(capsys, "train", "--env", "CartPole-v1", *SHORT, "-params", "gamma:2")
    assert "gamma=2" in line
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_is_no_python(capsys):
    assert "nonsense" in refused(capsys, "train", "--env", "CartPole-v1", *SHORT, "-params", "gamma:nonsense")


def test_a_file_without_the_environment_falls_back_and_says_so(capsys, tmp_path):
    own = tmp_path / "own.yml"
    own.write_text(yaml.safe_dump({"Pendulum-v1": {"n_timesteps": 10}}))
    command_line.run("train", ["--env", "CartPole-v1", "-c", str(own), *SHORT, "-params", *TINY])
    said = capsys.readouterr().out
    assert f"{own} has no settings for CartPole-v1: the entry 'CartPole-v1' of" in said
    assert (tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()


def test_which_entry_is_chosen(tmp_path):
    ours = str(hyperparameter_file())
    assert choose_file("CartPole-v1", None) == (ours, None)
    file, message = choose_file("Unheard-v0", None)
    assert file == ours and "'default'" in message and "Unheard-v0" in message
    own = tmp_path / "own.yml"
    own.write_text("default: {n_timesteps: 10}\n")
    file, message = choose_file("CartPole-v1", str(own))
    assert file == str(own) and "'default'" in message
    own.write_text("Pendulum-v1: {n_timesteps: 10}\n")
    assert choose_file("Unheard-v0", str(own))[0] == ours
    assert choose_file("CartPole-v1", "package.module") == ("package.module", None)
    assert choose_file("ALE/Pong-v5", None, is_atari=True) == (ours, None)
    with pytest.raises(ValueError, match="no entry 'atari'"):
        choose_file("ALE/Pong-v5", str(own), is_atari=True)


@pytest.mark.parametrize("content", ["- a list\n", "CartPole-v1: 5\n", "a: [1\n"])
def test_a_file_of_something_else(capsys, tmp_path, content):
    (tmp_path / "own.yml").write_text(content)
    refused(capsys, "train", "--env", "CartPole-v1", "-c", "own.yml", *SHORT)
    assert files(tmp_path) == {"own.yml"}


def test_a_missing_file(capsys):
    assert "there is no hyperparameter file no.yml" in refused(capsys, "train", "-c", "no.yml", *SHORT)


def test_a_log_folder_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "logs").write_text("a file")
    assert "is not a folder" in refused(capsys, "train", "--env", "CartPole-v1", *SHORT)
    assert (tmp_path / "logs").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_folder_without_permission(capsys, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o500)
    assert "no permission" in refused(capsys, "train", "--env", "CartPole-v1", "-f", "mine/logs", *SHORT)


def test_missing_extra(capsys, tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] in ("dm_control", "shimmy"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dm_control", None)
    line = refused(capsys, "train", "--env", "dm_control/walker-walk-v0", *SHORT)
    assert "sb3_ezv2[dmc]" in line
    assert list(tmp_path.iterdir()) == []


def test_missing_zoo(tmp_path):
    code = "import sys; sys.modules['rl_zoo3'] = None; from sb3_ezv2.command_line import run; run('train', [])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "sb3_ezv2[zoo]" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "error, extra",
    [
        (ModuleNotFoundError("No module named 'Box2D'", name="Box2D"), "box2d"),
        (gym.error.DependencyNotInstalled("pygame is not installed"), "zoo"),
        (gym.error.DependencyNotInstalled('MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`'), "mujoco"),
        (gym.error.NamespaceNotFound("Namespace ALE not found. Have you installed the proper package for ALE?"), None),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), None),
    ],
)
def test_the_extra_is_named(error, extra):
    assert user_errors.is_expected(error)
    assert user_errors.missing_extra(error) == extra
    assert (f"sb3_ezv2[{extra}]" in user_errors.one_line(error)) == (extra is not None)


# -- inspecting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--algo", "ppo"], "--algo ppo: only models of ezv2 plan"),
        (["-n", "0"], "argument -n/--n-episodes: 0 must be at least 1"),
        (["--max-steps", "-5"], "argument --max-steps: -5 must be at least 1"),
        (["-o", "page.png"], "-o/--output 'page.png' must end in .html"),
        (["--exp-id", "7"], "was not found"),
        (["--load-best"], "No model found"),
        (["--device", "abacus"], "argument --device: 'abacus' is no device"),
    ],
)
def test_inspecting_what_cannot_be(capsys, model_file, tmp_path, arguments, message):
    before = files(tmp_path)
    assert message in refused(capsys, "inspect", "--env", "CartPole-v1", *arguments)
    assert files(tmp_path) == before


def test_inspecting_an_untrained_model_says_so(capsys, model_file):
    command_line.run("inspect", ["--env", "CartPole-v1", "-n", "1", "--max-steps", "20"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no update" in line]
    assert line.startswith("Left out: what a trained model would show")
    assert (model_file.parent / "inspection.html").is_file()


def test_plans_of_several_environments(capsys, model_file):
    line = refused(capsys, "record_video", "--env", "CartPole-v1", "--plans", "--n-envs", "2", "-n", "3")
    assert "--plans shows one environment, and there are 2: leave out --n-envs" in line


# -- model files -------------------------------------------------------------------------------------------------------


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("command", [["enjoy", "--no-render"], ["record_video"]])
def test_enjoying_a_damaged_model(capsys, model_file, command):
    damage(model_file)
    line = refused(capsys, *command, "--env", "CartPole-v1")
    assert "CartPole-v1.zip is damaged or not a saved model" in line


def test_resuming_from_a_damaged_model(capsys, model_file, tmp_path):
    damage(model_file)
    before, content = files(tmp_path), model_file.read_bytes()
    assert "is damaged" in refused(capsys, "train", "--env", "CartPole-v1", "-i", str(model_file), *SHORT)
    assert files(tmp_path) == before and model_file.read_bytes() == content


def test_resuming_from_a_changed_byte(capsys, model_file):
    content = bytearray(model_file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    model_file.write_bytes(content)
    assert "is damaged" in refused(capsys, "train", "--env", "CartPole-v1", "-i", str(model_file), *SHORT)


def test_resuming_from_nothing(capsys):
    assert "no.zip' is no file" in refused(capsys, "train", "--env", "CartPole-v1", "-i", "no.zip", *SHORT)


def test_resuming_from_another_environment(capsys, model_file, tmp_path):
    before = files(tmp_path)
    line = refused(capsys, "train", "--env", "Pendulum-v1", "-i", str(model_file), *SHORT)
    assert "spaces do not match" in line
    assert files(tmp_path) == before


def test_enjoying_a_run_that_does_not_exist(capsys):
    assert "was not found" in refused(capsys, "enjoy", "--env", "CartPole-v1", "--no-render")


def test_a_finished_run_is_never_overwritten(capsys, model_file, tmp_path):
    content = model_file.read_bytes()
    command_line.run("train", ["--env", "CartPole-v1", *SHORT, "-params", *TINY])
    assert model_file.read_bytes() == content
    assert (tmp_path / "logs" / "ezv2" / "CartPole-v1_2" / "CartPole-v1.zip").is_file()


# -- plots and the hub -------------------------------------------------------------------------------------------------


def test_plotting_nothing(capsys, tmp_path):
    assert "there is no folder" in refused(capsys, "plot")
    (tmp_path / "logs").mkdir()
    assert "no runs with evaluation returns" in refused(capsys, "plot")
    assert "give one for each" in refused(capsys, "plot", "-l", "one", "two")
    assert "-y training" in refused(capsys, "plot", "-x", "time")


def test_fetching_from_a_folder_that_does_not_exist(capsys):
    line = refused(capsys, "load_from_hub", "--env", "CartPole-v1", "--local", "nowhere")
    assert "there is no folder nowhere" in line


# -- what must keep its traceback --------------------------------------------------------------------------------------


def test_errors_while_learning_keep_their_traceback_and_the_run_is_saved(monkeypatch, capsys, tmp_path):
    def fail(self, gradient_steps):
        raise ValueError("a mistake in the algorithm")

    monkeypatch.setattr(EfficientZeroV2, "train", fail)
    with pytest.raises(SystemExit) as left:
        command_line.run("train", ["--env", "CartPole-v1", *SHORT, "-params", *TINY])
    assert left.value.code == 1
    said = capsys.readouterr().err.strip()
    assert "Traceback" in said and "ValueError: a mistake in the algorithm" in said
    last = said.splitlines()[-1]
    assert last.startswith("ValueError ended the run at step 41; it was saved to ")
    assert last.endswith("-i logs/ezv2/CartPole-v1_1")
    (checkpoint,) = checkpoints_in("logs/ezv2/CartPole-v1_1/checkpoints")
    assert checkpoint.name == "checkpoint_000001_41_steps"
    assert "CartPole-v1.zip" in files(tmp_path / "logs" / "ezv2" / "CartPole-v1_1")


def test_tracebacks_can_be_asked_for(monkeypatch):
    monkeypatch.setenv(command_line.DEBUG_VARIABLE, "1")
    with pytest.raises(ValueError, match="is not registered"):
        command_line.run("train", ["--env", "CartPol-v1"])


# -- names -------------------------------------------------------------------------------------------------------------


def test_all_entries_of_our_file_have_valid_names():
    for env, entry in yaml.safe_load(hyperparameter_file().read_text()).items():
        check_names(entry, EfficientZeroV2)
        assert entry["n_timesteps"] > entry.get("learning_starts", 500), env


def test_names_of_the_zoo_are_valid():
    check_names({"n_timesteps": 1, "n_envs": 2, "normalize": True, "gamma": 0.9}, EfficientZeroV2)
    with pytest.raises(ValueError, match="'seed' is not among"):
        check_names({"seed": 1}, EfficientZeroV2)
