"""Compare classic control with the zoo's other algorithms, each at its own budget and with its own tuned settings.

``python -m benchmarks.learning.classic_control commands`` prints the commands that train all runs, ``... store logs``
condenses finished runs of a log folder to ``benchmarks/results/classic_control``, and ``... table`` writes the table of
the documentation, ``docs/classic_control_table.md``, from what is stored.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from stable_baselines3.common.monitor import load_results

from benchmarks.records import current_commit

RESULTS = Path(__file__).parents[1] / "results" / "classic_control"
TABLE = Path(__file__).parents[2] / "docs" / "classic_control_table.md"
OURS = "ezv2"
SEEDS = (0, 1, 2)
N_EPISODES = 20
SHARE = 0.25
"""Of the steps of the best other algorithm, within which ours is meant to solve a task."""


class Task(NamedTuple):
    """One task of the comparison."""

    solved: float  # mean return of the evaluation episodes
    others: dict[str, int]  # algorithms of the zoo with tuned settings, with the steps between two evaluations
    eval_freq: int  # of ours


TASKS = {
    "CartPole-v1": Task(475, {"dqn": 1_000, "ppo": 2_000}, 125),
    "Acrobot-v1": Task(-100, {"dqn": 2_000, "ppo": 10_000}, 1_000),
    "Pendulum-v1": Task(-200, {"ppo": 2_000, "sac": 500, "tqc": 500}, 125),
    "MountainCar-v0": Task(-110, {"dqn": 2_000, "ppo": 10_000}, 2_000),
    "MountainCarContinuous-v0": Task(90, {"ppo": 1_000, "sac": 1_000, "tqc": 1_000}, 125),
}


class Run(NamedTuple):
    """One stored run."""

    algo: str
    env: str
    seed: int
    budget: int  # steps trained
    steps: list[int]  # of the evaluations
    returns: list[float]  # mean return of each
    hours: float  # wall-clock, evaluations included
    command: str
    commit: str  # of the working tree that holds the logs


def commands() -> Iterator[str]:
    """Commands that train all runs, ours first."""
    options = f"--eval-episodes {N_EPISODES} --n-eval-envs {N_EPISODES} --num-threads 1 --device cpu"
    for env, task in TASKS.items():
        for algo, eval_freq in {OURS: task.eval_freq, **task.others}.items():
            for seed in SEEDS:
                yield (
                    f"python -m sb3_ezv2.train --algo {algo} --env {env} --seed {seed} --eval-freq {eval_freq} "
                    f"{options} -f logs"
                )


def portable(command: str) -> str:
    """A command without where the interpreter of this machine is."""
    return "python -m " + command.split(" -m ", maxsplit=1)[-1].strip()


def read_run(folder: Path) -> Run:
    """One finished run of a log folder.

    :raises FileNotFoundError: if it has no evaluations
    """
    (args_file,) = folder.glob("*/args.yml")
    arguments = dict(yaml.unsafe_load(args_file.read_text(encoding="utf-8")))  # the zoo dumps an OrderedDict
    episodes = load_results(str(folder))
    with np.load(folder / "evaluations.npz") as stored:
        steps, returns = stored["timesteps"].tolist(), stored["results"].mean(axis=1).tolist()
    return Run(
        algo=arguments["algo"],
        env=arguments["env"],
        seed=arguments["seed"],
        budget=int(max(episodes["l"].sum(), steps[-1])),
        steps=steps,
        returns=returns,
        hours=float(episodes["t"].max()) / 3600,
        command=portable((args_file.parent / "command.txt").read_text(encoding="utf-8")),
        commit=current_commit(folder),
    )


def store(logs: Path, results: Path) -> list[Path]:
    """Condense all finished runs of a log folder.

    :param logs: of ``train``
    :param results: folder to write to
    :return: the files written
    """
    written = []
    for evaluations in sorted(logs.glob("*/*/evaluations.npz")):
        run = read_run(evaluations.parent)
        path = results / run.env / f"{run.algo}-seed-{run.seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run._asdict(), indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


def stored_runs(results: Path) -> dict[tuple[str, str], list[Run]]:
    """All stored runs by environment and algorithm."""
    found: dict[tuple[str, str], list[Run]] = {}
    for path in sorted(results.glob("*/*.json")):
        run = Run(**json.loads(path.read_text(encoding="utf-8")))
        found.setdefault((run.env, run.algo), []).append(run)
    return found


def steps_to(run: Run, solved: float) -> float:
    """Steps to the first evaluation from which a run counts as solved, infinity if there is none."""
    return next((float(s) for s, value in zip(run.steps, run.returns, strict=True) if value >= solved), np.inf)


def median_steps(runs: list[Run], solved: float) -> float:
    """Median of the steps to the solved threshold, infinity if half of the runs or more never solve it."""
    steps = sorted(steps_to(run, solved) for run in runs)
    return steps[len(steps) // 2]


def row(env: str, algo: str, runs: list[Run]) -> str:
    """One line of the table."""
    solved = TASKS[env].solved
    last = np.array([run.returns[-1] for run in runs])
    each = ", ".join("never" if np.isinf(s) else f"{s:,.0f}" for s in (steps_to(run, solved) for run in runs))
    budget = f"{max(run.budget for run in runs):,}"
    minutes = 60 * np.mean([run.hours for run in runs])
    spread = f" ± {last.std():.1f}" if len(runs) > 1 else ""
    return (
        f"| {env} | {algo} | {budget} | {last.mean():.1f}{spread} ({len(runs)}) | {solved:g} | {each} | {minutes:.1f} |"
    )


def verdict(env: str, found: dict[tuple[str, str], list[Run]]) -> str:
    """Whether ours solves a task within a quarter of the steps of the best other algorithm, said plainly."""
    solved = TASKS[env].solved
    others = {algo: found[env, algo] for algo in TASKS[env].others if (env, algo) in found}
    if (env, OURS) not in found or not others:
        return f"- {env}: not measured yet."
    ours = median_steps(found[env, OURS], solved)
    best = min(others, key=lambda algo: median_steps(others[algo], solved))
    theirs = median_steps(others[best], solved)
    if np.isinf(ours):
        return f"- {env}: {OURS} does not solve it in its budget."
    if np.isinf(theirs):
        return f"- {env}: {OURS} solves it after {ours:,.0f} steps, none of the others in their budgets."
    reached = "reached" if ours <= SHARE * theirs else "not reached"
    return (
        f"- {env}: {OURS} needs {ours:,.0f} steps, {best} {theirs:,.0f}: {ours / theirs:.2f} of them. "
        f"The target of {SHARE:g} is {reached}."
    )


def table(results: Path) -> str:
    """The page's table and what it says about the target."""
    found = stored_runs(results)
    if not found:
        return "No runs are stored yet.\n"
    lines = [
        "| task | algorithm | steps trained | return at the end, mean ± deviation (seeds) | solved at "
        "| steps until solved, each seed | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for env, task in TASKS.items():
        lines += [row(env, algo, found[env, algo]) for algo in (OURS, *task.others) if (env, algo) in found]
    lines += [
        "",
        f"Median steps until solved, and the target of a share of {SHARE:g} of the best other algorithm's:",
        "",
    ]
    lines += [verdict(env, found) for env in TASKS]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["commands", "store", "table"])
    parser.add_argument("logs", type=Path, nargs="?", default=Path("logs"), help="log folder, for store")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    if options.action == "commands":
        print("\n".join(commands()))
    elif options.action == "store":
        print("\n".join(map(str, store(options.logs, options.results))))
    else:
        options.out.write_text(table(options.results), encoding="utf-8")
        print(options.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
