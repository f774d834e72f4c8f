"""Two versions of the package against each other: search, update and start, in turn, with intervals of the ratios.

::

    git worktree add /tmp/before <commit>
    python -m benchmarks.speed.compare --before /tmp/before --after .

Every measurement is a process of its own with one thread and one version on its path; versions take turns, and each
pair begins with the other version than the pair before. *Start* is import, construction and first prediction with
compiled code from the cache, *search* the median of a thousand greedy predictions for one observation, *update* the
mean of the updates after random transitions, searches of reanalysis included. Both versions get the same arguments:
sizes, simulations, batches. The ratio is the geometric mean over pairs, with the 95 % interval of Student's t for the
logarithms; one pair before them fills the caches and does not count. Nothing else should run on the machine.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.learning.jobs import ONE_THREAD
from benchmarks.records import RESULTS, current_commit, new_record, write_record

RESULT = RESULTS / "compare.json"
TASKS = ("CartPole-v1", "Pendulum-v1")
TARGET = 0.03
"""Nothing is meant to be slower by more than this share."""
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "learning_starts": 300,
    "batch_size": 64,
    "n_simulations": 16,
    "n_candidates": 16,
    "td_steps": 5,
    "td_phase": 400,
    "td_fresh": 1_000,
    "target_update_interval": 50,
    "policy_kwargs": {"latent_dim": 128, "hidden_dim": 128, "n_blocks": 1, "projection_dim": 256},
}
N_TRANSITIONS, N_WARM_UPS, N_UPDATES, N_SEARCHES = 300, 20, 200, 1_000
PROGRAM = """
import time
began = time.perf_counter()
import json, statistics, sys
from sb3_ezv2 import EfficientZeroV2
task, settings, n_transitions, n_warm_ups, n_updates, n_searches = json.loads(sys.argv[1])
model = EfficientZeroV2("MlpPolicy", task, seed=0, device="cpu", **settings)
model.predict(model.observation_space.sample(), deterministic=True)
found = {"start": time.perf_counter() - began}
import sb3_ezv2
model.learn(n_transitions)
for _ in range(n_warm_ups):
    model.train(1)
began = time.perf_counter()
for _ in range(n_updates):
    model.train(1)
found["update"] = (time.perf_counter() - began) / n_updates
model.observation_space.seed(0)
observations = [model.observation_space.sample() for _ in range(n_searches)]
times = []
for observation in observations:
    began = time.perf_counter()
    model.predict(observation, deterministic=True)
    times.append(time.perf_counter() - began)
found["search"] = statistics.median(times)
print(json.dumps([sb3_ezv2.__file__, found]))
"""


def seconds(folder: Path, task: str, cache: Path) -> dict[str, float]:
    """Seconds of everything with the version in a folder.

    :param folder: checkout of the version
    :param task: to measure on
    :param cache: folder of its compiled code
    :raises ValueError: if another version is imported, or the process fails
    """
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(cache)}
    given = json.dumps([task, SETTINGS, N_TRANSITIONS, N_WARM_UPS, N_UPDATES, N_SEARCHES])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, given]
    done = subprocess.run(command, env=environment, cwd=cache, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{folder}: {done.stderr[-2_000:]}")
    path, found = json.loads(done.stdout.splitlines()[-1])
    if folder not in Path(path).parents:
        raise ValueError(f"{folder} is no checkout: {path} was imported")
    return found


def ratio(before: list[float], after: list[float]) -> tuple[float, float, float]:
    """Geometric mean of ``after / before`` over pairs and its 95 % interval, which needs two pairs."""
    logs = np.log(np.array(after) / np.array(before))
    half = scipy.stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return math.exp(logs.mean()), math.exp(logs.mean() - half), math.exp(logs.mean() + half)


def measure(folders: dict[str, Path], limit: float) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Pairs of measurements of every task until the time is up, at least two.

    :param folders: of the versions ``before`` and ``after``
    :param limit: seconds
    :return: by task and version
    """
    found: dict[str, dict[str, list[dict[str, float]]]] = {task: {name: [] for name in folders} for task in TASKS}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        caches = {name: Path(place, name) for name in folders}
        for cache in caches.values():
            cache.mkdir()
        n_rounds = 0
        while n_rounds < 3 or (time.monotonic() - began) * (n_rounds + 1) / n_rounds < limit:
            for task in TASKS:
                for name in list(folders)[:: 1 if n_rounds % 2 else -1]:
                    times = seconds(folders[name], task, caches[name])
                    if n_rounds:
                        found[task][name].append(times)
            n_rounds += 1
            print(f"\r{n_rounds - 1} pairs after {time.monotonic() - began:.0f} s", end="", flush=True)
    print()
    return found


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the one version")
    parser.add_argument("--after", type=Path, required=True, help="checkout of the other")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    options = parser.parse_args()
    folders = {name: getattr(options, name).resolve() for name in ("before", "after")}
    record = new_record("torch", "numpy", "numba", "stable_baselines3")
    record["commits"] = {name: current_commit(folder) for name, folder in folders.items()}
    try:
        found = measure(folders, 60.0 * options.minutes)
    except ValueError as error:
        sys.exit(f"compare: {error}")
    record |= {"settings": SETTINGS, "seconds": found, "ratios": {}}
    for task, times in found.items():
        for what in ("search", "update", "start"):
            columns = [[each[what] for each in times[name]] for name in folders]
            record["ratios"][f"{what}, {task}"] = mean, low, high = ratio(*columns)
            medians = " ".join(f"{1e3 * float(np.median(column)):>9.2f}" for column in columns)
            word = "slower" if low > 1.0 + TARGET else "within 3 %" if high <= 1.0 + TARGET else "not decided"
            print(f"{what:<7}{task:<12} {medians} ms, ratio {mean:.3f} ({low:.3f} to {high:.3f}): {word}")
    write_record(options.out, record)


if __name__ == "__main__":
    main()
