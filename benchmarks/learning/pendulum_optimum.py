"""The best return of Pendulum-v1 from the very states that a stored run was evaluated from.

Mean returns of 20 episodes depend on where these start: the best possible one lies between -111 and -159 in the stored
runs. ``python -m benchmarks.learning.pendulum_optimum`` prints the evaluated returns beside it. The optimum comes from
dynamic programming on a grid of states; what is printed is what its policy really collects, so it can be reached.
"""

import argparse
import json
from pathlib import Path

import gymnasium as gym
import numba as nb
import numpy as np

from benchmarks.learning.training import EVAL_SEED, N_EPISODES
from benchmarks.records import RESULTS

N_STEPS = 200
N_ANGLES, N_SPEEDS, N_TORQUES = 401, 401, 41
MAX_SPEED, MAX_TORQUE, GRAVITY, TIME_STEP = 8.0, 2.0, 10.0, 0.05


@nb.njit(cache=True)
def step(angle: float, speed: float, torque: float) -> tuple[float, float, float]:
    """Next angle in [-pi, pi), next speed and cost, as in Gymnasium's environment."""
    cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
    speed = min(max(speed + (1.5 * GRAVITY * np.sin(angle) + 3.0 * torque) * TIME_STEP, -MAX_SPEED), MAX_SPEED)
    return (angle + speed * TIME_STEP + np.pi) % (2.0 * np.pi) - np.pi, speed, cost


@nb.njit(cache=True)
def interpolate(values: np.ndarray, angle: float, speed: float) -> float:
    """Value between the points of the grid ``[N_ANGLES, N_SPEEDS]``; angles are cyclic."""
    x = (angle + np.pi) / (2.0 * np.pi) * N_ANGLES
    y = (speed + MAX_SPEED) / (2.0 * MAX_SPEED) * (N_SPEEDS - 1)
    i, j = int(x) % N_ANGLES, min(int(y), N_SPEEDS - 2)
    fx, fy, after = x - int(x), y - j, (i + 1) % N_ANGLES
    before = (1.0 - fy) * values[i, j] + fy * values[i, j + 1]
    return (1.0 - fx) * before + fx * ((1.0 - fy) * values[after, j] + fy * values[after, j + 1])


@nb.njit(cache=True)
def best_torque(values: np.ndarray, angle: float, speed: float) -> tuple[float, float]:
    """Torque with the largest sum of reward and next value, and that sum."""
    best, chosen = -np.inf, 0.0
    for k in range(N_TORQUES):
        torque = MAX_TORQUE * (2.0 * k / (N_TORQUES - 1) - 1.0)
        next_angle, next_speed, cost = step(angle, speed, torque)
        total = interpolate(values, next_angle, next_speed) - cost
        if total > best:
            best, chosen = total, torque
    return chosen, best


@nb.njit(cache=True)
def value_iteration() -> np.ndarray:
    """Undiscounted values ``[N_STEPS + 1, N_ANGLES, N_SPEEDS]`` by the number of steps that are left."""
    values = np.zeros((N_STEPS + 1, N_ANGLES, N_SPEEDS), np.float32)
    for left in range(1, N_STEPS + 1):
        for i in range(N_ANGLES):
            angle = 2.0 * np.pi * i / N_ANGLES - np.pi
            for j in range(N_SPEEDS):
                speed = 2.0 * MAX_SPEED * j / (N_SPEEDS - 1) - MAX_SPEED
                values[left, i, j] = best_torque(values[left - 1], angle, speed)[1]
    return values


def evaluated_starts(seed: int, n_evaluations: int) -> list[list[np.ndarray]]:
    """Observations that the evaluations of a run began with.

    Every environment plays one episode an evaluation and is reset both before and after it.
    """
    envs = [gym.make("Pendulum-v1") for _ in range(N_EPISODES)]
    starts = [[env.reset(seed=EVAL_SEED + seed + i)[0] for i, env in enumerate(envs)]]
    for _ in range(n_evaluations - 1):
        for env in envs:
            env.reset()
        starts.append([env.reset()[0] for env in envs])
    return starts


def best_return(values: np.ndarray, observation: np.ndarray) -> float:
    """Return of the grid's policy from the state of an observation."""
    angle, speed = float(np.arctan2(observation[1], observation[0])), float(observation[2])
    total = 0.0
    for left in range(N_STEPS, 0, -1):
        torque, _ = best_torque(values[left - 1], angle, speed)
        angle, speed, cost = step(angle, speed, torque)
        total -= cost
    return total


def main() -> None:
    """Print a table of all stored runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS / "learning")
    folder = parser.parse_args().results / "Pendulum-v1"
    values = value_iteration()
    print("| seed | step | mean return | best possible | shortfall |\n|---|---|---|---|---|")
    for path in sorted(folder.glob("seed-*.json")):
        run = json.loads(path.read_text())
        starts = evaluated_starts(run["seed"], len(run["evaluations"]))
        for evaluation, observations in zip(run["evaluations"], starts, strict=True):
            best = np.mean([best_return(values, observation) for observation in observations])
            mean = evaluation["mean_return"]
            print(f"| {run['seed']} | {evaluation['step']:,} | {mean:.1f} | {best:.1f} | {best - mean:.1f} |")


if __name__ == "__main__":
    main()
