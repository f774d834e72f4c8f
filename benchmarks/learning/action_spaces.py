"""Masks, ``MultiBinary`` and ``MultiDiscrete``: small tasks whose best return is known, beside other algorithms.

``python -m benchmarks.learning.action_spaces TASK ALGO`` trains once and stores the greedy returns along the way in
``benchmarks/results/action_spaces/TASK/ALGO-seed-N.json``; ``--table`` prints what is stored, ``--cost`` measures a
search over ``Discrete`` spaces of growing size, with all actions and with sampled ones.

- ``walk``: a graph of 50 places, from each of which 3 to 10 others are reached; 50 actions, one per place, masked.
  Entering a place pays its worth, the same every time; 20 steps. The best return is found by dynamic programming.
- ``pattern``: ``MultiBinary(200)``, the reward is the share of bits that match the pattern that is observed, the same
  in all episodes of 10 steps. The best return is 10.
- ``code``: ``MultiDiscrete([6, 6, 6, 6])``, the reward is the share of digits that match the code that is observed,
  another one at every step; 10 steps. The best return is 10.
- ``thrust``: ``MultiDiscrete([3, 3])``, thrust of a point mass in the plane from a random place to the middle; the
  reward is ``exp(-4 * distance)``; 40 steps. The best return is not known.
"""

import argparse
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.records import RESULTS, new_record, read_record, write_record
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.actions import DiscreteActions, FactorisedActions, Sampling, action_kind_of
from sb3_ezv2.networks.builders import VectorNetwork, vector_model
from sb3_ezv2.planning.planner import Planner

FOLDER = RESULTS / "action_spaces"
N_PLACES, N_WALK, N_PATTERN, N_CODE, N_THRUST = 50, 20, 10, 10, 40
N_EPISODES = 20
"""Of an evaluation."""


class ShortTask(gym.Env):
    """Episodes of a fixed number of steps; the time is not seen, so their end is a truncation."""

    n_steps: int

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.time = 0
        return self.begin(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one step."""
        observation, reward = self.advance(action)
        self.time += 1
        return observation, float(reward), False, self.time >= self.n_steps, {}

    def begin(self) -> Any:
        """The first observation."""

    def advance(self, action: Any) -> tuple[Any, float]:
        """The next observation, and the reward."""


@lru_cache(maxsize=1)
def graph() -> tuple[np.ndarray, np.ndarray]:
    """Which places are reached from each ``[50, 50]`` bool, and what they are worth ``[50]``."""
    rng = np.random.default_rng(0)
    reached = np.zeros((N_PLACES, N_PLACES), bool)
    for place in range(N_PLACES):
        others = np.delete(np.arange(N_PLACES), place)
        reached[place, rng.choice(others, rng.integers(3, 11), replace=False)] = True
    return reached, rng.random(N_PLACES) ** 2


class Walk(ShortTask):
    """See the module."""

    n_steps = N_WALK
    observation_space = spaces.Discrete(N_PLACES)
    action_space = spaces.Discrete(N_PLACES)

    def begin(self) -> Any:  # noqa: D102
        self.place = int(self.np_random.integers(N_PLACES))
        return self.place

    def advance(self, action: Any) -> tuple[Any, float]:  # noqa: D102
        reached, worth = graph()
        if not reached[self.place, action]:
            raise ValueError(f"there is no way from {self.place} to {action}")
        self.place = int(action)
        return self.place, worth[action]

    def action_masks(self) -> np.ndarray:
        """Places that are reached from here."""
        return graph()[0][self.place]

    @staticmethod
    def best() -> float:
        """Mean over all beginnings of the best return."""
        reached, worth = graph()
        values = np.zeros(N_PLACES)
        for _ in range(N_WALK):
            values = np.where(reached, worth + values, -np.inf).max(axis=1)
        return float(values.mean())


class Pattern(ShortTask):
    """See the module."""

    n_steps = N_PATTERN
    observation_space = action_space = spaces.MultiBinary(200)

    def begin(self) -> Any:  # noqa: D102
        self.pattern = np.random.default_rng(0).integers(2, size=200, dtype=np.int8)
        return self.pattern

    def advance(self, action: Any) -> tuple[Any, float]:  # noqa: D102
        return self.pattern, (action == self.pattern).mean()


class Code(ShortTask):
    """See the module."""

    n_steps = N_CODE
    observation_space = action_space = spaces.MultiDiscrete([6, 6, 6, 6])

    def begin(self) -> Any:  # noqa: D102
        self.code = self.np_random.integers(6, size=4)
        return self.code

    def advance(self, action: Any) -> tuple[Any, float]:  # noqa: D102
        reward = (action == self.code).mean()
        return self.begin(), reward


class Thrust(ShortTask):
    """See the module."""

    n_steps = N_THRUST
    observation_space = spaces.Box(-np.inf, np.inf, (4,))
    action_space = spaces.MultiDiscrete([3, 3])

    def begin(self) -> Any:  # noqa: D102
        self.place, self.speed = self.np_random.uniform(-1.0, 1.0, 2), np.zeros(2)
        return self.observe()

    def observe(self) -> np.ndarray:
        """Place and speed."""
        return np.concatenate([self.place, self.speed]).astype(np.float32)

    def advance(self, action: Any) -> tuple[Any, float]:  # noqa: D102
        self.speed = 0.9 * self.speed + 0.03 * (np.asarray(action) - 1.0)
        self.place = self.place + self.speed
        return self.observe(), np.exp(-4.0 * np.linalg.norm(self.place))


class Task(NamedTuple):
    """One task, and how long ours and the others learn."""

    env: type[ShortTask]
    best: float
    n_steps: int
    eval_interval: int
    settings: dict[str, Any]  # of ours, besides the defaults


SIDE_BY_SIDE: dict[str, Any] = {"n_envs": 16, "gradient_steps": 4}
"""Sixteen environments and an update for every four transitions: what the pages' times are for."""
MANY_DIMENSIONS: dict[str, Any] = {"reward_coef": 10.0}
"""Where one of 200 dimensions changes the reward by a two-hundredth and the next observation by nothing, the other
losses would drown what the reward says of the action."""
TASKS = {
    "walk": Task(Walk, Walk.best(), 3_000, 500, {"n_envs": 4}),
    "pattern": Task(Pattern, float(N_PATTERN), 20_000, 2_000, {**SIDE_BY_SIDE, **MANY_DIMENSIONS}),
    "code": Task(Code, float(N_CODE), 10_000, 2_000, SIDE_BY_SIDE),
    "thrust": Task(Thrust, float("nan"), 10_000, 2_000, SIDE_BY_SIDE),
}
OTHERS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C}


def make_model(algo: str, task: Task, seed: int, settings: dict[str, Any]) -> BaseAlgorithm:
    """An algorithm with its defaults, ours with those of the task."""
    settings = dict(settings)
    env = make_vec_env(task.env, settings.pop("n_envs", 1), seed=seed)
    if algo == "ezv2":
        return EfficientZeroV2("MlpPolicy", env, seed=seed, device="cpu", **settings)
    if algo == "ppo_mask":
        from sb3_contrib import MaskablePPO

        return MaskablePPO("MlpPolicy", env, seed=seed, device="cpu")
    return OTHERS[algo]("MlpPolicy", env, seed=seed, device="cpu")


def mean_return(model: BaseAlgorithm, env: VecEnv, masked: bool) -> float:
    """Mean return of one greedy episode of each of the environments."""
    env.seed(1_000)
    observations, total = env.reset(), 0.0
    for _ in range(env.get_attr("n_steps")[0]):
        masks = {"action_masks": np.stack(env.env_method("action_masks"))} if masked else {}
        actions, _ = model.predict(observations, deterministic=True, **masks)  # type: ignore[arg-type]
        observations, rewards, _, _ = env.step(actions)
        total += float(rewards.mean())
    return total


def train(name: str, algo: str, seed: int, n_steps: int, out: Path) -> None:
    """Train, evaluate on the way, and store."""
    task = TASKS[name]
    settings = task.settings if algo == "ezv2" else {}
    record = {**new_record("torch", "numpy", "numba", "stable_baselines3", "sb3_contrib"), "settings": settings}
    record |= {"task": name, "algo": algo, "seed": seed, "best": task.best, "rows": []}
    model = make_model(algo, task, seed, settings)
    env, seconds = make_vec_env(task.env, N_EPISODES, seed=1_000), 0.0
    while model.num_timesteps < n_steps:
        began = time.perf_counter()
        model.learn(task.eval_interval * n_steps // task.n_steps, reset_num_timesteps=model.num_timesteps == 0)
        seconds += time.perf_counter() - began
        found = mean_return(model, env, hasattr(task.env, "action_masks"))
        record["rows"].append({"step": model.num_timesteps, "return": found, "seconds": seconds})
        print(record["rows"][-1], flush=True)
        write_record(out, record)


def table() -> None:
    """Print the last evaluation of every stored run."""
    print("| task | algorithm | seed | steps | return | of the best | seconds |\n|---|---|---|---|---|---|---|")
    for path in sorted(FOLDER.glob("*/*.json")):
        record = read_record(path)
        last, best = record["rows"][-1], record["best"]
        share = f"{last['return'] / best:.2f}" if best == best else ""
        cells = record["task"], record["algo"], record["seed"], last["step"], f"{last['return']:.2f}", share
        print(f"| {' | '.join(map(str, cells))} | {last['seconds']:.0f} |")


def measure_cost(out: Path, repeats: int = 20) -> None:
    """Median time of a search over ``Discrete(n)`` with all actions and with sampled ones, taken in turns."""
    record = {**new_record("torch", "numpy", "numba"), "rows": []}
    observation_space, planner = spaces.Box(-1.0, 1.0, (8,)), Planner(16, 8, 0.99)
    rng = np.random.default_rng(0)
    for n_roots in (1, 64):
        observations = {"observation": th.from_numpy(rng.uniform(-1, 1, (n_roots, 8)).astype(np.float32))}
        for n in (10, 100, 300, 1_000, 5_000):
            space, models = spaces.Discrete(n), {}
            for kind in (DiscreteActions, FactorisedActions):
                made = kind(space, Sampling(16, 4, 3.0))
                models[kind.__name__] = vector_model(observation_space, made, 0.99, VectorNetwork()).eval()
            times: dict[str, list[float]] = {name: [] for name in models}
            for i in range(repeats + 2):
                for name, model in models.items():
                    began = time.perf_counter()
                    noise = planner.draw_noise(model, n_roots, rng)
                    planner.plan(model, observations, noise, explore=True)
                    if i > 1:
                        times[name].append(time.perf_counter() - began)
            row = {"n_roots": n_roots, "n": n, **{name: float(np.median(taken)) for name, taken in times.items()}}
            row["default"] = type(action_kind_of(space, Sampling(16, 4, 3.0))).__name__
            record["rows"].append(row)
            print(row, flush=True)
    write_record(out, record)


def main() -> None:
    """Train, or print what is stored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("algo", nargs="?", choices=["ezv2", "ppo_mask", *OTHERS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of those of the task")
    parser.add_argument("--table", action="store_true", help="print what is stored")
    parser.add_argument("--cost", action="store_true", help="measure searches")
    parser.add_argument("--out", type=Path, help="file to write")
    options = parser.parse_args()
    th.set_num_threads(1)
    modes: dict[str, Callable[[], None]] = {
        "table": table,
        "cost": lambda: measure_cost(options.out or RESULTS / "action_spaces_cost.json"),
    }
    chosen = next((mode for name, mode in modes.items() if getattr(options, name)), None)
    if chosen is not None:
        chosen()
        return
    if options.algo is None:
        parser.error("name a task and an algorithm, or --table or --cost")
    out = options.out or FOLDER / options.task / f"{options.algo}-seed-{options.seed}.json"
    train(options.task, options.algo, options.seed, options.steps or TASKS[options.task].n_steps, out)


if __name__ == "__main__":
    main()
