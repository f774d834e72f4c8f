"""The mixed target's T1 and T2 on two tasks: ``python -m experiments.t1_t2``.

T1 counts updates, T2 observations; runs are 600 steps with as many updates. The score is the mean over all evaluations.
"""

import argparse
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.common import run, verdict
from experiments.training import scores_of, sweep

T1, T2 = (0, 200, 10_000), (0, 200, 1_000)
TASKS = {"grid": ("experiments/Grid-v0", 600), "thermostat": ("solvable/SparseThermostat-v0", 600)}
RULE = (400, 1_000)
"""Of the package."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Scores on a grid of T1 and T2, and the package's rule."""
    pairs = [(t1, t2) for t1 in T1 for t2 in (T2 if t1 < 10_000 else (0,))]  # T2 does nothing before T1
    choices = {f"T1={t1} T2={t2}": {"td_phase": t1, "td_fresh": t2} for t1, t2 in (RULE, *pairs)}
    found = sweep(options, "t1_t2", TASKS, choices, (3, 5))
    rule, search, returns = "T1=400 T2=1000", "T1=0 T2=0", "T1=10000 T2=0"
    verdicts = {}
    if not options.tiny:
        for task, runs in found.items():
            scores = scores_of(runs)
            verdicts[f"{task}: rule above search alone"] = verdict(scores[rule] - scores[search])
            verdicts[f"{task}: rule above returns alone"] = verdict(scores[rule] - scores[returns])
            best = max((name for name in scores if name != rule), key=lambda name, s=scores: s[name].mean())
            verdicts[f"{task}: rule above {best}, the best of the grid"] = verdict(scores[rule] - scores[best])
    return {"runs": found, "verdicts": verdicts}


def draw(record: dict[str, Any]) -> Figure:
    """Heat maps; the rule is in the title."""
    figure = Figure((6 * len(record["runs"]), 4))
    for axes, (task, runs) in zip(
        np.atleast_1d(figure.subplots(1, len(record["runs"]))), record["runs"].items(), strict=True
    ):
        scores = {name: found.mean() for name, found in scores_of(runs).items()}
        table = [[scores.get(f"T1={t1} T2={t2}", scores.get(f"T1={t1} T2=0", np.nan)) for t2 in T2] for t1 in T1]
        figure.colorbar(axes.imshow(table, origin="lower"), ax=axes)
        for row, column in np.ndindex(len(T1), len(T2)):
            axes.text(column, row, f"{table[row][column]:.2f}", ha="center", color="red")
        axes.set_xticks(range(len(T2)), T2)
        axes.set_yticks(range(len(T1)), T1)
        rule = scores.get("T1=400 T2=1000", np.nan)
        axes.set(title=f"{task}; T1=400, T2=1000: {rule:.2f}", xlabel="T2, observations", ylabel="T1, updates")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    run("t1_t2", measure, draw)
