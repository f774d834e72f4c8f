"""An environment of the user's own, registered by a package in the current folder."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

from sb3_ezv2 import command_line
from tests.helpers.zoo import TINY
from tests.zoo.test_zoo_bad_input import refused

RUN = Path("logs/ezv2/Rail-v0_1")
SHORT = ["--env", "Rail-v0", "--seed", "0", "--eval-freq", "-1", "--verbose", "0"]
ENJOY = ["--env", "Rail-v0", "-n", "5", "--no-render"]
CODE = """
import os, signal
import gymnasium as gym
from stable_baselines3.common.callbacks import BaseCallback

gym.register("Rail-v0", "gymnasium.envs.classic_control.cartpole:CartPoleEnv", max_episode_steps=20)

class Ends(BaseCallback):
    def _on_step(self) -> bool:
        if self.num_timesteps == 45:
            os.kill(os.getpid(), signal.SIGTERM)
        return True
"""


def forget() -> None:
    """Be as a new process is."""
    for name in [name for name in sys.modules if name.startswith("rail_parking")]:
        del sys.modules[name]
    gym.registry.pop("Rail-v0", None)
    PathFinder.invalidate_caches()


@pytest.fixture(autouse=True)
def in_a_folder_with_a_package(tmp_path, monkeypatch):
    """As for an installed command, that folder is not on the path where Python looks for packages."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command_line.DEBUG_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    Path("rail_parking").mkdir()
    Path("rail_parking", "__init__.py").write_text(CODE)
    yield
    forget()


@pytest.fixture
def ended(capsys) -> list[str]:
    """A run that a signal ended, and the command that goes on with it."""
    with pytest.raises(SystemExit) as left:
        arguments = ["--gym-packages", "rail_parking", "-params", *TINY, "n_timesteps:60"]
        command_line.run("train", [*SHORT, *arguments, "callback:'rail_parking.Ends'"])
    assert left.value.code == 128 + 15
    last = capsys.readouterr().err.strip().splitlines()[-1]
    forget()
    return last[last.index("ezv2-train") :].split()[1:]


def settings(gym_packages: object) -> Path:
    """Settings of a run, as far as packages are concerned."""
    path = RUN / "Rail-v0" / "args.yml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump({"env_kwargs": None, "gym_packages": gym_packages}))
    return path


def test_a_run_knows_its_packages(ended, capsys):
    """Going on, playing and looking inside, each as in a process of its own; the new run knows them, too."""
    assert ended == f"--algo ezv2 --env Rail-v0 --gym-packages rail_parking -i {RUN}".split()
    command_line.run("train", [*SHORT, "-i", str(RUN)])
    said = capsys.readouterr().out
    assert "Going on from step 45 to step 60" in said
    assert "has no settings for" not in said  # its own are used
    forget()
    command_line.run("enjoy", ENJOY)
    assert "logs/ezv2/Rail-v0_2/" in capsys.readouterr().out
    forget()
    command_line.run("inspect", ["--env", "Rail-v0", "-n", "1", "--max-steps", "5", "--no-render", "--exp-id", "1"])
    assert "Page: " in capsys.readouterr().out


def test_an_unregistered_environment_names_the_option(capsys):
    assert "--gym-packages" in refused(capsys, "train", *SHORT)


def test_a_package_that_is_gone_is_named(capsys):
    path = settings(["rail_parked"])
    line = refused(capsys, "enjoy", *ENJOY)
    assert f"'rail_parked', which gym_packages in {path} names, is not installed" in line


def test_a_package_that_came_with_the_model_is_not_run(capsys, monkeypatch):
    settings(["rail_parking"])
    Path("rail_parking").rename(RUN / "rail_parking")
    monkeypatch.chdir(RUN)
    line = refused(capsys, "enjoy", *ENJOY, "-f", "../..")
    assert "is not installed" in line and "Rail-v0" not in gym.registry


@pytest.mark.parametrize("names", ["rail_parking", [1]])
def test_damaged_names(capsys, names):
    assert f"{settings(names)} is damaged: gym_packages=" in refused(capsys, "enjoy", *ENJOY)
