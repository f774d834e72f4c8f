"""Memory of a full replay buffer of stacked images: filling, sampling, saving and loading.

``python -m benchmarks.speed.replay_memory`` fills a buffer with 96 x 96 RGB in stacks of four, saves it in a temporary
folder and loads it again in a new process, checks stacks bit for bit, prints the largest memory that each process has
had so far (peak resident set, interpreter and libraries included) and writes ``benchmarks/results/replay_memory.json``.
The file takes as much room on the disk as the buffer in memory.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gymnasium import spaces

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.memory import peak_bytes
from sb3_ezv2 import TrajectoryReplayBuffer
from sb3_ezv2.common.files import open_to_replace
from sb3_ezv2.replay.saving import load_buffer, save_buffer

RESULT = RESULTS / "replay_memory.json"
SIZE, N_CHANNELS, N_STACK = 96, 3, 4
EPISODE = 500
"""Steps of an episode, as in dm_control with every action done twice."""
BATCH, UNROLL, TD_STEPS = 256, 5, 5


def peak_gb() -> float:
    """Peak memory of this process in units of 10^9 bytes."""
    return peak_bytes() / 1e9


def frame_of(number: int) -> np.ndarray:
    """The frame with a given number, random bytes."""
    return np.random.default_rng(number).integers(0, 256, (N_CHANNELS, SIZE, SIZE), np.uint8)


def stack_of(episode: int, step: int) -> np.ndarray:
    """What a policy sees at a step of an episode: as of ``VecFrameStack``, zeros before the first frame."""
    numbers = range(step - N_STACK + 1, step + 1)
    empty = np.zeros((N_CHANNELS, SIZE, SIZE), np.uint8)
    return np.concatenate([frame_of(episode * (EPISODE + 1) + i) if i >= 0 else empty for i in numbers])


def new_buffer(n: int) -> TrajectoryReplayBuffer:
    """An empty buffer for ``n`` transitions."""
    space = spaces.Box(0, 255, (N_STACK * N_CHANNELS, SIZE, SIZE), np.uint8)
    return TrajectoryReplayBuffer(n + n // EPISODE + 1, space, spaces.Discrete(2), n_stack=N_STACK)


def save(buffer: TrajectoryReplayBuffer, path: Path) -> None:
    """Save a buffer as ``save_replay_buffer`` does."""
    with open_to_replace(path) as file:
        save_buffer(buffer, file)


def fill(buffer: TrajectoryReplayBuffer, n: int) -> None:
    """Store ``n`` transitions; episodes end by termination."""
    stack, action, reward = stack_of(0, 0)[None], np.zeros(1, np.int64), np.zeros(1)
    for t in range(n):
        episode, step = divmod(t, EPISODE)
        newest = frame_of(episode * (EPISODE + 1) + step + 1)
        following = np.concatenate([stack[0, N_CHANNELS:], newest])[None]
        done = step == EPISODE - 1
        after = stack_of(episode + 1, 0)[None] if done else following
        infos = [{"terminal_observation": following[0]} if done else {}]
        buffer.add(stack, after, action, reward, np.array([done]), infos)
        if done:
            slots = buffer.take_new_slots()
            buffer.update_priorities(slots, np.ones(len(slots)))
        stack = after


def check(buffer: TrajectoryReplayBuffer, n: int) -> int:
    """Compare stacks all over the buffer with those that were stored; how many were compared."""
    slots = np.unique(np.linspace(0, n + n // EPISODE - 1, 1000).astype(int))
    slots = np.union1d(slots, np.arange(min(3 * EPISODE, n)))
    for slot in slots.tolist():
        found = buffer.observations_at(np.array(slot))["observation"]
        if not np.array_equal(found, stack_of(*divmod(slot, EPISODE + 1))):
            raise SystemExit(f"slot {slot} does not hold what was stored there")
    return len(slots)


def milliseconds(work: Callable[[], object], repeats: int = 15) -> float:
    """Median duration."""
    durations = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return 1e3 * statistics.median(durations)


def time_reads(buffer: TrajectoryReplayBuffer) -> dict[str, float]:
    """How long sampling and reading take."""
    rng = np.random.default_rng(0)
    batch = buffer.sample(BATCH, UNROLL, TD_STEPS, 0.4, rng)
    slots = rng.choice(np.unique(batch.slots), 216)
    stacks = batch.observations["observation"]
    return {
        f"sample {BATCH} x {UNROLL + 1} stacks": milliseconds(lambda: buffer.sample(BATCH, UNROLL, TD_STEPS, 0.4, rng)),
        f"copy {BATCH} x {UNROLL + 1} stacks": milliseconds(stacks.copy),
        "read 216 stacks": milliseconds(lambda: buffer.observations_at(slots)),
        "copy 216 stacks": milliseconds(stacks.reshape(-1, *stacks.shape[2:])[:216].copy),
    }


def fill_and_save(n: int, path: Path) -> dict[str, dict[str, float]]:
    """Measure a process that fills, saves and samples."""
    found = {"before": {"peak_gb": peak_gb()}}
    buffer = new_buffer(n)
    found["filled"] = seconds_and_peak(lambda: fill(buffer, n))
    found["filled"]["frames_gb"] = buffer.stacks["observation"].nbytes / 1e9
    found["saved"] = seconds_and_peak(lambda: save(buffer, path))
    found["saved"]["file_gb"] = path.stat().st_size / 1e9
    found["sampled"] = {**time_reads(buffer), "peak_gb": peak_gb()}
    return found


def load(n: int, path: Path) -> dict[str, dict[str, float]]:
    """Measure a process that loads, checks and samples."""
    found, loaded = {"before": {"peak_gb": peak_gb()}}, []
    with open(path, "rb") as file:
        found["loaded"] = seconds_and_peak(lambda: loaded.append(load_buffer(file, str(path), new_buffer(n))))
    found["checked"] = {"stacks": check(loaded[0], n), "transitions": len(loaded[0])}
    found["sampled"] = {**time_reads(loaded[0]), "peak_gb": peak_gb()}
    return found


def seconds_and_peak(work: Callable[[], object]) -> dict[str, float]:
    """Do something, and how long it took and how much memory this process has had at most."""
    began = time.perf_counter()
    work()
    return {"seconds": time.perf_counter() - began, "peak_gb": peak_gb()}


def main() -> None:
    """Measure, print and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transitions", type=int, default=100_000, help="at least 500")
    parser.add_argument("--folder", type=Path, help="where to save the buffer for a moment; the system's by default")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    steps = {"fill and save": fill_and_save, "load": load}
    found = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name, step in steps.items():
            # A new interpreter each, so that each has a peak of its own.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                found[name] = pool.apply(step, (arguments.transitions, Path(folder) / "buffer.pkl"))
            for part, values in found[name].items():
                shown = ", ".join(f"{key} {value:,.3f}" for key, value in values.items())
                print(f"{name:<13} {part:<8} {shown}", flush=True)
    record = {
        **new_record("numpy", "numba", "stable_baselines3"),
        "transitions": arguments.transitions,
        "stack": [N_STACK, N_CHANNELS, SIZE, SIZE],
        "measured": found,
    }
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
