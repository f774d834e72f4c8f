"""How accurate is SVE? Value targets against exact values by age of the data: ``python -m experiments.value_targets``.

Four small tasks with exact values: a random walk, a chain that must be walked to its end, a walk that slips (the model
knows the most likely outcome only), and a linear system with quadratic costs. Data come from policies that grow better
step by step; an age counts them back from the newest, whose values are the truth. The model is exact; the value network
errs by 0.3 standard deviations of the values. SVE by number of simulations comes with the paper's bound.
"""

import argparse
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import lines, run, seeds, verdict
from experiments.truths import TASKS, Errors, target_errors

AGES, SIMULATIONS = (0, 1, 2, 4, 8), (4, 8, 16, 32, 64)
SHOWN = ("one-step", "5-step", "SVE mean", "SVE improved", "SVE policy")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """How accurate value targets are by age of the data."""
    n = 20 if options.tiny else 200
    numbers, ages, counts = seeds(options, 10, 40), AGES, SIMULATIONS[: 1 if options.tiny else None]
    by_age = {
        task: [[target_errors(task, Errors(), age, 16, n, seed) for age in ages] for seed in numbers] for task in TASKS
    }
    by_simulations = {
        task: [[target_errors(task, Errors(), 0, count, n, seed) for count in counts] for seed in numbers]
        for task in TASKS
    }
    verdicts = {}
    for task, runs in by_age.items():

        def errors(name: str, age: int, runs: list[list[dict[str, float]]] = runs) -> np.ndarray:
            return np.array([one[AGES.index(age)][name] for one in runs])

        for form in SHOWN[2:]:
            verdicts[f"{task}: {form} beats 5-step on the oldest data"] = verdict(errors("5-step", 8) - errors(form, 8))
        verdicts[f"{task}: 5-step beats SVE mean on the newest data"] = verdict(
            errors("SVE mean", 0) - errors("5-step", 0)
        )
        verdicts[f"{task}: mixed beats 5-step over all ages"] = verdict(
            np.mean([errors("5-step", age) - errors("mixed", age) for age in AGES], axis=0)
        )
        verdicts[f"{task}: improved form beats the mean"] = verdict(errors("SVE mean", 8) - errors("SVE improved", 8))
        verdicts[f"{task}: policy form beats the improved one over all ages"] = verdict(
            np.mean([errors("SVE improved", age) - errors("SVE policy", age) for age in AGES], axis=0)
        )
        verdicts[f"{task}: SVE mean keeps the bound at N = 16"] = verdict(errors("bound", 0) - errors("SVE mean", 0))
    return {
        "ages": AGES,
        "simulations": counts,
        "by_age": by_age,
        "by_simulations": by_simulations,
        "verdicts": verdicts,
    }


def draw(record: dict[str, Any]) -> Figure:
    """Errors by age in the upper row, by simulations in the lower."""
    figure = Figure((16, 7))
    parts = figure.subplots(2, len(TASKS))
    for column, task in enumerate(TASKS):
        for row, (key, x) in enumerate((("by_age", record["ages"]), ("by_simulations", record["simulations"]))):
            axes, runs = parts[row, column], record[key][task]
            for name in SHOWN + (("mixed",) if row == 0 else ("bound",)):
                style = {"mixed": "--", "bound": ":"}.get(name, "-")
                lines(axes, x, np.array([[one[name] for one in found] for found in runs]), name, ls=style)
            axes.set(title=task, xlabel=("age of the data, policies", "simulations")[row], ylabel="error")
            if row == 1:
                axes.set_xscale("log")
    for row in range(2):
        parts[row, 0].legend(fontsize=7)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    run("value_targets", measure, draw)
