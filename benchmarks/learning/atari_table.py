"""The human-normalised table of Atari 100k from stored runs.

``python -m benchmarks.learning.atari_table`` reads ``benchmarks/results/atari_100k/<game>/seed-<n>.json``, as
:mod:`benchmarks.learning.atari_100k` writes them, or with ``--logs`` the ``evaluations.npz`` of the zoo's runs, of
which the last evaluation counts, and prints a Markdown table: the score of every game, and mean, median and
interquartile mean of the human-normalised scores with 95 % intervals, see :mod:`benchmarks.learning.statistics`. A
score is the mean return of the full games that a run was evaluated with.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.learning.statistics import AGGREGATES, interval_text
from benchmarks.records import RESULTS

FOLDER = RESULTS / "atari_100k"


class Scores(NamedTuple):
    """What is known of a game: random play, a human, and EfficientZero V2 as published."""

    random: float
    human: float
    published: float


KNOWN = {
    "Alien": Scores(227.8, 7127.7, 1557.7),
    "Amidar": Scores(5.8, 1719.5, 184.9),
    "Assault": Scores(222.4, 742, 1757.5),
    "Asterix": Scores(210, 8503.3, 61810),
    "BankHeist": Scores(14.2, 753.1, 1316.7),
    "BattleZone": Scores(2360, 37187.5, 14433.3),
    "Boxing": Scores(0.1, 12.1, 75),
    "Breakout": Scores(1.7, 30.5, 400.1),
    "ChopperCommand": Scores(811, 7387.8, 1196.6),
    "CrazyClimber": Scores(10780.5, 35829.4, 112363),
    "DemonAttack": Scores(152.1, 1971, 22773.5),
    "Freeway": Scores(0, 29.6, 0),
    "Frostbite": Scores(65.2, 4334.7, 1136.3),
    "Gopher": Scores(257.6, 2412.5, 3868.7),
    "Hero": Scores(1027, 30826.4, 9705),
    "Jamesbond": Scores(29, 302.8, 468.3),
    "Kangaroo": Scores(52, 3035, 1886.7),
    "Krull": Scores(1598, 2665.5, 9080),
    "KungFuMaster": Scores(258.5, 22736.3, 28883.3),
    "MsPacman": Scores(307.3, 6951.6, 2251),
    "Pong": Scores(-20.7, 14.6, 20.8),
    "PrivateEye": Scores(24.9, 69571.3, 99.8),
    "Qbert": Scores(163.9, 13455, 16058.3),
    "RoadRunner": Scores(11.5, 7845, 27516.7),
    "Seaquest": Scores(68.4, 42054.7, 1974),
    "UpNDown": Scores(533.4, 11693.2, 15224.3),
}
"""Random and human scores as quoted in EfficientZero V2, table 1, and its own scores there."""

Runs = Mapping[str, np.ndarray]
"""Scores of all seeds ``[n_seeds]`` by game."""


def normalised(game: str, scores: np.ndarray) -> np.ndarray:
    """``(score - random) / (human - random)`` of one game's scores ``[n_seeds]``."""
    return (scores - KNOWN[game].random) / (KNOWN[game].human - KNOWN[game].random)


def stored_scores(folder: Path) -> Runs:
    """Mean returns of all stored runs.

    :raises ValueError: for a game that is not one of the 26
    """
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*/seed-*.json")):
        record = json.loads(path.read_text())
        if "evaluation" not in record:
            continue  # has not come to its end
        if record["game"] not in KNOWN:
            raise ValueError(f"{path}: {record['game']!r} is not one of the games of Atari 100k")
        found.setdefault(record["game"], []).append(float(np.mean(record["evaluation"]["returns"])))
    return {game: np.array(scores) for game, scores in found.items()}


def logged_scores(folder: Path) -> Runs:
    """Mean returns in the last evaluation of all runs of the games in a log folder of the zoo.

    Other environments are passed over.
    """
    found: dict[str, list[float]] = {}
    for path in sorted(folder.glob("ezv2/*/evaluations.npz")):
        run = path.parent.name.rpartition("_")[0]  # the id with "-" for "/", and the number of the run
        game = run.removeprefix("ALE-").removesuffix("-v5").removesuffix("NoFrameskip-v4")
        if game in KNOWN and game != run:
            with np.load(path) as stored:
                found.setdefault(game, []).append(float(stored["results"][-1].mean()))
    return {game: np.array(scores) for game, scores in found.items()}


def table(runs: Runs) -> str:
    """Markdown of all games and of the aggregates."""
    if not runs:
        return "No run is stored yet.\n"
    lines = [
        "| game | random | human | published | ours, mean (seeds) | human-normalised |",
        "|---|---|---|---|---|---|",
    ]
    for game in KNOWN:
        if game in runs:
            scores, known = runs[game], KNOWN[game]
            lines.append(
                f"| {game} | {known.random:g} | {known.human:g} | {known.published:g} "
                f"| {scores.mean():.1f} ({len(scores)}) | {normalised(game, scores).mean():.3f} |"
            )
    ours = [normalised(game, scores) for game, scores in runs.items()]
    published = [normalised(game, np.array([KNOWN[game].published])) for game in runs]
    lines += [
        "",
        f"Human-normalised, {len(runs)} of {len(KNOWN)} games:",
        "",
        "| | ours | 95 % interval | published, same games |",
        "|---|---|---|---|",
    ]
    for name, aggregate in AGGREGATES.items():
        lines.append(
            f"| {name} | {aggregate(*ours):.3f} | {interval_text(aggregate, ours, 3)} | {aggregate(*published):.3f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--logs", type=Path, help="log folder of the zoo to read instead")
    options = parser.parse_args()
    print(table(logged_scores(options.logs) if options.logs else stored_scores(options.results)), end="")


if __name__ == "__main__":
    main()
