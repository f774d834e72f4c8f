"""Value targets where rewards are sparse: ``python -m experiments.sparse_rewards``.

The search's values, multi-step returns and the mixed target on three tasks that pay at their goals: returns, steps
until nine tenths of the best return, and how far the value of the start is from the best policy's.
"""

import argparse
from typing import Any

from matplotlib.figure import Figure

from benchmarks.learning.solvable import best_return, best_value
from experiments.common import run
from experiments.training import against, bars, mean_return, sweep

TASKS = {
    "corridor": ("solvable/Corridor-v0", 800),
    "thermostat": ("solvable/SparseThermostat-v0", 800),
    "grid": ("experiments/Grid-v0", 800),
}
CHOICES: dict[str, dict[str, Any]] = {
    "mixed": {"value_target": "mixed"},
    "search": {"value_target": "search"},
    "search, mean": {"value_target": "search", "search_value": "mean"},
    "multi_step": {"value_target": "multi_step"},
}
GRID_BEST = 0.915
"""Mean return of the best policy from a random cell."""


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns, steps to solve and errors of values by value target."""
    found = sweep(options, "sparse_rewards", TASKS, CHOICES, (3, 5))
    solved, errors = {}, {}
    for task, runs in found.items():
        env_id = TASKS[task][0]
        best = GRID_BEST if task == "grid" else best_return(env_id)
        for name, ran in runs.items():
            enough = [[r >= 0.9 * best for r in one["returns"]] for one in ran]
            solved[f"{task}, {name}"] = [
                one["steps"][ok.index(True)] if any(ok) else None for one, ok in zip(ran, enough, strict=True)
            ]
            if task != "grid":
                truth = best_value(env_id, 0.99)
                errors[f"{task}, {name}"] = [one["start_value"] - truth for one in ran]
    verdicts = against(found, "mixed", "{task}: mixed above {other}")
    return {"runs": found, "solved_after": solved, "value_errors": errors, "verdicts": verdicts}


def draw(record: dict[str, Any]) -> Figure:
    """Mean returns."""
    return bars(record["runs"], mean_return)


if __name__ == "__main__":
    run("sparse_rewards", measure, draw)
