"""The vector model in numba, for the CPU: what torch computes, without its overhead per operation.

A search makes one model call per simulation, and for few roots most of a call in torch is overhead. Here every
inference is a compiled function that writes into arrays which its caller allocated once. The parameters come as one
flat array (see :mod:`sb3_ezv2.networks.fused_weights`) that the layers read from the front to the back: each is told
where its parameters begin and returns where they end.
"""

from typing import NamedTuple

import numpy as np

from sb3_ezv2.compilation import entry_point, inlined, inlined_arithmetic
from sb3_ezv2.exponential import exponential
from sb3_ezv2.networks.action_heads import MAX_ACTION, MEAN_BOUND, MIN_FLATTENED_STD, MIN_STD
from sb3_ezv2.networks.fused_weights import NORM_EPSILON, ModelWeights
from sb3_ezv2.supports import EPSILON

BLAS_ROWS = 32
"""From this many rows on a product of matrices is the work of BLAS; below, preparing it costs more than it saves."""
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NO_BOUND = np.float32(-np.inf)
VALUE_HEAD, POLICY_HEAD = 0, 1  # in this order, then the reward head


class Scratch(NamedTuple):
    """Working memory of the inferences of at most ``n`` states, all float32."""

    inputs: np.ndarray  # [n * (latent_dim + embedding_dim) or observation_dim]
    normed: np.ndarray  # [n * latent_dim]
    wide: np.ndarray  # [n * hidden_dim or embedding_dim]
    logits: np.ndarray  # [n * number of bins]


@inlined
def new_scratch(weights: ModelWeights, n: int) -> Scratch:
    """Working memory for inferences of up to ``n`` states."""
    return Scratch(
        np.empty(n * max(weights.latent_dim + weights.embedding_dim, weights.observation_dim), np.float32),
        np.empty(n * weights.latent_dim, np.float32),
        np.empty(n * max(weights.hidden_dim, weights.embedding_dim), np.float32),
        np.empty(n * max(weights.n_reward_bins, weights.n_value_bins), np.float32),
    )


@inlined
def _matrix(buffer: np.ndarray, n: int, width: int) -> np.ndarray:
    """The beginning of a flat buffer as ``[n, width]``."""
    return buffer[: n * width].reshape(n, width)


@inlined_arithmetic
def _products(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """``x W^T`` for few rows; of two rows, four outputs at a time, so that what was loaded is used several times."""
    n_inputs, n_outputs = weight.shape[1], weight.shape[0]
    n_paired, n_grouped = x.shape[0] - x.shape[0] % 2, n_outputs - n_outputs % 4
    for i in range(0, n_paired, 2):
        a, b = x[i], x[i + 1]
        for j in range(0, n_grouped, 4):
            w0, w1, w2, w3 = weight[j], weight[j + 1], weight[j + 2], weight[j + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = ZERO
            for k in range(n_inputs):
                a0 += w0[k] * a[k]
                a1 += w1[k] * a[k]
                a2 += w2[k] * a[k]
                a3 += w3[k] * a[k]
                b0 += w0[k] * b[k]
                b1 += w1[k] * b[k]
                b2 += w2[k] * b[k]
                b3 += w3[k] * b[k]
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = a0, a1, a2, a3
            out[i + 1, j], out[i + 1, j + 1], out[i + 1, j + 2], out[i + 1, j + 3] = b0, b1, b2, b3
    for i in range(x.shape[0]):
        a = x[i]
        for j in range(n_grouped if i < n_paired else 0, n_outputs):
            w, total = weight[j], ZERO
            for k in range(n_inputs):
                total += w[k] * a[k]
            out[i, j] = total


@inlined_arithmetic
def _apply_linear(flat: np.ndarray, at: int, x: np.ndarray, out: np.ndarray, least: np.float32) -> int:
    """``x W^T + b`` into ``out``, with ``least`` as lower bound: 0 for ReLU, or ``NO_BOUND``."""
    n, n_inputs, n_outputs = x.shape[0], x.shape[1], out.shape[1]
    weight = flat[at : at + n_outputs * n_inputs].reshape(n_outputs, n_inputs)
    at += n_outputs * n_inputs
    if n >= BLAS_ROWS:
        np.dot(x, weight.T, out)
    else:
        _products(x, weight, out)
    for i in range(n):
        row = out[i]
        for j in range(n_outputs):
            y = row[j] + flat[at + j]
            row[j] = least if y < least else y  # NaN stays NaN
    return at + n_outputs


@inlined_arithmetic
def _apply_norm(flat: np.ndarray, at: int, x: np.ndarray, out: np.ndarray, least: np.float32) -> int:
    """LayerNorm of every row into ``out`` (which may be ``x``), with ``least`` as lower bound."""
    n = x.shape[1]
    weight, bias = flat[at : at + n], flat[at + n : at + 2 * n]
    share = ONE / np.float32(n)
    for i in range(x.shape[0]):
        row, result = x[i], out[i]
        mean = ZERO
        for j in range(n):
            mean += row[j]
        mean *= share
        variance = ZERO
        for j in range(n):
            variance += (row[j] - mean) * (row[j] - mean)
        factor = ONE / np.sqrt(variance * share + np.float32(NORM_EPSILON))
        for j in range(n):
            y = (row[j] - mean) * factor * weight[j] + bias[j]
            result[j] = least if y < least else y
    return at + 2 * n


@inlined_arithmetic
def _decode(logits: np.ndarray, bound: float, scale: float, out: np.ndarray) -> None:
    """``scale * decompress(E[support])`` of every row; see :mod:`sb3_ezv2.supports`."""
    n_bins = logits.shape[1]
    for i in range(logits.shape[0]):
        row = logits[i]
        largest = row[0]
        for j in range(n_bins):
            largest = row[j] if row[j] > largest else largest
        total, weighted = 0.0, 0.0
        for j in range(n_bins):
            p = np.float64(exponential(row[j] - largest))
            total += p
            weighted += p * j
        y = bound * (2.0 * weighted / (total * (n_bins - 1)) - 1.0)
        root = np.sqrt(1.0 + 4.0 * EPSILON * (1.0 + EPSILON + abs(y)))
        u_minus_1 = 2.0 * abs(y) / (root + (1.0 + 2.0 * EPSILON))
        out[i] = scale * np.sign(y) * u_minus_1 * (u_minus_1 + 2.0)


@inlined
def _finish(
    weights: ModelWeights,
    at: int,
    latents: np.ndarray,
    scratch: Scratch,
    rewards: np.ndarray,
    values: np.ndarray,
    policies: np.ndarray,
) -> None:
    """Residual blocks on ``latents`` in place, then what the heads say; no rewards if their array is empty."""
    flat, n, dim = weights.flat, latents.shape[0], weights.latent_dim
    normed, hidden = _matrix(scratch.normed, n, dim), _matrix(scratch.wide, n, weights.hidden_dim)
    for _ in range(weights.n_blocks):
        at = _apply_norm(flat, at, latents, normed, NO_BOUND)
        at = _apply_linear(flat, at, normed, hidden, ZERO)
        at = _apply_linear(flat, at, hidden, normed, NO_BOUND)
        for i in range(n):
            for j in range(dim):
                latents[i, j] += normed[i, j]
    at = _apply_norm(flat, weights.heads, latents, normed, NO_BOUND)
    for head in range(3 if rewards.shape[0] > 0 else 2):
        out = policies
        if head != POLICY_HEAD:
            n_bins = weights.n_value_bins if head == VALUE_HEAD else weights.n_reward_bins
            out = _matrix(scratch.logits, n, n_bins)
        at = _apply_linear(flat, at, normed, hidden, ZERO)
        at = _apply_linear(flat, at, hidden, out, NO_BOUND)
        if head == VALUE_HEAD:
            _decode(out, weights.value_bound, weights.reward_scale, values)
        elif head != POLICY_HEAD:
            _decode(out, weights.reward_bound, weights.reward_scale, rewards)


@entry_point
def initial_inference(
    weights: ModelWeights,
    observations: np.ndarray,
    scratch: Scratch,
    latents: np.ndarray,
    values: np.ndarray,
    policies: np.ndarray,
) -> None:
    """Latent states, values and policy outputs of real observations.

    :param weights: from :func:`~sb3_ezv2.networks.fused_weights.model_weights`
    :param observations: flattened ``[n, observation_dim]`` float32
    :param scratch: for at least ``n`` states
    :param latents: filled with ``[n, latent_dim]``
    :param values: filled with ``[n]``
    :param policies: filled with ``[n, policy outputs]``
    """
    n, dim = observations.shape
    mean, std = weights.flat[:dim], weights.flat[dim : 2 * dim]
    normalised = _matrix(scratch.inputs, n, dim)
    for i in range(n):
        for j in range(dim):
            x = (observations[i, j] - mean[j]) / std[j]
            normalised[i, j] = np.sign(x) * np.log1p(abs(x))
    at = _apply_linear(weights.flat, 2 * dim, normalised, latents, NO_BOUND)
    for i in range(n):
        for j in range(weights.latent_dim):
            latents[i, j] = np.tanh(latents[i, j])
    _finish(weights, at, latents, scratch, values[:0], values, policies)


@entry_point
def recurrent_inference(
    weights: ModelWeights,
    latents: np.ndarray,
    encoded_actions: np.ndarray,
    scratch: Scratch,
    following: np.ndarray,
    rewards: np.ndarray,
    values: np.ndarray,
    policies: np.ndarray,
) -> None:
    """Next latent states, rewards, values and policy outputs; the arithmetic of ``EfficientZeroModel``.

    :param weights: from :func:`~sb3_ezv2.networks.fused_weights.model_weights`
    :param latents: ``[n, latent_dim]`` float32
    :param encoded_actions: ``[n, action_dim]`` float32, one-hot if discrete
    :param scratch: for at least ``n`` states
    :param following: filled with the next latent states ``[n, latent_dim]``
    :param rewards: filled with ``[n]``
    :param values: filled with ``[n]``
    :param policies: filled with ``[n, policy outputs]``
    """
    n, dim = latents.shape
    flat = weights.flat
    embedded = _matrix(scratch.wide, n, weights.embedding_dim)
    at = _apply_linear(flat, weights.dynamics, encoded_actions, embedded, NO_BOUND)
    at = _apply_norm(flat, at, embedded, embedded, ZERO)
    joint = _matrix(scratch.inputs, n, dim + weights.embedding_dim)
    for i in range(n):
        for j in range(dim):
            joint[i, j] = latents[i, j]
        for j in range(weights.embedding_dim):
            joint[i, dim + j] = embedded[i, j]
    at = _apply_norm(flat, at, joint, joint, NO_BOUND)
    wide = _matrix(scratch.wide, n, weights.hidden_dim)
    at = _apply_linear(flat, at, joint, wide, ZERO)
    at = _apply_linear(flat, at, wide, following, NO_BOUND)
    for i in range(n):
        for j in range(dim):
            following[i, j] += latents[i, j]
    _finish(weights, at, following, scratch, rewards, values, policies)


@inlined
def _gaussian(outputs: np.ndarray, dimension: int) -> tuple[float, float]:
    """Mean and standard deviation before squashing; see ``ContinuousActionHead.gaussian``."""
    x = outputs[outputs.shape[0] // 2 + dimension] + 1.0
    mean = MEAN_BOUND * np.tanh(outputs[dimension] / MEAN_BOUND)
    return mean, max(x, 0.0) + np.log1p(np.exp(-abs(x))) + MIN_STD


@inlined
def _squash(unsquashed: float) -> float:
    return min(max(np.tanh(unsquashed), -MAX_ACTION), MAX_ACTION)


@inlined
def sample_candidates(
    outputs: np.ndarray, noise: np.ndarray, n_policy_candidates: int, flatten_factor: float, actions: np.ndarray
) -> None:
    """Candidates at the root of one state; see ``ContinuousActionHead.root_candidates``.

    :param outputs: of the policy head ``[2 * action_dim]``
    :param noise: standard normal ``[n_candidates, action_dim]``
    :param n_policy_candidates: from here on candidates come from the flattened policy; negative to act greedily, all
        candidates from the policy and the first one its mean
    :param flatten_factor: of the flattened policy
    :param actions: filled with ``[n_candidates, action_dim]``
    """
    n_candidates, dim = noise.shape
    for d in range(dim):
        mean, std = _gaussian(outputs, d)
        flattened = max(std * flatten_factor, MIN_FLATTENED_STD)
        for c in range(n_candidates):
            spread = flattened if 0 <= n_policy_candidates <= c else std
            if n_policy_candidates < 0 and c == 0:
                spread = 0.0
            actions[c, d] = _squash(mean + spread * noise[c, d])


@inlined
def sample_children(outputs: np.ndarray, noise: np.ndarray, actions: np.ndarray) -> None:
    """Actions at a node below the root; see ``ContinuousActionHead.children``.

    :param outputs: of the policy head ``[2 * action_dim]``
    :param noise: standard normal ``[n_children, action_dim]``
    :param actions: the first ``n_children`` rows are filled ``[>= n_children, action_dim]``
    """
    n_children, dim = noise.shape
    for d in range(dim):
        mean, std = _gaussian(outputs, d)
        for c in range(n_children):
            actions[c, d] = _squash(mean + std * noise[c, d])
