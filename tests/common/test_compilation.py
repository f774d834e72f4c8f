"""What numba keeps on disk is used only for the source that it was made from, and nothing depends on a disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sb3_ezv2

PROGRAM = """
import numpy as np
from sb3_ezv2.replay import sum_tree
tree = np.zeros(8)
sum_tree.set_priorities(tree, np.array([1]), np.array([2.0]))
print(tree[1], sum(sum_tree.set_priorities.stats.cache_hits.values()))
"""


ANNOUNCEMENT = "sb3_ezv2: compiling"
WARNING = "NUMBA_CACHE_DIR"


def call(folder: Path, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program that imports the package which lies in ``folder``; it must succeed."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "0", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    environment.pop("PYTHONPATH", None)  # the package is the one of the current folder
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def copied(tmp_path) -> Path:
    """The folder of a copy of the package that nothing was compiled for."""
    shutil.copytree(Path(sb3_ezv2.__file__).parent, tmp_path / "sb3_ezv2", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def installed(copied):
    """A copy of the package with a cache of its own; gives the sum of a tree and how often cached code was used."""
    tmp_path = copied

    def run() -> list[str]:
        return call(copied, PROGRAM, NUMBA_CACHE_DIR=str(copied / "cache")).stdout.split()

    assert run() == ["2.0", "0"]
    assert run() == ["2.0", "1"]
    return tmp_path, run


def test_a_change_in_any_file_renews_the_cache(installed):
    """Compiled code contains functions of other files, which numba itself does not look at."""
    folder, run = installed
    with (folder / "sb3_ezv2" / "search" / "exponential.py").open("a") as other:
        other.write("\n# changed\n")
    assert run() == ["2.0", "0"]
    assert run() == ["2.0", "1"]


def test_a_cache_that_cannot_be_read_is_renewed(installed):
    """As of a version whose types this one does not have."""
    folder, run = installed
    (index,) = folder.rglob("*set_priorities*.nbi")
    content = index.read_bytes()
    index.write_bytes(content[: content.index(b".") + 1] + b"csb3_ezv2.sum_tree\nNoSuchType\n.")
    assert run() == ["2.0", "0"]
    assert run() == ["2.0", "1"]


def test_only_compilation_is_announced(copied):
    variables = {"NUMBA_CACHE_DIR": str(copied / "cache")}
    assert call(copied, "import sb3_ezv2", **variables).stderr == ""
    first, second = (call(copied, PROGRAM, **variables).stderr for _ in range(2))
    assert first.count(ANNOUNCEMENT) == 1 and len(first.splitlines()) == 1
    assert second == ""


TWO_FUNCTIONS = PROGRAM + "sum_tree.find_leaves(tree, np.array([0.5]))\n"


def test_without_a_writable_folder_every_process_compiles(copied):
    """As a user without a home folder, in an installation of somebody else."""
    for folder in [path.parent for path in (copied / "sb3_ezv2").rglob("*.py")]:
        (folder / "__pycache__").touch()  # a file, where numba would want a folder; permissions do not hold root back
    nowhere = str(Path(os.devnull) / "nowhere")
    variables = dict.fromkeys(["NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"], nowhere)
    assert call(copied, "import sb3_ezv2", **variables).stderr == ""
    for _ in range(2):
        done = call(copied, TWO_FUNCTIONS, **variables)
        assert done.stdout.split() == ["2.0", "0"]
        assert done.stderr.count(WARNING) == 1 and done.stderr.count(ANNOUNCEMENT) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of file sizes stands in for a full disk")
def test_on_a_full_disk_every_process_compiles(copied):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
    for _ in range(2):
        done = call(copied, limit + TWO_FUNCTIONS, NUMBA_CACHE_DIR=str(copied / "cache"))
        assert done.stdout.split() == ["2.0", "0"]
        assert done.stderr.count(WARNING) == 1 and done.stderr.count(ANNOUNCEMENT) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="the limit of file sizes stands in for a full disk")
def test_a_damaged_cache_on_a_full_disk_is_passed_by(installed):
    folder, run = installed
    (index,) = folder.rglob("*set_priorities*.nbi")
    index.write_bytes(b"damaged")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
    done = call(folder, limit + PROGRAM, NUMBA_CACHE_DIR=str(folder / "cache"))
    assert done.stdout.split() == ["2.0", "0"]
