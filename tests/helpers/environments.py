"""The package built from a copy of its sources, and new environments to install it into."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD_OUTPUT = shutil.ignore_patterns(
    ".git", ".venv", "venv", "build", "dist", "*.egg-info", "_build", "__pycache__", "*.py[cod]", ".*cache*",
    ".hypothesis", "logs", "demo", "shared",
)  # fmt: skip
LISTS = ("find-links", "extra-index-url", "constraint", "trusted-host")
"""Settings of pip that hold several values. uv has them, and those below, as options of the same names."""


def call(*command: str | Path, cwd: Path, status: int = 0, **variables: str) -> str:
    """What a command says; it must end with ``status``, and sees nothing of the source tree.

    :param command: program and arguments
    :param cwd: folder in which it runs
    :param status: expected exit status
    :param variables: of its environment, besides the present ones
    """
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | variables
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == status, f"{command}\n{done.stdout}"
    return done.stdout


def copy_sources(folder: Path) -> Path:
    """A copy of everything that belongs to the project, so that building leaves nothing in the tree."""
    copied: Path = shutil.copytree(ROOT, folder / "source", ignore=BUILD_OUTPUT)
    return copied


def build(kind: str, sources: Path, folder: Path, **variables: str) -> Path:
    """Build what users get, as a build front end does.

    :param kind: ``"wheel"``, ``"sdist"`` or ``"editable"``
    :param sources: folder with ``setup.py``
    :param folder: where the file is put
    :param variables: of the environment
    """
    code = f"import sys, setuptools.build_meta as backend; print(backend.build_{kind}(sys.argv[1]))"
    return folder / call(sys.executable, "-c", code, folder, cwd=sources, **variables).splitlines()[-1]


def pip_settings() -> dict[str, list[str]]:
    """Where pip is told to look for packages: by its files, and before those by its environment variables."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    settings: dict[str, list[str]] = {}
    for section in ("global", "install", ":env:"):
        for line in lines:
            if found := re.match(rf"{section}\.([\w-]+)=(.*)", line):
                settings[found[1]] = str(ast.literal_eval(found[2])).split()
    return settings


def uv_options(settings: dict[str, list[str]]) -> list[str]:
    """Options that make uv look where pip looks, which takes the best version of all indexes.

    :param settings: from :func:`pip_settings`
    """
    options = ["--index-strategy", "unsafe-best-match"]
    for name in LISTS:
        options += [part for value in settings.get(name, []) for part in (f"--{name}", value)]
    if "index-url" in settings:
        options += ["--index-url", *settings["index-url"]]
    if settings.get("no-index", ["0"])[0].lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    return options


def installer(environment: Path) -> tuple[list[str], list[str], dict[str, str]]:
    """How to make and fill an environment: with uv, which links files from its cache, or else with venv and pip.

    :param environment: folder to be made
    :return: command that makes it, command that installs what is appended, environment variables for that
    """
    python = str(environment_python(environment))
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        make = [sys.executable, "-m", "venv", str(environment)]
        return make, [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"], {}
    settings = pip_settings()
    certificates = {"SSL_CERT_FILE": settings["cert"][0]} if "cert" in settings else {}
    install = [uv, "pip", "install", "--quiet", "--python", python, *uv_options(settings)]
    return [uv, "venv", "--quiet", "--python", sys.executable, str(environment)], install, certificates


def environment_python(environment: Path) -> Path:
    """The interpreter of an environment."""
    scripts = sysconfig.get_path("scripts", "venv", {"base": str(environment), "platbase": str(environment)})
    return Path(scripts) / Path(sys.executable).name


@contextmanager
def new_environment(requirement: str, folder: Path) -> Iterator[Path]:
    """An environment with a requirement and nothing else, in the tested versions; gone afterwards.

    :param requirement: of pip
    :param folder: where it is made
    :return: folder of the environment's commands
    """
    environment = folder / "environment"
    make, install, variables = installer(environment)
    try:
        call(*make, cwd=folder)
        call(*install, "-c", ROOT / "constraints.txt", requirement, cwd=folder, **variables)
        yield environment_python(environment).parent
    finally:
        shutil.rmtree(environment, ignore_errors=True)
