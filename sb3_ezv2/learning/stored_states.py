"""What a network says of stored states: their values, what it imagines behind an end, and how far it is off.

On a GPU the numbers are on their way while the CPU goes on: functions return what waits for them.
"""

from collections.abc import Callable

import numpy as np
import torch as th

from sb3_ezv2.common.normalization import UNCHANGED, Normalizer
from sb3_ezv2.common.recording import RecordedRows
from sb3_ezv2.common.tensors import on_device_together, on_its_way
from sb3_ezv2.common.type_aliases import TrajectoryBatch
from sb3_ezv2.learning.novelty import Novelty
from sb3_ezv2.learning.targets import MultiStepReturns
from sb3_ezv2.networks.model import EfficientZeroModel, ImageModel
from sb3_ezv2.planning.host_copy import is_faster_on_host, on_host
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer

MAX_STATES, MAX_IMAGES_ON_CPU, MAX_VECTORS_ON_GPU = 1024, 256, 2048
"""States searched or evaluated in one go; more gain nothing and cost memory. On a GPU the networks for vectors are so
small that the time of a search hardly depends on its size."""

Awaited = Callable[[], np.ndarray]
"""Waits for numbers from the model's device and gives them."""


def in_chunks(model: EfficientZeroModel, slots: np.ndarray) -> list[np.ndarray]:
    """``slots [n]`` in pieces as large as the model should see at once."""
    on_gpu, images = model.reward_scale.device.type == "cuda", isinstance(model, ImageModel)
    size = MAX_STATES
    if on_gpu != images:
        size = MAX_VECTORS_ON_GPU if on_gpu else MAX_IMAGES_ON_CPU
    return [slots[first : first + size] for first in range(0, len(slots), size)]


def _values(model: EfficientZeroModel, *observations: th.Tensor) -> th.Tensor:
    """Values ``[n]`` of observations in the order of the model's spaces."""
    return model.values(dict(zip(model.spaces, observations, strict=True)))


def _imagine(model: EfficientZeroModel, actions: th.Tensor, *observations: th.Tensor) -> th.Tensor:
    """Rewards and values ``[n, unroll, 2]`` of the states that follow under ``actions [n, unroll, ...]``."""
    output = model.initial_inference(dict(zip(model.spaces, observations, strict=True)))
    found = []
    for k in range(actions.shape[1]):
        output = model.recurrent_inference(output.latents, actions[:, k], output.memories)
        found.append(th.stack([output.rewards, output.values], dim=1))
    return th.stack(found, dim=1)


RECORDED = {function: RecordedRows(function) for function in (_values, _imagine)}
MAX_RECORDED_IMAGES = 64
"""More images than these keep a GPU busy without a recording, which would pad them to a power of two."""
IMAGE_ROWS = 128
"""More images are padded to a multiple of this: for every new number of them cuDNN looks for algorithms anew."""


@th.no_grad()
def ask_model(
    function: Callable[..., th.Tensor],
    model: EfficientZeroModel,
    buffer: TrajectoryReplayBuffer,
    slots: np.ndarray,
    normalizer: Normalizer,
    *arrays: np.ndarray,
) -> Awaited:
    """What one of the functions above says of ``arrays [n, ...]`` and the observations in ``slots [n]``."""
    device, n = model.reward_scale.device, len(slots)
    missing = _n_rows(model, n) - n
    if missing > 0:
        slots = _filled_up(slots, missing)
        arrays = tuple(_filled_up(rows, missing) for rows in arrays)
    observations = buffer.observations_for_model(slots, normalizer)
    tensors = on_device_together([*arrays, *(observations[name] for name in model.spaces)], device)
    if _is_recorded(model, n):
        function = RECORDED[function]
    return on_its_way(function(model, *tensors)[:n])


def _is_recorded(model: EfficientZeroModel, n: int) -> bool:
    """Whether ``n`` states are evaluated by a recording: where starting the kernels takes longer than they do."""
    on_gpu = model.reward_scale.device.type == "cuda"
    return on_gpu and (n <= MAX_RECORDED_IMAGES or not isinstance(model, ImageModel))


def _filled_up(rows: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([rows, rows[:1].repeat(missing, 0)])


def _n_rows(model: EfficientZeroModel, n: int) -> int:
    """How many states are evaluated in place of ``n``; the first one is repeated."""
    many_images = model.reward_scale.device.type == "cuda" and not _is_recorded(model, n)
    return -(-n // IMAGE_ROWS) * IMAGE_ROWS if many_images else n


def stored_values(
    model: EfficientZeroModel, buffer: TrajectoryReplayBuffer, slots: np.ndarray, normalizer: Normalizer
) -> Awaited:
    """Values ``[n]`` that the network gives the observations in ``slots [n]``."""
    found = [ask_model(_values, model, buffer, chunk, normalizer) for chunk in in_chunks(model, slots)]
    return lambda: np.concatenate([wait() for wait in found])


def td_values(
    batch: TrajectoryBatch,
    returns: MultiStepReturns,
    needed: np.ndarray,
    buffer: TrajectoryReplayBuffer,
    model: EfficientZeroModel,
    normalizer: Normalizer,
) -> Awaited:
    """Multi-step targets ``[batch, unroll + 1]`` of the states in ``needed``; elsewhere without the bootstrap."""
    values = returns.sums.copy()
    needed = needed & (returns.discounts > 0.0)
    if not needed.any():
        return lambda: values
    slots = np.take_along_axis(batch.slots, returns.bootstrap, axis=1)[needed]
    slots, inverse = np.unique(slots, return_inverse=True)
    found = stored_values(model, buffer, slots, normalizer)

    def add() -> np.ndarray:
        values[needed] += returns.discounts[needed] * found()[inverse]
        return values

    return add


def go_on_past_the_end(
    batch: TrajectoryBatch,
    buffer: TrajectoryReplayBuffer,
    model: EfficientZeroModel,
    normalizer: Normalizer,
) -> Callable[[np.ndarray], np.ndarray]:
    """Targets behind the last observation of a trajectory that did not terminate.

    Nobody knows what would have followed there, but the model knows something: what it predicts when it starts from the
    observation itself. A state that was imagined up to there learns to go on like that under the batch's random
    actions; otherwise a search that passes it would find whatever the model does where it was never trained.

    :param batch: with random actions behind the end
    :param buffer: where the last observations are
    :param model: goes on
    :param normalizer: of observations
    :return: takes value targets ``[batch, unroll + 1]``, changes them in place behind such ends, and gives reward
        targets ``[batch, unroll]``
    """
    unroll = batch.actions.shape[1]
    rewards = batch.rewards[:, :unroll].copy()
    rows = np.flatnonzero((batch.n_ahead < unroll) & ~batch.terminated)
    if len(rows) == 0:
        return lambda values: rewards
    steps = batch.n_ahead[rows, None] + np.arange(unroll)  # of the unroll, one after the other from the end on
    actions = batch.actions[rows[:, None], np.minimum(steps, unroll - 1)]
    imagined = ask_model(_imagine, model, buffer, batch.slots[rows, steps[:, 0]], normalizer, actions)
    inside = steps < unroll
    at = np.broadcast_to(rows[:, None], steps.shape)[inside], steps[inside]

    def write(values: np.ndarray) -> np.ndarray:
        found = imagined()[inside]
        rewards[at] = found[:, 0]
        values[at[0], at[1] + 1] = found[:, 1]
        return rewards

    return write


@th.no_grad()
def bellman_errors(
    model: EfficientZeroModel,
    buffer: TrajectoryReplayBuffer,
    slots: np.ndarray,
    discount: float,
    normalizer: Normalizer = UNCHANGED,
    novelty: Novelty | None = None,
) -> np.ndarray:
    """``|h(v(s)) - h(r + discount * v(s'))|`` of transitions: what surprises the current model.

    :param model: gives the values
    :param buffer: where the transitions are
    :param slots: of the transitions ``[n]``
    :param discount: of one step
    :param normalizer: of observations and rewards
    :return: ``[n]``
    """
    if is_faster_on_host(model, 2 * len(slots)):
        model = on_host(model)  # the same numbers that have just acted
    rewards, terminal, following = buffer.transitions_at(slots)
    rewards = normalizer.rewards(rewards)
    if novelty is not None:
        rewards = novelty.mixed(rewards, following, buffer, model, normalizer)
    both = stored_values(model, buffer, np.concatenate([slots, following]), normalizer)()
    values, next_values = np.split(both, 2)
    targets = (rewards + discount * ~terminal * next_values).astype(np.float32)
    return model.value_distance(th.as_tensor(values), th.as_tensor(targets)).numpy()
