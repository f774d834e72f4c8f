"""Train on one task with one seed and store the learning curve.

``python -m benchmarks.learning.learning_curve CartPole-v1 --seed 0`` writes
``benchmarks/results/CartPole-v1/seed-0.json``: the returns of 20 deterministic evaluation episodes on separate
environments at every interval, with the command, the seed, the commit and the wall-clock time. The file is rewritten
after every evaluation.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.learning.tasks import TASKS, Task
from benchmarks.records import RESULTS, new_record
from sb3_ezv2 import EfficientZeroV2

N_EPISODES = 20
EVAL_SEED = 10_000
"""Added to the seed of the run for the evaluation environments."""


class StoreCurve(BaseCallback):
    """Evaluate at every interval and write everything to a file.

    :param task: what is trained on
    :param path: file to write
    :param record: what to write beside the curve
    """

    def __init__(self, task: Task, path: Path, record: dict[str, Any]) -> None:
        super().__init__()
        self.task = task
        self.path = path
        self.record = record | {"evaluations": []}
        self.seconds_evaluating = 0.0

    def _on_training_start(self) -> None:
        self.started = time.perf_counter()
        self.eval_env = make_vec_env(self.task.make_env, N_EPISODES, seed=EVAL_SEED + self.record["seed"])

    def _on_step(self) -> bool:
        if self.num_timesteps % self.task.eval_interval == 0:
            self._evaluate()
        return True

    def write(self) -> None:
        """Store the record as it stands."""
        self.path.write_text(json.dumps(self.record, indent=1, default=str) + "\n")

    def _evaluate(self) -> None:
        began = time.perf_counter()
        returns, _ = evaluate_policy(
            self.model, self.eval_env, N_EPISODES, deterministic=True, return_episode_rewards=True
        )
        now = time.perf_counter()
        self.seconds_evaluating += now - began
        losses = {key: value for key, value in self.logger.name_to_value.items() if key.startswith("train/")}
        self.record["evaluations"].append(
            {
                "step": self.num_timesteps,
                "mean_return": sum(returns) / len(returns),
                "returns": returns,
                "training_seconds": now - self.started - self.seconds_evaluating,
                "log": {key: float(value) for key, value in losses.items()},
            }
        )
        self.write()
        last = self.record["evaluations"][-1]
        print(f"{last['step']:>7} {last['mean_return']:>9.1f} {last['training_seconds']:>8.0f} s", flush=True)


def evaluate_at_the_end(model: EfficientZeroV2, task: Task, n_episodes: int, seed: int) -> dict[str, Any]:
    """Returns of many episodes on environments of their own: where these start matters less to their mean."""
    env = make_vec_env(task.make_env, N_EPISODES, seed=2 * EVAL_SEED + seed)
    returns, _ = evaluate_policy(model, env, n_episodes, deterministic=True, return_episode_rewards=True)
    mean = sum(returns) / len(returns)
    print(f"   last {mean:>9.1f} in {n_episodes} episodes", flush=True)
    return {"step": model.num_timesteps, "mean_return": mean, "returns": returns}


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the task's budget")
    parser.add_argument("--last-episodes", type=int, default=0, help="further evaluation episodes after the last step")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the task's settings")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    settings = task.settings | arguments.settings
    path = arguments.out / arguments.task / f"seed-{arguments.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        **new_record("learning.learning_curve", "torch", "numpy", "numba", "stable_baselines3", "gymnasium"),
        "task": arguments.task,
        "seed": arguments.seed,
        "settings": settings,
    }
    env = make_vec_env(task.make_env, 1, seed=arguments.seed)
    model = EfficientZeroV2(task.policy, env, seed=arguments.seed, **settings)
    curve = StoreCurve(task, path, record)
    model.learn(arguments.steps or task.n_steps, callback=curve, log_interval=10**9)
    if arguments.last_episodes > 0:
        curve.record["last"] = evaluate_at_the_end(model, task, arguments.last_episodes, arguments.seed)
        curve.write()


if __name__ == "__main__":
    main()
