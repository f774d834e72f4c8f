"""One run: train on one task with one seed and store its learning curve.

``python -m benchmarks.learning.training CartPole-v1 --seed 0 --out runs`` writes ``runs/CartPole-v1/seed-0.json``: the
returns of all episodes of every evaluation, with the command, the seed, the commit, the settings, versions, wall-clock
and processor time. Evaluations are deterministic, on environments of their own. The file is replaced after every
evaluation and says at the end that it is complete. With ``--checkpoints`` a run goes on where it stopped, and
``--leg-seconds`` stops it for this time. :mod:`benchmarks.learning.suite` makes many such runs.
"""

import argparse
import ast
import json
import time
from pathlib import Path
from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize, sync_envs_normalization

from benchmarks.learning.tasks import TASKS, Task, policy_for
from benchmarks.records import new_record, write_record
from benchmarks.speed.memory import peak_bytes
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.checkpoint_files import checkpoints_in
from sb3_ezv2.common.ranks import ranks_of_process

ALGOS: dict[str, type[BaseAlgorithm]] = {
    "ezv2": EfficientZeroV2,
    **{name: getattr(stable_baselines3, name.upper()) for name in ("a2c", "dqn", "ppo", "sac", "td3")},
}
"""Ours, and those of Stable-Baselines3 to stand beside it with their own defaults."""
N_EPISODES = 20
EVAL_SEED = 10_000
"""Added to the seed of the run for the evaluation environments."""
LEG_SEED = 1_000
"""Added to the seed of the training environment for every leg before."""


class StoreCurve(BaseCallback):
    """Evaluate at every interval, and write everything to a file.

    :param eval_env: as many environments as there are episodes in an evaluation
    :param path: file to write
    :param record: what to write beside the curve
    :param leg_seconds: after which training ends for this time, ``None`` for never
    """

    def __init__(self, eval_env: VecEnv, path: Path, record: dict[str, Any], leg_seconds: float | None = None) -> None:
        super().__init__()
        self.leg_seconds = leg_seconds
        self.seconds_before = sum(leg["seconds"] for leg in record["legs"])
        self.eval_env = eval_env
        self.path = path
        self.record = record
        self.seconds_evaluating = 0.0

    def _on_training_start(self) -> None:
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def _on_step(self) -> bool:
        if self.num_timesteps % self.record["eval_interval"] == 0 or self.num_timesteps == self.record["n_steps"]:
            self._evaluate()
        if self.leg_seconds is not None:
            self._note_episodes()
            if self.seconds() > self.leg_seconds:
                return False
        return self.num_timesteps < self.record["n_steps"]  # PPO would go on to the end of its rollout

    def _note_episodes(self) -> None:
        """Returns of training episodes by step: a leg may be over before the first evaluation."""
        ended = [float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        if ended:
            self.record.setdefault("training_returns", []).extend([self.num_timesteps, each] for each in ended)
            write_record(self.path, self.record)

    def seconds(self) -> float:
        """Wall-clock since training began, in this process."""
        return time.perf_counter() - self.started

    def _evaluate(self) -> None:
        began = time.perf_counter()
        if isinstance(self.eval_env, VecNormalize):
            sync_envs_normalization(self.training_env, self.eval_env)
        n_episodes = self.record["n_episodes"]
        returns, lengths = evaluate_policy(
            self.model, self.eval_env, n_episodes, deterministic=True, return_episode_rewards=True
        )
        now = time.perf_counter()
        self.seconds_evaluating += now - began
        log = {key: value for key, value in self.logger.name_to_value.items() if key.startswith("train/")}
        self.record["evaluations"].append(
            {
                "step": self.num_timesteps,
                "mean_return": sum(returns) / len(returns),
                "returns": returns,
                "lengths": lengths,
                "training_seconds": self.seconds_before + now - self.started - self.seconds_evaluating,
                "training_return": safe_mean([info["r"] for info in self.model.ep_info_buffer or ()]),
                "peak_mb": peak_bytes() / 2**20,
                "log": {key: float(value) for key, value in log.items()},
            }
        )
        self.record["seconds"] = self.seconds_before + now - self.started
        self.record["processor_seconds"] = time.process_time() - self.cpu_started
        write_record(self.path, self.record)
        last = self.record["evaluations"][-1]
        print(f"{last['step']:>7} {last['mean_return']:>9.2f} {last['training_seconds']:>8.0f} s", flush=True)


def parse_settings(given: list[str]) -> dict[str, Any]:
    """Arguments of the constructor from words like ``batch_size=64`` and ``policy_kwargs.latent_dim=64``.

    Values are Python literals; anything else is a text.

    :raises ValueError: for a word without ``=``, or a name whose parts before a point are something else already
    """
    settings: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {word} must be name=value, for example batch_size=64")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        *outer, last = name.split(".")
        place = settings
        for part in outer:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {word} contradicts the value that {part} has already")
        place[last] = value
    return settings


def result_path(out: Path, task: str, seed: int) -> Path:
    """Where a run is stored."""
    return out / task / f"seed-{seed}.json"


def of_entry(name: str) -> dict[str, Any]:
    """Arguments of the constructor from an entry of the zoo's hyperparameters, without what the zoo itself reads.

    :raises ValueError: if there is no such entry
    """
    if not name:
        return {}
    # A machine that only runs needs no zoo.
    from sb3_ezv2.zoo.settings import ZOO_NAMES, hyperparameter_file, read_entries
    from sb3_ezv2.zoo.settings_files import EVALUATED, keyword_values

    entries = read_entries(hyperparameter_file())
    if name not in entries:
        raise ValueError(f"--entry {name} is not in {hyperparameter_file()}, which has {', '.join(entries)}")
    found = {key: value for key, value in entries[name].items() if key not in ZOO_NAMES}
    texts = {key: value for key, value in found.items() if key in EVALUATED and isinstance(value, str)}
    return found | {key: keyword_values(value) for key, value in texts.items()}


def together(entry: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Settings of an entry with given ones in their place, within dictionaries too."""
    inner = {name: entry[name] | given[name] for name in entry.keys() & given if isinstance(given[name], dict)}
    return entry | given | inner


def is_complete(path: Path, options: argparse.Namespace, settings: dict[str, Any], n_steps: int) -> bool:
    """Whether a run is stored to its end.

    :raises ValueError: if the file is of a run with other settings
    """
    if not path.exists():
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    theirs = [record["algo"], record["settings"], record["n_steps"], record.get("entry", "")]
    if theirs != json.loads(json.dumps([options.algo, settings, n_steps, options.entry], default=str)):
        raise ValueError(f"{path} holds a run with other settings ({theirs}); choose another --out, or remove it")
    return bool(record["complete"])


def make_envs(task: Task, seed: int, n_episodes: int) -> tuple[VecEnv, VecEnv]:
    """Environments of training and of evaluation."""
    # The wrapper is around the Monitor: what is noted of episodes are the task's own rewards, in training too.
    env: VecEnv = make_vec_env(task.make_env, 1, seed=seed, wrapper_class=task.training_wrapper)
    eval_env: VecEnv = make_vec_env(task.make_env, n_episodes, seed=EVAL_SEED + seed)
    if task.n_stack > 1:
        env, eval_env = VecFrameStack(env, task.n_stack), VecFrameStack(eval_env, task.n_stack)
    if task.normalised:
        env, eval_env = VecNormalize(env), VecNormalize(eval_env, training=False, norm_reward=False)
    return env, eval_env


def evaluate_at_the_end(model: BaseAlgorithm, task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Returns of many episodes from other starts than those of the evaluations: where these are matters less then."""
    _, env = make_envs(task, EVAL_SEED + options.seed, options.episodes)
    if isinstance(env, VecNormalize):
        sync_envs_normalization(model.get_env(), env)
    returns, _ = evaluate_policy(model, env, options.last_episodes, deterministic=True, return_episode_rewards=True)
    return {"step": model.num_timesteps, "mean_return": sum(returns) / len(returns), "returns": returns}


def new_run(options: argparse.Namespace, task: Task, settings: dict[str, Any]) -> dict[str, Any]:
    """Record of a run before its first step."""
    return {
        **new_record("torch", "numpy", "numba", "stable_baselines3", "gymnasium"),
        "task": options.task,
        "algo": options.algo,
        "seed": options.seed,
        "settings": settings,
        **({"entry": options.entry} if options.entry else {}),
        "n_steps": options.steps or task.n_steps,
        "eval_interval": options.eval_interval or task.eval_interval,
        "n_episodes": options.episodes,
        "complete": False,
        "evaluations": [],
        "legs": [],
        "ranks": ranks_of_process().size,
    }


def checkpoints_of(options: argparse.Namespace) -> Path | None:
    """Folder of a run's checkpoints, ``None`` if it has none.

    :raises ValueError: if the algorithm has no checkpoints
    """
    if options.checkpoints is None:
        if options.leg_seconds is not None:
            raise ValueError("--leg-seconds needs --checkpoints, or the next leg would begin anew")
        return None
    if options.algo != "ezv2":
        raise ValueError(f"--checkpoints fits ezv2 alone, not --algo {options.algo}")
    return result_path(options.checkpoints, options.task, options.seed).with_suffix("")


def train(options: argparse.Namespace) -> None:
    """Train and store, from the newest checkpoint on if there is one."""
    task, settings = TASKS[options.task], parse_settings(options.set)
    path, place = result_path(options.out, options.task, options.seed), checkpoints_of(options)
    goes_on = place is not None and path.exists() and bool(checkpoints_in(place))
    record = json.loads(path.read_text(encoding="utf-8")) if goes_on else new_run(options, task, settings)
    # Where the state of the environments cannot be saved, a leg is not to begin as the one before.
    env, eval_env = make_envs(task, options.seed + LEG_SEED * len(record["legs"]), options.episodes)
    if goes_on:
        model: BaseAlgorithm = EfficientZeroV2.load_checkpoint(place, env, device=options.device)
        record["evaluations"] = [each for each in record["evaluations"] if each["step"] <= model.num_timesteps]
        if "training_returns" in record:
            record["training_returns"] = [each for each in record["training_returns"] if each[0] <= model.num_timesteps]
    else:
        policy, settings = policy_for(env.observation_space), together(of_entry(options.entry), settings)
        model = ALGOS[options.algo](policy, env, seed=options.seed, device=options.device, **settings)
    first, left = model.num_timesteps, record["n_steps"] - model.num_timesteps
    curve = StoreCurve(eval_env, path, record, options.leg_seconds)
    model.learn(left, callback=curve, log_interval=10**9, reset_num_timesteps=not goes_on)
    if ranks_of_process().rank > 0:  # the first rank evaluates and writes
        if place is not None:
            model.save_checkpoint(place, keep=1)  # type: ignore[attr-defined]
        return
    record["legs"].append({"from": first, "to": model.num_timesteps, "seconds": curve.seconds()})
    if place is not None:
        model.save_checkpoint(place, keep=1)  # type: ignore[attr-defined]
        write_record(path, record)
        if model.num_timesteps < record["n_steps"]:
            print(f"{model.num_timesteps} of {record['n_steps']} steps", flush=True)
            return
    if options.last_episodes > 0:
        record["last"] = evaluate_at_the_end(model, task, options)
    if options.agents is not None:
        agent = result_path(options.agents, options.task, options.seed).with_suffix(".zip")
        agent.parent.mkdir(parents=True, exist_ok=True)
        model.save(agent)
    write_record(path, record | {"complete": True})


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that a single run and the suite have in common."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--algo", choices=sorted(ALGOS), default="ezv2")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="arguments of the constructor")
    parser.add_argument("--steps", type=int, help="instead of the task's budget")
    parser.add_argument("--eval-interval", type=int, help="instead of the task's")
    parser.add_argument("--episodes", type=int, default=N_EPISODES, help="of every evaluation")
    parser.add_argument("--last-episodes", type=int, default=0, help="further episodes after the last step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--entry", default="", help="of the zoo's hyperparameters, whose settings come before --set")
    parser.add_argument("--checkpoints", type=Path, help="folder of checkpoints that an interrupted run goes on from")
    parser.add_argument("--leg-seconds", type=float, help="of training; the same command then goes on")
    parser.add_argument("--agents", type=Path, help="folder to keep the trained agents in")


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train, unless the run is complete."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(TASKS), metavar="task")
    parser.add_argument("--seed", type=int, default=0)
    add_options(parser)
    options = parser.parse_args(arguments)
    n_steps = options.steps or TASKS[options.task].n_steps
    path = result_path(options.out, options.task, options.seed)
    if is_complete(path, options, parse_settings(options.set), n_steps):
        print(f"{path} is complete")
        return
    train(options)


if __name__ == "__main__":
    main()
