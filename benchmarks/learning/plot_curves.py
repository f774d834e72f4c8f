"""Draw the stored learning curves: ``python -m benchmarks.learning.plot_curves``.

It writes ``benchmarks/learning/learning_curves.png``: one panel a task, one thin line a seed and a thick one for their
mean, with the return asked of the task. The table that the documentation shows is printed as well.
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

from benchmarks.learning.tasks import TASKS
from benchmarks.records import RESULTS

PICTURE = Path(__file__).parent / "learning_curves.png"
PRECISION_PICTURE = Path(__file__).parent / "mixed_precision.png"
PRECISIONS = {"end_to_end": "float32", "end_to_end_mixed_precision": "mixed precision"}
WINDOW = 5
"""Training episodes that are averaged."""


def stored_runs(task: str, folder: Path) -> list[dict[str, Any]]:
    """All runs of a task, by seed."""
    runs = [json.loads(path.read_text()) for path in sorted((folder / task).glob("seed-*.json"))]
    return [run for run in runs if run["evaluations"]]


def draw(axis: Any, task: str, runs: list[dict[str, Any]]) -> None:
    """One panel."""
    curves = [[(e["step"], e["mean_return"]) for e in run["evaluations"]] for run in runs]
    for curve in curves:
        axis.plot(*zip(*curve, strict=True), color="tab:blue", alpha=0.35, linewidth=1)
    common = min(len(curve) for curve in curves)
    steps = [step for step, _ in curves[0][:common]]
    axis.plot(
        steps, np.mean([[value for _, value in c[:common]] for c in curves], axis=0), color="tab:blue", linewidth=2
    )
    for step, least in TASKS[task].asked.items():
        axis.plot(step, least, marker="_", markersize=14, markeredgewidth=2, color="tab:red")
    axis.set_title(f"{task} ({len(runs)} seeds)")
    axis.set_xlabel("environment steps or decisions")
    axis.grid(alpha=0.3)


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


def table(folder: Path) -> str:
    """Markdown table of every seed's return at the steps that something is asked of."""
    lines = [
        "| task | steps | asked | mean return of each seed | minutes of training a seed |",
        "|---|---|---|---|---|",
    ]
    for task, description in TASKS.items():
        runs = stored_runs(task, folder)
        for step, least in description.asked.items():
            found = [e for run in runs for e in run["evaluations"] if e["step"] == step]
            digits = 2 if abs(least) < 10 else 0
            returns = ", ".join(f"{e['mean_return']:.{digits}f}" for e in found) or "not measured"
            minutes = ", ".join(f"{e['training_seconds'] / 60:.1f}" for e in found) or "-"
            lines.append(f"| {task} | {step:,} | {least:g} | {returns} | {minutes} |")
    return "\n".join(lines)


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "learning")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    found = {task: runs for task in TASKS if (runs := stored_runs(task, arguments.results))}
    figure, axes = plt.subplots(1, len(found), figsize=(4.2 * len(found), 3.4), squeeze=False)
    for axis, (task, runs) in zip(axes[0], found.items(), strict=True):
        draw(axis, task, runs)
    axes[0][0].set_ylabel("return, 20 deterministic episodes")
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=110)
    draw_precisions(arguments.results, PRECISION_PICTURE)
    print(table(arguments.results))


if __name__ == "__main__":
    main()
