"""What do a decision and an update cost? ``python -m experiments.cost``.

FLOPs are counted by torch and time is measured on this machine, with the package's default network and search, by
dimensions of the action, number of discrete actions, simulations and size of the observation. Published sizes of
DreamerV3 and TD-MPC2 stand beside them as what their papers state; their code is not run.
"""

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from matplotlib.figure import Figure
from torch.utils.flop_counter import FlopCounterMode

from experiments.common import run
from sb3_ezv2 import EfficientZeroV2

PUBLISHED = {
    "TD-MPC2": {"parameters": 4.9e6, "flops_per_decision": 3.6e10, "source": "EfficientZero V2, table 7, walker run"},
    "EfficientZero V2": {"parameters": 1.3e6, "flops_per_decision": 4.7e7, "source": "the same"},
    "DreamerV3 (XS)": {"parameters": 8e6, "flops_per_decision": None, "source": "DreamerV3, table of model sizes"},
    "DreamerV3 (XL)": {"parameters": 200e6, "flops_per_decision": None, "source": "DreamerV3, table of model sizes"},
}
DIMENSIONS, ACTIONS = (1, 2, 4, 8, 16, 32, 64), (2, 10, 100, 1_000)
SIMULATIONS, OBSERVATIONS = (4, 8, 16, 32, 64), (3, 30, 300)


class Blank(gym.Env):
    """Random observations and rewards."""

    def __init__(self, observation_dim: int, action_space: spaces.Space) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (observation_dim,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin."""
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, self.observation_space.shape).astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Go on."""
        observation, _ = self.reset()
        return observation, float(self.np_random.normal()), False, False, {}


def cost(action_space: spaces.Space, observation_dim: int, n_simulations: int, repeats: int) -> dict[str, float]:
    """Parameters, FLOPs of a decision, and seconds of a decision and of an update with its targets."""
    env = Blank(observation_dim, action_space)
    model = EfficientZeroV2("MlpPolicy", env, seed=0, device="cpu", n_simulations=n_simulations, learning_starts=100)
    model.learn(110)
    network, observation = model.policy.average_model, env.reset(seed=0)[0]
    kind = network.action_kind
    with th.no_grad(), FlopCounterMode(display=False) as root:
        output = network.initial_inference({"observation": th.from_numpy(observation[None])})
    action = th.from_numpy(np.asarray(kind.random((1,), np.random.default_rng(0))))
    with th.no_grad(), FlopCounterMode(display=False) as step:
        network.recurrent_inference(output.latents, action, output.memories)
    seconds = {}
    for name, call in (("decision", lambda: model.predict(observation)), ("update", lambda: model.train(1))):
        call()
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        seconds[f"seconds_per_{name}"] = float(np.median(times))
    flops = root.get_total_flops() + n_simulations * step.get_total_flops()
    parameters = sum(part.numel() for part in network.parameters())
    return {"parameters": float(parameters), "flops_per_decision": float(flops), **seconds}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Costs by size of everything."""
    repeats, some = (2, slice(1)) if options.tiny else (40, slice(None)) if options.quick else (200, slice(None))
    others = slice(0) if options.tiny else slice(None)
    box = spaces.Box(-1.0, 1.0, (6,), np.float32)
    found = {
        "action dimensions": {
            n: cost(spaces.Box(-1.0, 1.0, (n,), np.float32), 24, 16, repeats) for n in DIMENSIONS[some]
        },
        "discrete actions": {n: cost(spaces.Discrete(n), 24, 16, repeats) for n in ACTIONS[others]},
        "simulations": {n: cost(box, 24, n, repeats) for n in SIMULATIONS[others]},
        "observation size": {n: cost(box, n, 16, repeats) for n in OBSERVATIONS[others]},
    }
    return {"costs": {name: rows for name, rows in found.items() if rows}, "published": PUBLISHED}


def draw(record: dict[str, Any]) -> Figure:
    """FLOPs above, times below."""
    figure = Figure((16, 7))
    parts = figure.subplots(2, len(record["costs"]), squeeze=False)
    for column, (name, rows) in enumerate(record["costs"].items()):
        x = [float(size) for size in rows]
        above, below = parts[:, column]
        above.loglog(x, [row["flops_per_decision"] for row in rows.values()], "o-", label="this package")
        for rival, stated in record["published"].items():
            if stated["flops_per_decision"]:
                above.axhline(stated["flops_per_decision"], ls="--", lw=1, color="grey")
                above.text(x[0], stated["flops_per_decision"], f"{rival}, published", fontsize=7)
        for kind in ("decision", "update"):
            below.loglog(x, [1e3 * row[f"seconds_per_{kind}"] for row in rows.values()], "o-", label=kind)
        above.set(title=name, ylabel="FLOPs per decision")
        below.set(xlabel=name, ylabel="milliseconds")
    parts[1, 0].legend()
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    run("cost", measure, draw)
