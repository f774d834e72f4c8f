"""Damaged files in the folder of a run of ``ezv2-train``, for :mod:`benchmarks.reliability.corruptions`.

Each damage is met by the command that reads the file: ``ezv2-train -i`` goes on with the run, ``ezv2-plot`` draws it,
``ezv2-enjoy`` plays it. A command may refuse the file in one line that names it, name it and go on without it, or do
what it does with the whole file. All else is a fault: a crash, a traceback, a line that does not name the file, or
other parameters at the end without a word.
"""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.reliability.small_runs import in_a_child
from benchmarks.reliability.small_trainings import ENV, RUN, arguments_of, command, parameters_of

Damage = Callable[[bytes, random.Random], tuple[str, bytes]]
NEXT = RUN.with_name(f"{ENV}_2") / f"{ENV}.zip"
BEST = "best_model.zip"
DRAWN = {"evaluations.npz", "0.monitor.csv", "run.yml"}
"""Files that pictures are drawn from."""


def go_on(folder: Path) -> str:
    """Train from the run: hash of the parameters behind what is said, or how it was refused."""
    status, said = command(folder, "train", ["-i", str(RUN), *arguments_of(0, 30)])
    return f"{said}\n{parameters_of(folder / NEXT)}" if status == 0 else f"{said}\nstatus {status}"


def draw(folder: Path) -> str:
    """Draw the run, by its evaluations and by its training episodes."""
    for axis in ("evaluation", "training"):
        status, said = command(folder, "plot", ["-f", "logs", "-o", "picture.png", "-y", axis])
        if status:
            return f"{said}\nstatus {status}"
    return "\ndrawn"


def play(folder: Path, *options: str) -> str:
    """Play a few steps."""
    arguments = ["--env", ENV, "-f", "logs", "-n", "20", "--no-render", "--exp-id", "1", "--device", "cpu", *options]
    status, said = command(folder, "enjoy", arguments)
    return f"{said}\nstatus {status}" if status else "\nplayed"


def readers(file: Path) -> dict[str, Callable[[Path], str]]:
    """Commands that read a file of a run."""
    if file.name == BEST:
        return {"ezv2-enjoy --load-best": lambda folder: play(folder, "--load-best")}
    if file.name in ("args.yml", "config.yml", f"{ENV}.zip"):
        return {"ezv2-train -i": go_on, "ezv2-enjoy": play}
    return {"ezv2-plot": draw} if file.name in DRAWN else {"ezv2-train -i": go_on}


def verdict(found: str, expected: str, name: str) -> str:
    """What became of a damage: one of three right outcomes, or a fault that begins with ``FAULT``."""
    said, _, end = found.rpartition("\n")
    if found.startswith("crash") or "Traceback" in found or end == "status -1":
        return f"FAULT: {found[-800:]}"
    if end.startswith("status"):
        lines = [line for line in said.splitlines() if line.startswith("ezv2-")]
        return "refused" if len(lines) == 1 and name in said else f"FAULT: obscure: {said[-800:]}"
    if end == expected.rpartition("\n")[2]:
        return "as without the damage"
    return "named, and went on" if name in said else f"FAULT: silently accepted: {said[-800:]}"


def damage_runs(n: int, damage: Damage, generator: random.Random, folder: Path) -> tuple[Counter[str], int]:
    """Damage files of a run and count what the commands make of them; the number of faults, too.

    :param n: damages
    :param damage: makes one
    :param generator: of what is drawn
    :param folder: to work in
    """
    whole, damaged = folder / "whole-run", folder / "damaged-run"
    whole.mkdir()
    said = in_a_child(lambda: "{} {}".format(*command(whole, "train", arguments_of(1))))
    if not said.startswith("0 "):
        raise RuntimeError(said)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file() and path.suffix != ".png")
    files = [file for file in files if not file.name.startswith("rl_model_")]

    def with_file(file: Path, data: bytes, read: Callable[[Path], str]) -> str:
        shutil.copytree(whole, damaged)
        (damaged / file).write_bytes(data)
        found = in_a_child(lambda: read(damaged))
        shutil.rmtree(damaged)
        return found

    expected: dict[str, str] = {}
    counts, n_faults = Counter[str](), 0
    for number in range(n):
        file = files[number % len(files)]
        what, data = damage((whole / file).read_bytes(), generator)
        for name, read in readers(file).items():
            if name not in expected:
                expected[name] = with_file(file, (whole / file).read_bytes(), read)
            outcome = verdict(with_file(file, data, read), expected[name], file.name)
            if outcome.startswith("FAULT"):
                n_faults += 1
                print(f"{what} in {file}, {name}: {outcome}", flush=True)
            counts[f"{file.name}, {name}: {outcome.partition(':')[0]}"] += 1
    return counts, n_faults
