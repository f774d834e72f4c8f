"""Runs of ``ezv2-train`` small enough to be made, ended and resumed hundreds of times."""

import contextlib
import hashlib
import io
import os
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_ezv2 import EfficientZeroV2, command_line

ENV = "CartPole-v1"
RUN = Path("logs", "ezv2", f"{ENV}_1")
SETTINGS = (
    "learning_starts:40",
    "n_simulations:4",
    "batch_size:8",
    "gradient_steps:1",
    "target_update_interval:50",
    "policy_kwargs:dict(latent_dim=16,hidden_dim=16)",
)
N_STEPS, SAVE_FREQ = 240, 30


def arguments_of(seed: int, n_steps: int = N_STEPS) -> list[str]:
    """Options of a run that is evaluated and saved often."""
    options = ["--env", ENV, "--seed", str(seed), "-n", str(n_steps), "--verbose", "0", "--save-freq", str(SAVE_FREQ)]
    options += ["--eval-freq", "70", "--n-eval-envs", "1", "--eval-episodes", "1", "--device", "cpu"]
    return [*options, "-params", *SETTINGS]


def command(folder: Path, name: str, arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command in a folder: its exit status and everything that it says, -1 for an error with a traceback."""
    said, before = io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            command_line.run(name, arguments)
        return 0, said.getvalue()
    except SystemExit as left:
        return int(left.code or 0), said.getvalue()
    except BaseException:
        return -1, said.getvalue() + traceback.format_exc()
    finally:
        os.chdir(before)


def parameters_of(path: Path) -> str:
    """Hash of the parameters of a saved model."""
    digest = hashlib.sha256()
    for name, value in sorted(EfficientZeroV2.load(path, device="cpu").policy.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()
