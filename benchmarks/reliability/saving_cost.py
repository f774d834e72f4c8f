"""Time and memory of saving a replay buffer of images, beside a pickle of it, which is what release 0.1 wrote.

    python -m benchmarks.reliability.saving_cost --transitions 100000

96 x 96 RGB images in stacks of four, each frame stored once. Each way of saving has processes of its own; *peak* is the
largest resident set of all of them less that before saving, *fsync* the time that it takes after the file is written.
"""

import argparse
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from gymnasium import spaces

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.reliability.small_runs import in_a_child
from benchmarks.speed.memory import peak_bytes
from sb3_ezv2 import TrajectoryReplayBuffer
from sb3_ezv2.replay.saving import save_buffer

SIZE, N_CHANNELS, N_STACK = 96, 3, 4


def filled(n: int) -> TrajectoryReplayBuffer:
    """A buffer with ``n`` transitions of one episode."""
    space = spaces.Box(0, 255, (SIZE, SIZE, N_CHANNELS * N_STACK), np.uint8)
    buffer = TrajectoryReplayBuffer(n + 2, space, spaces.Discrete(2), n_stack=N_STACK)
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 255, (1, *space.shape), np.uint8)
    for _ in range(n):
        newest = np.frombuffer(rng.bytes(SIZE * SIZE * N_CHANNELS), np.uint8).reshape(1, SIZE, SIZE, N_CHANNELS)
        following = np.concatenate([stack[..., N_CHANNELS:], newest], axis=-1)
        buffer.add(stack, following, np.zeros(1, np.int64), np.zeros(1), np.zeros(1, bool), [{}])
        stack = following
    return buffer


def as_pickle(buffer: TrajectoryReplayBuffer, file: BinaryIO) -> None:
    """What ``save_to_pkl`` of SB3 does."""
    pickle.dump(buffer, file, protocol=pickle.HIGHEST_PROTOCOL)


def measure(buffer: TrajectoryReplayBuffer, save: Callable[..., object], path: Path) -> str:
    """Seconds of writing and of ``fsync``, and additional memory in bytes."""
    before = peak_bytes()
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    with open(path, "wb") as file:
        save(buffer, file)
        file.flush()
        written = time.perf_counter()
        os.fsync(file.fileno())
    return f"{written - began} {time.perf_counter() - written} {peak_bytes() - before}"


def main() -> None:
    """Save both ways in turn, print and store medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--transitions", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to save for a moment; the system's by default")
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "saving_cost.json", help="file to write")
    arguments = parser.parse_args()
    record = new_record("numpy", "stable-baselines3")
    buffer = filled(arguments.transitions)
    ways: dict[str, Callable[..., object]] = {"pickle": as_pickle, "arrays": save_buffer}
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "buffer"
        for _ in range(arguments.repeats):
            for name, save in ways.items():
                answer = in_a_child(lambda save=save: measure(buffer, save, path))
                found[name].append([float(word) for word in answer.split()])
        record |= {"transitions": arguments.transitions, "bytes": path.stat().st_size}
        print(f"{arguments.transitions} transitions, file of {record['bytes'] / 1e9:.3f} GB")
    for name, values in found.items():
        seconds, synced, memory = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name}: written in {seconds:.3f} s, fsync {synced:.3f} s, peak {memory / 1e6:+.1f} MB")
        record[name] = {"seconds": seconds, "fsync seconds": synced, "peak bytes": memory}
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
