"""What lies behind a truncation, and what first random actions leave behind: two environments with known values.

``python -m benchmarks.learning.ends [--seeds 0 1 2] [--steps 2500] [--jobs 2]`` trains the plain algorithm on both,
with discrete and with continuous actions, and counts the runs that are right. Each run is a process with one thread, as
those of the suite are, and is paused and resumed with them.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from benchmarks.learning.jobs import run_all
from sb3_ezv2 import EfficientZeroV2

TOLERANCE = 0.25
"""Of values."""


class TwoChoices(gym.Env):
    """An environment with two choices, as actions 0 and 1 or as negative and positive numbers.

    :param continuous: whether actions are numbers from -1 to 1
    :param n_states: states, which are seen one-hot
    """

    def __init__(self, continuous: bool, n_states: int) -> None:
        self.action_space = spaces.Box(-1.0, 1.0, (1,)) if continuous else spaces.Discrete(2)
        self.observation_space = spaces.Box(0.0, 1.0, (n_states,), np.float32)
        self.continuous = continuous
        self.state = 0

    def observation(self) -> np.ndarray:
        """The state, one-hot ``[n_states]``."""
        return np.eye(self.observation_space.shape[0], dtype=np.float32)[self.state]  # type: ignore[index]

    def choice(self, action: Any) -> int:
        """0 or 1."""
        return int(np.asarray(action).reshape(-1)[0] > 0.0) if self.continuous else int(action)


class Door(TwoChoices):
    """Episodes of one step: take 1.5 and end, or open the door, get nothing and be interrupted in the room behind it.

    Every other episode begins in that room, where 5 are paid. So the room is worth 5 and the door is better.
    """

    START, ROOM = range(2)

    def __init__(self, continuous: bool = False) -> None:
        super().__init__(continuous, 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin in one of the two states."""
        super().reset(seed=seed)
        self.state = int(self.np_random.integers(2))
        return self.observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Choice 1 is the door."""
        if self.state == self.ROOM:
            return self.observation(), 5.0, True, False, {}
        if self.choice(action) == 0:
            return self.observation(), 1.5, True, False, {}
        self.state = self.ROOM
        return self.observation(), 0.0, False, True, {}


class Falls(TwoChoices):
    """Take 0.6 at once, or go through a corridor of five states, each with a fall, to 1 at its end.

    Random actions fall on the way 31 times of 32, so what followed them says nothing of what the corridor is worth.
    """

    LENGTH = 5

    def __init__(self, continuous: bool = False) -> None:
        super().__init__(continuous, self.LENGTH + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin in front of the corridor."""
        super().reset(seed=seed)
        self.state = 0
        return self.observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """In front of the corridor, choice 1 takes 0.6; inside it falls."""
        if self.choice(action) == 1:
            return self.observation(), 0.6 if self.state == 0 else 0.0, True, False, {}
        if self.state == self.LENGTH:
            return self.observation(), 1.0, True, False, {}
        self.state += 1
        return self.observation(), 0.0, False, False, {}


def imagined_value(model: EfficientZeroV2, env: TwoChoices, choice: int) -> float:
    """The network's value of the state that it imagines behind ``choice`` in the first state."""
    env.state = 0
    network = model.policy.average_model
    action = th.tensor([[2.0 * choice - 1.0]]) if env.continuous else th.tensor([choice])
    with th.no_grad():
        root = network.initial_inference({"observation": th.as_tensor(env.observation())[None]})
        return float(network.recurrent_inference(root.latents, 0.9 * action if env.continuous else action).values)


def train(kind: str, continuous: bool, seed: int, steps: int) -> dict[str, Any]:
    """Train and say whether the greedy choices and the values are right."""
    env = {"door": Door, "falls": Falls}[kind](continuous)
    model = EfficientZeroV2("MlpPolicy", env, learning_starts=min(400, steps // 2), seed=seed, device="cpu")
    model.learn(steps)
    found: dict[str, Any] = {"environment": kind, "continuous": continuous, "seed": seed, "steps": steps}
    if kind == "door":
        env.state = Door.START
        chosen = env.choice(model.predict(env.observation(), deterministic=True)[0])
        value = imagined_value(model, env, 1)
        found |= {"takes the door": chosen == 1, "value behind the door": round(value, 3)}
        return found | {"right": chosen == 1 and abs(value - 5.0) <= TOLERANCE}
    observation, total, ended = env.reset()[0], 0.0, False
    while not ended:
        observation, reward, ended, _, _ = env.step(model.predict(observation, deterministic=True)[0])
        total += reward
    states = th.eye(Falls.LENGTH + 1)[1:]
    with th.no_grad():
        values = model.policy.average_model.values({"observation": states}).tolist()
    return found | {"return": total, "values": [round(value, 2) for value in values], "right": total == 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2_500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "ACTIONS"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        kind, actions = options.one
        print(json.dumps(train(kind, actions == "continuous", options.seeds[0], options.steps)))
        return
    n_right = 0
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            Path(folder, f"{kind}-{actions}-{seed}"): [
                *("-m", "benchmarks.learning.ends", "--one", kind, actions),
                *("--seeds", str(seed), "--steps", str(options.steps)),
            ]
            for kind in ("door", "falls")
            for actions in ("discrete", "continuous")
            for seed in options.seeds
        }
        for log, code in run_all(commands, options.jobs):
            last = log.read_text(encoding="utf-8").splitlines()[-1]
            print(last, flush=True)
            n_right += code == 0 and json.loads(last)["right"]
    print(f"{n_right} of {len(commands)} are right")


if __name__ == "__main__":
    main()
