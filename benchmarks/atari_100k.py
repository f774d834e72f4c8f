"""One game of Atari 100k in legs: each resumes from the checkpoint of the one before.

``python -m benchmarks.atari_100k Pong --seed 0`` trains with the ``atari`` entry of the hyperparameters until its time
is up, saves model and replay buffer in ``--folder``, and says how far it is. Called again it goes on; when the
budget is reached, the next call plays full games with the deterministic policy and ends the run. The record with the
legs, the training returns and the evaluation is ``benchmarks/results/atari_100k/<game>/seed-<n>.json``, which
``python -m benchmarks.atari_table`` reads.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from benchmarks.atari_table import FOLDER
from benchmarks.records import new_record, write_record
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.envs.atari import AtariTraining, make_atari
from sb3_ezv2.zoo.settings import ZOO_NAMES, hyperparameter_file

N_STACK = 4
N_EPISODES = 10
EVAL_SEED = 10_000
REPORT_INTERVAL = 1_000


def make_envs(game: str, training: bool, n_envs: int, seed: int) -> VecEnv:
    """Stacked frames of a game; what is noted of episodes are full games, unclipped, in training too."""
    wrapper = AtariTraining if training else None
    envs = make_vec_env(lambda: make_atari(game, training=False), n_envs, seed=seed, wrapper_class=wrapper)
    return VecFrameStack(envs, N_STACK)


class Leg(BaseCallback):
    """Ends training when its time is up, and notes the returns of training on the way.

    :param seconds: of this leg
    :param record: to write the returns to
    """

    def __init__(self, seconds: float, record: dict[str, Any]) -> None:
        super().__init__()
        self.seconds = seconds
        self.returns = record.setdefault("training", [])

    def _on_training_start(self) -> None:
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % REPORT_INTERVAL == 0:
            episodes = [info["r"] for info in self.model.ep_info_buffer or ()]
            self.returns.append({"decision": self.num_timesteps, "mean_return": float(safe_mean(episodes))})
            print(self.returns[-1], flush=True)
        return time.perf_counter() - self.began < self.seconds


def settings_of_the_zoo() -> dict[str, Any]:
    """The ``atari`` entry without what the zoo itself reads."""
    entry = yaml.safe_load(hyperparameter_file().read_text())["atari"]
    return {name: value for name, value in entry.items() if name not in ZOO_NAMES}


def train_leg(options: argparse.Namespace, record: dict[str, Any]) -> EfficientZeroV2:
    """Begin or go on, and save."""
    env = make_envs(options.game, True, 1, options.seed)
    model_file, buffer_file = options.folder / "model.zip", options.folder / "replay_buffer.pkl"
    if record.get("legs"):  # without a record a leg was killed while it saved: begin again
        model = EfficientZeroV2.load(model_file, env=env, device=options.device)
        model.load_replay_buffer(buffer_file)
        model.set_random_seed(options.seed + 1_000 * len(record["legs"]))  # or every leg would draw what the first drew
    else:
        settings = settings_of_the_zoo() | options.settings
        model = EfficientZeroV2("CnnPolicy", env, seed=options.seed, device=options.device, **settings)
    first, began = model.num_timesteps, time.perf_counter()
    left = options.decisions - first
    if left > 0:
        model.learn(left, callback=Leg(options.leg_seconds, record), reset_num_timesteps=False, log_interval=10**9)
        record.setdefault("legs", []).append(
            {"from": first, "to": model.num_timesteps, "seconds": time.perf_counter() - began}
        )
        model.save(model_file)
        model.save_replay_buffer(buffer_file)
    return model


def evaluate(options: argparse.Namespace, model: EfficientZeroV2) -> dict[str, Any]:
    """Full games, unclipped, side by side."""
    env = make_envs(options.game, False, options.eval_episodes, EVAL_SEED + options.seed)
    returns, lengths = evaluate_policy(
        model, env, options.eval_episodes, deterministic=True, return_episode_rewards=True
    )
    return {"decision": model.num_timesteps, "returns": returns, "decisions_per_game": lengths}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run one leg."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--leg-seconds", type=float, default=420.0, help="of training; loading and saving come on top")
    parser.add_argument("--eval-episodes", type=int, default=N_EPISODES)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the entry of the hyperparameters")
    parser.add_argument("--folder", type=Path, help="of the checkpoint; runs/<game>-<seed> if not given")
    parser.add_argument("--results", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    options.folder = options.folder or Path("runs") / f"{options.game}-{options.seed}"
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.results / options.game / f"seed-{options.seed}.json"
    record = json.loads(path.read_text()) if path.exists() and (options.folder / "model.zip").exists() else {}
    if not record:
        record = {
            **new_record("atari_100k", "torch", "numpy", "numba", "ale_py"),
            "game": options.game,
            "seed": options.seed,
            "settings": options.settings,
        }
    if "evaluation" in record:
        print(f"{path} has its evaluation; remove {options.folder} to begin again")
        return
    before = len(record.get("legs", []))
    model = train_leg(options, record)
    record["device"] = str(model.device)
    if len(record.get("legs", [])) == before:
        record["evaluation"] = evaluate(options, model)
        print(record["evaluation"]["returns"])
    write_record(path, record)
    print(f"{model.num_timesteps} of {options.decisions} decisions", flush=True)


if __name__ == "__main__":
    main()
