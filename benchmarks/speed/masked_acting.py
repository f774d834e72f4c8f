"""What masks cost while acting: whole steps with masks and without, in turns, and what the searches compute.

``python -m benchmarks.speed.masked_acting`` lets one model for each kind of mask collect in an environment with 50
actions. The model is the same, the environment differs in its masks alone. Parts of a step are timed one by one; the
5th percentile of many steps stands for each, because everything else on a machine only makes steps longer.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.learning.action_spaces import N_PLACES, N_WALK, graph
from benchmarks.records import RESULTS, new_record, write_record
from sb3_ezv2 import EfficientZeroV2

PERCENTILE = 5
STEPS_PER_ROUND = 25


class Open(gym.Env):
    """Places of which every one is reached from every other one; the return does not matter here."""

    observation_space = action_space = spaces.Discrete(N_PLACES)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Begin anywhere."""
        super().reset(seed=seed)
        self.time, self.place = 0, int(self.np_random.integers(N_PLACES))
        return self.place, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Go there."""
        self.time, self.place = self.time + 1, int(action)
        return self.place, float(graph()[1][action]), False, self.time >= N_WALK, {}


def masked(masks: np.ndarray) -> type[Open]:
    """The environment with masks ``[50, 50]``, one for every place."""
    return type("Masked", (Open,), {"action_masks": lambda self: masks[self.place]})


def few(n: int) -> np.ndarray:
    """Masks of ``n`` legal actions, other ones in every place."""
    return np.stack([np.roll(np.arange(N_PLACES) < n, place) for place in range(N_PLACES)])


def environments() -> dict[str, type[Open]]:
    """Environments by how many actions are legal."""
    return {"no masks": Open} | {str(n): masked(few(n)) for n in (*range(3, 11), 25, N_PLACES)}


def n_calls(n_legal: int, n_considered: int, n_simulations: int) -> int:
    """Calls of the dynamics in a search of one state: one for all first visits, then one for every simulation."""
    return 1 + n_simulations - min(n_legal, n_considered)


def timed(owner: Any, method: str, taken: list[float]) -> None:
    """Let a method note how long it takes."""
    function: Callable[..., Any] = getattr(owner, method)

    def noting(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        found = function(*args, **kwargs)
        taken.append(time.perf_counter() - began)
        return found

    setattr(owner, method, noting)


def measure(n_rounds: int) -> list[dict[str, Any]]:
    """Seconds of the parts of a step, and how many times those without masks the whole takes."""
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    models = {}
    for name, env in environments().items():
        # A batch that is never full: nothing is learnt.
        model = EfficientZeroV2("MlpPolicy", make_vec_env(env, 1, seed=0), seed=0, device="cpu", batch_size=10_000)
        model.learn(250)
        for owner, method in ((model, "_choose_actions"), (model, "_store"), (model.get_env(), "step")):
            timed(owner, method, taken[name][method])
        models[name] = model
    for _ in range(n_rounds):
        for model in models.values():
            model.learn(STEPS_PER_ROUND, reset_num_timesteps=False, log_interval=10**9)
    rows: list[dict[str, Any]] = []
    for name, parts in taken.items():
        seconds = {part: float(np.percentile(times, PERCENTILE)) for part, times in parts.items()}
        row: dict[str, Any] = {"legal": name, **seconds, "whole": sum(seconds.values())}
        rows.append(row | {"ratio": row["whole"] / rows[0]["whole"] if rows else 1.0})
        if name.isdigit():
            planner = models[name].policy.planner
            rows[-1]["calls"] = n_calls(int(name), planner.n_considered, planner.n_simulations)
        print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=80, help=f"of {STEPS_PER_ROUND} steps with every kind of mask")
    parser.add_argument("--out", type=Path, default=RESULTS / "action_masks_cost.json")
    options = parser.parse_args(arguments)
    th.set_num_threads(1)
    write_record(options.out, new_record("torch", "numpy", "numba") | {"rows": measure(options.rounds)})


if __name__ == "__main__":
    main()
