"""Tables and pictures of stored runs, beside scores that others published.

Published scores are CSV files with the columns ``task, algo, frames, score, source``, one row a figure, see
``benchmarks/published/README.md``. A published figure is a mean over seeds: the probability of improvement is that of
our runs over this mean.
"""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from benchmarks.learning.statistics import AGGREGATES, improvement_over, interquartile_mean, interval_text, mean
from benchmarks.learning.tasks import TASKS
from sb3_ezv2.zoo.curves import Curve, draw, new_figure

COMPARABLE = {"dmc": "", "atari": ", human-normalised"}
"""Groups whose tasks have scores of one range, so that means over tasks say something, and what makes them so."""
OUR_COLORS = ("tab:blue", "tab:gray", "tab:olive", "tab:cyan")
COLORS = ("tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")


class Published(NamedTuple):
    """One published figure."""

    task: str
    algo: str
    frames: float
    score: float
    source: str


def read_published(paths: Iterable[Path]) -> list[Published]:
    """All figures with a score and the number of frames at which it was reached.

    :raises ValueError: for a file without these columns
    """
    found = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != Published._fields:
                raise ValueError(
                    f"{path} has the columns {reader.fieldnames}; a table of scores has {Published._fields}"
                )
            for row in reader:
                if row["frames"] and row["score"]:
                    found.append(
                        Published(row["task"], row["algo"], float(row["frames"]), float(row["score"]), row["source"])
                    )
    return found


def in_tables(name: str) -> str:
    """How tables of published scores call a task."""
    return TASKS[name].published or name


def nearest(rows: Sequence[Published], name: str, algo: str, n_steps: int) -> Published | None:
    """The figure of a task and an algorithm at the number of frames that is nearest to that of our steps."""
    same = [row for row in rows if (row.task, row.algo) == (in_tables(name), algo)]
    return min(same, key=lambda row: abs(row.frames - n_steps * TASKS[name].action_repeat), default=None)


def in_range(name: str, scores: np.ndarray, published: Sequence[Published]) -> np.ndarray | None:
    """Scores of a task as they are averaged over the tasks of its group, ``None`` if that is not possible.

    Those of games become ``(score - random) / (human - random)``, with the published scores of both.
    """
    if TASKS[name].group != "atari":
        return scores
    ends = [nearest(published, name, algo, TASKS[name].n_steps) for algo in ("random", "human")]
    if any(end is None for end in ends):
        return None
    low, high = (end.score for end in ends if end is not None)
    return (scores - low) / (high - low)


def comparable(group: str, scores: dict[str, np.ndarray], published: Sequence[Published]) -> list[np.ndarray]:
    """Scores of all tasks of a group as they are averaged, those left out that cannot be."""
    of_group = [in_range(name, each, published) for name, each in scores.items() if TASKS[name].group == group]
    return [each for each in of_group if each is not None]


def read_runs(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Stored runs of a folder that have an evaluation, by task and algorithm, in the order of the table of tasks.

    :raises ValueError: if there are none
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/*seed-*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["task"] in TASKS and run["evaluations"]:
            found.setdefault((run["task"], run.get("algo", "ezv2")), []).append(run)
    if not found:
        raise ValueError(f"--out {folder} has no runs with an evaluation, such as {folder}/CartPole-v1/seed-0.json")
    order = list(TASKS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def last_scores(runs: Sequence[dict[str, Any]]) -> tuple[int, np.ndarray]:
    """The last step at which all runs were evaluated, and their mean returns ``[n_runs]`` there.

    :raises ValueError: if there is no such step
    """
    curves = [{each["step"]: each["mean_return"] for each in run["evaluations"]} for run in runs]
    common = set.intersection(*(set(curve) for curve in curves))
    if not common:
        raise ValueError(f"the runs of {runs[0]['task']} have no step in common at which they were evaluated")
    step = max(common)
    return step, np.array([curve[step] for curve in curves])


def number(value: float) -> str:
    """As many digits as a score of this size needs."""
    return f"{value:,.{digits_for(value)}f}"


def digits_for(value: float) -> int:
    """Digits after the point."""
    return 2 if abs(value) < 10 else 1 if abs(value) < 1_000 else 0


def table(folder: Path, published: Sequence[Published], rivals: Sequence[str]) -> str:
    """Markdown: every task, then the means over the tasks of a group with comparable scores.

    :param folder: of stored runs
    :param published: figures to compare with
    :param rivals: algorithms among them, a table for each
    """
    runs = read_runs(folder)
    lines = [
        "| task | algorithm | steps | seeds | mean | 95 % interval | interquartile mean | 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    scores: dict[str, dict[str, tuple[int, np.ndarray]]] = {}
    for (name, algo), of_task in runs.items():
        step, last = scores.setdefault(algo, {})[name] = last_scores(of_task)
        unfinished = "" if all(run.get("complete", True) for run in of_task) else " (running)"
        cells = [
            f"{number(f(last))} | {interval_text(f, [last], digits_for(f(last)))}" for f in (mean, interquartile_mean)
        ]
        lines.append(f"| {name} | {algo} | {step:,}{unfinished} | {len(last)} | {' | '.join(cells)} |")
    for algo, of_algo in scores.items():
        lines += _aggregates(algo, of_algo, published)
        for rival in rivals:
            lines += _against(algo, of_algo, rival, published)
    return "\n".join(lines) + "\n"


def _aggregates(algo: str, scores: dict[str, tuple[int, np.ndarray]], published: Sequence[Published]) -> list[str]:
    lines = []
    for group, how in COMPARABLE.items():
        samples = comparable(group, {name: last for name, (_, last) in scores.items()}, published)
        if len(samples) > 1:
            n_tasks, digits = sum(task.group == group for task in TASKS.values()), 3 if how else 1
            parts = [
                f"{label} {aggregate(*samples):.{digits}f} ({interval_text(aggregate, samples, digits)})"
                for label, aggregate in AGGREGATES.items()
            ]
            lines += ["", f"{algo}, {len(samples)} of {n_tasks} tasks of {group}{how}: {', '.join(parts)}."]
    return lines


def _against(
    algo: str, scores: dict[str, tuple[int, np.ndarray]], rival: str, published: Sequence[Published]
) -> list[str]:
    """Table of the tasks that the rival has a figure for."""
    found = {name: row for name, (step, _) in scores.items() if (row := nearest(published, name, rival, step))}
    if not found:
        return []
    lines = [
        "",
        f"{algo} and {rival}, as published, at the nearest number of frames:",
        "",
        "| task | ours | frames | published | frames | probability of improvement | 95 % interval | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        step, last = scores[name]
        better = improvement_over([np.array([row.score])])
        lines.append(
            f"| {name} | {number(last.mean())} | {step * TASKS[name].action_repeat:,} | {number(row.score)} "
            f"| {row.frames:,.0f} | {better(last):.2f} | {interval_text(better, [last], 2)} | {row.source} |"
        )
    samples, theirs = [scores[name][1] for name in found], [np.array([row.score]) for row in found.values()]
    better = improvement_over(theirs)
    if len(found) > 1:
        lines += ["", f"Over these tasks the probability of improvement is {better(*samples):.2f} "]
        lines[-1] += f"({interval_text(better, samples, 2)})."
    for group, how in COMPARABLE.items():
        ours, others = (comparable(group, dict(zip(found, each, strict=True)), published) for each in (samples, theirs))
        if len(ours) > 1:
            digits = 3 if how else 1
            lines += ["", f"Mean over its {len(ours)} tasks of {group}{how}: "]
            lines[-1] += f"{mean(*ours):.{digits}f}, published {mean(*others):.{digits}f}."
    return lines


def draw_task(
    axis: Axes,
    name: str,
    runs: dict[str, list[dict[str, Any]]],
    published: Sequence[Published] = (),
    rivals: Sequence[str] = (),
) -> None:
    """Our runs with their mean and its interval, what is asked, and what is published, against frames.

    :param axis: to draw on
    :param name: of the task
    :param runs: stored runs by algorithm
    :param published: figures to draw
    :param rivals: algorithms among them
    """
    task = TASKS[name]
    for (algo, of_algo), color in zip(runs.items(), OUR_COLORS, strict=False):
        curves = []
        for run in of_algo:
            steps, returns = np.array([(each["step"], each["mean_return"]) for each in run["evaluations"]]).T
            curves.append(Curve(str(run["seed"]), steps * task.action_repeat, returns))
        draw(axis, algo, curves, color)
    for rival, color in zip(rivals, COLORS, strict=False):
        rows = sorted((row.frames, row.score) for row in published if (row.task, row.algo) == (in_tables(name), rival))
        if rows:
            axis.plot(*zip(*rows, strict=True), ".--", color=color, label=f"{rival}, published")
    for step, least in task.asked.items():
        axis.plot(step * task.action_repeat, least, "_", color="tab:red", markersize=14, markeredgewidth=2)
    axis.set(title=name, xlabel="frames" if task.action_repeat > 1 else "environment steps", ylabel="return")
    axis.grid(alpha=0.3)
    axis.legend()


def draw_tasks(folder: Path, pictures: Path, published: Sequence[Published], rivals: Sequence[str]) -> list[Path]:
    """One picture a task.

    :param folder: of stored runs
    :param pictures: folder to write to
    :param published: figures to draw
    :param rivals: algorithms among them
    :return: the pictures
    """
    by_task: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (name, algo), runs in read_runs(folder).items():
        by_task.setdefault(name, {})[algo] = runs
    pictures.mkdir(parents=True, exist_ok=True)
    written = []
    for name, runs_by_algo in by_task.items():
        figure, (axis,) = new_figure()
        draw_task(axis, name, runs_by_algo, published, rivals)
        written.append(pictures / f"{name}.png")
        figure.savefig(written[-1], dpi=110)
    return written
