"""Pong on a CPU for 10,000 decisions with reduced settings: not to be solved, but to show that everything works.

``python -m benchmarks.learning.pong_cpu`` trains and writes ``benchmarks/results/pong_cpu.json``: decisions a second,
memory and losses every 500 decisions, and the correlation between the values that the network predicts of stored states
and the discounted returns that followed them. Frames have 48 pixels per side, a search 8 simulations, the network an
eighth of the paper's channels, and there is one update of 32 samples for every two decisions.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack

from benchmarks.learning.pixel_tasks import SMALL_IMAGE_NETWORK
from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.memory import peak_bytes
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.tensors import to_tensors
from sb3_ezv2.envs.atari import make_atari

RESULT = RESULTS / "pong_cpu.json"
N_DECISIONS = 10_000
INTERVAL = 500
SETTINGS: dict[str, Any] = {
    "policy_kwargs": SMALL_IMAGE_NETWORK,
    "learning_starts": 1_000,
    "n_simulations": 8,
    "batch_size": 32,
    "train_freq": 2,
    "gradient_steps": 1,
    "gamma": 0.97,
    "td_steps": 10,
}
N_STATES = 2_000
HORIZON = 150
"""Decisions after which a reward counts a hundredth of what it would at once."""


class Watch(BaseCallback):
    """Note losses, memory and speed.

    :param rows: to append to
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__()
        self.rows = rows

    def _on_training_start(self) -> None:
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        if self.num_timesteps % INTERVAL == 0:
            losses = {name: float(x) for name, x in self.logger.name_to_value.items() if name.endswith("loss")}
            seconds = time.perf_counter() - self.began
            self.rows.append(
                {"decision": self.num_timesteps, "seconds": seconds, "peak_mb": peak_bytes() / 2**20, **losses}
            )
            print(self.rows[-1], flush=True)
        return True


def values_and_returns(model: EfficientZeroV2) -> tuple[np.ndarray, np.ndarray]:
    """Predicted values of stored states, and what really followed until the end of the episode or the horizon."""
    buffer, rng = model.replay_buffer, np.random.default_rng(0)
    # A sample reaches as far as there are steps; the weights and the rest of it do not matter here.
    batch = buffer.sample(min(N_STATES, len(buffer)), 1, HORIZON, 0.0, rng)
    whole = (batch.n_ahead > HORIZON) | batch.terminated
    discounted = batch.rewards[:, :HORIZON] * model.gamma ** np.arange(HORIZON)
    slots = batch.slots[whole, 0]
    values = []
    for chunk in np.array_split(slots, max(len(slots) // 256, 1)):
        with th.no_grad():
            observations = to_tensors(buffer.observations_at(chunk, None), model.device)
            values.append(model.policy.average_model.values(observations).cpu().numpy())
    return np.concatenate(values), discounted[whole].sum(axis=1)


def main() -> None:
    """Train, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=N_DECISIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    options = parser.parse_args()
    env = VecFrameStack(
        make_vec_env(lambda: make_atari("Pong", training=True, screen_size=48), 1, seed=options.seed), 4
    )
    record: dict[str, Any] = {**new_record("torch", "numpy", "numba", "ale_py"), "rows": []}
    model = EfficientZeroV2("CnnPolicy", env, seed=options.seed, device="cpu", **SETTINGS)
    model.learn(options.decisions, callback=Watch(record["rows"]), log_interval=10**9)
    values, returns = values_and_returns(model)
    last = record["rows"][-1]
    record["decisions_per_second"] = last["decision"] / last["seconds"]
    record["correlation"] = float(np.corrcoef(values, returns)[0, 1])
    record["n_states"] = len(values)
    record["std"] = {"values": float(values.std()), "returns": float(returns.std())}
    print({name: record[name] for name in ("decisions_per_second", "correlation", "n_states", "std")})
    write_record(options.out, record)


if __name__ == "__main__":
    main()
