"""The vector model in numba, for the CPU: what torch computes, without its overhead per operation.

A search makes one model call per simulation, and for few roots most of a call in torch is overhead. Here every
inference follows a table of layers (see :mod:`sb3_ezv2.planning.fused_weights`) in memory that the caller allocated
once. A loop over a table, instead of a call per layer, means that every kind of layer is compiled once.
"""

import numpy as np

from sb3_ezv2.common.actions.box import MAX_ACTION, MEAN_BOUND, MIN_FLATTENED_STD, MIN_STD
from sb3_ezv2.common.compilation import inlined, inlined_arithmetic
from sb3_ezv2.networks.supports import EPSILON
from sb3_ezv2.planning.fused_weights import (
    ADD,
    DECODE,
    LINEAR,
    NORM,
    NORM_EPSILON,
    RELU,
    TANH,
    TRANSFORMED,
    Block,
    ModelWeights,
)
from sb3_ezv2.search.exponential import exponential

BLAS_ROWS = 32
"""From this many rows on a product of matrices is the work of BLAS; below, preparing it costs more than it saves."""
ZERO, ONE = np.float32(0.0), np.float32(1.0)
NO_BOUND = np.float32(-np.inf)


@inlined
def block(memory: np.ndarray, n: int, part: Block) -> np.ndarray:
    """A part of the working memory of ``n`` states.

    :param memory: flat, at least ``n * weights.width`` numbers
    :param n: number of states
    :param part: which one
    :return: a view ``[n, part.width]``
    """
    return memory[n * part.begin : n * (part.begin + part.width)].reshape(n, part.width)


@inlined
def _products(x: np.ndarray, weight: np.ndarray, n: int, n_inputs: int, n_outputs: int, out: np.ndarray) -> None:
    """``x W^T`` for few rows; of two rows, four outputs at a time, so that what was loaded is used several times.

    All arrays are flat: slices cost nothing, unlike ``reshape``.
    """
    n_paired, n_grouped = n - n % 2, n_outputs - n_outputs % 4
    for i in range(0, n_paired, 2):
        a, b = x[i * n_inputs :], x[(i + 1) * n_inputs :]
        out_a, out_b = out[i * n_outputs :], out[(i + 1) * n_outputs :]
        for j in range(0, n_grouped, 4):
            w0, w1 = weight[j * n_inputs :], weight[(j + 1) * n_inputs :]
            w2, w3 = weight[(j + 2) * n_inputs :], weight[(j + 3) * n_inputs :]
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
            out_a[j], out_a[j + 1], out_a[j + 2], out_a[j + 3] = a0, a1, a2, a3
            out_b[j], out_b[j + 1], out_b[j + 2], out_b[j + 3] = b0, b1, b2, b3
    for i in range(n):
        a, out_a = x[i * n_inputs :], out[i * n_outputs :]
        for j in range(n_grouped if i < n_paired else 0, n_outputs):
            w, total = weight[j * n_inputs :], ZERO
            for k in range(n_inputs):
                total += w[k] * a[k]
            out_a[j] = total


@inlined
def _apply_linear(
    parameters: np.ndarray,
    x: np.ndarray,
    n: int,
    n_inputs: int,
    n_outputs: int,
    form: int,
    products: np.ndarray,
    out: np.ndarray,
) -> None:
    """``x W^T + b``; ``products`` is working memory, and must not be ``out`` if the result is added to it."""
    weight, bias = parameters[: n_outputs * n_inputs], parameters[n_outputs * n_inputs :]
    if n >= BLAS_ROWS:
        matrix = weight.reshape(n_outputs, n_inputs)
        np.dot(x.reshape(n, n_inputs), matrix.T, products.reshape(n, n_outputs))
    else:
        _products(x, weight, n, n_inputs, n_outputs, products)
    least = ZERO if form == RELU else NO_BOUND
    for i in range(n):
        row, result = products[i * n_outputs :], out[i * n_outputs :]
        if form == ADD:
            for j in range(n_outputs):
                result[j] += row[j] + bias[j]
        else:
            for j in range(n_outputs):
                y = row[j] + bias[j]
                result[j] = least if y < least else y  # NaN stays NaN
        if form == TANH:
            for j in range(n_outputs):
                result[j] = np.tanh(result[j])


@inlined
def _apply_norm(parameters: np.ndarray, x: np.ndarray, n: int, dim: int, form: int, out: np.ndarray) -> None:
    """LayerNorm of every row into ``out``, which may be ``x``."""
    weight, bias = parameters[:dim], parameters[dim : 2 * dim]
    share = ONE / np.float32(dim)
    least = ZERO if form == RELU else NO_BOUND
    for i in range(n):
        row, result = x[i * dim :], out[i * dim :]
        mean = ZERO
        for j in range(dim):
            mean += row[j]
        mean *= share
        variance = ZERO
        for j in range(dim):
            variance += (row[j] - mean) * (row[j] - mean)
        factor = ONE / np.sqrt(variance * share + np.float32(NORM_EPSILON))
        for j in range(dim):
            y = (row[j] - mean) * factor * weight[j] + bias[j]
            result[j] = least if y < least else y


@inlined
def _decode(parameters: np.ndarray, logits: np.ndarray, n: int, n_bins: int, form: int, out: np.ndarray) -> None:
    """The scalars of every row; see :class:`sb3_ezv2.networks.supports.Support`."""
    scale, reach, points = np.float64(parameters[0]), parameters[1], parameters[2 : 2 + n_bins]
    first = 0
    while form != TRANSFORMED and points[first] < -reach:
        first += 1
    for i in range(n):
        row = logits[i * n_bins :]
        largest = row[first]
        for j in range(first, n_bins - first):
            largest = row[j] if row[j] > largest else largest
        total, weighted = 0.0, 0.0
        for j in range(first, n_bins - first):
            p = np.float64(exponential(row[j] - largest))
            total += p
            weighted += p * points[j]
        y = weighted / total
        if form == TRANSFORMED:
            root = np.sqrt(1.0 + 4.0 * EPSILON * (1.0 + EPSILON + abs(y)))
            u_minus_1 = 2.0 * abs(y) / (root + (1.0 + 2.0 * EPSILON))
            size = u_minus_1 * (u_minus_1 + 2.0)
            y = -size if y < 0.0 else size
        out[i] = scale * y


@inlined_arithmetic
def run_layers(flat: np.ndarray, layers: np.ndarray, memory: np.ndarray, n: int) -> None:
    """Compute a table of layers; the arithmetic of ``EfficientZeroModel``.

    :param flat: of the :class:`~sb3_ezv2.planning.fused_weights.ModelWeights`
    :param layers: ``weights.initial``, which needs the block ``observations``, or ``weights.recurrent``, which needs
        the blocks ``latents`` and ``actions`` (one-hot if discrete)
    :param memory: working memory ``[>= n * weights.width]`` float32; the blocks ``latents``, ``values``, ``policies``
        and, by ``weights.recurrent``, ``rewards`` are filled
    :param n: number of states
    """
    for index in range(layers.shape[0]):
        layer = layers[index]
        kind, source, n_inputs = layer[0], layer[1], layer[2]
        target, n_outputs, form, at = layer[3], layer[4], layer[5], layer[6]
        x, out = memory[n * source : n * (source + n_inputs)], memory[n * target : n * (target + n_outputs)]
        if kind == LINEAR:
            products = memory[: n * n_outputs] if form == ADD else out
            _apply_linear(flat[at:], x, n, n_inputs, n_outputs, form, products, out)
        elif kind == NORM:
            _apply_norm(flat[at:], x, n, n_inputs, form, out)
        elif kind == DECODE:
            _decode(flat[at:], x, n, n_inputs, form, out)
        else:  # JOIN
            for i in range(n):
                for j in range(n_inputs):
                    out[i * n_outputs + at + j] = x[i * n_inputs + j]


@inlined
def write_observations(weights: ModelWeights, observations: np.ndarray, memory: np.ndarray) -> None:
    """Normalise real observations for :func:`run_layers`.

    :param weights: from :func:`~sb3_ezv2.planning.fused_weights.model_weights`
    :param observations: flattened ``[n, observation_dim]`` float32
    :param memory: working memory ``[>= n * weights.width]`` float32, whose block ``observations`` is filled
    """
    n, dim = observations.shape
    mean, std = weights.flat[:dim], weights.flat[dim : 2 * dim]
    normalised = block(memory, n, weights.observations)
    for i in range(n):
        for j in range(dim):
            x = (observations[i, j] - mean[j]) / std[j]
            size = np.log1p(abs(x))
            normalised[i, j] = -size if x < ZERO else size


@inlined
def _gaussian(outputs: np.ndarray, dimension: int) -> tuple[float, float]:
    """Mean and standard deviation before squashing; see ``BoxActions.gaussian``."""
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
    """Candidates at the root of one state; see ``BoxActions.candidates``.

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
    """Actions at a node below the root; see ``BoxActions.children``.

    :param outputs: of the policy head ``[2 * action_dim]``
    :param noise: standard normal ``[n_children, action_dim]``
    :param actions: the first ``n_children`` rows are filled ``[>= n_children, action_dim]``
    """
    n_children, dim = noise.shape
    for d in range(dim):
        mean, std = _gaussian(outputs, d)
        for c in range(n_children):
            actions[c, d] = _squash(mean + std * noise[c, d])
