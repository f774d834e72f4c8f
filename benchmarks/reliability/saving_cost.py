"""Time and memory of saving a replay buffer of images, beside a pickle of it, which is what release 0.1 wrote.

A whole checkpoint of the model that learns from the buffer stands beside what release 0.1 saved of it.

    python -m benchmarks.reliability.saving_cost --transitions 100000

96 x 96 RGB images in stacks of four, each frame stored once. Each way of saving has processes of its own; *peak* is the
largest resident set of all of them less that before saving, *fsync* the time that it takes after the file is written.
"""

import argparse
import os
import pickle
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.reliability.small_runs import in_a_child
from benchmarks.speed.memory import peak_bytes
from sb3_ezv2 import EfficientZeroV2, TrajectoryReplayBuffer
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


class Images(gym.Env):
    """One image for ever."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE, N_CHANNELS), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """An image."""
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The same image."""
        return self.reset()[0], 0.0, False, False, {}


def model_with(buffer: TrajectoryReplayBuffer) -> EfficientZeroV2:
    """A model of the default size that learns from a buffer."""
    model = EfficientZeroV2("CnnPolicy", VecFrameStack(DummyVecEnv([Images]), N_STACK), device="cpu")
    model.learn(1)
    model.replay_buffer = buffer
    return model


def as_pickle(buffer: TrajectoryReplayBuffer, path: Path) -> None:
    """What ``save_to_pkl`` of SB3 does."""
    with synced(path) as file:
        pickle.dump(buffer, file, protocol=pickle.HIGHEST_PROTOCOL)


def as_arrays(buffer: TrajectoryReplayBuffer, path: Path) -> None:
    """What ``save_replay_buffer`` writes."""
    with synced(path) as file:
        save_buffer(buffer, file)


def as_release_0_1(model: EfficientZeroV2, path: Path) -> None:
    """The model as SB3 saves it, and a pickle of its buffer."""
    BaseAlgorithm.save(model, path.with_suffix(".zip"))
    as_pickle(model.replay_buffer, path)


def as_checkpoint(model: EfficientZeroV2, folder: Path) -> None:
    """A whole checkpoint, the only one in its folder, as the other files are new ones."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_checkpoint(folder)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk in the end."""
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def measure(save: Callable[[], object]) -> str:
    """Seconds without ``fsync``, seconds of ``fsync``, and additional memory in bytes."""
    before, sync, spent = peak_bytes(), os.fsync, [0.0]

    def timed(descriptor: int) -> None:
        began = time.perf_counter()
        sync(descriptor)
        spent[0] += time.perf_counter() - began

    os.fsync = timed
    began = time.perf_counter()
    save()
    return f"{time.perf_counter() - began - spent[0]} {spent[0]} {peak_bytes() - before}"


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
    model = model_with(buffer)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "buffer"
        ways: dict[str, Callable[[], object]] = {
            "pickle": lambda: as_pickle(buffer, path),
            "arrays": lambda: as_arrays(buffer, path),
            "model and pickle": lambda: as_release_0_1(model, path),
            "checkpoint": lambda: as_checkpoint(model, Path(folder) / "checkpoints"),
        }
        found: dict[str, list[list[float]]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                found[name].append([float(word) for word in in_a_child(partial(measure, way)).split()])
        record |= {"transitions": arguments.transitions, "bytes": path.stat().st_size}
        print(f"{arguments.transitions} transitions, file of {record['bytes'] / 1e9:.3f} GB")
    for name, values in found.items():
        seconds, synced, memory = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name}: written in {seconds:.3f} s, fsync {synced:.3f} s, peak {memory / 1e6:+.1f} MB")
        record[name] = {"seconds": seconds, "fsync seconds": synced, "peak bytes": memory}
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
