"""What a machine with a GPU must show: equal searches and updates, and the speed of both and of whole runs.

``python -m benchmarks.gpu_checks`` ends after less than nine minutes, whatever happens, and writes
``benchmarks/results/gpu_checks.json`` after every part: searches on the GPU against the compiled ones on the CPU and
whether they are recorded as CUDA graphs, recorded updates against the others, searches against the bare network calls
(made one after the other and recorded), updates with and without mixed precision, for vectors at the paper's setting
and for images of 96 x 96, a run on walker walk with its updates a second (asked: 110), and how busy the GPU is. What
PyTorch could not record or compile is listed under ``warnings``. ``--device cpu --quick`` runs the same code anywhere.
"""

import argparse
import faulthandler
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.cost_growth import Noise
from benchmarks.end_to_end import PAPER
from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.search_cost import OBSERVATION, SETTINGS, proprio_model, take_turns
from benchmarks.tasks import TASKS
from sb3_ezv2 import CnnPolicy, EfficientZeroV2
from sb3_ezv2.common.recording import Recorder
from sb3_ezv2.learning.losses import TensorBatch
from sb3_ezv2.learning.updates import UpdateOutput, Updater, UpdateSettings, update
from sb3_ezv2.planning.device_search import recorded_searches
from sb3_ezv2.planning.planner import Planner

RESULT = RESULTS / "gpu_checks.json"
ASKED_UPDATES_PER_SECOND = 110.0
LIMIT_S = 530
"""The process ends itself after this time."""
PIXELS = spaces.Box(0, 255, (12, 96, 96), np.uint8)


def finished(device: th.device, function: Callable[[], object]) -> Callable[[], None]:
    """The function, and the wait until the GPU has done it."""

    def call() -> None:
        function()
        if device.type == "cuda":
            th.cuda.synchronize(device)

    return call


def equality(device: th.device) -> dict[str, float]:
    """Share of states with the same visits on both devices, and the largest difference of their values."""
    found = {}
    for name, setting in SETTINGS.items():
        model = proprio_model(setting)
        planner = Planner(setting.n_simulations, setting.n_considered, 0.99)
        observations = th.from_numpy(np.random.default_rng(0).normal(size=(256, 24)).astype(np.float32))
        noise = planner.draw_noise(model, 256, np.random.default_rng(1))
        here = planner.plan(model, {"observation": observations}, noise, explore=True)
        there = planner.plan(model.to(device), {"observation": observations.to(device)}, noise, explore=True)
        same = (here.visit_counts == there.visit_counts).all(axis=1)
        found[f"{name}: same visits"] = float(same.mean())
        found[f"{name}: largest difference of values"] = float(
            np.abs(here.root_values - there.root_values)[same].max(initial=0.0)
        )
        recorded = [search.repeat is not None for search in recorded_searches(model)]  # none on the CPU
        found[f"{name}: recorded"] = float(bool(recorded) and all(recorded))
    return found


def update_equality(device: th.device, batch_size: int) -> dict[str, float]:
    """How far recorded updates and others lead away from each other with the same twenty batches."""
    settings = PAPER | {"batch_size": batch_size, "ent_coef": 0.0, "learning_starts": 300}
    models = [EfficientZeroV2("MlpPolicy", Noise(6), seed=0, device=device, **settings).learn(300) for _ in range(2)]
    kept: list[tuple[TensorBatch, UpdateSettings]] = []

    def keep(batch: TensorBatch, update_settings: UpdateSettings) -> UpdateOutput:
        kept.append((batch, update_settings))
        return update(models[0].policy, batch, update_settings)

    models[0].updater = keep  # type: ignore[assignment]
    models[0].train(20)
    models[1]._update_learning_rate(models[1].policy.optimizer)
    models[1]._refresh_target()
    updater = models[1].updater = Updater(models[1].policy.copies, Recorder(device))
    for batch, update_settings in kept:
        updater(batch, update_settings)
    ours, theirs = (th.nn.utils.parameters_to_vector(model.policy.model.parameters()).detach() for model in models)
    return {
        "recorded": float(updater.recorded is not None),
        "largest difference of parameters": float((ours - theirs).abs().max()),
        "largest parameter": float(ours.abs().max()),
    }


def searches(device: th.device, seconds: float) -> dict[str, Any]:
    """Milliseconds of searches and of their network calls alone."""
    found = {}
    for name, setting in SETTINGS.items():
        model = proprio_model(setting).to(device)
        planner = Planner(setting.n_simulations, setting.n_considered, 0.99)
        for n in (256, 1536):
            found[f"{name}, {n} roots"] = _search_and_network(model, planner, OBSERVATION, n, seconds)
    policy = CnnPolicy(PIXELS, spaces.Discrete(6), lambda _: 1e-3, value_prefix=True)
    found["images, 16 simulations, 256 roots"] = _search_and_network(
        policy.average_model.to(device), Planner(16, 4, 0.988), PIXELS, 256, seconds
    )
    return found


def _search_and_network(model: Any, planner: Planner, space: spaces.Box, n: int, seconds: float) -> dict[str, Any]:
    rng, device = np.random.default_rng(0), model.reward_scale.device
    drawn = np.stack([space.sample() for _ in range(n)])
    observations = {"observation": th.from_numpy(drawn).to(device)}
    kind = model.action_kind
    actions = th.from_numpy(np.zeros((n, *kind.shape), kind.dtype)).to(device)

    @th.no_grad()
    def network() -> None:
        output = model.initial_inference(observations)
        for _ in range(planner.n_simulations):
            output = model.recurrent_inference(output.latents, actions, output.memories)

    def search() -> None:
        planner.plan(model, observations, planner.draw_noise(model, n, rng), explore=True)

    recorder = Recorder(device)
    with recorder.beside():
        network()
    kinds = {"search": search, "network": network, "recorded network": recorder.capture(network)}
    times = take_turns({name: finished(device, function) for name, function in kinds.items()}, seconds)
    ratios = {f"over {kind}": times["search"]["median"] / times[kind]["median"] for kind in kinds if kind != "search"}
    return {"milliseconds": times, **ratios}


class Pictures(gym.Env):
    """Random pictures."""

    observation_space = PIXELS
    action_space = spaces.Discrete(6)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        self.step_number = 0
        return self.np_random.integers(0, 256, PIXELS.shape, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Whatever the action; truncated after 100 steps."""
        self.step_number += 1
        picture = self.np_random.integers(0, 256, PIXELS.shape, np.uint8)
        return picture, float(self.np_random.uniform()), False, self.step_number == 100, {}


def updates(device: th.device, seconds: float, batch_size: int) -> dict[str, Any]:
    """Milliseconds of an update with its targets, in full and in mixed precision."""
    found = {}
    for name, policy, env in (("vectors", "MlpPolicy", Noise(6)), ("images", "CnnPolicy", Pictures())):
        settings = dict(PAPER) | {"batch_size": batch_size} if policy == "MlpPolicy" else {"batch_size": batch_size}
        for mixed_precision in (False, True):
            model = EfficientZeroV2(
                policy, env, seed=0, device=device, learning_starts=400, mixed_precision=mixed_precision, **settings
            ).learn(400)
            times = take_turns({"update": finished(device, lambda model=model: model.train(1))}, seconds)["update"]
            found[f"{name}, {'mixed' if mixed_precision else 'full'} precision"] = times
    return found


class Deadline(BaseCallback):
    """Ends training when its time is up; counts from an update on when everything has been compiled and recorded.

    :param seconds: of training
    :param after: updates that do not count
    """

    def __init__(self, seconds: float, after: int) -> None:
        super().__init__()
        self.seconds = seconds
        self.after = after
        self.began = 0.0

    def _on_step(self) -> bool:
        if self.began == 0.0 and self.model._n_updates >= self.after:  # type: ignore[attr-defined]
            self.began, self.first = time.perf_counter(), self.num_timesteps
        self.passed = time.perf_counter() - self.began if self.began else 0.0
        return self.passed < self.seconds


def whole_run(device: th.device, seconds: float, batch_size: int, after: int) -> dict[str, float]:
    """Updates a second at the paper's setting, acting and reanalysis included, one update for every decision."""
    try:
        env: gym.Env = TASKS["walker-walk"].make_env()
    except ImportError:
        env = Noise(6)
    found = {}
    for mixed_precision in (False, True):
        settings = PAPER | {"batch_size": batch_size, "mixed_precision": mixed_precision}
        model = EfficientZeroV2("MlpPolicy", env, seed=0, device=device, learning_starts=300, **settings)
        deadline = Deadline(seconds, after)
        with utilisation() as busy:
            model.learn(1_000_000, callback=deadline, log_interval=10**9)
        name = "mixed" if mixed_precision else "full"
        found[f"updates a second, {name} precision"] = (model.num_timesteps - deadline.first) / deadline.passed
        found[f"utilisation of the GPU, {name} precision, %"] = float(np.mean(busy)) if busy else float("nan")
    return found


@contextmanager
def utilisation() -> Iterator[list[float]]:
    """Percentages that ``nvidia-smi`` reports once a second, empty where there is none."""
    found: list[float] = []
    done = threading.Event()

    def watch() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not done.wait(1.0):
            try:
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            except (OSError, subprocess.CalledProcessError):
                return
            found.append(float(said.splitlines()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


def main() -> None:
    """Check, print and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a second for everything and small batches")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not th.cuda.is_available():
        sys.exit("there is no CUDA device; --device cpu --quick runs the same code on the CPU")
    device = th.device(options.device)
    seconds, batch_size, after = (0.5, 16, 5) if options.quick else (8.0, 256, 420)
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    record: dict[str, Any] = new_record("gpu_checks", "torch", "numpy", "numba")
    record["device"] = th.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    for name, check in (
        ("equality", lambda: equality(device)),
        ("equality of updates", lambda: update_equality(device, batch_size)),
        ("run", lambda: whole_run(device, 6 * seconds, batch_size, after)),
        ("searches", lambda: searches(device, seconds)),
        ("updates", lambda: updates(device, seconds, batch_size)),
    ):
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            record[name] = check()
        record[name]["seconds"] = time.perf_counter() - began
        record.setdefault("warnings", []).extend(str(each.message) for each in caught if "slower" in str(each.message))
        print(name, *(f"  {key}: {value}" for key, value in record[name].items()), sep="\n", flush=True)
        write_record(options.out, record)
    best = max(value for key, value in record["run"].items() if key.startswith("updates"))
    print(f"{best:.1f} updates a second; asked: {ASKED_UPDATES_PER_SECOND:g}")


if __name__ == "__main__":
    main()
