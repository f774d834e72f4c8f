"""The loss of an unrolled batch (EfficientZero V2, section 3; MuZero, appendix G)."""

from typing import NamedTuple

import torch as th
import torch.nn.functional as F

from sb3_ezv2.common.tensors import on_device_together
from sb3_ezv2.common.type_aliases import TrainingTargets, TrajectoryBatch
from sb3_ezv2.networks.model import EfficientZeroModel


class LossCoefficients(NamedTuple):
    """Weights of the terms of the loss."""

    reward: float
    value: float
    policy: float
    consistency: float
    entropy: float


class TensorBatch(NamedTuple):
    """A batch with its targets on the model's device; shapes as in ``TrajectoryBatch`` and ``TrainingTargets``."""

    observations: dict[str, th.Tensor]  # [batch, unroll + 1, ...]
    actions: th.Tensor  # [batch, unroll, *action_shape]
    weights: th.Tensor  # [batch]
    rewards: th.Tensor  # [batch, unroll], sums of them for a model with a value prefix
    values: th.Tensor  # [batch, unroll + 1]
    policy_actions: th.Tensor  # [batch, unroll + 1, n_targets, *target_shape]
    policy_weights: th.Tensor  # [batch, unroll + 1, n_targets]
    policy_mask: th.Tensor  # [batch, unroll + 1]
    consistency_mask: th.Tensor  # [batch, unroll]


class LossOutput(NamedTuple):
    """The loss and what else an update needs."""

    total: th.Tensor  # scalar
    priorities: th.Tensor  # [batch], |prediction - target| of the first value in compressed units
    logs: dict[str, th.Tensor]  # scalars by log key without the prefix


def tensor_batch(batch: TrajectoryBatch, targets: TrainingTargets, device: th.device) -> TensorBatch:
    """Batch and targets on ``device``."""
    names = list(batch.observations)
    tensors = on_device_together(
        [
            *(batch.observations[name] for name in names),
            batch.actions,
            batch.weights,
            targets.rewards,
            targets.values,
            *targets.policies,
            *targets.masks,
        ],
        device,
    )
    return TensorBatch(dict(zip(names, tensors, strict=False)), *tensors[len(names) :])


def unroll_latents(model: EfficientZeroModel, latents: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Latent states ``[batch, unroll + 1, *latent]`` under the stored actions.

    The gradient of a latent state is halved where it enters the next dynamics step (MuZero, appendix G).
    """
    unrolled = [latents]
    for k in range(actions.shape[1]):
        entering = 0.5 * unrolled[-1] + 0.5 * unrolled[-1].detach()
        unrolled.append(model.next_latents(entering, actions[:, k]))
    return th.stack(unrolled, dim=1)


def consistency_loss(
    model: EfficientZeroModel,
    latents: th.Tensor,
    observations: dict[str, th.Tensor],
    generator: th.Generator | None = None,
) -> th.Tensor:
    """Negative cosine between predicted and real projections ``[batch, unroll]`` (SimSiam, equation 1).

    :param latents: unrolled states 1 to ``unroll``
    :param observations: of the same moments ``[batch, unroll, ...]``; their branch gets no gradient
    :param generator: of their augmentation
    """
    with th.no_grad():
        real = model.represent({key: value.flatten(0, 1) for key, value in observations.items()}, generator)
    # Before the targets: up to version 2.9 of PyTorch, weights that autocast meets without a gradient first get none.
    predictions = model.prediction(model.projection(latents.flatten(0, 1)))
    with th.no_grad():
        targets = model.projection(real)
    return -F.cosine_similarity(predictions.float(), targets.float(), dim=-1).view(latents.shape[:2])


def categorical_loss(logits: th.Tensor, targets: th.Tensor) -> th.Tensor:
    """Cross entropy of distributions over the last axis."""
    return -(targets * F.log_softmax(logits, dim=-1)).sum(-1)


def unroll_loss(
    model: EfficientZeroModel,
    batch: TensorBatch,
    coefficients: LossCoefficients,
    mixed_precision: bool = False,
    generator: th.Generator | None = None,
) -> LossOutput:
    """Losses of all unrolled states: the dynamics one step after the other, then every head once for all states.

    Each sample's loss is the sum over its states, importance weighted and divided by the number of unrolled steps.

    :param model: is unrolled
    :param batch: with its targets
    :param coefficients: weights of the terms
    :param mixed_precision: whether the networks compute in bfloat16; the losses themselves always use float32
    :param generator: of everything random, on the batch's device; ``None`` for torch's global one
    """
    n_steps = batch.actions.shape[1]
    first = {key: value[:, 0] for key, value in batch.observations.items()}
    later = {key: value[:, 1:] for key, value in batch.observations.items()}
    with th.autocast(batch.weights.device.type, th.bfloat16, enabled=mixed_precision):
        latents = unroll_latents(model, model.represent(first, generator), batch.actions)
        reward_logits, value_logits, policies = (output.float() for output in model.unrolled_heads(latents))
        consistency = consistency_loss(model, latents[:, 1:], later, generator)

    scale, rewards, values = model.reward_scale, model.reward_support, model.value_support
    value_logits, value_targets = values.used(value_logits), values.encode(batch.values, scale)
    actions = model.action_kind
    terms = {
        "reward": categorical_loss(rewards.used(reward_logits), rewards.encode(batch.rewards, scale)),
        "value": categorical_loss(value_logits, value_targets),
        "policy": -actions.log_likelihood(policies, batch.policy_actions, batch.policy_weights) * batch.policy_mask,
        "consistency": consistency * batch.consistency_mask,
        "entropy": -actions.entropy(policies, generator) * batch.policy_mask,
    }
    assert terms.keys() == coefficients._asdict().keys()
    per_sample = sum(coefficient * terms[name].sum(1) for name, coefficient in coefficients._asdict().items())
    assert isinstance(per_sample, th.Tensor)
    total = (batch.weights * per_sample).mean() / n_steps

    with th.no_grad():
        priorities = model.value_distance(values.decode(value_logits[:, 0], scale), batch.values[:, 0])
        n_policies = batch.policy_mask.sum().clamp(min=1.0)
        counts = {
            "policy": n_policies,
            "consistency": batch.consistency_mask.sum().clamp(min=1.0),
            "entropy": n_policies,
        }
        logs = {f"{name}_loss": term.sum() / counts.get(name, term.numel()) for name, term in terms.items()}
        logs["value_target_outside_rate"] = values.outside(batch.values, scale).float().mean()
        logs["reward_outside_rate"] = rewards.outside(batch.rewards, scale).float().mean()
    return LossOutput(total, priorities, logs)
