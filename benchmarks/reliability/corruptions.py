"""Damaged models, replay buffers, policies, checkpoints and runs: what loading and our commands make of them.

    python -m benchmarks.reliability.corruptions --corruptions 250

Each damage is a flipped bit, a cut, a block of zeros or of random bytes, or an end put on. Loading and learning a few
steps happen in a process of their own. *Refused* is a ``ValueError`` that names the file, *harmless* the same
parameters as without the damage; all else is a fault: a crash of the process, an error that does not name the file, or
parameters that differ. Half of the damages are of all that ``ezv2-train`` writes, see
:mod:`benchmarks.reliability.run_corruptions`.
"""

import argparse
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.reliability.run_corruptions import damage_runs
from benchmarks.reliability.small_runs import fingerprint, in_a_child, new_env, new_model
from sb3_ezv2 import EfficientZeroV2

BLOCK = 512


def damage(data: bytes, generator: random.Random) -> tuple[str, bytes]:
    """One damage by name."""
    kind = generator.choice(["flip", "flip", "flip", "cut", "zeros", "noise", "append"])
    changed, place = bytearray(data), generator.randrange(len(data))
    if kind == "flip":
        changed[place] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del changed[place:]
    elif kind == "append":
        changed += generator.randbytes(BLOCK)
    else:
        length = min(BLOCK, len(data) - place)
        changed[place : place + length] = bytes(length) if kind == "zeros" else generator.randbytes(length)
    return kind, bytes(changed)


def load_model(folder: Path) -> EfficientZeroV2:
    """Model, buffer and policy as files of their own."""
    model = EfficientZeroV2.load(folder / "model.zip", env=new_env(), device="cpu")
    model.load_replay_buffer(folder / "buffer.pkl")
    return model


def outcome(load: Callable[[], EfficientZeroV2], name: str) -> str:
    """Fingerprint after loading and learning, or how the file was refused."""
    try:
        model = load()
    except (ValueError, FileNotFoundError) as error:
        return "refused" if name in str(error) else f"refused without the name of the file: {error}"
    return fingerprint(model)


def damage_saved(n: int, generator: random.Random) -> tuple[Counter[str], int]:
    """Damage what the methods of a model save, and count; the number of faults, too."""
    counts, n_faults = Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        whole, damaged = Path(name) / "whole", Path(name) / "damaged"
        model = new_model()
        whole.mkdir()
        model.save(whole / "model.zip")
        model.save_replay_buffer(whole / "buffer.pkl")
        model.save_policy(whole / "policy.pt")
        model.save_checkpoint(whole)
        files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
        loads = {
            "model": lambda folder: load_model(folder),
            "policy": lambda folder: EfficientZeroV2.load(folder / "policy.pt", env=new_env(), device="cpu"),
            "checkpoint": lambda folder: EfficientZeroV2.load_checkpoint(folder, new_env(), device="cpu"),
        }
        kind_of = {"model.zip": "model", "buffer.pkl": "model", "policy.pt": "policy"}
        expected = {
            kind: in_a_child(lambda load=load: outcome(lambda: load(whole), "-")) for kind, load in loads.items()
        }
        for number in range(n):
            file = files[number % len(files)]
            load = loads[kind_of.get(str(file), "checkpoint")]
            what, data = damage((whole / file).read_bytes(), generator)
            shutil.rmtree(damaged, ignore_errors=True)
            shutil.copytree(whole, damaged)
            (damaged / file).write_bytes(data)
            found = in_a_child(lambda load=load, file=file: outcome(lambda: load(damaged), file.name))
            if found == expected[kind_of.get(str(file), "checkpoint")]:
                found = "harmless"
            elif found != "refused":
                n_faults += 1
                print(f"{what} in {file.name}: {found[-600:]}", flush=True)
                found = "silently accepted" if len(found) == 64 else found.split()[0]
            counts[f"{file.name}: {found}"] += 1
    return counts, n_faults


def main() -> None:
    """Damage, load, count and store."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--corruptions", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "corruptions.json", help="file to write")
    arguments = parser.parse_args()
    record = new_record("numpy", "stable-baselines3", "torch")
    generator, half = random.Random(arguments.seed), arguments.corruptions // 2
    counts, n_faults = damage_saved(arguments.corruptions - half, generator)
    with tempfile.TemporaryDirectory() as name:
        of_runs, more = damage_runs(half, damage, generator, Path(name))
    counts.update(of_runs)
    for text, count in sorted(counts.items()):
        print(f"{count:5d}  {text}")
    print(f"{arguments.corruptions} corruptions: {n_faults + more} with faults")
    found = {
        "corruptions": arguments.corruptions,
        "with faults": n_faults + more,
        "outcomes": dict(sorted(counts.items())),
    }
    write_record(arguments.out, record | found)


if __name__ == "__main__":
    main()
