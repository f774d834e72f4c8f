"""What several ranks agree on besides gradients: moments of observations, ``VecNormalize`` and importance weights.

Each rank keeps its own; models get what follows from all of them. Everything here returns for one process alone what it
was given.
"""

from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.ranks import Ranks
from sb3_ezv2.common.type_aliases import TrajectoryBatch
from sb3_ezv2.replay.buffer import MIN_WEIGHT, TrajectoryReplayBuffer

AGREED = "agreed_moments"
"""Attribute of a ``VecNormalize``: the moments that all ranks had when they agreed last, by name."""

Moments = tuple[np.ndarray, np.ndarray, float]
"""Mean, variance and number of observations."""


def together(parts: list[Moments]) -> Moments:
    """Moments of several sets of numbers; a negative count takes a set away (Chan et al. 1979).

    :param parts: at least one; the order matters to the last bit only
    """
    mean, var, count = parts[0]
    for other_mean, other_var, other_count in parts[1:]:
        total = count + other_count
        apart = other_mean - mean
        squares = var * count + other_var * other_count + apart**2 * (count * other_count / total)
        mean, var, count = mean + apart * (other_count / total), squares / total, total
    return mean, np.maximum(var, 0.0), count


def _moments(running: RunningMeanStd) -> Moments:
    return running.mean, running.var, running.count


def _use(running: RunningMeanStd, moments: Moments) -> None:
    running.mean, running.var, running.count = moments


def merged_moments(running: RunningMeanStd, ranks: Ranks) -> RunningMeanStd:
    """Moments of what all ranks have seen.

    :param running: of what this rank has seen, not changed
    :param ranks: that learn together
    """
    if ranks.size == 1:
        return running
    merged = RunningMeanStd(shape=np.shape(running.mean))
    _use(merged, together(ranks.gathered(_moments(running))))
    return merged


def _running(normalizer: Normalizer) -> dict[str, RunningMeanStd]:
    """All that a ``VecNormalize`` counts, by name."""
    wrapper: Any = normalizer.vec_normalize
    if wrapper is None:
        return {}
    found = {"returns": wrapper.ret_rms}
    if wrapper.norm_obs:
        parts = wrapper.obs_rms if isinstance(wrapper.obs_rms, dict) else {"observation": wrapper.obs_rms}
        found |= {f"observations/{name}": part for name, part in parts.items()}
    return found


def remember_normalization(normalizer: Normalizer) -> None:
    """Note what the ``VecNormalize`` of every rank has counted so far: the same everywhere."""
    if normalizer.vec_normalize is not None:
        moments = {name: _moments(running) for name, running in _running(normalizer).items()}
        setattr(normalizer.vec_normalize, AGREED, moments)


def agree_on_normalization(normalizer: Normalizer, ranks: Ranks) -> None:
    """Let the ``VecNormalize`` of every rank have counted what all of them have.

    :param normalizer: of this rank
    :param ranks: that learn together
    """
    if ranks.size == 1 or normalizer.vec_normalize is None or not normalizer.vec_normalize.training:
        return
    before: dict[str, Moments] = vars(normalizer.vec_normalize).get(AGREED, {})
    for name, running in _running(normalizer).items():
        parts = ranks.gathered(_moments(running))
        if name in before:  # every rank has counted it: it stays once
            mean, var, count = before[name]
            parts.append((mean, var, -(ranks.size - 1) * count))
        _use(running, together(parts))
    remember_normalization(normalizer)


def agreed_weights(
    batch: TrajectoryBatch, buffer: TrajectoryReplayBuffer, beta: float, ranks: Ranks
) -> TrajectoryBatch:
    """A batch whose importance weights are those of a draw from all shards, divided by the largest of all ranks.

    :param batch: sampled from this rank's shard
    :param buffer: this rank's shard
    :param beta: exponent of the weights
    :param ranks: that learn together
    """
    if ranks.size == 1:
        return batch
    largest, sizes = ranks.table([buffer.largest_weight, len(buffer)]).T
    largest = largest * (sizes.mean() / sizes) ** -beta  # as if every shard had the mean size
    factor = np.float32(largest[ranks.rank] / largest.max())
    return batch._replace(weights=np.maximum(batch.weights * factor, np.float32(MIN_WEIGHT)))
