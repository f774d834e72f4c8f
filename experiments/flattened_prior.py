"""Is a flattened prior needed? ``python -m experiments.flattened_prior``.

Shares of the candidates that come from the flattened policy, and its factor, on continuous tasks; beside them no search
while acting, with Gaussian noise of the flattened size.
"""

import argparse
from typing import Any

from matplotlib.figure import Figure

from experiments.common import run
from experiments.training import against, bars, mean_return, sweep

TASKS = {
    "narrow": ("experiments/Narrow-v0", 600),
    "thermostat": ("solvable/SparseThermostat-v0", 500),
    "corners": ("solvable/BangBang-v0", 500),
    "pendulum": ("Pendulum-v1", 600),
}
CHOICES: dict[str, dict[str, Any]] = {
    "share 3/4, factor 3": {},
    "share 0": {"n_policy_candidates": 16},
    "share 1/2": {"n_policy_candidates": 8},
    "share 1": {"n_policy_candidates": 0},
    "factor 1": {"flatten_factor": 1.0},
    "factor 5": {"flatten_factor": 5.0},
    "acts without search": {"act_with": "policy", "n_policy_candidates": 0},
}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Scores by share and factor of the flattened prior."""
    found = sweep(options, "flattened_prior", TASKS, CHOICES, (3, 5))
    verdicts = against(found, "share 3/4, factor 3", "{task}: the default is better than {other}")
    return {"runs": found, "verdicts": verdicts}


def draw(record: dict[str, Any]) -> Figure:
    """Scores of all choices."""
    return bars(record["runs"], mean_return)


if __name__ == "__main__":
    run("flattened_prior", measure, draw)
