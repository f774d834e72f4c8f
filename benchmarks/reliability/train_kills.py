"""``kill -9`` of ``ezv2-train``, for :mod:`benchmarks.reliability.kills`.

A run of a few seconds is evaluated and saved often. Its process is a copy of this one, so that it says in shared memory
when a save begins and ends and which steps its journal has; it is killed at a moment drawn before, most often while it
saves, and every fifth time while it saves for the last time. Afterwards every file of the run must load, and
``ezv2-train -i`` must go on from a step that is none of the journaled ones before it.
"""

import mmap
import os
import random
import re
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reliability.small_runs import in_a_child
from benchmarks.reliability.small_trainings import ENV, N_STEPS, RUN, SAVE_FREQ, arguments_of, command
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.checkpoint_files import checkpoints_in
from sb3_ezv2.replay.journal import JournalWriter
from sb3_ezv2.zoo import experiment, runs, settings_files

PATIENCE = 120.0
LAST_EVERY = 5
"""One kill of so many is meant for the last save."""
LONGEST_SAVE = 0.08
"""Seconds after the beginning of a save within which a kill is meant to be inside of it."""


class Progress:
    """What a process that may be killed has told, in shared memory."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 32)

    def __getitem__(self, index: int) -> int:
        return struct.unpack_from("<q", self.memory, 8 * index)[0]

    def __setitem__(self, index: int, value: int) -> None:
        struct.pack_into("<q", self.memory, 8 * index, value)


OPEN, BEGUN, SAVED, JOURNALED = range(4)
"""Saves that are open within each other, saves begun, step of the last checkpoint, steps in the journal."""


def tell(progress: Progress) -> None:
    """Let everything that saves or journals tell it, in this process."""

    def told(save: Callable[..., Any]) -> Callable[..., Any]:
        def saving(*args: Any, **kwargs: Any) -> Any:
            progress[BEGUN] += progress[OPEN] == 0
            progress[OPEN] += 1
            found = save(*args, **kwargs)
            progress[OPEN] -= 1
            return found

        return saving

    save_checkpoint, write = EfficientZeroV2.save_checkpoint, JournalWriter.write

    def checkpoint(model: EfficientZeroV2, *args: Any, **kwargs: Any) -> Path:
        found = save_checkpoint(model, *args, **kwargs)
        progress[SAVED] = model.num_timesteps
        return found

    def journal(writer: JournalWriter, step: int) -> None:
        write(writer, step)
        progress[JOURNALED] = step

    EfficientZeroV2.save_checkpoint = told(checkpoint)  # type: ignore[method-assign]
    EfficientZeroV2.save = told(EfficientZeroV2.save)  # type: ignore[method-assign]
    JournalWriter.write = journal  # type: ignore[method-assign]
    experiment.save_run = told(experiment.save_run)


def train(folder: Path, seed: int, progress: Progress) -> None:
    """Make one run in a process of its own and leave that process."""
    tell(progress)
    status, said = command(folder, "train", arguments_of(seed))
    if status:
        (folder / "said.txt").write_text(said)
    os._exit(0)


def start(folder: Path, seed: int) -> tuple[int, Progress]:
    """Number of a new process that trains, and what it tells."""
    progress = Progress()
    child = os.fork()
    if child == 0:
        train(folder, seed, progress)
    return child, progress


def has_ended(child: int) -> bool:
    """Whether a process has ended; it is then gone."""
    return os.waitpid(child, os.WNOHANG)[0] == child


def whole_run() -> tuple[int, float]:
    """Saves of a run that nobody kills, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        child, progress = start(Path(folder), 0)
        os.waitpid(child, 0)
        if (said := Path(folder, "said.txt")).exists():
            raise RuntimeError(said.read_text())
        return progress[BEGUN], time.monotonic() - began


def faults(folder: Path, saved: int, journaled: int) -> str:
    """What is wrong with the files of a killed run, empty if nothing is."""
    run = folder / RUN
    for path in sorted(run.glob("[!.]*.zip")):
        EfficientZeroV2.load(path, device="cpu")
    for path in checkpoints_in(run / "checkpoints"):
        EfficientZeroV2.load_checkpoint(path, ENV, device="cpu")
    if (run / "evaluations.npz").exists():
        with np.load(run / "evaluations.npz") as stored:
            assert len(stored["timesteps"]) == len(stored["results"])
    if (run / ENV).is_dir():
        settings_files.read_run(run / ENV)
        runs.read_record(run)
    if not saved and not journaled:
        return ""
    status, said = command(folder, "train", ["-i", str(RUN), *arguments_of(0, 8)])
    going_on = re.search(r"Going on from step (\d+) to", said)
    if status or going_on is None:
        return f"-i ends with status {status}: {said[-800:]}"
    step = int(going_on.group(1))
    return "" if step >= max(saved, journaled) else f"-i goes on from {step}, {saved} saved, {journaled} journaled"


def kill_one(number: int, seed: int, n_saves: int, seconds: float, generator: random.Random) -> tuple[str, bool, bool]:
    """Kill one run: what is wrong with it, and whether it was inside a save, and inside the last one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child, progress = start(folder, seed)
        last = number % LAST_EVERY == 0
        aim = n_saves if last else generator.randint(1, n_saves) if generator.random() < 0.75 else 0
        moment = time.monotonic() + generator.uniform(0.2, 1.0) * seconds
        deadline = time.monotonic() + PATIENCE
        while (progress[BEGUN] < aim) if aim else (time.monotonic() < moment):
            if has_ended(child) or time.monotonic() > deadline:
                return f"it ended by itself: {[path.read_text() for path in folder.glob('said.txt')]}", False, False
            time.sleep(0.0005)
        time.sleep(generator.uniform(0.0, LONGEST_SAVE) if aim else 0.0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        inside = progress[OPEN] > 0
        saved, journaled = progress[SAVED], progress[JOURNALED]
        found = in_a_child(lambda: faults(folder, saved, journaled))
        return found, inside, inside and progress[BEGUN] == n_saves


def kill_trainings(n_kills: int, generator: random.Random) -> dict[str, int]:
    """Kill runs of ``ezv2-train`` and count."""
    n_saves, seconds = whole_run()
    print(f"a run of {N_STEPS} steps saves {n_saves} times, every {SAVE_FREQ} steps and more, in {seconds:.1f} s")
    counts = {"kills": n_kills, "inside a save": 0, "inside the last save": 0, "with faults": 0}
    for number in range(n_kills):
        found, inside, last = kill_one(number, number, n_saves, seconds, generator)
        counts["inside a save"] += inside
        counts["inside the last save"] += last
        counts["with faults"] += bool(found)
        if found:
            print(f"kill {number} of ezv2-train: {found}", flush=True)
    return counts
