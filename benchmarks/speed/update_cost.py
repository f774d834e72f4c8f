"""What an update costs beside the bare forward pass, backward pass and optimiser step of the same network and losses.

``python -m benchmarks.speed.update_cost`` prints a table and writes ``benchmarks/results/update_cost.json``. Three
things take turns on walker walk, and on Breakout's images: ``update`` is ``EfficientZeroV2.train`` with a batch and
targets that lie ready, so without sampling and reanalysis, but with augmentation; ``bare`` is the loss, its gradient
and the optimiser's step alone; ``mixed`` is the same with mixed precision; ``every step`` is the bare update in the
obvious order, which evaluates all heads and projections at every unrolled step. One thread. The floating point
operations of an update are counted, too: how many searched states they equal is what bounds the share of reanalysis in
a run.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from benchmarks.learning.pixel_tasks import SMALL_IMAGE_NETWORK
from benchmarks.learning.tasks import TASKS
from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.speed.planners import counted
from benchmarks.speed.search_cost import PROPRIO_NETWORK, take_turns
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.envs.atari import make_atari
from sb3_ezv2.learning.losses import LossCoefficients, TensorBatch, categorical_loss, tensor_batch, unroll_loss
from sb3_ezv2.networks.model import EfficientZeroModel

RESULT = RESULTS / "update_cost.json"
N_TRANSITIONS = 600


def vectors() -> VecEnv:
    """Walker walk."""
    return make_vec_env(TASKS["walker-walk"].make_env)


def images(size: int) -> VecEnv:
    """Breakout as in Atari 100k."""
    return VecFrameStack(make_vec_env(lambda: make_atari("Breakout", training=True, screen_size=size)), 4)


class Setting(NamedTuple):
    """One row of the table."""

    make_env: Callable[[], VecEnv]
    policy: str
    arguments: dict[str, Any]  # of the constructor


SMALL_IMAGES = {"batch_size": 64, "policy_kwargs": SMALL_IMAGE_NETWORK}
PAPER_IMAGES = {"batch_size": 16, "policy_kwargs": {"net_size": "paper"}}
SETTINGS = {
    "defaults, batch 64": Setting(vectors, "MlpPolicy", {}),
    "paper's network, batch 256": Setting(vectors, "MlpPolicy", {"batch_size": 256, "policy_kwargs": PROPRIO_NETWORK}),
    "48 x 48, small network, batch 64": Setting(lambda: images(48), "CnnPolicy", SMALL_IMAGES),
    "96 x 96, paper's network, batch 16": Setting(lambda: images(96), "CnnPolicy", PAPER_IMAGES),
}


def every_step_loss(model: EfficientZeroModel, batch: TensorBatch, coefficients: LossCoefficients) -> th.Tensor:
    """The value of :func:`~sb3_ezv2.learning.losses.unroll_loss`, one step after the other, without logs."""
    n_steps = batch.actions.shape[1]
    scale, kind = model.reward_scale, model.action_kind
    total = th.zeros(len(batch.weights))
    latents = model.represent({key: value[:, 0] for key, value in batch.observations.items()})
    for k in range(n_steps + 1):
        rewards, values, policies = model.heads(latents)
        value_targets = model.value_support.encode(batch.values[:, k], scale)
        total = total + coefficients.value * categorical_loss(values, value_targets)
        fit = kind.log_likelihood(policies, batch.policy_actions[:, k], batch.policy_weights[:, k])
        bonus = coefficients.entropy * kind.entropy(policies)
        total = total - (coefficients.policy * fit + bonus) * batch.policy_mask[:, k]
        if k > 0:
            reward_targets = model.reward_support.encode(batch.rewards[:, k - 1], scale)
            wrong = categorical_loss(rewards, reward_targets)
            with th.no_grad():
                seen = model.projection(model.represent({key: o[:, k] for key, o in batch.observations.items()}))
            alike = F.cosine_similarity(model.prediction(model.projection(latents)), seen, dim=-1)
            total = total + coefficients.reward * wrong
            total = total - coefficients.consistency * alike * batch.consistency_mask[:, k - 1]
        if k < n_steps:
            latents = model.next_latents(0.5 * latents + 0.5 * latents.detach(), batch.actions[:, k])
    return (batch.weights * total).mean() / n_steps


def collected(setting: Setting) -> EfficientZeroV2:
    """A model with random transitions, and a batch and targets that never change."""
    model = EfficientZeroV2(setting.policy, setting.make_env(), seed=0, learning_starts=256, **setting.arguments)
    model.learn(256)
    model.learning_starts = N_TRANSITIONS
    model.learn(N_TRANSITIONS, reset_num_timesteps=False)
    model.reanalyzer.prioritise_new(model.policy.average_model, model.replay_buffer)
    model.train(1)
    batch = model.replay_buffer.sample(
        model.batch_size, model.unroll_steps, model.arguments.targets.n_step(model.action_space), 0.4, model.rng
    )
    policy = model.policy
    targets = model.reanalyzer.targets(
        batch,
        model.replay_buffer,
        policy.average_model,
        policy.target_model,
        1,
        model.arguments.targets.rule(model._n_updates),
        model.rng,
    )
    model.replay_buffer.sample = lambda *_: batch  # type: ignore[method-assign]
    model.reanalyzer.targets = lambda *_: targets  # type: ignore[method-assign]
    model.target_update_interval = 10**9
    return model


def measure(setting: Setting, seconds: float) -> tuple[dict[str, dict[str, float]], int]:
    """Milliseconds of the four kinds of update, and floating point operations of one."""
    model = collected(setting)
    policy = model.policy
    batch = model.replay_buffer.sample(0, 0, 0, 0.0, model.rng)
    targets = model.reanalyzer.targets(*[None] * 7)  # type: ignore[arg-type]
    tensors = tensor_batch(batch, targets, model.device)
    coefficients = LossCoefficients(
        model.reward_coef, model.value_coef, model.policy_coef, model.consistency_coef, model.ent_coef
    )

    def losses() -> tuple[th.Tensor, th.Tensor]:
        th.manual_seed(0)
        together = unroll_loss(policy.model, tensors, coefficients._replace(entropy=0.0)).total
        return together, every_step_loss(policy.model, tensors, coefficients._replace(entropy=0.0))

    policy.model.eval()  # BatchNorm would see all steps at once in one loss and each for itself in the other
    th.testing.assert_close(*losses(), rtol=1e-4, atol=1e-4)
    policy.model.train()

    def step(loss: Callable[[], th.Tensor]) -> None:
        policy.model.augment = False  # type: ignore[assignment]
        total = loss()
        policy.model.augment = True  # type: ignore[assignment]
        policy.optimizer.zero_grad()
        total.backward()
        policy.optimizer.step()

    times = take_turns(
        {
            "update": lambda: model.train(1),
            "bare": lambda: step(lambda: unroll_loss(policy.model, tensors, coefficients).total),
            "mixed": lambda: step(lambda: unroll_loss(policy.model, tensors, coefficients, True).total),
            "every step": lambda: step(lambda: every_step_loss(policy.model, tensors, coefficients)),
        },
        seconds,
    )
    return times, counted(lambda: model.train(1))


def main() -> None:
    """Measure, print and store everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row of the table")
    parser.add_argument("--out", type=Path, default=RESULT, help="file to write")
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        **new_record("torch", "numpy"),
        "updates": [],
    }
    th.set_num_threads(1)
    print(
        f"{'ms (min)':<36} update     bare    mixed  every step  update/bare  every step/bare  every step/mixed   FLOPs"
    )
    for name, setting in SETTINGS.items():
        found, flops = measure(setting, arguments.seconds)
        update, bare, mixed, every_step = (found[kind]["min"] for kind in ("update", "bare", "mixed", "every step"))
        ratios = {"over_bare": update / bare, "saving": every_step / bare, "saving_mixed": every_step / mixed}
        record["updates"].append({"setting": name, "milliseconds": found, "flops": flops, **ratios})
        print(
            f"{name:<34} {update:>8.2f} {bare:>8.2f} {mixed:>8.2f} {every_step:>11.2f} {update / bare:>12.2f} "
            f"{every_step / bare:>16.2f} {every_step / mixed:>17.2f} {flops:>7.1e}",
            flush=True,
        )
    write_record(arguments.out, record)


if __name__ == "__main__":
    main()
