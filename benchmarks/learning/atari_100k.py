"""One game of Atari 100k in legs: each resumes from the checkpoint of the one before.

``python -m benchmarks.learning.atari_100k Pong --seed 0`` trains with the ``atari`` entry of the hyperparameters until
its time is up, saves model and replay buffer in ``--folder``, and says how far it is. Called again it goes on; a leg
that was killed, even while it saved, is made again. At the end of the budget the updates are made up for that random
actions came without, so that there are as many as decisions; the next call plays full games with the deterministic
policy and ends the run. The record with the legs, the training returns and the evaluation is
``benchmarks/results/atari_100k/<game>/seed-<n>.json``, which ``python -m benchmarks.learning.atari_table`` reads.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from benchmarks.learning.atari_table import FOLDER
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
    legs = record["legs"]
    if legs:
        checkpoint = checkpoint_of(options, record)
        model = EfficientZeroV2.load(checkpoint / "model.zip", env=env, device=options.device)
        model.load_replay_buffer(checkpoint / "replay_buffer.pkl")
        model.set_random_seed(options.seed + 1_000 * len(legs))  # or every leg would draw what the first drew
    else:
        settings = settings_of_the_zoo() | options.settings
        model = EfficientZeroV2("CnnPolicy", env, seed=options.seed, device=options.device, **settings)
    first, began = model.num_timesteps, time.perf_counter()
    left = options.decisions - first
    if left > 0:
        model.learn(left, callback=Leg(options.leg_seconds, record), reset_num_timesteps=False, log_interval=10**9)
        if model.num_timesteps >= options.decisions:
            model.train(max(options.decisions - model._n_updates, 0))
        legs.append({"from": first, "to": model.num_timesteps, "seconds": time.perf_counter() - began})
        checkpoint = checkpoint_of(options, record)
        checkpoint.mkdir(parents=True, exist_ok=True)
        model.save(checkpoint / "model.zip")
        model.save_replay_buffer(checkpoint / "replay_buffer.pkl")
    return model


def checkpoint_of(options: argparse.Namespace, record: dict[str, Any]) -> Path:
    """Folder of the checkpoint that the latest leg left; it counts as soon as the record names the leg."""
    return Path(options.folder) / f"leg-{len(record['legs'])}"


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
    path = options.results / options.game / f"seed-{options.seed}.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if not record or not checkpoint_of(options, record).exists():
        record = {
            **new_record("torch", "numpy", "numba", "ale_py"),
            "game": options.game,
            "seed": options.seed,
            "settings": options.settings,
            "legs": [],
        }
    if "evaluation" in record:
        print(f"{path} has its evaluation; remove {options.folder} to begin again")
        return
    before = len(record["legs"])
    model = train_leg(options, record)
    record["device"] = str(model.device)
    if len(record["legs"]) == before:
        record["evaluation"] = evaluate(options, model)
        print(record["evaluation"]["returns"])
    write_record(path, record)
    for folder in options.folder.glob("leg-*"):
        if folder != checkpoint_of(options, record):
            shutil.rmtree(folder)
    print(f"{model.num_timesteps} of {options.decisions} decisions", flush=True)


if __name__ == "__main__":
    main()
