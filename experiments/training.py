"""Short trainings whose evaluations are stored one by one, so that an experiment that was stopped goes on."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

import benchmarks.learning.solvable  # noqa: F401  # registers its environments
import experiments.environments  # noqa: F401
from benchmarks.records import write_record
from experiments.common import interval, seeds, verdict
from sb3_ezv2 import EfficientZeroV2

SMALL: dict[str, Any] = {
    "learning_starts": 100,
    "batch_size": 32,
    "policy_kwargs": {"latent_dim": 32, "hidden_dim": 32, "projection_dim": 64},
}
"""Enough for tasks of a few numbers, and ten times as fast as the default."""


def train(env_id: str, n_steps: int, n_evaluations: int, seed: int, **settings: Any) -> dict[str, Any]:
    """Train and evaluate; the returns of all evaluations.

    :param env_id: of a registered environment
    :param n_steps: of training
    :param n_evaluations: evenly spread, of ten episodes each
    :param seed: of everything
    :param settings: of the algorithm, besides :data:`SMALL`
    """
    model = EfficientZeroV2("MlpPolicy", env_id, seed=seed, device="cpu", **{**SMALL, **settings})
    evaluation = make_vec_env(env_id, n_envs=10, seed=1_000 + seed)
    steps, returns = [], []
    for number in range(1, n_evaluations + 1):
        model.learn(n_steps * number // n_evaluations - model.num_timesteps, reset_num_timesteps=False)
        found, _ = evaluate_policy(model, evaluation, 10, return_episode_rewards=True)
        steps.append(model.num_timesteps)
        returns.append(float(np.mean(found)))
    begin = model.env.reset() if model.env is not None else None
    value = float(model.policy.plan(begin, deterministic=True).root_values[0])
    visited = model.replay_buffer.observations_at(np.arange(model.replay_buffer.n_observations))["observation"]
    return {"steps": steps, "returns": returns, "start_value": value, "spread": float(visited.std(axis=0).mean())}


def stored(folder: Path, name: str, env_id: str, n_steps: int, n_evaluations: int, seed: int, **settings: Any) -> Any:
    """As :func:`train`, or what a run with the same name and the same arguments has left in ``folder``."""
    asked = json.loads(json.dumps([env_id, n_steps, n_evaluations, settings]))
    path = folder / f"{name}_{seed}.json"
    if path.exists():
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["asked"] == asked:
            return record["found"]
    found = train(env_id, n_steps, n_evaluations, seed, **settings)
    write_record(path, {"asked": asked, "found": found})
    return found


def sweep(
    options: argparse.Namespace,
    name: str,
    tasks: dict[str, tuple[str, int]],
    choices: dict[str, dict[str, Any]],
    n_seeds: tuple[int, int],
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """All choices of settings on all tasks with all seeds, by task and choice.

    :param options: of the command
    :param name: of the experiment
    :param tasks: environment and steps of a quick run by name; a full one has four times as many
    :param choices: settings by name
    :param n_seeds: of a quick run and of a full one
    """
    chosen = dict([*tasks.items()][:1]) if options.tiny else tasks
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for seed in seeds(options, *n_seeds):
        for task, (env_id, n_steps) in chosen.items():
            n_steps, n = (130, 1) if options.tiny else (n_steps, 4) if options.quick else (4 * n_steps, 16)
            for choice, settings in [*choices.items()][: 2 if options.tiny else None]:
                label = f"{task}_{choice}_{'quick' if options.quick else 'full'}".replace(" ", "_").replace("/", "_")
                ran = stored(options.runs / name, label, env_id, n_steps, n, seed, **settings)
                found.setdefault(task, {}).setdefault(choice, []).append(ran)
    return found


def bars(found: dict[str, dict[str, list[Any]]], score: Callable[[Any], float]) -> Figure:
    """Means with intervals over seeds, every seed as a point; one plot for each task."""
    figure = Figure((5 * len(found), 4))
    for axes, (task, choices) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
        for place, runs in enumerate(choices.values()):
            scores = [score(one) for one in runs]
            mean, low, high = interval(scores)
            axes.plot([place] * len(scores), scores, "k.", ms=4)
            axes.bar(place, mean, alpha=0.5, yerr=[[mean - low], [high - mean]] if np.isfinite(high) else None)
        axes.set_xticks(range(len(choices)), [*choices], rotation=60, ha="right", fontsize=7)
        axes.set(title=task)
    figure.tight_layout()
    return figure


def scores_of(runs: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Mean returns of one task's runs ``[n_seeds]``, by choice."""
    return {choice: np.array([mean_return(one) for one in ran]) for choice, ran in runs.items()}


def against(found: dict[str, dict[str, list[Any]]], reference: str, claim: str) -> dict[str, str]:
    """Whether one choice has larger scores than each of the others, on every task.

    :param found: by task and choice, see :func:`sweep`
    :param reference: the choice
    :param claim: what is to be decided, with the places ``{task}`` and ``{other}``
    :return: verdicts by claim
    """
    verdicts = {}
    for task, runs in found.items():
        scores = scores_of(runs)
        for other in [choice for choice in scores if choice != reference]:
            gain = scores[reference] - scores[other]
            verdicts[claim.format(task=task, other=other)] = verdict(gain)
    return verdicts


def mean_return(found: dict[str, Any]) -> float:
    """Mean over all evaluations of a run: how fast and how well it learned."""
    return float(np.mean(found["returns"]))
