"""Where do errors of the model make SVE worse than returns? ``python -m experiments.model_error``.

The tasks of :mod:`experiments.value_targets` with noise on the model's rewards, on its states (of a table: a share of
its transitions leads anywhere), on both, or with models that were counted from few transitions. The data are four
policies old, and as new as the policy.
"""

import argparse
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import interval, lines, run, seeds
from experiments.truths import TASKS, Errors, target_errors

NOISES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
SAMPLES = (20, 50, 100, 200, 500, 2_000)
KINDS = ("rewards", "states", "both", "data")
SHOWN = ("5-step", "SVE mean", "SVE improved", "SVE policy")


def errors_of(kind: str, place: int) -> Errors:
    """Errors of one kind: noises grow, and data become fewer."""
    if kind == "data":
        return Errors(samples=SAMPLES[::-1][place])
    noise = NOISES[place]
    shares = min(0.5 * noise, 0.8)
    return Errors(rewards=noise if kind != "states" else 0.0, states=shares if kind != "rewards" else 0.0)


def crossing(worse: np.ndarray) -> str:
    """First place where SVE's error minus that of returns ``[seeds, places]`` is above 0 for certain."""
    for place, column in enumerate(worse.T):
        if interval(column)[1] > 0:
            return str(place)
    return "none"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Where errors of the model make SVE worse than multi-step returns."""
    n, numbers = 20 if options.tiny else 100, seeds(options, 6, 40)
    found: dict[str, Any] = {}
    first: dict[str, dict[str, str]] = {}
    for task in TASKS[:1] if options.tiny else TASKS:
        for kind in KINDS[: 3 if task == "linear" else 4]:
            for age in (0, 4):
                name = f"{task}, {kind}, age {age}"
                runs = [
                    [target_errors(task, errors_of(kind, place), age, 16, n, seed) for place in range(len(NOISES))]
                    for seed in numbers
                ]
                found[name] = runs
                table = {key: np.array([[one[key] for one in row] for row in runs]) for key in (*SHOWN, "mixed")}
                first[name] = {key: crossing(table[key] - table["5-step"]) for key in (*SHOWN[1:], "mixed")}
    return {"noises": NOISES, "samples": SAMPLES[::-1], "errors": found, "first_worse": first}


def draw(record: dict[str, Any]) -> Figure:
    """One row for each kind of error, old data."""
    figure = Figure((16, 13))
    parts = figure.subplots(len(KINDS), len(TASKS))
    for row, kind in enumerate(KINDS):
        for column, task in enumerate(TASKS):
            axes, name = parts[row, column], f"{task}, {kind}, age 4"
            if name not in record["errors"]:
                axes.set_axis_off()
                continue
            x = record["samples"] if kind == "data" else record["noises"]
            for shown in SHOWN:
                samples = np.array([[one[shown] for one in found] for found in record["errors"][name]])
                lines(axes, x, samples, shown)
            axes.set(title=name, xlabel="transitions" if kind == "data" else "noise", ylabel="error")
            if kind == "data":
                axes.set_xscale("log")
    parts[0, 0].legend(fontsize=7)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    run("model_error", measure, draw)
