"""Searches and updates on a GPU against the same ones on the CPU; see :mod:`benchmarks.speed.gpu_checks`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch as th
from gymnasium import spaces

from benchmarks.speed.cost_growth import Noise
from benchmarks.speed.gpu_parts import Circumstances, Findings
from benchmarks.speed.search_cost import IMAGES, OBSERVATION, PROPRIO_NETWORK
from sb3_ezv2 import CnnPolicy, EfficientZeroV2, EZV2Policy, TrajectoryReplayBuffer
from sb3_ezv2.common.recording import Recorder
from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.learning.losses import TensorBatch
from sb3_ezv2.learning.stored_states import RECORDED, _imagine, _values
from sb3_ezv2.learning.updates import WARM_UPS, Updater, UpdateSettings, find_gradient, update
from sb3_ezv2.networks.copies import ModelCopies
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.device_search import compiled_operations, recorded_searches
from sb3_ezv2.planning.planner import Planner
from sb3_ezv2.policies import PlanningPolicy
from sb3_ezv2.replay.frame_mirror import FrameMirrors

DISCRETE, CONTINUOUS = spaces.Discrete(6), spaces.Box(-1.0, 1.0, (6,))
QUICK_NETWORK = {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16}
QUICK_IMAGE_NETWORK = {
    "net_size": "paper",
    "stem_channels": 4,
    "latent_channels": 8,
    "projection_dim": 16,
    "prediction_dim": 8,
}
QUICK_PREFIX = {"lstm_dim": 16}
LEAST_ALIKE = 0.9
"""Share of states whose searches must be equal; rounding decides between equal candidates in the others."""
N_UPDATES = 12


class Kind(NamedTuple):
    """A kind of model."""

    images: bool
    action_space: spaces.Space
    value_prefix: bool = False

    def network(self, quick: bool) -> dict[str, Any]:
        """``policy_kwargs`` of the paper's sizes or of small ones."""
        sizes = {"net_size": "paper"} if self.images else PROPRIO_NETWORK
        if quick:
            sizes = QUICK_IMAGE_NETWORK if self.images else QUICK_NETWORK
        prefix = {"value_prefix": True, **(QUICK_PREFIX if quick else {})} if self.value_prefix else {}
        return {**sizes, **prefix}


KINDS = {
    "vectors, continuous": Kind(False, CONTINUOUS),
    "images, discrete, value prefix": Kind(True, DISCRETE, value_prefix=True),
    "vectors, discrete": Kind(False, DISCRETE),
    "images, continuous": Kind(True, CONTINUOUS),
    "vectors, continuous, value prefix": Kind(False, CONTINUOUS, value_prefix=True),
}
UPDATED = ("images, discrete, value prefix", "vectors, continuous")
"""The first needs no compiled search on the CPU, which may be compiled meanwhile."""


def env_of(kind: Kind) -> Noise:
    """An environment that costs next to nothing."""
    return Noise(kind.action_space, IMAGES if kind.images else OBSERVATION)


def check_everything(findings: Findings, given: Circumstances) -> None:
    """All checks, the most important ones first."""
    th.backends.cudnn.allow_tf32 = False  # which rounds to ten bits
    for name in UPDATED:
        for check in (same_gradient, mixed_gradient, recorded_updates, same_evaluations, same_stacks):
            findings.attempt(f"{check.__name__}, {name}", lambda kind=KINDS[name], check=check: check(kind, given))
    for name, kind in KINDS.items():
        findings.attempt(f"search, {name}", lambda kind=kind: same_searches(kind, given), forget_compiled)
    findings.attempt("a refused recording", lambda: refused_recording(given))


def forget_compiled() -> None:
    """Let what comes next be compiled as in a new process; PyTorch keeps few versions of a function."""
    th.compiler.reset()
    compiled_operations.cache_clear()


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Take the way of a GPU whatever the device, and however few states there are."""
    planner = "sb3_ezv2.planning.planner"
    with mock.patch(f"{planner}._is_on_gpu", lambda model: True):
        with mock.patch(f"{planner}.is_faster_on_host", lambda model, n: False):
            yield


def new_network(kind: Kind, quick: bool) -> EfficientZeroModel:
    """A model as it acts, with random output layers so that trees differ."""
    th.manual_seed(0)
    policy: type[PlanningPolicy] = CnnPolicy if kind.images else EZV2Policy
    space = IMAGES if kind.images else OBSERVATION
    model = policy(space, kind.action_space, lambda _: 1e-3, **kind.network(quick)).average_model  # type: ignore[arg-type]
    randomise(model)
    return model


def randomise(model: EfficientZeroModel) -> None:
    """Give the output layers, which start at zero, random weights."""
    prefix = [model.value_prefix.output] if model.value_prefix is not None else []
    with th.no_grad():
        for output in (*model.heads.outputs, *prefix):
            if isinstance(output, th.nn.Linear):
                output.weight.normal_(std=0.05)


def same_searches(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """The same searches on both devices: of few states, then of many, then of the same ones again."""
    planner = Planner(16, 4, 0.988) if isinstance(kind.action_space, spaces.Discrete) else Planner(32, 16, 0.99)
    many = 12 if given.quick else 64 if kind.images else 256
    found: dict[str, Any] = {}
    ours, theirs = new_network(kind, given.quick), new_network(kind, given.quick).to(given.device)
    for n in (3, many):
        rng = np.random.default_rng(n)
        observations, noise = observations_of(kind, n, rng), planner.draw_noise(ours, n, rng)
        here = planner.plan(ours, {"observation": observations}, noise, explore=True)
        with as_on_a_gpu():
            there = planner.plan(theirs, {"observation": observations.to(given.device)}, noise, explore=True)
            again = planner.plan(theirs, {"observation": observations.to(given.device)}, noise, explore=True)
        alike, difference = compare(here, there)
        found |= {f"{n} states alike": float(alike.mean()), f"{n} states differ by": difference}
        found[f"{n} states repeat"] = bool(compare(there, again)[0].all())
    recorded = [search.repeat is not None for search in recorded_searches(theirs)]
    found["recorded"] = all(recorded) and len(recorded) == 2
    found["ok"] = found[f"{many} states alike"] >= LEAST_ALIKE and found[f"{many} states repeat"] and found["recorded"]
    return found


def same_evaluations(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """What the targets ask of the network: recorded and one kernel after the other."""
    model, rng, unroll = new_network(kind, given.quick).to(given.device), np.random.default_rng(0), 5
    found: dict[str, Any] = {}
    for n in (1, 5, 12):
        observations = observations_of(kind, n, rng).to(given.device)
        actions = np.stack([kind.action_space.sample() for _ in range(n * unroll)]).reshape(n, unroll, -1)
        actions = actions[..., 0] if isinstance(kind.action_space, spaces.Discrete) else actions
        for function, arguments in ((_values, ()), (_imagine, (th.from_numpy(actions).to(given.device),))):
            with th.no_grad():
                plain = function(model, *arguments, observations)
            found[f"{n}{function.__name__}"] = float(
                (plain - RECORDED[function](model, *arguments, observations)).abs().max()
            )
    recorded = [each.repeat is not None for function in RECORDED.values() for each in function.recordings_of(model)]
    return {"ok": max(found.values()) < 1e-3 and all(recorded) and len(recorded) == 6, **found}


def same_stacks(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """Stacks that the device puts together from its own frames, while the buffer is filled and comes round again."""
    if not kind.images:
        return {"of": "vectors, which are not mirrored"}
    buffer = TrajectoryReplayBuffer(90, IMAGES, DISCRETE, n_stack=4)
    buffer.mirrors = FrameMirrors(given.device)
    rng, stack, found = np.random.default_rng(0), np.zeros((1, *IMAGES.shape), np.uint8), 0
    n_channels = IMAGES.shape[0] // 4
    for step in range(200):
        frame = rng.integers(0, 256, (1, n_channels, *IMAGES.shape[1:]), np.uint8)
        after = np.concatenate([stack[:, n_channels:], frame], axis=1)
        buffer.add(stack, after, np.zeros(1, np.int64), np.zeros(1), np.zeros(1, bool), [{}])
        stack = after
        if step % 20 == 0:
            slots = rng.integers(buffer.n_slots, size=(16, 6))
            here, there = buffer.observations_at(slots), buffer.observations_for_model(slots)
            assert isinstance(there["observation"], th.Tensor)
            found += int((th.from_numpy(here["observation"]).to(given.device) != there["observation"]).sum())
    return {"ok": found == 0, "bytes that differ": found}


def observations_of(kind: Kind, n: int, rng: np.random.Generator) -> th.Tensor:
    """Random states."""
    shape = (n, *(IMAGES.shape if kind.images else OBSERVATION.shape))
    drawn = rng.integers(0, 256, shape, np.uint8) if kind.images else rng.normal(size=shape).astype(np.float32)
    return th.from_numpy(drawn)


def compare(here: Plan, there: Plan) -> tuple[np.ndarray, float]:
    """Which searches visited the same nodes and found the same values, and the largest difference of those' values."""
    alike = (here.visit_counts == there.visit_counts).all(axis=1)
    for ours, theirs in ((here.root_values, there.root_values), (here.improved_values, there.improved_values)):
        alike &= np.isclose(ours, theirs, rtol=1e-3, atol=1e-3)
    return alike, float(np.abs(here.root_values - there.root_values)[alike].max(initial=0.0))


def batch_on_cpu(kind: Kind, given: Circumstances) -> tuple[EfficientZeroV2, TensorBatch, UpdateSettings]:
    """A model and a batch with its targets; nothing in the loss is drawn at random."""
    n, batch_size = (40, 4) if given.quick else (100, 16) if kind.images else (300, 256)
    model = EfficientZeroV2(
        "CnnPolicy" if kind.images else "MlpPolicy",
        env_of(kind),
        seed=0,
        device="cpu",
        learning_starts=n,
        batch_size=batch_size,
        n_simulations=8,
        ent_coef=0.0,
        policy_kwargs=kind.network(given.quick) | ({"augment": False} if kind.images else {}),
    ).learn(n)
    randomise(model.policy.model)
    kept: list[tuple[TensorBatch, UpdateSettings]] = []

    def keep(batch: TensorBatch, settings: UpdateSettings) -> Any:
        kept.append((batch, settings))
        return find_gradient(model.policy.copies, batch, settings)

    model.updater = keep  # type: ignore[assignment]
    model.train(1)
    return model, *kept[0]


def copies_on(device: th.device, model: EfficientZeroV2) -> ModelCopies:
    """The model's three copies on a device, with an optimiser of their own."""
    policy = model.policy_class(
        model.observation_space, model.action_space, lambda _: 1e-3, gamma=model.gamma, **model.policy_kwargs
    ).to(device)
    policy.load_state_dict(model.policy.state_dict())
    policy.copies.seed(0)  # on the device
    return policy.copies


def batch_on(device: th.device, batch: TensorBatch) -> TensorBatch:
    """A batch on a device."""
    observations = {key: part.to(device) for key, part in batch.observations.items()}
    return TensorBatch(observations, *(part.to(device) for part in batch[1:]))


def gradient_of(
    copies: ModelCopies, batch: TensorBatch, settings: UpdateSettings
) -> tuple[th.Tensor, float, list[str]]:
    """The clipped gradient in one vector on the CPU, the loss, and the parameters that got none."""
    output = find_gradient(copies, batch, settings)
    parts = [th.zeros_like(part) if part.grad is None else part.grad for part in copies.trained]
    without = [name for name, part in copies.model.named_parameters() if part.grad is None or not part.grad.any()]
    return th.cat([part.flatten().cpu() for part in parts]), float(output.logs["loss"]), without


def same_gradient(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """The gradient of one batch on both devices."""
    model, batch, settings = batch_on_cpu(kind, given)
    ours, loss, _ = gradient_of(model.policy.copies, batch, settings)
    theirs, other_loss, _ = gradient_of(copies_on(given.device, model), batch_on(given.device, batch), settings)
    difference = float((ours - theirs).norm() / ours.norm())
    return {
        "ok": difference < 1e-3 and abs(loss - other_loss) < 1e-3 * abs(loss),
        "difference over norm": difference,
        "loss": loss,
        "loss there": other_loss,
    }


def mixed_gradient(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """The gradient in mixed precision against that in full precision, both on the device."""
    model, batch, settings = batch_on_cpu(kind, given)
    batch = batch_on(given.device, batch)
    full, loss, without = gradient_of(copies_on(given.device, model), batch, settings)
    mixed = settings._replace(mixed_precision=True)
    half, half_loss, half_without = gradient_of(copies_on(given.device, model), batch, mixed)
    cosine = float(th.nn.functional.cosine_similarity(full, half, dim=0))
    lost = sorted(set(half_without) - set(without))
    found = {
        "cosine": cosine,
        "loss": loss,
        "loss in mixed precision": half_loss,
        "parameters without": ", ".join(lost),
    }
    return {"ok": cosine > 0.9 and not lost, **found}


def recorded_updates(kind: Kind, given: Circumstances) -> dict[str, Any]:
    """Updates with one batch, recorded and one kernel after the other, in full and in mixed precision."""
    model, batch, settings = batch_on_cpu(kind, given)
    batch, found = batch_on(given.device, batch), {}
    for name, each in (("full", settings), ("mixed", settings._replace(mixed_precision=True))):
        plain, recorded = copies_on(given.device, model), copies_on(given.device, model)
        before = vector_of(plain)
        updater = Updater(recorded, Recorder(given.device))
        for _ in range(WARM_UPS + N_UPDATES):
            update(plain, batch, each)
            updater(batch, each)
        way = vector_of(plain) - before
        found[f"{name}: difference over way"] = float((vector_of(plain) - vector_of(recorded)).norm() / way.norm())
        found[f"{name}: recorded"] = updater.recorded is not None and updater.recorded.steps_too
    found["ok"] = (
        found["full: difference over way"] < 0.05 and bool(found["full: recorded"]) and bool(found["mixed: recorded"])
    )
    return found


def vector_of(copies: ModelCopies) -> th.Tensor:
    """All trained parameters, copied."""
    return th.nn.utils.parameters_to_vector(copies.trained).detach().clone()


def refused_recording(given: Circumstances) -> dict[str, Any]:
    """After a function that cannot be recorded, random numbers and further recordings work as before."""
    recorder, state = Recorder(given.device), th.zeros(3, device=given.device)

    def asks_the_device() -> float:
        return float(th.randn(3, device=given.device).sum())

    def allowed() -> th.Tensor:
        return state.add_(th.randn(3, device=given.device))

    def attempt(function: Callable[[], Any]) -> str:
        with recorder.beside():
            function()
        try:
            recorder.capture(function)()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return ""

    refused = attempt(asks_the_device)
    drawn = th.randn(3, device=given.device)
    later = attempt(allowed)
    found = {"refused": refused, "later": later, "drawn": bool(th.isfinite(drawn).all())}
    return {
        "ok": (bool(refused) or given.device.type == "cpu") and not later and bool(th.isfinite(state).all()),
        **found,
    }
