"""What numba keeps on disk is used only for the source that it was made from."""

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


@pytest.fixture
def installed(tmp_path):
    """A copy of the package with a cache of its own; gives the sum of a tree and how often cached code was used."""
    shutil.copytree(Path(sb3_ezv2.__file__).parent, tmp_path / "sb3_ezv2", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "NUMBA_DISABLE_JIT": "0"}

    def run() -> list[str]:
        command = [sys.executable, "-c", PROGRAM]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout.split()

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
