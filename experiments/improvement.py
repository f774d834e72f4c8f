"""Does search improve policies? True q of searched, random and prior actions: ``python -m experiments.improvement``.

With a known model: random tables of 40 states with a random policy, and random linear systems with a random linear
policy. The q of every action is exact. What counts is the share of what can be gained: 0 for an action of the prior, 1
for the best one; in tables by q of the best policy, too. The value network is exact, or errs by a Gaussian of half the
spread of the values.

With a learned model: a grid of 5 x 5 cells, where q of the best policy is exact; regret against the best action.
"""

import argparse
from typing import Any

import numpy as np
import torch as th
from matplotlib.figure import Figure

from experiments.common import lines, run, seeds, verdict
from experiments.environments import Grid
from experiments.known import Erring, Linear, Table, exact_q, plan, softmax
from experiments.training import SMALL
from sb3_ezv2 import EfficientZeroV2

SIMULATIONS = (2, 4, 8, 16, 32, 64)
N_ACTIONS, DIMENSIONS = (2, 4, 16, 64), (1, 2, 4, 8, 16)
AGES = (0, 100, 300, 600, 1_000)
"""Updates of the learned model."""


def table_shares(n_actions: int, error: float, seed: int) -> dict[str, list[float]]:
    """Shares of the gain in a random deterministic table, by what chose the action and N."""
    rng, n = np.random.default_rng(seed), 40
    following, rewards = rng.integers(n, size=(n, n_actions)), rng.normal(size=(n, n_actions))
    logits = rng.normal(size=(n, n_actions))
    policy = softmax(logits)
    q = exact_q(np.eye(n)[following], rewards, policy, 0.95)
    prior, best = (policy * q).sum(1), q.max(1)
    known = prior + error * prior.std() * rng.normal(size=n)
    model = Table(following, rewards, logits, known, 0.95)
    scale = (best - prior).mean()
    best_q = exact_q(np.eye(n)[following], rewards, None, 0.95)
    from_best = best_q - (policy * best_q).sum(1, keepdims=True)
    found = {"random": [(q.mean(1) - prior).mean() / scale] * len(SIMULATIONS), "search": [], "search, best q": []}
    for n_simulations in SIMULATIONS:
        result, actions, _ = plan(model, np.arange(n), n_simulations, rng)
        chosen = np.arange(n), actions[np.arange(n), result.selected]
        found["search"].append((q[chosen] - prior).mean() / scale)
        found["search, best q"].append(from_best[chosen].mean() / from_best.max(1).mean())
    return found


def linear_shares(dimensions: int, error: float, seed: int) -> dict[str, list[float]]:
    """The same for actions of several dimensions; random actions are uniform in the range of the flattened policy."""
    rng, n = np.random.default_rng(seed), 40
    dynamics = 0.7 * np.linalg.qr(rng.normal(size=(dimensions, dimensions)))[0]
    effects = rng.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)
    gain = 0.1 * rng.normal(size=(dimensions, dimensions)) / np.sqrt(dimensions)
    while np.abs(np.linalg.eigvals(dynamics - effects @ gain)).max() > 0.9:
        gain *= 0.5
    model = Linear(dynamics, effects, gain, std=0.5)
    states = rng.normal(size=(n, dimensions))
    prior_actions = -(states @ model.gain.T)[:, None] + model.std * rng.normal(size=(n, 400, dimensions))
    prior = model.exact_q(states[:, None], prior_actions).mean(1)
    best = model.exact_q(states, -states @ model.greedy_gain().T)
    reach = 3.0 * model.std * np.sqrt(3.0)  # as wide as the flattened policy
    random = model.exact_q(states[:, None], rng.uniform(-reach, reach, (n, 400, dimensions))).mean(1)
    scale, spread = (best - prior).mean(), model.values(states).std()
    searched = Erring(model, error * spread, rng)
    found = {"random": [(random - prior).mean() / scale] * len(SIMULATIONS), "search": []}
    for n_simulations in SIMULATIONS:
        result, actions, _ = plan(searched, states, n_simulations, rng)
        chosen = actions[np.arange(n), result.selected]
        found["search"].append((model.exact_q(states, chosen) - prior).mean() / scale)
    return found


def learned_regrets(ages: tuple[int, ...], seed: int) -> dict[str, list[float]]:
    """Mean regret over all cells of searched, prior and random actions, by the age of the model."""
    following, rewards = Grid.tables()
    q = exact_q(np.eye(26)[following], rewards, None, 0.95)
    cells = Grid.starts
    regret = q[cells].max(1, keepdims=True) - q[cells]
    model = EfficientZeroV2("MlpPolicy", "experiments/Grid-v0", seed=seed, device="cpu", gamma=0.95, **SMALL)
    found: dict[str, list[float]] = {"search": [], "prior": [], "random": [float(regret.mean())] * len(ages)}
    for age in ages:
        if age > 0:
            model.learn(age + model.learning_starts - model.num_timesteps, reset_num_timesteps=False)
        chosen = model.policy.plan(Grid.observe(cells), deterministic=True).actions
        with th.no_grad():
            tensors = {"observation": th.from_numpy(Grid.observe(cells))}
            prior = model.policy.average_model.initial_inference(tensors).policies.softmax(-1).numpy()
        found["search"].append(float(regret[np.arange(len(cells)), chosen].mean()))
        found["prior"].append(float((prior * regret).sum(1).mean()))
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Whether search improves policies."""
    n_actions, dimensions = ((2,), (1,)) if options.tiny else (N_ACTIONS, DIMENSIONS)
    ages = AGES[:2] if options.tiny else AGES
    known = {
        f"{kind} {size}, {values}": [function(size, error, seed) for seed in seeds(options, 10, 30)]
        for kind, function, sizes in (
            ("actions", table_shares, n_actions),
            ("dimensions", linear_shares, dimensions),
        )
        for size in sizes
        for values, error in (("exact", 0.0), ("erring", 0.5))
    }
    learned = [learned_regrets(ages, seed) for seed in seeds(options, 3, 10)]
    verdicts = {}
    for name, runs in known.items():
        gains = np.array([one["search"] for one in runs])
        verdicts[f"{name}: searched with N = 16 above the prior"] = verdict(gains[:, 3])
        verdicts[f"{name}: N = 64 above N = 4"] = verdict(gains[:, 5] - gains[:, 1])
    for place, age in enumerate(ages):
        verdicts[f"learned, {age} updates: searched above the prior"] = verdict(
            [one["prior"][place] - one["search"][place] for one in learned]
        )
    return {"simulations": SIMULATIONS, "ages": ages, "known": known, "learned": learned, "verdicts": verdicts}


def draw(record: dict[str, Any]) -> Figure:
    """Shares by N, and regrets by age."""
    figure = Figure((14, 4))
    parts = figure.subplots(1, 3)
    for axes, kind in zip(parts, ("actions", "dimensions"), strict=False):
        for name, runs in record["known"].items():
            if name.startswith(kind):
                style = "--" if name.endswith("erring") else "-"
                lines(axes, record["simulations"], np.array([one["search"] for one in runs]), name, ls=style)
        axes.axhline(0.0, color="grey", lw=1)
        axes.set(xscale="log", xlabel="simulations", ylabel="share of the possible gain", title="known model")
        axes.legend(fontsize=6)
    for name in ("search", "prior", "random"):
        lines(parts[2], record["ages"], np.array([one[name] for one in record["learned"]]), name)
    parts[2].set(xlabel="updates", ylabel="regret", title="learned model, grid")
    parts[2].legend()
    return figure


if __name__ == "__main__":
    run("improvement", measure, draw)
