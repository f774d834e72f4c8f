"""How long the package needs before it works: import, and the first search with a cold and a warm cache of numba.

``python -m benchmarks.speed.start_up`` starts new processes, prints a table and writes
``benchmarks/results/start_up.json``. The import counts what it adds to that of Stable-Baselines3; the first search
counts the first ``predict`` of a model for a discrete and for a continuous task.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.records import RESULTS, new_record, write_record

RESULT = RESULTS / "start_up.json"
IMPORT = """
import time
import stable_baselines3
began = time.perf_counter()
import sb3_ezv2
print(time.perf_counter() - began)
"""
FIRST_SEARCH = """
import time
from sb3_ezv2 import EfficientZeroV2
model = EfficientZeroV2("MlpPolicy", "{task}")
observation = model.observation_space.sample()
began = time.perf_counter()
model.predict(observation)
print(time.perf_counter() - began)
"""
TASKS = ("CartPole-v1", "Pendulum-v1")


def seconds(program: str, cache: str) -> float:
    """What a program prints when a new process runs it with numba's cache in a given folder."""
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    command = [sys.executable, "-W", "ignore", "-c", program]
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure(repeats: int) -> dict[str, float]:
    """Seconds of everything; medians where it is repeated."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        for task in TASKS:
            program = FIRST_SEARCH.format(task=task)
            found[f"first search, cold cache, {task}"] = seconds(program, cache)
            warm = [seconds(program, cache) for _ in range(repeats)]
            found[f"first search, warm cache, {task}"] = statistics.median(warm)
        found["import"] = statistics.median(seconds(IMPORT, cache) for _ in range(repeats))
    return found


def main() -> None:
    """Measure, print and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    found = measure(arguments.repeats)
    for name, value in found.items():
        print(f"{name:<42} {value:>6.2f} s")
    record = {
        **new_record("torch", "numpy", "numba", "stable_baselines3"),
        "seconds": found,
    }
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
