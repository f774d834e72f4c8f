"""Draw the stored learning curves: ``python -m benchmarks.learning.plot_curves``.

It writes ``benchmarks/learning/learning_curves.png``: one panel a task, one thin line a seed and a thick one for their
mean with its interval, and the return asked of the task. The table that the documentation shows is printed as well.
``benchmarks/speed/mixed_precision.png`` compares the training episodes of the stored runs of
:mod:`benchmarks.speed.end_to_end` with and without mixed precision.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.learning.tables import draw_task, read_runs
from benchmarks.learning.tasks import TASKS
from benchmarks.records import RESULTS
from sb3_ezv2.zoo.curves import new_figure

PICTURE = Path(__file__).parent / "learning_curves.png"
PRECISION_PICTURE = Path(__file__).parent / "mixed_precision.png"
PRECISIONS = {"end_to_end": "float32", "end_to_end_mixed_precision": "mixed precision"}
WINDOW = 5
"""Training episodes that are averaged."""


def of_ours(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Our runs by task."""
    return {task: runs for (task, algo), runs in read_runs(folder).items() if algo == "ezv2"}


def draw_curves(folder: Path, picture: Path) -> dict[str, list[dict[str, Any]]]:
    """One panel a task of ours; what was drawn.

    :param folder: of stored runs
    :param picture: to write
    """
    found = of_ours(folder)
    figure, axes = new_figure(len(found), n_columns=2)
    for axis, (task, runs) in zip(axes, found.items(), strict=True):
        draw_task(axis, task, {"ezv2": runs})
    figure.savefig(picture, dpi=110)
    return found


def draw_precisions(folder: Path, picture: Path) -> None:
    """Returns of the training episodes of the two runs, each the mean of a few."""
    figure, axis = plt.subplots(figsize=(5.0, 3.4))
    for name, label in PRECISIONS.items():
        steps, returns = np.array(json.loads((folder / f"{name}.json").read_text())["training_returns"]).T
        axis.plot(steps[WINDOW - 1 :], np.convolve(returns, np.ones(WINDOW) / WINDOW, "valid"), label=label)
    axis.set(title="walker walk, seed 0", xlabel="decisions", ylabel=f"training return, mean of {WINDOW}")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=110)


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown table of every seed's return at the steps that something is asked of."""
    lines = [
        "| task | steps | asked | mean return of each seed | minutes of training a seed |",
        "|---|---|---|---|---|",
    ]
    for task, runs in found.items():
        for step, least in TASKS[task].asked.items():
            reached = [each for run in runs for each in run["evaluations"] if each["step"] == step]
            digits = 2 if abs(least) < 10 else 0
            returns = ", ".join(f"{each['mean_return']:.{digits}f}" for each in reached) or "not measured"
            minutes = ", ".join(f"{each['training_seconds'] / 60:.1f}" for each in reached) or "-"
            lines.append(f"| {task} | {step:,} | {least:g} | {returns} | {minutes} |")
    return "\n".join(lines)


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "learning")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    found = draw_curves(arguments.results, arguments.out)
    draw_precisions(RESULTS, PRECISION_PICTURE)
    print(table(found))


if __name__ == "__main__":
    main()
