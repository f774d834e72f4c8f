"""Tables and pictures of the README and of the page "Benchmarks" from stored runs: ``python -m benchmarks.pages``.

It writes between the marks ``<!-- made by python -m benchmarks.pages: NAME -->`` and ``<!-- end -->``, and the pictures
``docs/returns.png`` and ``benchmarks/learning/learning_curves.png``. ``--check`` writes nothing and fails if a table is
not that of the stored runs.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D

from benchmarks.learning.plot_curves import PICTURE as CURVES
from benchmarks.learning.plot_curves import draw_curves, of_ours
from benchmarks.learning.solved import OURS, median_steps
from benchmarks.learning.solved import table as table_of_solved
from benchmarks.learning.statistics import interval_text, mean
from benchmarks.learning.tables import Published, digits_for, last_scores, nearest, number, read_published, read_runs
from benchmarks.learning.tables import table as table_of_scores
from benchmarks.learning.tasks import TASKS
from benchmarks.records import RESULTS, write_text
from sb3_ezv2.zoo.curves import Curve, draw, new_figure

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")
RETURNS = ROOT / "docs" / "returns.png"
BESIDE, OWN = RESULTS / "classic_control", RESULTS / "learning"
"""Runs beside other algorithms, those with the hyperparameters of the zoo; and runs of ours alone."""
PUBLISHED = ROOT / "benchmarks" / "published" / "dmc_proprio.csv"
SOURCE, RIVALS = "Table 2", {"ezv2": "EZ-V2", "sac": "SAC", "tdmpc2": "TD-MPC2"}
COLORS = {"ezv2": "tab:blue", "dqn": "tab:orange", "ppo": "tab:green", "sac": "tab:red", "tqc": "tab:purple"}
NAMES = {"ezv2": "EZ-V2 (here)", "dqn": "DQN", "ppo": "PPO", "sac": "SAC", "tqc": "TQC"}
SHOWN = ("CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "Pendulum-v1")
SECTION = re.compile(r"(<!-- made by python -m benchmarks\.pages: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Runs = Sequence[dict[str, Any]]


class Row(NamedTuple):
    """One line of the table of results."""

    task: str
    runs: Runs  # of ours
    beside: str  # what others reach


def release(runs: Runs) -> str:
    """The release that made all of these runs, empty for runs from before they said so."""
    found = {run.get("release", "") for run in runs}
    return found.pop() if len(found) == 1 else ""


def minutes(runs: Runs) -> float:
    """Mean wall-clock of the runs."""
    last = [run["evaluations"][-1].get("training_seconds", run.get("seconds", np.nan)) for run in runs]
    return float(np.mean(last)) / 60.0


def beside_text(task: str, by_algo: dict[str, Runs]) -> str:
    """After how many steps ours and the others reach the threshold of a task, as medians over runs."""
    solved = TASKS[task].solved
    assert solved is not None
    steps = {algo: median_steps(runs, solved) for algo, runs in by_algo.items()}
    others = sorted((found, algo) for algo, found in steps.items() if algo != OURS)
    texts = [f"{NAMES[algo]} {'never' if np.isinf(found) else f'{found:,.0f}'}" for found, algo in others]
    ours = "not reached" if np.isinf(steps[OURS]) else f"reached after {steps[OURS]:,.0f} steps"
    return f"{solved:g} {ours}; {', '.join(texts)}"


def published_text(task: str, n_steps: int, published: Sequence[Published]) -> str:
    """Published scores of a task at the nearest number of frames."""
    found = {name: nearest(published, task, algo, n_steps) for algo, name in RIVALS.items()}
    texts = [f"{name} {number(row.score)}" for name, row in found.items() if row is not None]
    return f"published: {', '.join(texts)}" if texts else ""


def grouped(folder: Path) -> dict[str, dict[str, Runs]]:
    """Stored runs by task and algorithm."""
    found: dict[str, dict[str, Runs]] = {}
    for (task, algo), runs in read_runs(folder).items():
        found.setdefault(task, {})[algo] = runs
    return found


def result_rows(beside: Path, own: Path, published: Sequence[Published]) -> list[Row]:
    """Tasks with others beside them first, then those of ours alone."""
    rows = [
        Row(task, by_algo[OURS], beside_text(task, by_algo))
        for task, by_algo in grouped(beside).items()
        if OURS in by_algo and TASKS[task].solved is not None
    ]
    seen = {row.task for row in rows}
    for task, runs in of_ours(own).items():
        if task not in seen:
            rows.append(Row(task, runs, published_text(task, last_scores(runs)[0], published)))
    return rows


def results(rows: Iterable[Row]) -> str:
    """The table of the README."""
    lines = ["| task | steps | return (95 % interval) | seeds | minutes | beside |", "|---|---|---|---|---|---|"]
    old = False
    for row in rows:
        step, last = last_scores(row.runs)
        digits = digits_for(last.mean())
        interval = f" ({interval_text(mean, [last], digits)})" if len(last) > 1 else ""
        mark = "" if release(row.runs) else " *"
        old |= bool(mark)
        cells = (f"{row.task}{mark}", f"{step:,}", f"{number(last.mean())}{interval}", str(len(last)))
        lines.append(f"| {' | '.join(cells)} | {minutes(row.runs):.1f} | {row.beside or '-'} |")
    if old:
        lines += ["", "\\* made before release 0.2, whose reward unit, value targets and learning rate differ."]
    return "\n".join(lines)


def beside_published(found: dict[str, Runs], published: Sequence[Published]) -> str:
    """Our scores beside published ones at the nearest number of frames, one column a rival."""
    lines = [f"| task | frames | here | {' | '.join(f'{name}, published' for name in RIVALS.values())} |"]
    lines.append("|---" * (3 + len(RIVALS)) + "|")
    for task, runs in found.items():
        step, last = last_scores(runs)
        theirs = [nearest(published, task, algo, step) for algo in RIVALS]
        if any(theirs):
            cells = [number(row.score) if row else "-" for row in theirs]
            frames = f"{step * TASKS[task].action_repeat:,}"
            lines.append(f"| {task} | {frames} | {number(last.mean())} | {' | '.join(cells)} |")
    return "\n".join(lines)


def missed(found: dict[str, Runs]) -> str:
    """Every aim that a run did not reach."""
    lines = []
    for task, runs in found.items():
        for step, aim in TASKS[task].asked.items():
            returns = [each["mean_return"] for run in runs for each in run["evaluations"] if each["step"] == step]
            below = [value for value in returns if value < aim]
            if below:
                values = ", ".join(number(value) for value in below)
                lines.append(
                    f"- {task} after {step:,} steps, aim {aim:g}: {values} ({len(below)} of {len(returns)} seeds)."
                )
    return "\n".join(lines) or "Every aim was reached."


def settings_text(run: dict[str, Any]) -> str:
    """What a run changes of the constructor's defaults."""
    if "settings" not in run:
        return "entry of `hyperparams/ezv2.yml`"
    changed = ", ".join(f"{name}={value}" for name, value in run["settings"].items())
    return f"`{changed}`" if changed else "the constructor's defaults"


def settings(folders: Iterable[Path]) -> str:
    """How the runs of ours were made."""
    lines = ["| task | settings | seeds | release |", "|---|---|---|---|"]
    for folder in folders:
        for task, runs in of_ours(folder).items():
            seeds = ", ".join(str(run["seed"]) for run in runs)
            made = release(runs) or "before 0.2"
            lines.append(f"| {task} | {settings_text(runs[0])} | {seeds} | {made} |")
    return "\n".join(lines)


def sections() -> dict[str, str]:
    """All generated parts by name."""
    published = [row for row in read_published([PUBLISHED]) if SOURCE in row.source]
    return {
        "results": results(result_rows(BESIDE, OWN, published)),
        "solved": table_of_solved(BESIDE).rstrip(),
        "scores": table_of_scores(OWN, published, []).rstrip(),
        "published": beside_published(of_ours(OWN), published),
        "missed": missed(of_ours(BESIDE) | of_ours(OWN)),
        "settings": settings((BESIDE, OWN)),
    }


def filled(text: str, made: dict[str, str]) -> str:
    """A page with its generated parts renewed.

    :raises ValueError: for a part that has no generator, or a page without any
    """
    names = [name for _, name, _ in SECTION.findall(text)]
    unknown = sorted(set(names) - set(made))
    if not names or unknown:
        raise ValueError(f"generated parts {unknown or names} are not among {sorted(made)}")
    return SECTION.sub(lambda found: f"{found[1]}{made[found[2]]}\n{found[3]}", text)


def draw_returns(folder: Path, picture: Path, tasks: Sequence[str] = SHOWN) -> None:
    """Evaluation returns against steps beside other algorithms, one panel a task.

    :param folder: of stored runs
    :param picture: to write
    :param tasks: to show
    """
    by_task = grouped(folder)
    figure, axes = new_figure(len(tasks), n_columns=2)
    for axis, task in zip(axes, tasks, strict=True):
        for algo in (algo for algo in COLORS if algo in by_task[task]):
            curves = []
            for run in by_task[task][algo]:
                steps, returns = np.array([(each["step"], each["mean_return"]) for each in run["evaluations"]]).T
                curves.append(Curve(str(run["seed"]), steps, returns))
            draw(axis, NAMES[algo], curves, COLORS[algo])
        solved = TASKS[task].solved
        if solved is not None:
            axis.axhline(solved, color="gray", linestyle=":", linewidth=1)
        axis.set(title=task, xscale="log", xlabel="environment steps", ylabel="return")
        axis.grid(alpha=0.3)
    shown = [algo for algo in COLORS if any(algo in by_task[task] for task in tasks)]
    lines = [Line2D([], [], color=COLORS[algo], linewidth=2, label=NAMES[algo]) for algo in shown]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), frameon=False)
    figure.savefig(picture, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages and draw the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the tables are those of the stored runs")
    options = parser.parse_args(arguments)
    made = sections()
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before, made)
        if options.check and after != before:
            sys.exit(f"{page.name} is not that of the stored runs; run python -m benchmarks.pages")
        if not options.check:
            write_text(page, after)
            print(page)
    if not options.check:
        draw_returns(BESIDE, RETURNS)
        draw_curves(OWN, CURVES)
        print(RETURNS, CURVES, sep="\n")


if __name__ == "__main__":
    main()
