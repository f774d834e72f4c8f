"""Whether several ranks pay off, and how far they would: ``python -m benchmarks.speed.ranks``.

An environment that takes 20 ms a step, the paper's sizes (batch 256, 32 simulations, its network, one update for every
decision), 1,000 random decisions that cost nothing and then ``--decisions`` timed ones, a whole period of the target
network by default. Interleaved, ``--rounds`` times each:

- one thread with one environment;
- one process with both cores, in three ways: two threads with one environment; two environments in processes of their
  own, with one thread and with two;
- two ranks under torchrun with one thread and one environment each.

Then the parts' own times for smaller batches, the time of a message and of the gradient between two ranks, the bound
that they give, and the model of more ranks, which is checked against the two that were measured. Written to
``benchmarks/results/ranks.json``.

With more cores, ``--scaling 1 2 4 8`` runs so many ranks instead, each with one thread and one environment,
and compares the same model with them; the result goes to ``--out``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch.distributed as dist
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.end_to_end import PAPER, Stopwatch
from sb3_ezv2 import EfficientZeroV2

RESULT = RESULTS / "ranks.json"
STEP_SECONDS = 0.02
N_RANDOM = 1_000
VARIANTS: dict[str, dict[str, Any]] = {
    "one thread, one environment": {"n_envs": 1, "threads": 1},
    "both cores, one environment, two threads": {"n_envs": 1, "threads": 2},
    "both cores, two environments, one thread": {"n_envs": 2, "threads": 1, "cores": 2},
    "both cores, two environments, two threads": {"n_envs": 2, "threads": 2},
    "two ranks": {"n_envs": 1, "threads": 1, "ranks": 2},
}
ALONE, TWO_RANKS = "one thread, one environment", "two ranks"
BATCHES = (256, 128, 64, 32)
MODELLED = (1, 2, 4, 8, 16, 32)
N_MESSAGES, N_GRADIENTS = 500, 50


class SlowEnv(gym.Env):
    """Walker walk's spaces, random numbers, and a processor that is busy for ``delay`` seconds a step."""

    observation_space = spaces.Box(-np.inf, np.inf, (24,))
    action_space = spaces.Box(-1.0, 1.0, (6,))
    delay = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        self.n_steps = 0
        return self.np_random.normal(size=24).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env.step``."""
        end = time.perf_counter() + self.delay
        self.n_steps += 1
        while time.perf_counter() < end:
            pass
        observation = self.np_random.normal(size=24).astype(np.float32)
        return observation, float(np.clip(observation[0], 0.0, 1.0)), False, self.n_steps >= 250, {}


class Clock(BaseCallback):
    """Makes the environments slow when the random decisions are over, and starts the clock.

    :param watch: cleared then
    """

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch = watch
        self.began = 0.0

    def _on_step(self) -> bool:
        if self.began == 0.0 and self.num_timesteps >= N_RANDOM:
            self.watch.clear()
            self.began = time.perf_counter()
        return True


class SlowLater(EfficientZeroV2):
    """Lets the environments of every rank be slow once the random decisions are over."""

    is_slow = False

    def _choose_actions(self, n_envs: int, learning_starts: int) -> np.ndarray:
        if not self.is_slow and self.num_timesteps >= learning_starts:
            assert self.env is not None
            self.env.set_attr("delay", STEP_SECONDS)
            self.is_slow = True
        return super()._choose_actions(n_envs, learning_starts)


def run_part(n_envs: int, threads: int, batch_size: int, n_decisions: int) -> dict[str, Any]:
    """Train in this process, or as one of several ranks, and say what it took."""
    env: VecEnv = DummyVecEnv([SlowEnv]) if n_envs == 1 else SubprocVecEnv([SlowEnv] * n_envs)
    settings = PAPER | {"batch_size": batch_size, "learning_starts": N_RANDOM, "n_threads": threads, "seed": 0}
    model = SlowLater("MlpPolicy", env, device="cpu", **settings)
    model.warm_up(n_envs)
    watch, made_env = Stopwatch(), model.env
    clock = Clock(watch)
    for name, owner, method in (
        ("acting", model, "_choose_actions"),
        ("environment", made_env, "step"),
        ("sampling", model, "_sample"),
        ("reanalysis", model, "_reanalyze"),
        ("update", model, "updater"),
        ("gradients of the others", model.ranks, "average_gradients"),
    ):
        watch.watch(name, owner, method)
    model.learn(N_RANDOM + n_decisions, clock, log_interval=None)
    seconds = time.perf_counter() - clock.began
    made = model.num_timesteps - N_RANDOM
    found = {
        "decisions_per_second": made / seconds,
        "ms_per_decision": {name: 1e3 * part / made for name, part in watch.seconds.items()},
        "gradient_bytes": 4 * sum(parameter.numel() for parameter in model.policy.copies.trained),
    }
    if model.ranks.size > 1:
        found |= time_messages(model)
    env.close()
    return found


def time_messages(model: EfficientZeroV2) -> dict[str, float]:
    """Seconds of a small message and of averaging gradients, when all ranks are ready for it."""
    found, ranks = {}, model.ranks
    small = model.policy.copies.model.reward_scale.new_zeros(1)
    for name, n, act in (
        ("message_s", N_MESSAGES, lambda: ranks.table([0.0])),
        ("small_all_reduce_s", N_MESSAGES, lambda: dist.all_reduce(small)),
        ("gradient_s", N_GRADIENTS, lambda: ranks.average_gradients(model.policy.copies.trained)),
    ):
        act()
        began = time.perf_counter()
        for _ in range(n):
            act()
        found[name] = (time.perf_counter() - began) / n
    return found


def start(variant: dict[str, Any], batch_size: int, n_decisions: int) -> dict[str, Any]:
    """One run in processes of its own."""
    n_ranks, threads = variant.get("ranks", 1), variant["threads"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.json")
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)]
        arguments = [str(variant["n_envs"]), str(threads), str(batch_size), str(n_decisions), str(out)]
        command = [sys.executable, *(torchrun if n_ranks > 1 else []), "-m", "benchmarks.speed.ranks", "--part"]
        cores = str(variant.get("cores", threads))
        variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": cores}
        done = subprocess.run([*command, *arguments], env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(out.read_text())


def modelled(parts: dict[int, dict[str, float]], messages: dict[str, float], n_bytes: int, n_ranks: int) -> float:
    """Decisions a second of ``n_ranks`` with one environment each: the parts' times, the gradients, the messages.

    In one round every rank decides once, then there is an update for every decision. A gradient goes around the ring of
    ranks twice, in ``2 (K - 1)`` messages of a K-th of it.

    :param parts: milliseconds of the parts of one decision with one thread, by batch size
    :param messages: seconds of messages between two ranks
    :param n_bytes: of a gradient
    :param n_ranks: K
    """
    sizes = np.array(sorted(parts))
    share = BATCHES[0] / n_ranks

    def at(name: str) -> float:
        """Milliseconds with the share of the batch: a line through what was measured."""
        slope, constant = np.polyfit(sizes, [parts[size][name] for size in sizes], 1)
        return float(max(constant, 0.0) + slope * share)

    alone = parts[BATCHES[0]]
    once = alone["environment"] + alone["acting"]
    each = at("update") + at("reanalysis") + at("sampling")
    if n_ranks > 1:
        latency = messages["small_all_reduce_s"] / 2
        per_byte = max(messages["gradient_s"] - 2 * latency, 0.0) / n_bytes  # two ranks move all of it once
        gradient = 2 * (n_ranks - 1) * latency + 2 * (n_ranks - 1) / n_ranks * n_bytes * per_byte
        each += 1e3 * (gradient + messages["message_s"] * n_ranks / 2)  # of the importance weights
        once += 1e3 * 5 * messages["message_s"] * n_ranks / 2  # of the callbacks and of the counts
    return 1e3 * n_ranks / (once + n_ranks * each)


def summarise(record: dict[str, Any]) -> dict[str, Any]:
    """Ratios, bound and model from what was measured."""
    speed = {name: float(np.median(found)) for name, found in record["decisions_per_second"].items()}
    best = max((name for name in speed if name.startswith("both")), key=speed.__getitem__)
    parts = {int(size): found for size, found in record["parts_ms"].items()}
    messages, n_bytes = record["messages"], record["gradient_bytes"]
    half = parts[BATCHES[1]]
    once, each = half["environment"] + half["acting"], half["update"] + half["reanalysis"] + half["sampling"]
    model = {n: modelled(parts, messages, n_bytes, n) for n in MODELLED}
    return {
        "median": speed,
        "best_single_process": best,
        "against_best_single_process": speed[TWO_RANKS] / speed[best],
        "against_one_thread": speed[TWO_RANKS] / speed[ALONE],
        "bound_of_two_ranks": 1e3 * 2 / (once + 2 * each),
        "modelled": model,
        "modelled_against_measured": model[2] / speed[TWO_RANKS],
    }


def time_parts(n_decisions: int) -> dict[int, dict[str, float]]:
    """Milliseconds of the parts of one decision with one thread, by batch size."""
    found = {}
    for size in BATCHES:
        found[size] = start(VARIANTS[ALONE], size, n_decisions)["ms_per_decision"]
        print(f"batch {size}: {found[size]}", flush=True)
    return found


def measure(rounds: int, n_decisions: int) -> dict[str, Any]:
    """Run everything, one after the other."""
    record: dict[str, Any] = new_record("torch", "numpy", "numba")
    record |= {"decisions": n_decisions, "step_seconds": STEP_SECONDS, "load": []}
    speeds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, variant in VARIANTS.items():
            found = start(variant, BATCHES[0], n_decisions)
            speeds[name].append(found["decisions_per_second"])
            record["load"].append(os.getloadavg()[0])
            if name == TWO_RANKS:
                record["messages"] = {key: value for key, value in found.items() if key.endswith("_s")}
                record |= {"two_ranks_ms": found["ms_per_decision"], "gradient_bytes": found["gradient_bytes"]}
            print(f"{name:<45} {found['decisions_per_second']:.2f} decisions/s {found['ms_per_decision']}", flush=True)
    record["parts_ms"] = time_parts(n_decisions)
    record["decisions_per_second"] = speeds
    return record | {"summary": summarise(record)}


def measure_scaling(numbers: Sequence[int], n_decisions: int) -> dict[str, Any]:
    """Run one rank on each of so many cores, and compare the model of :func:`modelled` with them."""
    record: dict[str, Any] = new_record("torch", "numpy", "numba")
    record |= {"decisions": n_decisions, "step_seconds": STEP_SECONDS, "ranks": {}}
    record["parts_ms"] = time_parts(n_decisions)
    for n_ranks in numbers:
        found = start({"n_envs": 1, "threads": 1, "ranks": n_ranks}, BATCHES[0], n_decisions * n_ranks)
        record["ranks"][n_ranks] = found
        print(f"{n_ranks} ranks: {found['decisions_per_second']:.2f} decisions/s", flush=True)
    two = record["ranks"][2]
    record["summary"] = {
        n: {
            "decisions_per_second": found["decisions_per_second"],
            "modelled": modelled(record["parts_ms"], two, two["gradient_bytes"], n),
        }
        for n, found in record["ranks"].items()
    }
    return record


def main(given: Sequence[str] | None = None) -> None:
    """Measure, print and store everything, or run one part of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decisions", type=int, default=200)
    parser.add_argument("--scaling", type=int, nargs="+", metavar="N", help="numbers of ranks, 2 among them")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    parser.add_argument("--part", nargs=5, metavar=("N_ENVS", "THREADS", "BATCH", "DECISIONS", "OUT"))
    arguments = parser.parse_args(given)
    if arguments.part is not None:
        *numbers, out = arguments.part
        found = run_part(*map(int, numbers))
        if os.environ.get("RANK", "0") == "0":
            Path(out).write_text(json.dumps(found))
        return
    if arguments.scaling is None:
        record = measure(arguments.rounds, arguments.decisions)
    elif 2 in arguments.scaling:
        record = measure_scaling(arguments.scaling, arguments.decisions)
    else:
        parser.error("--scaling needs 2 among the numbers: the messages between two ranks are measured there")
    print(json.dumps(record["summary"], indent=1))
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
