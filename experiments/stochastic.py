"""Where does a deterministic model hurt? ``python -m experiments.stochastic``.

A queue and a grid whose moves slip, against DQN and PPO of Stable-Baselines3 with as many steps and with ten times as
many. The greedy policy of a trained agent is read in every state and its value is computed exactly: 0 is random play,
1 the best policy.
"""

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3 import DQN, PPO

from benchmarks.learning.solvable import StochasticQueue
from experiments.common import run, seeds, verdict
from experiments.environments import Grid
from experiments.known import exact_q
from experiments.training import SMALL, bars
from sb3_ezv2 import EfficientZeroV2

DISCOUNT = 0.97
QUEUE = np.arange(StochasticQueue.size + 1)
TASKS: dict[str, dict[str, Any]] = {
    "queue": {
        "env": "solvable/StochasticQueue-v0",
        "chances": tuple(np.moveaxis(table, 0, 1) for table in StochasticQueue.model()),
        "observations": (QUEUE[:, None] / StochasticQueue.size).astype(np.float32),
        "starts": QUEUE,
    },
    "grid": {
        "env": "experiments/Grid-v0",
        "chances": Grid.chances(0.0),
        "observations": Grid.observe(np.arange(25)),
        "starts": Grid.starts,
    },
    "slippery grid": {
        "env": "experiments/SlipperyGrid-v0",
        "chances": Grid.chances(0.3),
        "observations": Grid.observe(np.arange(25)),
        "starts": Grid.starts,
    },
}


def agent(name: str, env: gym.Env, seed: int) -> Any:
    """An untrained agent."""
    if name == "EZ-V2":
        return EfficientZeroV2("MlpPolicy", env, seed=seed, device="cpu", gamma=DISCOUNT, **SMALL)
    if name.startswith("DQN"):
        settings = {"learning_starts": 100, "train_freq": 1, "target_update_interval": 200, "learning_rate": 1e-3}
        return DQN("MlpPolicy", env, seed=seed, device="cpu", gamma=DISCOUNT, exploration_fraction=0.3, **settings)
    return PPO("MlpPolicy", env, seed=seed, device="cpu", gamma=DISCOUNT, n_steps=200, batch_size=50)


def share(task: str, name: str, n_steps: int, seed: int) -> float:
    """Train and compute the exact value of the greedy policy, as a share from random play to the best."""
    given = TASKS[task]
    model = agent(name, gym.make(given["env"]), seed).learn(n_steps * (10 if name.endswith("x 10") else 1))
    actions = model.predict(given["observations"], deterministic=True)[0]
    transitions, rewards = given["chances"]
    n_states, n_actions = rewards.shape
    policy = np.full((n_states, n_actions), 1.0 / n_actions)
    starts = given["starts"]

    def value(probabilities: np.ndarray | None) -> float:
        q = exact_q(transitions, rewards, probabilities, DISCOUNT)
        return float((q.max(1) if probabilities is None else (probabilities * q).sum(1))[starts].mean())

    random, best = value(policy), value(None)
    policy[: len(actions)] = np.eye(n_actions)[actions]
    return (value(policy) - random) / (best - random)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of the best value after training in stochastic environments and in a deterministic one."""
    n_steps = 130 if options.tiny else 600 if options.quick else 4_000
    names = ("EZ-V2", "DQN", "PPO", "DQN x 10", "PPO x 10")[: 2 if options.tiny else None]
    tasks = [*TASKS][:1] if options.tiny else [*TASKS]
    found = {
        task: {name: [share(task, name, n_steps, seed) for seed in seeds(options, 2, 10)] for name in names}
        for task in tasks
    }
    verdicts = {
        f"{task}: EZ-V2 above {name}": verdict(np.subtract(found[task]["EZ-V2"], found[task][name]))
        for task in tasks
        for name in names[1:]
    }
    return {"steps": n_steps, "shares": found, "verdicts": verdicts}


def draw(record: dict[str, Any]) -> Figure:
    """Shares of the best value, every seed."""
    return bars(record["shares"], float)


if __name__ == "__main__":
    run("stochastic", measure, draw)
