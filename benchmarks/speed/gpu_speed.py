"""Milliseconds of searches, updates and training steps on a GPU; see :mod:`benchmarks.speed.gpu_checks`."""

import cProfile
import io
import pstats
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.learning.tasks import TASKS
from benchmarks.learning.training import make_envs
from benchmarks.speed.end_to_end import PAPER, Stopwatch
from benchmarks.speed.gpu_correctness import (
    KINDS,
    Kind,
    as_on_a_gpu,
    env_of,
    forget_compiled,
    new_network,
    observations_of,
)
from benchmarks.speed.gpu_parts import Circumstances, Findings, utilisation
from benchmarks.speed.gpu_variants import (
    IMAGE_VARIANTS,
    USUAL,
    VARIANTS,
    Variant,
    best_of,
    computed_by,
    differences,
    evaluations_by,
    updates_by,
    use,
)
from benchmarks.speed.search_cost import take_turns
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.recording import Recorder
from sb3_ezv2.common.type_aliases import SearchSettings
from sb3_ezv2.learning.losses import TensorBatch
from sb3_ezv2.learning.updates import UpdateOutput, UpdateSettings, update
from sb3_ezv2.networks.model import EfficientZeroModel, ImageModel
from sb3_ezv2.planning.device_search import Operations, SearchInputs, recorded_searches, search_in_tensors
from sb3_ezv2.planning.planner import Planner
from sb3_ezv2.planning.tensor_search import TreeOperations, back_up_tensors, select_tensors
from sb3_ezv2.planning.torch_nodes import evaluate_nodes, noise_on_device

VECTORS, PICTURES = KINDS["vectors, continuous"], KINDS["images, discrete, value prefix"]
ATARI: dict[str, Any] = {
    "batch_size": 256,
    "n_simulations": 16,
    "gamma": 0.988,
    "td_steps": 5,
    "target_update_interval": 200,
    "consistency_coef": 5.0,
    "policy_kwargs": {"net_size": "paper", "value_prefix": True},
}
"""What the ``atari`` entry of the hyperparameters says of the work of an update."""
ASKED_UPDATES_PER_SECOND, ASKED_IMAGE_UPDATE_MS = 110.0, 18.0
MODES = ("default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")
DECISIONS = 100_000
SETTLED = 210
"""Updates after which everything has been compiled and recorded; a target network is searched from for 200 of them, and
that is where most sizes of searches occur for the first time."""
SETTLED_AGAIN = 10
"""Updates that do not count when a model goes on in another way."""


def finished(device: th.device, function: Callable[[], object]) -> Callable[[], None]:
    """The function, and the wait until the GPU has done it."""

    def call() -> None:
        function()
        if device.type == "cuda":
            th.cuda.synchronize(device)

    return call


def milliseconds(given: Circumstances, functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median of each function, the wait for the GPU included; they take turns."""
    waiting = {name: finished(given.device, function) for name, function in functions.items()}
    return {name: times["median"] for name, times in take_turns(waiting, given.seconds).items()}


def planner_of(kind: Kind, quick: bool) -> Planner:
    """The paper's search."""
    if kind.images:
        return Planner(4 if quick else 16, 4, 0.988)
    return Planner(4 if quick else 32, 4 if quick else 16, 0.99)


# -- searches ----------------------------------------------------------------------------------------------------------


def network_calls(model: EfficientZeroModel, kind: Kind, n: int, n_simulations: int) -> Callable[[], None]:
    """What a search asks of the network, and nothing else."""
    device = model.reward_scale.device
    observations = {"observation": observations_of(kind, n, np.random.default_rng(0)).to(device)}
    discrete = kind.images
    actions = th.zeros(n, dtype=th.int64, device=device) if discrete else th.zeros(n, 6, device=device)

    @th.no_grad()
    def call() -> None:
        output = model.initial_inference(observations)
        for _ in range(n_simulations):
            output = model.recurrent_inference(output.latents, actions, output.memories)

    return call


def searches(kind: Kind, given: Circumstances, sizes: tuple[int, ...]) -> dict[str, Any]:
    """The program's own search, its first call, and the network's time alone, recorded too."""
    model, planner, device = (
        new_network(kind, given.quick).to(given.device),
        planner_of(kind, given.quick),
        given.device,
    )
    recorder, rng, found = Recorder(given.device), np.random.default_rng(0), {}
    for n in sizes:
        observations = {"observation": observations_of(kind, n, np.random.default_rng(0)).to(device)}

        def plan(n: int = n, observations: dict[str, th.Tensor] = observations) -> None:
            with as_on_a_gpu():
                planner.plan(model, observations, planner.draw_noise(model, n, rng), explore=True)

        began = time.perf_counter()
        plan()
        found[f"{n}: first call, s"] = time.perf_counter() - began
        network = network_calls(model, kind, n, planner.n_simulations)
        with recorder.beside():
            network()
        times = milliseconds(given, {"search": plan, "network": network, "recorded network": recorder.capture(network)})
        found |= {f"{n}: {name}, ms": value for name, value in times.items()}
        found[f"{n}: network's share"] = times["recorded network"] / times["search"]
    found["recorded"] = all(search.repeat is not None for search in recorded_searches(model))
    return found


def static_search(kind: Kind, given: Circumstances, n: int) -> Callable[[Operations], Callable[[], th.Tensor]]:
    """Searches of the same states by given operations, nothing copied and nothing recorded."""
    model, planner = new_network(kind, given.quick).to(given.device), planner_of(kind, given.quick)
    noise = noise_on_device(planner._draw(model, n, np.random.default_rng(0)), given.device)
    inputs = SearchInputs({"observation": observations_of(kind, n, np.random.default_rng(0)).to(given.device)}, noise)
    settings = SearchSettings(planner.n_simulations, planner.n_considered, planner.discount)

    def by(operations: Operations) -> Callable[[], th.Tensor]:
        @th.no_grad()
        def search() -> th.Tensor:
            if given.device.type == "cuda":
                th.compiler.cudagraph_mark_step_begin()  # results of the search before may be overwritten
            return search_in_tensors(model, inputs, True, settings, operations)

        return search

    return by


def compiled(mode: str, device: th.device) -> Operations:
    """The operations, compiled by this mode when first called; on the CPU only traced, which takes less time."""
    wrap = partial(th.compile, mode=mode) if device.type == "cuda" else partial(th.compile, backend="eager")
    return Operations(wrap(evaluate_nodes), TreeOperations(wrap(select_tensors), wrap(back_up_tensors)))


def one_way(
    given: Circumstances, search: Callable[[], th.Tensor], expected: th.Tensor | None, record: bool
) -> dict[str, Any]:
    """Time until the first results, then of every search; whether the results are those of the plain operations."""
    recorder, found = Recorder(given.device), {}
    began = time.perf_counter()
    with recorder.beside():
        for _ in range(3):
            first = search()
    finished(given.device, lambda: None)()
    found["compiling, s"] = time.perf_counter() - began
    if expected is not None:
        found["same results"] = float(th.isclose(first, expected, rtol=1e-3, atol=1e-3).all(dim=1).float().mean())
    repeat = recorder.capture(search) if record else search
    found["ms"] = milliseconds(given, {"search": repeat})["search"]
    return found


def measure_modes(findings: Findings, given: Circumstances) -> None:
    """All ways to run a search of 256 states, those most worth knowing first."""
    n = 4 if given.quick else 256
    ways = {name: static_search(kind, given, n) for name, kind in (("vectors", VECTORS), ("images", PICTURES))}
    plain = {name: by(Operations()) for name, by in ways.items()}
    expected = {name: search().clone() for name, search in plain.items()}
    for name, search in plain.items():
        for record in (False, True):
            how = "a graph" if record else "one by one"
            findings.attempt(f"{name}, plain, {how}", partial(one_way, given, search, None, record))
    for mode in MODES:
        if given.device.type == "cpu" and mode != "default":
            continue  # the others differ on a GPU only
        for name, by in ways.items():
            search = by(compiled(mode, given.device))
            for record in (True, False) if "no-cudagraphs" in mode or mode == "default" else (False,):
                how = "a graph" if record else "one by one"
                findings.attempt(f"{name}, {mode}, {how}", partial(one_way, given, search, expected[name], record))
            forget_compiled()


# -- updates -----------------------------------------------------------------------------------------------------------


def settings_of(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """The paper's setting, or a small one."""
    settings = dict(ATARI if kind.images else PAPER)
    if given.quick:
        settings |= {"batch_size": 4, "n_simulations": 4, "policy_kwargs": kind.network(quick=True)}
        settings |= {"n_candidates": 4, "n_considered": 4}
    return settings


def new_model(kind: Kind, given: Circumstances, n_random: int, mixed_precision: bool, **more: Any) -> EfficientZeroV2:
    """A model on the device."""
    return EfficientZeroV2(
        "CnnPolicy" if kind.images else "MlpPolicy",
        more.pop("env", None) or env_of(kind),
        seed=0,
        device=given.device,
        learning_starts=n_random,
        mixed_precision=mixed_precision,
        **(settings_of(kind, given) | more),
    )


def batch_of(model: EfficientZeroV2) -> tuple[TensorBatch, UpdateSettings]:
    """The batch and the settings of one more update."""
    kept: list[tuple[TensorBatch, UpdateSettings]] = []
    usual = model.updater

    def keep(batch: TensorBatch, settings: UpdateSettings) -> UpdateOutput:
        kept.append((batch, settings))
        return update(model.policy.copies, batch, settings)

    model.updater = keep  # type: ignore[assignment]
    model.train(1)
    model.updater = usual
    return kept[0]


def variants(model: EfficientZeroV2, given: Circumstances, chosen: dict[str, Variant]) -> dict[str, Any]:
    """Updates of one batch, recorded in every way and once not at all; for images, evaluations of 1,024 of them too."""
    batch, settings = batch_of(model)
    functions: dict[str, Callable[[], object]] = {}
    found: dict[str, Any] = {}
    for name, variant in chosen.items():
        began = time.perf_counter()
        try:
            functions[name] = updates_by(model, batch, settings, variant)
        except Exception:  # a compiler; the others are still worth knowing
            found[f"{name}, failed"] = traceback.format_exc()[-1500:]
        found[f"{name}, ready after s"] = time.perf_counter() - began
    functions["one by one"] = partial(update, model.policy.copies, batch, settings)
    found |= {f"{name}, ms": value for name, value in milliseconds(given, functions).items()}
    if isinstance(model.policy.model, ImageModel):
        first = {key: part.flatten(0, 1)[:1024] for key, part in batch.observations.items()}
        ways = {name: each for name, each in chosen.items() if not each.mixed_precision}
        times = milliseconds(given, {name: evaluations_by(model, first, each) for name, each in ways.items()})
        found |= {f"evaluating {len(next(iter(first.values())))}, {name}, ms": value for name, value in times.items()}
    return found


# -- whole steps -------------------------------------------------------------------------------------------------------


class Deadline(BaseCallback):
    """Ends training when its time is up; counts from an update on when everything has been compiled and recorded.

    :param seconds: of training that counts
    :param after: updates that do not count
    :param watch: cleared when counting begins
    """

    def __init__(self, seconds: float, after: int, watch: Stopwatch) -> None:
        super().__init__()
        self.seconds, self.after, self.watch = seconds, after, watch
        self.began, self.passed, self.first = 0.0, 0.0, 0
        self.returns: list[float] = []
        self.searched: list[float] = []  # fractions of the batches that count

    def _on_step(self) -> bool:
        self.returns += [float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        if self.began == 0.0 and self.model._n_updates >= self.after:  # type: ignore[attr-defined]
            self.began, self.first = time.perf_counter(), self.num_timesteps
            self.watch.clear()
        if self.began:
            self.searched.append(self.model.reanalyzer.searched_fraction)  # type: ignore[attr-defined]
        self.passed = time.perf_counter() - self.began if self.began else 0.0
        return self.passed < self.seconds


def whole_steps(model: EfficientZeroV2, given: Circumstances, seconds: float) -> dict[str, Any]:
    """Training steps a second, the milliseconds of every part, and how busy the GPU is.

    The GPU is waited for where its results are read: in acting, in reanalysis, and at the end of an update.

    :param model: new, or one that goes on
    :param given: to the part
    :param seconds: that count
    """
    goes_on = model._n_updates > 0
    watch = Stopwatch()
    assert model.env is not None
    for name, owner, method in (
        ("acting", model, "_choose_actions"),
        ("environment", model.env, "step"),
        ("storing", model, "_store"),
        ("sampling", model.replay_buffer, "sample"),
        ("new priorities", model.reanalyzer, "prioritise_new"),
        ("reanalysis", model.reanalyzer, "targets"),
        ("train", model, "train"),
    ):
        watch.watch(name, owner, method)
    settled = SETTLED_AGAIN if goes_on else 5 if given.quick else SETTLED
    deadline = Deadline(seconds, model._n_updates + settled, watch)
    began = time.perf_counter()
    with utilisation(given.device) as busy:
        model.learn(10**9, callback=deadline, log_interval=10**9, reset_num_timesteps=not goes_on)
    n = max(model.num_timesteps - deadline.first, 1)
    shares = dict(watch.seconds)
    searched = float(np.mean(deadline.searched)) if deadline.searched else 0.0
    if not goes_on:
        _print_profile(model)
    parts = {name: 1e3 * each / n for name, each in shares.items()}
    parts["update"] = parts.pop("train") - parts["sampling"] - parts["reanalysis"] - parts["new priorities"]
    return {
        "steps a second": n / deadline.passed,
        "before counting, s": deadline.began - began,
        "searched": searched,
        "updates": n,
        **{f"{name}, ms": value for name, value in parts.items()},
        **busy,
        "returns": deadline.returns[-20:],
        "recorded": model.updater.recorded is not None or given.device.type == "cpu",
    }


def _print_profile(model: EfficientZeroV2) -> None:
    """Where the host spends its time in another second of training."""
    profile, said = cProfile.Profile(), io.StringIO()
    profile.enable()
    model.learn(10**9, Deadline(1.0, 0, Stopwatch()), log_interval=10**9, reset_num_timesteps=False)
    profile.disable()
    print(f"until update {model._n_updates}, host", flush=True)
    pstats.Stats(profile, stream=said).sort_stats("tottime").print_stats(25)
    print(said.getvalue(), flush=True)


def measure_vectors(findings: Findings, given: Circumstances) -> None:
    """The paper's network for vectors: 256 states to a batch, 32 simulations."""
    n_random, seconds = (30, 0.5) if given.quick else (2_000, 6 * given.seconds)
    model = new_model(VECTORS, given, n_random, False)

    def asked() -> dict[str, Any]:
        found = whole_steps(model, given, seconds)
        return {"reaches what is asked": found["steps a second"] >= ASKED_UPDATES_PER_SECOND, **found}

    chosen = {name: each for name, each in VARIANTS.items() if not (given.quick and each.compiled)}
    in_every_way(findings, given, "vectors", model, chosen, asked)
    findings.attempt("vectors, few states", lambda: few_states(given))
    findings.attempt("vectors, searches", lambda: searches(VECTORS, given, (1, 4) if given.quick else (1, 256, 1536)))


def measure_images(findings: Findings, given: Circumstances) -> None:
    """The paper's network for images at the ``atari`` entry's setting."""
    n_random, seconds = (30, 0.5) if given.quick else (600, 6 * given.seconds)
    model = new_model(PICTURES, given, n_random, False, **_breakout())

    def asked() -> dict[str, Any]:
        found = whole_steps(model, given, seconds)
        both = found["update, ms"] + found["reanalysis, ms"]
        return {"update and its searches, ms": both, "reaches what is asked": both <= ASKED_IMAGE_UPDATE_MS, **found}

    in_every_way(findings, given, "images", model, IMAGE_VARIANTS, asked)
    findings.attempt("images, searches", lambda: searches(PICTURES, given, (1, 4) if given.quick else (1, 256)))


def in_every_way(
    findings: Findings,
    given: Circumstances,
    name: str,
    model: EfficientZeroV2,
    chosen: dict[str, Variant],
    asked: Callable[[], dict[str, Any]],
) -> None:
    """Whole steps as they are; single updates in every way; whole steps in the fastest ways that these show.

    :param findings: of the part
    :param given: to the part
    :param name: what the model is for
    :param model: new; all measurements go on with it
    :param chosen: the ways
    :param asked: measures whole steps
    """
    findings.attempt(f"{name}, whole steps, full precision", asked)
    plain = {each: variant for each, variant in chosen.items() if not variant.compiled}
    findings.attempt(f"{name}, variants", lambda: variants(model, given, plain))
    found = findings.content["checks"][f"{name}, variants"]
    if len(plain) < len(chosen):  # takes longest, and may fail
        others = {each: chosen[each] for each in chosen.keys() - plain.keys() | {USUAL}}
        findings.attempt(f"{name}, compiled variants", lambda: variants(model, given, others))
        found = findings.content["checks"][f"{name}, compiled variants"] | found
    times = {each: found[f"{each}, ms"] for each in chosen if f"{each}, ms" in found}
    if USUAL not in times:
        return
    for best in dict.fromkeys([best_of(times, mixed=False), best_of(times, mixed=True)]):
        if best == USUAL:
            continue
        with computed_by(chosen[best], given.device):
            use(model, chosen[best])
            findings.attempt(f"{name}, whole steps, {best}", lambda best=best: differences(chosen[best]) | asked())


def few_states(given: Circumstances) -> dict[str, Any]:
    """Searches of a few states, by the cores beside the GPU and by the GPU itself."""
    model, planner = new_network(VECTORS, given.quick).to(given.device), planner_of(VECTORS, given.quick)
    rng, found = np.random.default_rng(0), {}
    for n in (1, 2) if given.quick else (1, 2, 4, 6, 8, 12, 16):
        observations = observations_of(VECTORS, n, rng)
        here, there = ({"observation": observations.to(device)} for device in ("cpu", given.device))

        def on_cores(n: int = n, here: dict[str, th.Tensor] = here) -> None:
            with mock.patch("sb3_ezv2.planning.planner.is_faster_on_host", lambda model, n: True):
                planner.plan(model, here, planner.draw_noise(model, n, rng), explore=True)

        def on_device(n: int = n, there: dict[str, th.Tensor] = there) -> None:
            with as_on_a_gpu():
                planner.plan(model, there, planner.draw_noise(model, n, rng), explore=True)

        on_cores(), on_device()
        times = milliseconds(given, {"cores": on_cores, "GPU": on_device})
        found |= {f"{n}: {name}, ms": value for name, value in times.items()}
    return found


def _breakout() -> dict[str, Any]:
    """The game where it is installed, random pictures elsewhere."""
    try:
        return {"env": make_envs(TASKS["Breakout"], 0, 1)[0]}
    except ImportError:
        return {}


def walker_run(given: Circumstances) -> dict[str, Any]:
    """A run with thousands of states in the buffer, and what 100,000 decisions would take at its speed."""
    n_random, seconds = (30, 0.5) if given.quick else (5_000, given.limit - 30.0)
    model = new_model(VECTORS, given, n_random, False, env=TASKS["walker-walk"].make_env())
    found = whole_steps(model, given, seconds)
    return {f"projected minutes of {DECISIONS} decisions": DECISIONS / found["steps a second"] / 60.0, **found}
