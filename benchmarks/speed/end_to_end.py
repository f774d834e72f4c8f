"""Where the time of a run goes, and how much memory it takes.

``python -m benchmarks.speed.end_to_end`` trains on walker walk at the paper's setting (batch 256, 32 simulations, its
network, one update a decision) and writes ``benchmarks/results/end_to_end.json``: decisions a second, the share of
every part, the searched fraction, the peak of the memory and what was learned meanwhile (returns of the training
episodes, and of 10 deterministic ones on another environment when the time has been taken). ``--defaults`` takes the
constructor's values instead, ``--small`` the smallest network and search, for what depends on neither: the searched
fraction of a long run. What random actions collect before the first update is not counted; ``--random`` makes them
many, for the memory of a long run with a full replay buffer.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.learning.tasks import TASKS
from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.memory import peak_bytes
from benchmarks.speed.search_cost import PROPRIO_NETWORK
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.type_aliases import TrainingTargets
from sb3_ezv2.learning.reanalyze import Reanalyzer

RESULT = RESULTS / "end_to_end.json"
TASK = "walker-walk"
N_EVAL_EPISODES, EVAL_SEED = 10, 10_000
UNROLL_STEPS = 5
PAPER: dict[str, Any] = {
    "batch_size": 256,
    "n_simulations": 32,
    "n_candidates": 16,
    "n_considered": 16,
    "td_steps": 5,
    "unroll_steps": UNROLL_STEPS,
    "target_update_interval": 200,
    "policy_kwargs": PROPRIO_NETWORK,
}
SMALL: dict[str, Any] = PAPER | {
    "n_simulations": 2,
    "n_candidates": 4,
    "n_considered": 2,
    "policy_kwargs": {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16},
}
REPORT_INTERVAL = 1_000


class Stopwatch:
    """Adds up the seconds spent in methods that it is put around."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, name: str, owner: Any, method: str) -> None:
        """Count the calls of a method of one object under ``name``."""
        original: Callable[..., Any] = getattr(owner, method)
        self.seconds.setdefault(name, 0.0)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - began

        setattr(owner, method, timed)

    def clear(self) -> None:
        """Begin again at zero."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)


class Progress(BaseCallback):
    """Start counting after the random steps and print how far the run is.

    :param watch: cleared when the random steps are over
    :param n_random: how many these are
    """

    def __init__(self, watch: Stopwatch, n_random: int) -> None:
        super().__init__()
        self.watch = watch
        self.n_random = n_random
        self.began = 0.0
        self.memory: list[tuple[int, float]] = []
        self.returns: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        self.returns += [
            (self.num_timesteps, info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info
        ]
        if self.num_timesteps == self.n_random:
            self.watch.clear()
            self.began = time.perf_counter()
        elif self.num_timesteps > self.n_random and self.num_timesteps % REPORT_INTERVAL == 0:
            self.memory.append((self.num_timesteps, peak_bytes() / 2**20))
            rate = (self.num_timesteps - self.n_random) / (time.perf_counter() - self.began)
            print(f"{self.num_timesteps:>7} {rate:>7.1f} decisions/s {self.memory[-1][1]:>7.0f} MB", flush=True)
        return True


def measure(settings: dict[str, Any], n_decisions: int, n_envs: int, seed: int) -> dict[str, Any]:
    """Train and say what it took."""
    n_random = settings["learning_starts"]
    env = make_vec_env(TASKS[TASK].make_env, n_envs, seed=seed)
    model = EfficientZeroV2("MlpPolicy", env, seed=seed, **settings)
    watch = Stopwatch()
    callback = Progress(watch, n_random)
    assert model.env is not None
    searched = note_searched_fractions(model.reanalyzer)
    for name, owner, method in (
        ("acting", model, "_choose_actions"),
        ("environment", model.env, "step"),
        ("storing", model, "_store"),
        ("sampling", model.replay_buffer, "sample"),
        ("reanalysis", model.reanalyzer, "targets"),
        ("reanalysis", model.reanalyzer, "prioritise_new"),
        ("train", model, "train"),
        ("logging", model, "dump_logs"),
        ("logging", callback, "on_step"),
    ):
        watch.watch(name, owner, method)
    model.learn(n_random + n_decisions, callback=callback)
    total = time.perf_counter() - callback.began
    parts = dict(watch.seconds)
    parts["update"] = parts.pop("train") - parts["sampling"] - parts["reanalysis"]
    parts["anything else"] = total - sum(parts.values())
    return {
        "decisions": n_decisions,
        "random_decisions": n_random,
        "n_envs": n_envs,
        "seed": seed,
        "seconds": total,
        "decisions_per_second": n_decisions / total,
        "shares": {name: seconds / total for name, seconds in parts.items()},
        "searched_fraction": float(np.mean(searched)),
        "refresh": model.target_update_interval,
        "simulated_fraction": simulated_fraction(
            n_random, n_decisions, n_envs, settings["buffer_size"], model.target_update_interval
        ),
        "peak_memory_mb": callback.memory,
        "training_returns": callback.returns,
        "evaluation_returns": evaluate(model),
    }


def note_searched_fractions(reanalyzer: Reanalyzer) -> list[float]:
    """A list that grows by the searched fraction of every batch."""
    original, noted = reanalyzer.targets, []

    def targets(*args: Any) -> TrainingTargets:
        found = original(*args)
        noted.append(reanalyzer.searched_fraction)
        return found

    reanalyzer.targets = targets  # type: ignore[method-assign]
    return noted


def simulated_fraction(n_random: int, n_decisions: int, n_envs: int, capacity: int, refresh: int) -> float:
    """Share of the drawn states that no draw since the last refresh of the target network has met, drawn uniformly.

    :param n_random: states in the buffer before the first update
    :param n_decisions: that follow, with one update each
    :param n_envs: side by side, whose decisions come at once
    :param capacity: states that the buffer holds
    :param refresh: updates between two refreshes
    """
    rng, offsets = np.random.default_rng(0), np.arange(UNROLL_STEPS + 1)
    met = np.zeros(capacity + UNROLL_STEPS, bool)
    shares = []
    for update in range(n_decisions):
        if update % refresh == 0:
            met[:] = False
        n_states = min(n_random + n_envs * (update // n_envs), capacity)
        slots = (rng.integers(n_states, size=(PAPER["batch_size"], 1)) + offsets).ravel()
        shares.append((~met[np.unique(slots)]).sum() / len(slots))
        met[slots] = True
    return float(np.mean(shares))


def evaluate(model: EfficientZeroV2) -> list[float]:
    """Returns of deterministic episodes on an environment of their own."""
    env = make_vec_env(TASKS[TASK].make_env, N_EVAL_EPISODES, seed=EVAL_SEED)
    returns, _ = evaluate_policy(model, env, N_EVAL_EPISODES, return_episode_rewards=True)
    env.close()
    return [float(episode) for episode in returns]


def main() -> None:
    """Measure, print and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=20_000, help="after the random ones")
    parser.add_argument("--random", type=int, default=1_000, help="decisions before the first update")
    parser.add_argument("--buffer-size", type=int, default=1_000_000, help="of the replay buffer, in decisions")
    parser.add_argument(
        "--refresh", type=int, help="other than 200 updates between two refreshes of the target network"
    )
    parser.add_argument("--n-envs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--defaults", action="store_true", help="the constructor's values instead of the paper's")
    sizes.add_argument("--small", action="store_true", help="the smallest network and search instead of the paper's")
    parser.add_argument("--mixed-precision", action="store_true", help="the networks of updates compute in bfloat16")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    settings: dict[str, Any] = {} if arguments.defaults else SMALL if arguments.small else PAPER
    if arguments.refresh is not None:
        settings = settings | {"target_update_interval": arguments.refresh}
    found = measure(
        settings
        | {
            "learning_starts": arguments.random,
            "buffer_size": arguments.buffer_size,
            "n_threads": arguments.threads,
            "mixed_precision": arguments.mixed_precision,
        },
        arguments.decisions,
        arguments.n_envs,
        arguments.seed,
    )
    record = {
        **new_record("torch", "numpy", "numba"),
        **found,
    }
    for name, share in sorted(found["shares"].items(), key=lambda item: -item[1]):
        print(f"{name:<14} {100 * share:>6.1f} %")
    print(
        f"{found['decisions_per_second']:.1f} decisions/s, {100 * found['searched_fraction']:.1f} % searched "
        f"({100 * found['simulated_fraction']:.1f} % simulated)"
    )
    print(f"return {np.mean(found['evaluation_returns']):.0f} in {N_EVAL_EPISODES} episodes")
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
