"""Runs the zoo's commands as their users do: in a process of their own, in a folder of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = [
    "learning_starts:40",
    "n_simulations:4",
    "batch_size:8",
    "target_update_interval:50",
    "policy_kwargs:dict(latent_dim=16,hidden_dim=16)",
]


def environment() -> dict[str, str]:
    """Variables of a process that finds this package wherever it runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


def start(command: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start ``python -m sb3_ezv2.<command>`` with both of its outputs in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", f"sb3_ezv2.{command}", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test session in the background ignores the signal of Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(command: str, *arguments: str, cwd: Path) -> str:
    """What a command says; it must succeed."""
    process = start(command, *arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def train(env: str, n_timesteps: int, *arguments: str, cwd: Path) -> str:
    """Train a tiny model, with two episodes for each evaluation."""
    return run(
        "train", "--env", env, "-n", str(n_timesteps), "--seed", "0", "--eval-episodes", "2", "--n-eval-envs", "2",
        *arguments, "-params", *TINY, cwd=cwd,
    )  # fmt: skip


def files(folder: Path) -> set[str]:
    """All files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
