"""Finished runs of ``ezv2-train`` as runs of the suite: those with the hyperparameters of the zoo, of any algorithm."""

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import load_results

from benchmarks.records import RELEASE, current_commit, write_record
from sb3_ezv2.zoo.settings_files import read_settings


def task_name(env_id: str) -> str:
    """The suite's name of an environment of the zoo."""
    if env_id.startswith("ALE/"):
        return env_id.removeprefix("ALE/").rpartition("-v")[0]
    return env_id.removesuffix("NoFrameskip-v4")


def portable(command: str) -> str:
    """A command without where the interpreter of this machine is."""
    return "python -m " + command.split(" -m ", maxsplit=1)[-1].strip()


def read_run(folder: Path) -> dict[str, Any]:
    """Record of one finished run of a log folder.

    :raises FileNotFoundError: if it has no evaluations
    """
    (args_file,) = folder.glob("*/args.yml")
    arguments = read_settings(args_file)
    episodes = load_results(str(folder))
    with np.load(folder / "evaluations.npz") as stored:
        steps, returns = stored["timesteps"].tolist(), stored["results"]
    return {
        "command": portable((args_file.parent / "command.txt").read_text(encoding="utf-8")),
        "commit": current_commit(folder),
        "release": RELEASE,
        "task": task_name(arguments["env"]),
        "algo": arguments["algo"],
        "seed": arguments["seed"],
        "n_steps": int(max(episodes["l"].sum(), steps[-1])),
        "seconds": float(episodes["t"].max()),  # evaluations included
        "complete": True,
        "evaluations": [
            {"step": step, "mean_return": float(each.mean()), "returns": each.tolist()}
            for step, each in zip(steps, returns, strict=True)
        ],
    }


def store(logs: Path, out: Path) -> list[Path]:
    """Take over all finished runs of a log folder.

    :param logs: of ``ezv2-train``
    :param out: folder to write to
    :return: the files written
    """
    written = []
    for evaluations in sorted(logs.glob("*/*/evaluations.npz")):
        record = read_run(evaluations.parent)
        written.append(out / record["task"] / f"{record['algo']}-seed-{record['seed']}.json")
        write_record(written[-1], record)
    return written
