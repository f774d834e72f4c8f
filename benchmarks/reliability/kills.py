"""``kill -9`` while models, replay buffers, policies and checkpoints are saved: how many files are destroyed or mixed.

    python -m benchmarks.reliability.kills --kills 200

Each process learns one step and saves everything, again and again, in one folder, until it is killed at a random
moment. A kill counts as inside a save if the process had begun one and not finished it, which it writes to memory that
it shares. Afterwards every file must load and be of one step, the newest checkpoint must be at least as new as the last
one that was finished, and go on learning. One kill of three is of ``ezv2-train``, see
:mod:`benchmarks.reliability.train_kills`.
"""

import argparse
import mmap
import os
import random
import signal
import struct
import tempfile
import time
from pathlib import Path

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.reliability.small_runs import fingerprint, in_a_child, new_env, new_model
from benchmarks.reliability.train_kills import kill_trainings
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.checkpoint_files import find_checkpoint, read_manifest
from sb3_ezv2.policies import PlanningPolicy

PARTS = ("saving", "ezv2-train")
IN_SAVE, STEP = slice(0, 1), slice(8, 16)


def save_on_and_on(model: EfficientZeroV2, folder: Path, shared: mmap.mmap) -> None:
    """Learn a step and save, until killed."""
    while True:
        model.learn(1, reset_num_timesteps=False)
        shared[IN_SAVE] = b"\1"
        model.save(folder / "model.zip")
        model.save_replay_buffer(folder / "buffer.pkl")
        model.save_policy(folder / "policy.pt")
        model.save_checkpoint(folder / "checkpoints", keep=2)
        shared[STEP] = struct.pack("<Q", model.num_timesteps)
        shared[IN_SAVE] = b"\0"


def faults(folder: Path, finished: int) -> str:
    """What is wrong with the files, empty if nothing is."""
    model = EfficientZeroV2.load(folder / "model.zip", env=new_env(), device="cpu")
    model.load_replay_buffer(folder / "buffer.pkl")
    PlanningPolicy.load(folder / "policy.pt", "cpu")
    if model.num_timesteps < finished or len(model.replay_buffer) < finished:
        return f"model or buffer is older than step {finished}"
    resumed = EfficientZeroV2.load_checkpoint(folder / "checkpoints", new_env(), device="cpu")
    stated = read_manifest(find_checkpoint(folder / "checkpoints"))["num_timesteps"]
    if resumed.num_timesteps < finished:
        return f"the checkpoint is older than step {finished}"
    if not resumed.num_timesteps == len(resumed.replay_buffer) == stated:
        return "the checkpoint is mixed"
    fingerprint(resumed, 2)
    return ""


def kill_saves(n_kills: int, generator: random.Random) -> dict[str, int]:
    """Kill processes that save on and on, and count."""
    model, shared = new_model(), mmap.mmap(-1, 16)
    inside, bad = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared[STEP] = struct.pack("<Q", 0)
        for number in range(n_kills):
            if number:
                model = EfficientZeroV2.load_checkpoint(folder / "checkpoints", new_env(), device="cpu")
            before = shared[STEP]
            child = os.fork()
            if child == 0:
                save_on_and_on(model, folder, shared)
            while shared[STEP] == before:  # once everything has been saved
                time.sleep(0.001)
            time.sleep(generator.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            inside += shared[IN_SAVE] == b"\1"
            finished = struct.unpack("<Q", shared[STEP])[0]
            found = in_a_child(lambda finished=finished: faults(folder, finished))
            if found:
                bad.append(found)
                print(f"kill {number}: {found}", flush=True)
        model.save_checkpoint(folder / "checkpoints", keep=2)
        model.save_replay_buffer(folder / "buffer.pkl")
        left = sum(1 for path in folder.rglob(".*"))
    return {
        "kills": n_kills,
        "inside a save": inside,
        "with faults": len(bad),
        "temporary files left": left,
        "step reached": finished,
    }


def main() -> None:
    """Kill, count and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "kills.json", help="file to write")
    arguments = parser.parse_args()
    generator, n_trainings = random.Random(arguments.seed), arguments.kills // 3
    record = new_record("numpy", "stable-baselines3", "torch")
    record["saving"] = kill_saves(arguments.kills - n_trainings, generator)
    print(record["saving"], flush=True)
    record["ezv2-train"] = kill_trainings(n_trainings, generator)
    print(record["ezv2-train"])
    inside, bad = (sum(record[part][name] for part in PARTS) for name in ("inside a save", "with faults"))
    print(f"{arguments.kills} kills, {inside} of them inside a save: {bad} with files destroyed, mixed or lost")
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
