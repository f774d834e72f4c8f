"""``ezv2-train --n-seeds 5``: the same run with several seeds, each in a process and a folder of its own."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from sb3_ezv2.zoo import ALGO, plots
from sb3_ezv2.zoo.options import LIMITS
from sb3_ezv2.zoo.stopping import Stopped, Stopper

SIDE_BY_SIDE = 2
MOST_SEEDS = 1_000
SINGLE = ("-i", "--trained-agent", "-optimize", "--optimize-hyperparameters", "--trial-id")
"""Options of one run alone."""


class Seeds(NamedTuple):
    """What was asked for."""

    seeds: list[int]
    n_jobs: int
    env: str
    algo: str
    folder: Path  # of all runs
    rest: list[str]  # options of every run


def parse(arguments: Sequence[str]) -> Seeds | None:
    """The options of several seeds, ``None`` if there is one run.

    :raises ValueError: naming the option that cannot be
    """
    parser = argparse.ArgumentParser(prog="ezv2-train", add_help=False, allow_abbrev=False)
    parser.add_argument("--n-seeds", type=int)
    known, rest = parser.parse_known_args(arguments)
    if known.n_seeds is None:
        return None
    parser.add_argument("--n-seeds-jobs", type=int, default=max(1, min(SIDE_BY_SIDE, n_cores())))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--algo", default=ALGO)
    parser.add_argument("-f", "--log-folder", default="logs")
    known, rest = parser.parse_known_args(arguments)
    for name, value, most in (("n-seeds", known.n_seeds, MOST_SEEDS), ("n-seeds-jobs", known.n_seeds_jobs, MOST_SEEDS)):
        if not 1 <= value <= most:
            raise ValueError(f"argument --{name}: {value} must be at least 1 and at most {most}")
    last = known.seed + known.n_seeds - 1
    if fault := LIMITS["seed"].fault(known.seed) or LIMITS["seed"].fault(last):
        raise ValueError(
            f"argument --seed: {known.seed} {fault}, and so must the last of {known.n_seeds} seeds, {last}"
        )
    for option in rest:
        if option.partition("=")[0] in SINGLE:
            raise ValueError(f"argument {option}: it is of one run; leave out --n-seeds")
    rest += ["--env", known.env, "--algo", known.algo, "-f", known.log_folder]
    seeds = list(range(known.seed, last + 1))
    return Seeds(seeds, known.n_seeds_jobs, known.env, known.algo, Path(known.log_folder), rest)


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Run:
    """One seed in a process of its own, whose output goes to a file.

    :param seed: of the run
    :param asked: what was asked for
    """

    def __init__(self, seed: int, asked: Seeds) -> None:
        self.seed, self.begin = seed, time.monotonic()
        self.output = asked.folder / asked.algo / f"{asked.env.replace('/', '-')}_seed_{seed}.txt"
        self.output.parent.mkdir(parents=True, exist_ok=True)
        threads = str(max(1, n_cores() // asked.n_jobs))
        with open(self.output, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sb3_ezv2.train", *asked.rest, "--seed", str(seed)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={"NUMBA_NUM_THREADS": threads, **os.environ},
                start_new_session=True,  # signals of the terminal come through this process, once
            )
        print(f"seed {seed}: begins, output in {self.output}", flush=True)

    def end(self) -> str | None:
        """Say that it has ended; what went wrong, ``None`` if nothing did."""
        print(f"seed {self.seed}: ended after {time.monotonic() - self.begin:.0f} s", flush=True)
        if self.process.returncode == 0:
            return None
        lines = self.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"seed {self.seed} ended with status {self.process.returncode}: {lines[-1] if lines else 'no output'}"


def train(asked: Seeds) -> None:
    """Train all seeds, some side by side, then draw their curves and print a table.

    :raises ValueError: if a run failed; those that run then come to their end, others do not begin
    """
    before = set(_folders(asked))
    with Stopper():
        faults = _run_all(asked)
    runs = {seed: run for run in sorted(set(_folders(asked)) - before) if (seed := _seed_of(run)) in asked.seeds}
    if runs:
        show(asked, runs)
    if faults:
        raise ValueError(f"{'; '.join(faults)}; its output is in {asked.folder / asked.algo}")


def _run_all(asked: Seeds) -> list[str]:
    """Run the seeds, a few at a time; what went wrong."""
    waiting, running, faults = list(asked.seeds), list[_Run](), list[str]()
    try:
        while running or (waiting and not faults):
            while waiting and len(running) < asked.n_jobs and not faults:
                running.append(_Run(waiting.pop(0), asked))
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                faults += [fault for fault in [run.end()] if fault is not None]
            time.sleep(0.2)
    except (Stopped, KeyboardInterrupt) as error:
        for run in running:
            run.process.send_signal(error.number if isinstance(error, Stopped) else signal.SIGINT)
        for run in running:
            run.process.wait()  # until what it has learnt is saved
        raise
    return faults


def _folders(asked: Seeds) -> list[Path]:
    name = asked.env.replace("/", "-")
    return [path.parents[1] for path in (asked.folder / asked.algo).glob(f"{name}_*/{name}/args.yml")]


def _seed_of(run: Path) -> int | None:
    """Seed of a run, ``None`` if its options cannot be read."""
    (path,) = run.glob("*/args.yml")
    found = plots.is_readable(run) and yaml.compose(path.read_text(encoding="utf-8"))
    for node in _pairs(found):
        if node[0].value == "seed":
            return int(node[1].value)
    return None


def _pairs(node: object) -> list[tuple[yaml.ScalarNode, yaml.ScalarNode]]:
    """Names and plain values in a document of YAML, wherever they are; nothing in it is built."""
    found = []
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        if isinstance(child, tuple) and all(isinstance(part, yaml.ScalarNode) for part in child):
            found.append(child)
        for part in child if isinstance(child, tuple) else (child,):
            found += _pairs(part)
        pair = child.value if isinstance(child, yaml.SequenceNode) else ()
        if len(pair) == 2 and all(isinstance(part, yaml.ScalarNode) for part in pair):
            found.append(tuple(pair))
    return found


def show(asked: Seeds, runs: dict[int, Path]) -> None:
    """Draw the evaluations of some runs and print what each ended with.

    :param asked: what was asked for
    :param runs: folders by seed
    """
    output = asked.folder / asked.algo / f"{asked.env.replace('/', '-')}_seeds.png"
    options = plots.parse(["-o", str(output)])
    curves = {seed: plots.joined_curve([(run, 0)], options) for seed, run in runs.items()}
    print("\n| seed | last evaluation | best evaluation | folder |\n|---|---|---|---|")
    for seed, curve in sorted(curves.items()):
        values = [] if curve is None else [curve.returns[-1], max(curve.returns)]
        last, best = [f"{value:.1f}" for value in values] or ["-", "-"]
        print(f"| {seed} | {last} | {best} | {runs[seed]} |")
    found = [curve for curve in curves.values() if curve is not None]
    if found:
        last_ones = np.array([curve.returns[-1] for curve in found])
        print(f"| all | {last_ones.mean():.1f} | {np.mean([max(curve.returns) for curve in found]):.1f} | |\n")
        plots.show({asked.env: {asked.algo: found}}, options)
