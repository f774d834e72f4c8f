"""What all experiments share: options, intervals, verdicts, and where results are kept."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from benchmarks.records import new_record, write_record

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).parents[1] / "docs" / "experiments"

Measure = Callable[[argparse.Namespace], dict[str, Any]]
Draw = Callable[[dict[str, Any]], Figure]


def run(name: str, measure: Measure, draw: Draw, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, store and draw one experiment.

    :param name: of its files
    :param measure: gives all numbers, which are stored as JSON; ``options.seeds`` are its seeds, ``options.quick``
        whether it is to be short, ``options.tiny`` whether it is only to be tried
    :param draw: makes the picture from what was measured
    :param argv: command line; ``None`` for that of the process
    :return: the stored record
    """
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=measure.__doc__)
    parser.add_argument("--quick", action="store_true", help="few seeds, small tasks")
    parser.add_argument("--tiny", action="store_true", help="one try of everything, whose numbers mean nothing")
    parser.add_argument("--seeds", type=int, help="number of seeds, from 0 on")
    parser.add_argument("--out", type=Path, help="one folder for numbers and picture")
    options = parser.parse_args(argv)
    options.quick |= options.tiny
    options.runs = (options.out or RESULTS) / "runs"
    begin = time.perf_counter()
    found = measure(options)
    record = {**new_record("torch", "numpy", "stable-baselines3"), "seconds": round(time.perf_counter() - begin, 1)}
    record = {**record, "quick": options.quick, **found}
    write_record((options.out or RESULTS) / f"{name}.json", record)
    picture = (options.out or PICTURES) / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(record).savefig(picture, dpi=80, bbox_inches="tight")
    return record


def seeds(options: argparse.Namespace, quick: int, full: int) -> range:
    """Seeds of a run: as many as the command asks for, or ``quick`` or ``full`` of them."""
    return range(options.seeds or (1 if options.tiny else quick if options.quick else full))


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with a 95 % interval from Student's t over seeds; infinitely wide with one seed."""
    samples = np.asarray(values, float)
    mean = float(samples.mean())
    if len(samples) < 2:
        return mean, -np.inf, np.inf
    half = scipy.stats.t.ppf(0.975, len(samples) - 1) * samples.std(ddof=1) / np.sqrt(len(samples))
    return mean, mean - float(half), mean + float(half)


def verdict(differences: Sequence[float]) -> str:
    """Whether a claim held, from differences per seed that are positive where it does."""
    mean, low, high = interval(differences)
    said = "held" if low > 0 else "contradicted" if high < 0 else "not decided"
    return f"{said}: {mean:.3g} ({low:.3g} to {high:.3g})"


def lines(axes: Any, x: Sequence[float], samples: np.ndarray, label: str, **style: Any) -> None:
    """A mean ``[len(x)]`` over seeds with its interval, of ``samples [seeds, len(x)]``."""
    found = np.array([interval(column) for column in np.asarray(samples).T])
    found[:, 1:] = np.where(np.isfinite(found[:, 1:]), found[:, 1:], found[:, :1])
    (line,) = axes.plot(x, found[:, 0], marker="o", ms=3, label=label, **style)
    axes.fill_between(x, found[:, 1], found[:, 2], color=line.get_color(), alpha=0.2, lw=0)
