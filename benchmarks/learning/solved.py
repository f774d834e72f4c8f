"""After how many steps tasks are solved, beside the zoo's other algorithms at their own budgets and settings.

``python -m benchmarks.learning.suite solved`` prints the table, and ``--page FILE`` writes it; :mod:`benchmarks.pages`
puts it on the page "Benchmarks". Runs are those of the suite and those that it took over from ``ezv2-train``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.tables import read_runs
from benchmarks.learning.tasks import TASKS

OURS = "ezv2"
SHARE = 0.25
"""Of the steps of the best other algorithm, within which ours is meant to solve a task."""

Runs = Sequence[dict[str, Any]]


def steps_to(run: dict[str, Any], solved: float) -> float:
    """Steps to the first evaluation from which a run counts as solved, infinity if there is none."""
    return next((float(each["step"]) for each in run["evaluations"] if each["mean_return"] >= solved), np.inf)


def median_steps(runs: Runs, solved: float) -> float:
    """Median of the steps to the solved threshold, infinity if half of the runs or more never solve it."""
    steps = sorted(steps_to(run, solved) for run in runs)
    return steps[len(steps) // 2]


def row(task: str, algo: str, runs: Runs, solved: float) -> str:
    """One line of the table."""
    last = np.array([run["evaluations"][-1]["mean_return"] for run in runs])
    each = ", ".join("never" if np.isinf(s) else f"{s:,.0f}" for s in (steps_to(run, solved) for run in runs))
    budget = f"{max(run['n_steps'] for run in runs):,}"
    minutes = np.mean([run["seconds"] for run in runs]) / 60
    spread = f" ± {last.std():.1f}" if len(runs) > 1 else ""
    ends = f"{last.mean():.1f}{spread} ({len(runs)})"
    return f"| {task} | {algo} | {budget} | {ends} | {solved:g} | {each} | {minutes:.1f} |"


def verdict(task: str, by_algo: dict[str, Runs], solved: float) -> str:
    """Whether ours solves a task within the share of the steps of the best other algorithm, said plainly."""
    others = {algo: median_steps(runs, solved) for algo, runs in by_algo.items() if algo != OURS}
    if OURS not in by_algo or not others:
        return f"- {task}: not measured yet."
    ours = median_steps(by_algo[OURS], solved)
    best = min(others, key=others.__getitem__)
    if np.isinf(ours):
        return f"- {task}: {OURS} does not solve it in its budget."
    if np.isinf(others[best]):
        return f"- {task}: {OURS} solves it after {ours:,.0f} steps, none of the others in their budgets."
    reached = "reached" if ours <= SHARE * others[best] else "not reached"
    return (
        f"- {task}: {OURS} needs {ours:,.0f} steps, {best} {others[best]:,.0f}: {ours / others[best]:.2f} of them. "
        f"The aim of {SHARE:g} is {reached}."
    )


def table(folder: Path) -> str:
    """The page's table and what it says about the target.

    :param folder: of stored runs
    :raises ValueError: if there are none
    """
    tasks: dict[str, dict[str, Runs]] = {}
    for (task, algo), runs in read_runs(folder).items():
        if TASKS[task].solved is not None:
            tasks.setdefault(task, {})[algo] = runs
    lines = [
        "| task | algorithm | steps trained | return at the end, mean ± deviation (seeds) | solved at "
        "| steps until solved, each seed | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts = []
    for task, by_algo in tasks.items():
        solved = TASKS[task].solved
        assert solved is not None
        for algo in sorted(by_algo, key=lambda algo: (algo != OURS, algo)):
            lines.append(row(task, algo, by_algo[algo], solved))
        verdicts.append(verdict(task, by_algo, solved))
    lines += [
        "",
        f"Median steps until solved, and the aim of a share of {SHARE:g} of the best other algorithm's:",
        "",
        *verdicts,
    ]
    return "\n".join(lines) + "\n"
