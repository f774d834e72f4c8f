"""The package as its users get it: a wheel, installed into a new environment, with its commands and its files."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ("train", "enjoy", "record-video", "plot", "push-to-hub", "load-from-hub")
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
SETTINGS = ["learning_starts:40", "n_simulations:4", "batch_size:8"]


def call(*command: str | Path, cwd: Path) -> str:
    """What a command says; it must succeed, and sees nothing of the source tree."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of a copy of the sources, so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    copy.mkdir()
    for name in ("sb3_ezv2", "hyperparams", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        call("cp", "-r", ROOT / name, copy / name, cwd=folder)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder]
    call(sys.executable, *PIP, "wheel", *options, copy, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def new_environment(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; the packages that it needs are borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    call(sys.executable, *PIP, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=folder)
    borrowed = [path for path in sys.path if Path(path).is_dir() and Path(path).resolve() != ROOT]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


def test_the_wheel_holds_code_types_and_hyperparameters(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"sb3_ezv2/hyperparams/ezv2.yml", "sb3_ezv2/py.typed", "sb3_ezv2/version.txt"} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sb3_ezv2").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("sb3_ezv2/hyperparams/ezv2.yml") == (ROOT / "hyperparams" / "ezv2.yml").read_bytes()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        commands = archive.read(entry_points).decode()
    for command in COMMANDS:
        assert f"ezv2-{command} = sb3_ezv2.{command.replace('-', '_')}:main" in commands


def test_the_installed_command_trains(new_environment, tmp_path):
    python = new_environment / "bin" / "python"
    where = call(python, "-c", "import sb3_ezv2.zoo.settings as s; print(s.hyperparameter_file())", cwd=tmp_path)
    assert Path(where.splitlines()[-1]).is_relative_to(new_environment)
    # pip wrote the commands for the interpreter that it runs in; the new environment's interpreter runs them here.
    (script,) = new_environment.rglob("bin/ezv2-train")
    output = call(
        python, script, "--env", "CartPole-v1", "-n", "50", "--eval-freq", "-1", "-params", *SETTINGS, cwd=tmp_path
    )
    assert f"Loading hyperparameters from: {new_environment}" in output
    assert (tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()


def test_an_editable_installation_finds_the_hyperparameters(tmp_path):
    """Built as pip builds it, without installing it anywhere."""
    code = (
        "import sys, setuptools.build_meta as backend\n"
        "print(backend.build_editable(sys.argv[1]))\n"
    )  # fmt: skip
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("sb3_ezv2", "hyperparams", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        call("cp", "-r", ROOT / name, copy / name, cwd=tmp_path)
    name = call(sys.executable, "-c", code, tmp_path, cwd=copy).splitlines()[-1]
    site = tmp_path / "site"
    with zipfile.ZipFile(tmp_path / name) as archive:
        archive.extractall(site)
    check = (
        "import site, sys; site.addsitedir(sys.argv[1])\n"
        "from sb3_ezv2.zoo.settings import hyperparameter_file; print(hyperparameter_file())"
    )
    borrowed = [path for path in sys.path if Path(path).is_dir() and Path(path).resolve() != ROOT]
    # In front: this environment may hold an editable installation too, whose import hook has the same name.
    check = f"import sys; sys.path[:] = [sys.argv[1], *{borrowed!r}]\n" + check
    found = call(sys.executable, "-S", "-c", check, site, cwd=tmp_path).splitlines()[-1]
    assert Path(found) == copy / "hyperparams" / "ezv2.yml"
