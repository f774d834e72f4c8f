"""One update of the networks: loss, gradient, optimiser step, running average."""

from typing import NamedTuple

import torch as th

from sb3_ezv2.losses import LossCoefficients, TensorBatch, unroll_loss
from sb3_ezv2.policies import PlanningPolicy


class UpdateOutput(NamedTuple):
    """What an update leaves behind."""

    priorities: th.Tensor  # [batch]
    logs: dict[str, th.Tensor]  # scalars by log key without the prefix


def update(
    policy: PlanningPolicy,
    batch: TensorBatch,
    coefficients: LossCoefficients,
    max_grad_norm: float,
    tau: float,
    mixed_precision: bool,
) -> UpdateOutput:
    """Take one optimiser step and move the running average.

    :param policy: its model is trained
    :param batch: with targets, on the model's device
    :param coefficients: weights of the losses
    :param max_grad_norm: gradients are clipped to this norm
    :param tau: share of the newest weights that enters the running average
    :param mixed_precision: whether the networks compute in bfloat16
    """
    batch = batch._replace(observations=policy.training_view(batch.observations))
    output = unroll_loss(policy.model, batch, coefficients, mixed_precision)
    policy.optimizer.zero_grad()
    output.total.backward()
    grad_norm = th.nn.utils.clip_grad_norm_(policy.model.parameters(), max_grad_norm)
    policy.optimizer.step()
    policy.update_average(tau)
    return UpdateOutput(output.priorities, {"loss": output.total.detach(), "grad_norm": grad_norm, **output.logs})
