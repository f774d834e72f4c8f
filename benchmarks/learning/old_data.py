"""Learning from data that is already there: offline from mixed transitions, and online with a few demonstrations.

``python -m benchmarks.learning.old_data collect`` stores 20,000 transitions of Pendulum, of which 15,000 are of random
actions and 5,000 of SAC while it learns. ``... offline --algo ezv2`` and ``--algo sac`` learn from them alone.
``... demonstrations --share 0.25`` learns MountainCarContinuous with 5 demonstrations, ``--share 0`` without any.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import gymnasium as gym
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from benchmarks.records import RESULTS, new_record, write_record
from sb3_ezv2 import EfficientZeroV2, Episode

PENDULUM, CAR = "Pendulum-v1", "MountainCarContinuous-v0"
N_RANDOM, N_LEARNING = 15_000, 5_000
ARRAYS = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
N_EPISODES, N_DEMONSTRATIONS = 20, 5


def collect(path: Path) -> None:
    """Store the mixed transitions, in the environment's units and in their order."""
    env = gym.make(PENDULUM)
    env.action_space.seed(0)
    rows: list[tuple] = []
    observation, _ = env.reset(seed=0)
    for _ in range(N_RANDOM):
        action = env.action_space.sample()
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, reward, following, terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else following
    learner = SAC("MlpPolicy", PENDULUM, seed=0, device="cpu", learning_starts=100)
    learner.learn(N_LEARNING)
    for episode in _pieces(learner.replay_buffer):
        n = len(episode.rewards)
        for i in range(n):
            last = i == n - 1
            steps = (episode.observations[i], episode.actions[i], episode.rewards[i], episode.observations[i + 1])
            rows.append((*steps, last and episode.terminated, last and not episode.terminated))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, **{name: np.array(part) for name, part in zip(ARRAYS, zip(*rows, strict=True), strict=True)}
    )


def _pieces(buffer: ReplayBuffer | None) -> list[Episode]:
    assert buffer is not None
    n = buffer.size()
    low, high = buffer.action_space.low, buffer.action_space.high  # type: ignore[attr-defined]
    actions = low + 0.5 * (buffer.actions[:n, 0] + 1.0) * (high - low)
    timeouts = buffer.timeouts[:n, 0] > 0
    dones = buffer.dones[:n, 0] > 0
    return Episode.split(
        buffer.observations[:n, 0],
        actions,
        buffer.rewards[:n, 0],
        buffer.next_observations[:n, 0],
        dones & ~timeouts,
        timeouts,
    )


def score(model: Any, env_id: str) -> dict[str, float]:
    """Mean return of greedy episodes, the same beginnings every time."""
    env = make_vec_env(env_id, N_EPISODES, seed=1_000)
    returns = evaluate_policy(model, env, N_EPISODES, deterministic=True, return_episode_rewards=True)[0]
    return {"mean": float(np.mean(returns)), "std": float(np.std(returns))}


def offline(algo: str, path: Path, updates: int, every: int, seed: int) -> dict[str, Any]:
    """Learn from the stored transitions alone."""
    arrays = dict(np.load(path))
    episodes = Episode.split(**{name: arrays[name] for name in ARRAYS})
    env = gym.make(PENDULUM)
    model: Any
    if algo == "ezv2":
        spaces = env.observation_space, env.action_space
        model = EfficientZeroV2.from_data("MlpPolicy", episodes, *spaces, seed=seed, device="cpu")
    else:
        model = SAC("MlpPolicy", env, seed=seed, device="cpu")
        model.set_logger(configure(None, []))
        low, high = env.action_space.low, env.action_space.high  # type: ignore[attr-defined]
        for i in range(len(arrays["rewards"])):
            scaled = 2.0 * (arrays["actions"][i] - low) / (high - low) - 1.0
            model.replay_buffer.add(
                *(arrays["observations"][i], arrays["next_observations"][i], scaled, arrays["rewards"][i]),
                *(arrays["terminations"][i] | arrays["truncations"][i],),
                [{"TimeLimit.truncated": bool(arrays["truncations"][i])}],
            )
    returns = [float(np.sum(episode.rewards)) for episode in episodes]
    found: dict[str, Any] = {
        **{"algo": algo, "seed": seed, "transitions": len(arrays["rewards"]), "episodes": len(episodes)},
        **{"data mean return": float(np.mean(returns)), "data best return": max(returns), "scores": {}},
    }
    begin, scoring = time.perf_counter(), 0.0
    for done in range(every, updates + 1, every):
        if algo == "ezv2":
            model.learn_offline(every, log_interval=None)
        else:
            model.train(every, batch_size=model.batch_size)
        before = time.perf_counter()
        found["scores"][str(done)] = score(model, PENDULUM)
        scoring += time.perf_counter() - before
        print(algo, done, found["scores"][str(done)], flush=True)
    return found | {"seconds per update": (time.perf_counter() - begin - scoring) / updates}


def demonstrations_of_the_car() -> list[Episode]:
    """The car is pushed in the direction in which it rolls."""
    env, episodes = gym.make(CAR), []
    for seed in range(N_DEMONSTRATIONS):
        observation, _ = env.reset(seed=seed)
        observations, actions, rewards, ended = [observation], [], [], False
        while not ended:
            action = np.array([1.0 if observation[1] >= 0.0 else -1.0], np.float32)
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(float(reward))
            ended = terminated or truncated
        episodes.append(Episode(np.array(observations), np.array(actions), np.array(rewards), terminated))
    return episodes


def demonstrations(share: float, steps: int, every: int, seed: int) -> dict[str, Any]:
    """Learn the car with demonstrations that keep a share of every batch, or without any where that is 0."""
    model = EfficientZeroV2("MlpPolicy", CAR, learning_starts=100, seed=seed, device="cpu")
    shown = demonstrations_of_the_car()
    found: dict[str, Any] = {
        **{"seed": seed, "share": share, "demonstrations": len(shown) if share else 0, "scores": {}},
        "demonstrated return": float(np.mean([episode.rewards.sum() for episode in shown])),
    }
    if share:
        model.replay_buffer.add_episodes(shown, share=share)
    begin, scoring = time.perf_counter(), 0.0
    for done in range(every, steps + 1, every):
        model.learn(every, reset_num_timesteps=False, log_interval=None)
        before = time.perf_counter()
        found["scores"][str(done)] = score(model, CAR)
        scoring += time.perf_counter() - before
        print("car", share, done, found["scores"][str(done)], flush=True)
    return found | {"seconds per step": (time.perf_counter() - begin - scoring) / steps}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("collect", "offline", "demonstrations"))
    parser.add_argument("--algo", choices=("ezv2", "sac"), default="ezv2")
    parser.add_argument("--data", type=Path, default=Path("runs/pendulum_mixed.npz"))
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--every", type=int, default=1_000, help="updates or steps between two scores")
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "old_data")
    options = parser.parse_args(arguments)
    if options.part == "collect":
        collect(options.data)
        return
    record = new_record("torch", "numpy", "stable_baselines3", "gymnasium")
    if options.part == "offline":
        found = offline(options.algo, options.data, options.updates, options.every, options.seed)
        name = f"pendulum-{options.algo}-seed-{options.seed}.json"
    else:
        found = demonstrations(options.share, options.steps, options.every, options.seed)
        name = f"car-share-{options.share:g}-seed-{options.seed}.json"
    write_record(options.out / name, record | found)


if __name__ == "__main__":
    main()
