"""How time and arithmetic grow with what a user chooses.

``python -m benchmarks.speed.cost_growth`` measures the time of a search and of an update against the states searched
together, simulations, action dimensions, network width and environments, counts the floating point operations of one
decision (see :mod:`benchmarks.speed.planners`), and writes ``benchmarks/results/cost_growth.json`` and
``benchmarks/speed/cost_growth.png``. Everything else has the constructor's values: 16 simulations, 128 units, 3 action
dimensions, 24 numbers observed, batches of 64. One thread.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.planners import dreamer, ours, td_mpc2
from benchmarks.speed.search_cost import OBSERVATION, PROPRIO_NETWORK, take_turns
from sb3_ezv2 import EfficientZeroV2

RESULT = RESULTS / "cost_growth.json"
PICTURE = Path(__file__).parent / "cost_growth.png"
ACTION_DIM, WIDTH, N_SIMULATIONS = 3, 128, 16
OBSERVATION_DIM = OBSERVATION.shape[0]
GRID: dict[str, tuple[int, ...]] = {
    "roots": (1, 4, 16, 64, 256, 1024),
    "simulations": (4, 8, 16, 32, 64, 128),
    "action dimensions": (1, 2, 4, 8, 16, 32, 64),
    "network width": (32, 64, 128, 256, 512),
    "environments": (1, 2, 4, 8, 16),
}
TITLES = {
    "roots": "one search of many states",
    "simulations": "more simulations",
    "action dimensions": "more action dimensions",
    "network width": "wider networks",
    "environments": "more environments",
}


class Noise(gym.Env):
    """Random observations and rewards, so that the environment costs next to nothing.

    :param action_space: any
    :param observation_space: numbers between -1 and 1, or pictures of bytes
    """

    def __init__(self, action_space: spaces.Space, observation_space: spaces.Box = OBSERVATION) -> None:
        self.action_space, self.observation_space = action_space, observation_space

    def _observe(self) -> np.ndarray:
        shape = self.observation_space.shape
        if self.observation_space.dtype == np.uint8:
            return self.np_random.integers(0, 256, shape, np.uint8)
        return self.np_random.uniform(-1.0, 1.0, shape).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.step_number = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Whatever the action; truncated after 200 steps."""
        self.step_number += 1
        return self._observe(), float(self.np_random.uniform()), False, self.step_number == 200, {}


def new_model(quantity: str, size: int) -> EfficientZeroV2:
    """A model with one quantity of the grid changed, and 300 transitions."""
    width = size if quantity == "network width" else WIDTH
    n_dims = size if quantity == "action dimensions" else ACTION_DIM
    env = make_vec_env(
        Noise,
        size if quantity == "environments" else 1,
        seed=0,
        env_kwargs={"action_space": spaces.Box(-1.0, 1.0, (n_dims,))},
    )
    model = EfficientZeroV2(
        "MlpPolicy",
        env,
        seed=0,
        learning_starts=300,
        n_simulations=size if quantity == "simulations" else N_SIMULATIONS,
        policy_kwargs={"latent_dim": width, "hidden_dim": width, "projection_dim": 2 * width},
    )
    return model.learn(300)


def measured(quantity: str, size: int, seconds: float) -> dict[str, float]:
    """Milliseconds of one search for one decision or for all roots, and of one update with its targets."""
    model = new_model(quantity, size)
    n = size if quantity in ("roots", "environments") else 1
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1.0, 1.0, (n, OBSERVATION_DIM)).astype(np.float32)
    functions: dict[str, Callable[[], object]] = {"search": lambda: model.policy.plan(observations)}
    if quantity != "roots":
        # Every call is an update of its own, in the course of training: some refresh the target network and search.
        functions["update"] = lambda: model.train(1)
    found = take_turns(functions, seconds)
    return {name: times["median"] for name, times in found.items()}


def flops(action_dim: int) -> dict[str, int]:
    """Of one decision of every planner."""
    return {
        "ours, 16 simulations, defaults": ours(
            OBSERVATION_DIM, action_dim, 16, {"latent_dim": 128, "hidden_dim": 128, "projection_dim": 256}
        ),
        "ours, 32 simulations, paper's network": ours(OBSERVATION_DIM, action_dim, 32, PROPRIO_NETWORK),
        "TD-MPC2": td_mpc2(OBSERVATION_DIM, action_dim),
        "DreamerV3, policy alone": dreamer(OBSERVATION_DIM, action_dim, 0),
        "DreamerV3's model, 512 rollouts of 15": dreamer(OBSERVATION_DIM, action_dim, 512),
    }


def _name_ticks(axis: Any, quantity: str) -> None:
    axis.set_xticks(GRID[quantity], [str(size) for size in GRID[quantity]])
    axis.minorticks_off()


def draw(record: dict[str, Any], path: Path) -> None:
    """One panel for each quantity and one for the arithmetic."""
    plt.rcParams["font.size"] = 12
    figure, axes = plt.subplots(3, 2, figsize=(10, 11))
    for axis, quantity in zip(axes.flat, GRID, strict=False):
        rows = record["times"][quantity]
        for name in ("search", "update"):
            points = [(row["size"], row["milliseconds"][name]) for row in rows if name in row["milliseconds"]]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=TITLES[quantity], xscale="log", yscale="log", xlabel=quantity, ylabel="ms")
        _name_ticks(axis, quantity)
    axis = axes.flat[-1]
    for name in next(iter(record["flops"].values())):
        points = [(int(dim), each[name]) for dim, each in record["flops"].items()]
        axis.plot(*zip(*points, strict=True), marker="o", label=name)
    axis.set(title="arithmetic of one decision", xscale="log", yscale="log", xlabel="action dimensions", ylabel="FLOPs")
    _name_ticks(axis, "action dimensions")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measure, print, draw and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each point")
    parser.add_argument("--draw-only", action="store_true", help="draw what is stored")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    if not arguments.draw_only:
        th.set_num_threads(1)
        record: dict[str, Any] = {**new_record("torch", "numpy", "numba"), "times": {}}
        for quantity, sizes in GRID.items():
            record["times"][quantity] = []
            for size in sizes:
                found = measured(quantity, size, arguments.seconds)
                record["times"][quantity].append({"size": size, "milliseconds": found})
                print(f"{quantity:<18} {size:>5}", *(f"{name} {ms:.2f} ms" for name, ms in found.items()), flush=True)
        record["flops"] = {dim: flops(dim) for dim in GRID["action dimensions"]}
        for dim, each in record["flops"].items():
            print(f"action dimensions {dim:>3}", *(f"{name}: {count:.2e}" for name, count in each.items()), sep="\n  ")
        write_record(arguments.out, record)
    draw(json.loads(arguments.out.read_text()), PICTURE)


if __name__ == "__main__":
    main()
