"""How many simulations and candidates are needed? ``python -m experiments.simulations``.

N of 8 to 64 with all else as by default; then K and m at N = 16. Scores are means over all evaluations.
"""

import argparse
from typing import Any

from matplotlib.figure import Figure

from experiments.common import run
from experiments.training import against, bars, mean_return, sweep

TASKS = {
    "grid": ("experiments/Grid-v0", 500),
    "corridor": ("solvable/Corridor-v0", 500),
    "thermostat": ("solvable/SparseThermostat-v0", 500),
    "narrow": ("experiments/Narrow-v0", 500),
}
SIMULATIONS = {f"N={n}": {"n_simulations": n} for n in (16, 8, 32, 64)}
CANDIDATES: dict[str, dict[str, Any]] = {
    "K=8": {"n_candidates": 8, "n_policy_candidates": 2},
    "K=4": {"n_candidates": 4, "n_policy_candidates": 1},
    "m=2": {"n_considered": 2},
    "m=16": {"n_considered": 16},
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Scores by simulations and candidates."""
    continuous = {task: TASKS[task] for task in ("thermostat", "narrow")}
    found = sweep(options, "simulations", TASKS, SIMULATIONS, (3, 5))
    if not options.tiny:
        for task, runs in sweep(options, "simulations", continuous, CANDIDATES, (3, 5)).items():
            found[task] |= runs
    return {"runs": found, "verdicts": against(found, "N=16", "{task}: {other} loses to N=16")}


def draw(record: dict[str, Any]) -> Figure:
    """Scores of all choices."""
    return bars(record["runs"], mean_return)


if __name__ == "__main__":
    run("simulations", measure, draw)
