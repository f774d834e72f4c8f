"""What a step of the plain call costs from images of several sizes, beside the bare time of its network.

``python -m benchmarks.speed.image_cost`` prints a table and writes ``benchmarks/results/image_cost.json``. Every row is
``EfficientZeroV2("CnnPolicy", env)``, with 5,000 states stored: seconds of a step (environment,
acting, reanalysis, update; nothing is evaluated), of the clock and of the processor, their shares, and what the network
alone takes for the same step in torch (of the processor): loss, gradient and optimiser step of a batch that lies ready,
and the inferences of as many searches as the step made. One thread. The last row is ``MlpPolicy`` with eight numbers.
The load of the machine before and after is stored, too: figures of a busy machine are too large.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.end_to_end import Stopwatch, note_searched_fractions
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.learning.losses import TensorBatch, unroll_loss

RESULT = RESULTS / "image_cost.json"
N_RANDOM, N_STORED, N_STEPS = 4_560, 5_000, 150
"""Updates begin so early that value targets are those of searches when the clocks start, as in any run by then."""
N_ACTIONS, EPISODE = 6, 100
MOST_SECONDS = {(10, 10, 4): 0.03, (36, 36, 1): 0.08, (36, 36, 3): 0.08, (84, 84, 4): 0.3}
"""What was asked for, by shape."""
SHAPES: tuple[tuple[int, ...], ...] = (
    (7, 7, 3),
    (10, 10, 4),
    (32, 32, 1),
    (36, 36, 1),
    (36, 36, 3),
    (64, 64, 4),
    (84, 84, 4),
    (8,),
)


class Noise(gym.Env):
    """Random images or vectors, some rewards, episodes of 100 steps; what is seen does not change what a step costs.

    :param shape: of an image
    """

    action_space = spaces.Discrete(N_ACTIONS)

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8 if len(shape) > 1 else np.float32)
        self.n_steps = 0

    def _image(self) -> np.ndarray:
        assert self.observation_space.shape is not None
        drawn = self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)
        return drawn.astype(self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.n_steps = 0
        return self._image(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Show the next image."""
        self.n_steps += 1
        return self._image(), float(self.np_random.random() < 0.1), self.n_steps >= EPISODE, False, {}


class Count(BaseCallback):
    """Start the clocks when the updates are warm.

    :param watch: cleared then
    :param searched: fractions, cleared then
    """

    def __init__(self, watch: Stopwatch, searched: list[float]) -> None:
        super().__init__()
        self.watch, self.searched = watch, searched
        self.began = self.processor_began = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps == N_STORED:
            self.watch.clear()
            self.searched.clear()
            self.began, self.processor_began = time.perf_counter(), time.process_time()
        return True


def smallest_time(function: Callable[[], Any], repeats: int = 8) -> float:
    """Seconds of the processor for a call, the smallest of several."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return min(times)


def bare_update(model: EfficientZeroV2, batches: list[TensorBatch]) -> float:
    """Seconds of the loss, its gradient and the optimiser's step."""
    copies = model.policy.copies
    coefficients = model.arguments.losses.update_settings().coefficients

    def once() -> None:
        loss = unroll_loss(copies.model, batches[0], coefficients, False, copies.generator).total
        copies.optimizer.zero_grad()
        loss.backward()
        copies.optimizer.step()

    return smallest_time(once)


@th.no_grad()
def bare_searches(model: EfficientZeroV2, n: int) -> float:
    """Seconds of all inferences of ``n`` searches, in torch."""
    network, n = model.policy.target_model, max(n, 1)
    observations, _ = model.policy.obs_to_tensor(model.replay_buffer.observations_at(np.arange(n))["observation"])
    actions = th.zeros(n, dtype=th.long)

    def once() -> None:
        output = network.initial_inference({"observation": observations})
        for _ in range(model.n_simulations):
            output = network.recurrent_inference(output.latents, actions, output.memories)

    return smallest_time(once, 3)


def measure(shape: tuple[int, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """One row."""
    given = {"learning_starts": N_RANDOM, "device": "cpu", "seed": 0} | settings
    model = EfficientZeroV2("CnnPolicy" if len(shape) > 1 else "MlpPolicy", Noise(shape), **given)
    watch, searched = Stopwatch(), note_searched_fractions(model.reanalyzer)
    callback = Count(watch, searched)
    for name, owner, method in (
        ("acting", model, "_choose_actions"),
        ("sampling", model.replay_buffer, "sample"),
        ("reanalysis", model.reanalyzer, "targets"),
        ("reanalysis", model.reanalyzer, "prioritise_new"),
        ("train", model, "train"),
    ):
        watch.watch(name, owner, method)
    batches: list[TensorBatch] = []
    updater = model.updater

    def keep(batch: TensorBatch, how: Any) -> Any:
        batches[:] = [batch]
        return updater(batch, how)

    model.updater = keep  # type: ignore[assignment]
    model.learn(N_STORED + N_STEPS, callback=callback)
    seconds = (time.perf_counter() - callback.began) / N_STEPS
    processor_seconds = (time.process_time() - callback.processor_began) / N_STEPS
    parts = {name: value / N_STEPS for name, value in watch.seconds.items()}
    parts["update"] = parts.pop("train") - parts["sampling"] - parts["reanalysis"]
    n_searched = float(np.mean(searched)) * model.batch_size * (model.unroll_steps + 1)
    bare = {
        "update": bare_update(model, batches),
        "searches": bare_searches(model, round(n_searched)) + bare_searches(model, 1),
    }
    return {
        "shape": shape,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "asked": MOST_SECONDS.get(shape) if not settings else None,
        "parts": parts,
        "searched_states": n_searched,
        "bare": bare,
        "parameters": sum(parameter.numel() for parameter in model.policy.model.parameters()),
        "settings": settings,
    }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    shape = " x ".join(map(str, row["shape"]))
    parts = ", ".join(f"{name} {1e3 * value:.0f}" for name, value in row["parts"].items())
    asked = "" if row["asked"] is None else f"{1e3 * row['asked']:.0f}"
    bare = sum(row["bare"].values())
    cells = f"{1e3 * row['seconds']:.0f} | {1e3 * row['processor_seconds']:.0f} | {asked} | {1e3 * bare:.0f}"
    return f"| {shape} | {row['parameters']:,} | {cells} | {parts} |"


def main() -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=[], metavar="84x84x4", help="instead of all")
    parser.add_argument("--paper", action="store_true", help="the paper's network instead of the default")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    options = parser.parse_args()
    th.set_num_threads(1)
    settings = {"policy_kwargs": {"net_size": "paper"}} if options.paper else {}
    record = {**new_record("torch", "numpy", "numba"), "load_before": os.getloadavg(), "rows": []}
    print("| image | parameters | ms a step | of the processor | asked | network alone | parts, ms |")
    print("|---|---|---|---|---|---|---|")
    for shape in [tuple(map(int, text.split("x"))) for text in options.shapes] or SHAPES:
        record["rows"].append(measure(shape, settings))
        print(line(record["rows"][-1]), flush=True)
    write_record(options.out, record | {"load_after": os.getloadavg()})


if __name__ == "__main__":
    main()
