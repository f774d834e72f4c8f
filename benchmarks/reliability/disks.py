"""Saving on a full disk: how many files are destroyed, and whether the error names the file.

    python -m benchmarks.reliability.disks --disks 30

Each disk is a ``tmpfs`` of its own where that may be mounted, else a limit of the size of a file. A first save fits;
then the disk is filled so far that the next one does not. It must raise an ``OSError`` with the name of the file, the
first one must still load, and the process must go on learning and save elsewhere.
"""

import argparse
import contextlib
import os
import random
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.reliability.small_runs import new_env, new_model
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.policies import PlanningPolicy

DISK_BYTES = 8 * 2**20


@contextlib.contextmanager
def small_disk() -> Iterator[tuple[Path, str]]:
    """A folder on a disk of a few megabytes, and how it was made."""
    with tempfile.TemporaryDirectory() as name:
        options = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", name]
        mounted = subprocess.run(options, capture_output=True, check=False).returncode == 0
        try:
            yield Path(name), "tmpfs" if mounted else "limit"
        finally:
            if mounted:
                subprocess.run(["umount", name], check=True)


@contextlib.contextmanager
def filled(folder: Path, kind: str, free: int) -> Iterator[None]:
    """Leave only ``free`` bytes."""
    if kind == "tmpfs":
        left = os.statvfs(folder)
        (folder / "ballast").write_bytes(bytes(max(left.f_bavail * left.f_frsize - free, 0)))
        yield
        (folder / "ballast").unlink()
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def kinds(model: EfficientZeroV2) -> dict[str, tuple[Callable[[Path], object], Callable[[Path], object], str]]:
    """How to save, how to load, and the name to save under."""
    return {
        "model": (model.save, lambda path: EfficientZeroV2.load(path, device="cpu"), "model.zip"),
        "replay buffer": (model.save_replay_buffer, model.load_replay_buffer, "buffer.pkl"),
        "policy": (model.save_policy, lambda path: PlanningPolicy.load(str(path), "cpu"), "policy.pt"),
        "checkpoint": (
            model.save_checkpoint,
            lambda path: EfficientZeroV2.load_checkpoint(path, new_env(), device="cpu"),
            "checkpoints",
        ),
    }


def faults(model: EfficientZeroV2, what: str, share: float) -> tuple[list[str], str]:
    """What goes wrong on one disk, and how the disk was made."""
    save, load, name = kinds(model)[what]
    found = []
    with small_disk() as (folder, kind):
        save(folder / name)
        size = max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with filled(folder, kind, int(share * size)):
            try:
                save(folder / name)
                found.append("nothing was raised")
            except OSError as error:
                if str(folder / name) not in str(error):
                    found.append(f"the file is not named: {error}")
            except BaseException as error:
                found.append(f"{type(error).__name__}: {error}")
        try:
            load(folder / name)
        except Exception as error:
            found.append(f"destroyed: {error}")
        left = [path.name for path in folder.iterdir() if path.name != name]
        if left:
            found.append(f"left behind: {left}")
        model.learn(1, reset_num_timesteps=False)
        save(folder / name)
    return found, kind


def main() -> None:
    """Fill disks, count and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--disks", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "disks.json", help="file to write")
    arguments = parser.parse_args()
    record = new_record("numpy", "stable-baselines3", "torch")
    generator, model, bad, made = random.Random(arguments.seed), new_model(), 0, set[str]()
    names = list(kinds(model))
    for number in range(arguments.disks):
        what = names[number % len(names)]
        found, kind = faults(model, what, generator.uniform(0.0, 0.95))
        made.add(kind)
        bad += bool(found)
        for fault in found:
            print(f"disk {number}, {what}: {fault}", flush=True)
    print(f"{arguments.disks} full disks ({', '.join(sorted(made))}): {bad} with faults")
    write_record(arguments.out, record | {"disks": arguments.disks, "made by": sorted(made), "with faults": bad})


if __name__ == "__main__":
    main()
