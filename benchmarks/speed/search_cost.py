"""What a search costs: the tree alone, and a whole search against the bare network calls in torch.

``python -m benchmarks.speed.search_cost`` prints a table and writes ``benchmarks/results/search_cost.json``. The
measurements that are compared take turns, so that whatever else the machine does meets all of them, and the smallest
and the median time of each are kept. One thread throughout: ``OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1``. ``--mctx`` adds
the compiled search of mctx with the same network (the extra ``benchmarks``; with
``XLA_FLAGS=--xla_cpu_multi_thread_eigen=false`` it has one thread, too). Images are Atari's, with the paper's network
and its value prefix.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from benchmarks.records import RESULTS, new_record, write_record
from sb3_ezv2.common.tensors import torch_threads
from sb3_ezv2.common.type_aliases import Expansion, SearchRoot, SearchSettings
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.planner import Planner
from sb3_ezv2.policies import CnnPolicy, MlpPolicy
from sb3_ezv2.search import search

RESULT = RESULTS / "search_cost.json"
OBSERVATION = spaces.Box(-1.0, 1.0, (24,))
PROPRIO_NETWORK = {"latent_dim": 128, "hidden_dim": 256, "n_blocks": 2, "projection_dim": 512}
"""Sizes of the paper's network for vectors."""


IMAGES = spaces.Box(0, 255, (12, 96, 96), np.uint8)


class Setting(NamedTuple):
    """A kind of search."""

    action_space: spaces.Space
    n_simulations: int
    n_candidates: int
    n_considered: int
    n_children: int


SETTINGS = {
    "discrete, 16 simulations": Setting(spaces.Discrete(6), 16, 6, 4, 6),
    "continuous, 32 simulations": Setting(spaces.Box(-1.0, 1.0, (6,)), 32, 16, 16, 2),
}


def take_turns(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, float]]:
    """Call all functions in turn for about ``seconds``, at least five times, after one round that does not count.

    :return: smallest and median milliseconds of each
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or len(next(iter(times.values()))) < 5:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"min": min(each), "median": statistics.median(each)} for name, each in times.items()}


def tree_alone(setting: Setting, n_roots: int, seconds: float) -> dict[str, float]:
    """Microseconds per root and simulation with a model whose answers lie ready."""
    rng = np.random.default_rng(0)
    continuous = isinstance(setting.action_space, spaces.Box)

    def logits(n_actions: int) -> np.ndarray:
        return (0.0 if continuous else 1.0) * rng.normal(size=(n_roots, n_actions)).astype(np.float32)

    root = SearchRoot(rng.normal(size=n_roots).astype(np.float32), logits(setting.n_candidates))
    gumbel = logits(setting.n_candidates)
    answers = [
        Expansion(*rng.normal(size=(2, n_roots)).astype(np.float32), logits(setting.n_children))
        for _ in range(setting.n_simulations)
    ]
    settings = SearchSettings(setting.n_simulations, setting.n_considered, 0.99)

    def run() -> None:
        search(root, lambda node, parents, edges: answers[node - 1], gumbel, setting.n_children, settings)

    found = take_turns({"tree": run}, seconds)["tree"]
    return {name: 1e3 * each / (n_roots * setting.n_simulations) for name, each in found.items()}


def proprio_model(setting: Setting) -> EfficientZeroModel:
    """The paper's network for vectors, with random output layers so that trees differ."""
    th.manual_seed(0)
    model = MlpPolicy(OBSERVATION, setting.action_space, lambda _: 1e-3, **PROPRIO_NETWORK).model  # type: ignore[arg-type]
    with th.no_grad():
        for output in model.heads.outputs:
            output.weight.normal_(std=0.05)
    return model


def image_search(n_roots: int, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a search from images and of its network calls alone."""
    th.manual_seed(0)
    model = CnnPolicy(IMAGES, spaces.Discrete(6), lambda _: 1e-3, net_size="paper", value_prefix=True).average_model
    with th.no_grad():
        for output in model.heads.outputs:
            if isinstance(output, th.nn.Linear):
                output.weight.normal_(std=0.05)
    planner, rng = Planner(16, 4, 0.988), np.random.default_rng(0)
    pixels = rng.integers(256, size=(n_roots, *IMAGES.shape), dtype=np.uint8)
    observations = {"observation": th.from_numpy(pixels)}
    actions = th.from_numpy(rng.integers(6, size=n_roots))

    @th.no_grad()
    def network() -> None:
        output = model.initial_inference(observations)
        for _ in range(planner.n_simulations):
            output = model.recurrent_inference(output.latents, actions, output.memories)

    def plan() -> None:
        planner.plan(model, observations, planner.draw_noise(model, n_roots, rng), explore=True)

    return take_turns({"search": plan, "network": network}, seconds)


def whole_search(setting: Setting, n_roots: int, seconds: float, with_mctx: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of a search, of the network calls alone, which torch makes one after the other, and of mctx."""
    model = proprio_model(setting)
    planner = Planner(setting.n_simulations, setting.n_considered, 0.99)
    rng = np.random.default_rng(0)
    observations = {"observation": th.from_numpy(rng.normal(size=(n_roots, 24)).astype(np.float32))}
    if isinstance(setting.action_space, spaces.Discrete):
        actions = th.from_numpy(rng.integers(setting.n_candidates, size=n_roots))
    else:
        actions = th.from_numpy(rng.uniform(-1, 1, (n_roots, 6)).astype(np.float32))

    @th.no_grad()
    def network() -> None:
        latents = model.initial_inference(observations).latents
        for _ in range(setting.n_simulations):
            latents = model.recurrent_inference(latents, actions).latents

    def plan() -> None:
        planner.plan(model, observations, planner.draw_noise(model, n_roots, rng), explore=True)

    rivals: dict[str, Callable[[], object]] = {}
    if with_mctx:
        from benchmarks.speed.mctx_search import MctxPlanner  # needs JAX

        other = MctxPlanner(model, setting.n_simulations, setting.n_considered, 0.99)
        noise = planner.draw_noise(model, n_roots, rng)
        rivals["mctx"] = lambda: other.plan(observations["observation"].numpy(), noise)
    return take_turns({"search": plan, "network": network, **rivals}, seconds)


def report(record: dict[str, Any], name: str, n_roots: int, found: dict[str, dict[str, float]]) -> None:
    """Print one row of the table of whole searches and keep it."""
    ratio = found["search"]["min"] / found["network"]["min"]
    record["search"].append({"setting": name, "roots": n_roots, "milliseconds": found, "ratio": ratio})
    numbers = f"{found['search']['min']:>8.2f} {found['network']['min']:>8.2f} {ratio:>8.2f}"
    numbers += f" {found['mctx']['min']:>8.2f}" if "mctx" in found else ""
    print(f"{name:<44} {n_roots:>5} {numbers}", flush=True)


def main() -> None:
    """Measure, print and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row of the table")
    parser.add_argument("--mctx", action="store_true", help="measure mctx too")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        **new_record("torch", "numpy", "numba"),
        "tree": [],
        "search": [],
    }
    with torch_threads(1):
        print("tree alone, us per root and simulation       roots      min   median")
        for name, setting in SETTINGS.items():
            for n_roots in (256, 1536):
                tree = tree_alone(setting, n_roots, arguments.seconds)
                record["tree"].append({"setting": name, "roots": n_roots, "microseconds": tree})
                print(f"{name:<44} {n_roots:>5} {tree['min']:>8.3f} {tree['median']:>8.3f}", flush=True)
        print("whole search, ms (min)                       roots   search  network    ratio     mctx")
        for name, setting in SETTINGS.items():
            for n_roots in (1, 256, 1536):
                found = whole_search(setting, n_roots, arguments.seconds, arguments.mctx)
                report(record, name, n_roots, found)
        report(record, "images, 16 simulations", 256, image_search(256, arguments.seconds))
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
