"""How far the network's values and the model's imagination are from what happened, on fresh data."""

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_ezv2.common.normalization import UNCHANGED, Normalizer
from sb3_ezv2.common.tensors import on_device, to_tensors
from sb3_ezv2.common.type_aliases import TrajectoryBatch
from sb3_ezv2.learning.targets import n_step_returns
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.slots import TERMINATED, TRANSITION

N_STATES, N_ENDS = 64, 16
"""Fresh states and newest terminal ends that are looked at."""
MAX_ROWS = 1_000
"""Rows of the buffer that are looked through for terminal ends."""
LEAST_SPREAD = 1e-6
"""Numbers are alike, and no error is compared with their spread, if their variance is less than this share of their
mean square."""


def fresh_states(buffer: TrajectoryReplayBuffer, age: float, n: int = N_STATES) -> np.ndarray:
    """Slots of up to ``n`` transitions, evenly spread over the newest ``age`` observations, without any randomness.

    :param buffer: of whose transitions
    :param age: observations stored since; at least ``n`` of them are looked at
    :param n: most slots
    """
    filled = min(buffer.n_rows, buffer.n_observations // buffer.n_envs)
    depth = int(min(max(age, n) / buffer.n_envs + 1, filled))
    steps_back = np.linspace(0, depth - 1, n).astype(np.int64)
    envs = np.arange(n) % buffer.n_envs
    slots = np.unique((buffer.next_rows[envs] - 1 - steps_back) % buffer.n_rows * buffer.n_envs + envs)
    return slots[buffer.kinds.reshape(-1)[slots] == TRANSITION]


def newest_ends(buffer: TrajectoryReplayBuffer, n: int = N_ENDS) -> np.ndarray:
    """Slots of the last transitions before up to ``n`` of the newest terminal ends."""
    steps_back = np.arange(min(MAX_ROWS, buffer.n_rows))[:, None]
    slots = (buffer.next_rows - 1 - steps_back) % buffer.n_rows * buffer.n_envs + np.arange(buffer.n_envs)
    kinds = buffer.kinds.reshape(-1)
    terminal = slots[kinds[slots] == TERMINATED][:n]
    before = (terminal - buffer.n_envs) % buffer.n_slots
    return before[kinds[before] == TRANSITION]


@th.no_grad()
def inspect_model(
    model: EfficientZeroModel,
    buffer: TrajectoryReplayBuffer,
    age: float,
    unroll: int,
    td_steps: int,
    discount: float,
    normalizer: Normalizer = UNCHANGED,
) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """Values against their targets, and the imagined against the real, both on fresh data.

    :param model: in evaluation mode; it stays as it is
    :param buffer: where the data is
    :param age: observations stored since the oldest of the states
    :param unroll: dynamics steps
    :param td_steps: of the multi-step returns
    :param discount: of one step
    :param normalizer: of observations and rewards
    :return: of values, see :func:`value_bias`, and of the model, see :func:`model_errors`
    """
    fresh = fresh_states(buffer, age)
    starts = np.concatenate([fresh, newest_ends(buffer)])
    # A generator of its own for the actions behind an end: learning must not depend on being looked at.
    batch = buffer.windows(starts, unroll, td_steps, np.random.default_rng(0), normalizer)
    returns = n_step_returns(batch.rewards, batch.n_ahead, batch.terminated, discount, td_steps)
    first = slice(len(fresh)), 0
    bootstrap = batch.slots[np.arange(len(fresh)), returns.bootstrap[first]]
    device = model.reward_scale.device
    # Not td_values, which copies to the host.
    following = model.values(to_tensors(buffer.observations_for_model(bootstrap, normalizer), device))
    sums, discounts = (
        on_device(np.ascontiguousarray(part[first]), device) for part in (returns.sums, returns.discounts)
    )
    targets = sums + discounts * following
    return compare(model, batch, targets)


@th.no_grad()
def compare(
    model: EfficientZeroModel, batch: TrajectoryBatch, targets: th.Tensor
) -> tuple[dict[str, th.Tensor], dict[str, th.Tensor]]:
    """The numbers of :func:`inspect_model` for a batch.

    :param model: in evaluation mode
    :param batch: fresh states, and behind them transitions before terminal ends
    :param targets: of the values of the fresh states ``[n_fresh]``, on the model's device
    """
    (n, unroll), n_fresh = batch.actions.shape[:2], len(targets)
    device = model.reward_scale.device
    observations = to_tensors(batch.observations, device)
    real = model.initial_inference({key: part.flatten(0, 1) for key, part in observations.items()})
    latents = real.latents.unflatten(0, (n, unroll + 1))
    values = real.values.unflatten(0, (n, unroll + 1))
    imagined = model.initial_inference({key: part[:, 0] for key, part in observations.items()})
    actions, rewards = on_device(batch.actions, device), on_device(batch.rewards, device)
    n_ahead, terminated = on_device(batch.n_ahead, device), on_device(batch.terminated, device)
    rows = th.arange(n, device=device) < n_fresh
    errors, behind_values, behind_rewards = {}, [], []
    for k in range(1, unroll + 1):
        imagined = model.recurrent_inference(imagined.latents, actions[:, k - 1], imagined.memories)
        behind_values.append(imagined.values.abs().where(terminated & (n_ahead <= k), th.nan))
        behind_rewards.append(imagined.rewards.abs().where(terminated & (n_ahead < k), th.nan))
        goes_on = rows & (n_ahead - terminated.long() >= k)
        for name in [name for name, last in (("1", 1), ("all", unroll)) if k == last]:
            errors[f"reward_error_{name}"] = relative_error(imagined.rewards, rewards[:, k - 1], rows & (n_ahead >= k))
            errors[f"value_error_{name}"] = relative_error(imagined.values, values[:, k], goes_on)
            # As directions of projections, which the consistency loss holds against each other. Latent states
            # themselves may differ in length, and the heads do not mind.
            ours, theirs = (F.normalize(model.projection(part), dim=1) for part in (imagined.latents, latents[:, k]))
            errors[f"latent_error_{name}"] = relative_error(ours, theirs, goes_on)
    errors["value_behind_end"] = th.stack(behind_values).nanmean()
    errors["reward_behind_end"] = th.stack(behind_rewards).nanmean()
    mean, target = values[:n_fresh, 0].mean(), targets.mean()
    return {"mean": mean, "target": target, "bias": mean - target, "reward_unit": model.reward_scale.clone()}, errors


def relative_error(predicted: th.Tensor, real: th.Tensor, counts: th.Tensor) -> th.Tensor:
    """``sum |predicted - real|^2 / sum |real - mean(real)|^2``: 0 is exact, 1 no better than the mean.

    :param predicted: ``[n]`` or ``[n, dim]``
    :param real: of the same shape
    :param counts: which rows count ``[n]``
    :return: scalar; NaN where the real ones are alike, or none counts
    """
    predicted, real = (part.unsqueeze(1) if part.ndim == 1 else part for part in (predicted, real))
    counted = counts.unsqueeze(1).to(real.dtype)
    mean = (real * counted).sum(0) / counted.sum()
    spread = ((real - mean) ** 2 * counted).sum()
    error = ((predicted - real) ** 2 * counted).sum() / spread
    return error.where(spread > LEAST_SPREAD * (real**2 * counted).sum(), th.nan)
