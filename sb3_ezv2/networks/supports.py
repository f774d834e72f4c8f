"""Scalars as categorical distributions over a support (MuZero, appendix F; two-hot as in EfficientZero V2).

Values are compressed by ``h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x`` and spread over the two neighbouring bins of an
evenly spaced support in the compressed space.
"""

import torch as th

EPSILON = 0.001
"""Slope that keeps ``h`` invertible for large values."""


def compress(x: th.Tensor) -> th.Tensor:
    """``h(x) = sign(x) (sqrt(|x| + 1) - 1) + EPSILON x``, elementwise."""
    magnitude = x.abs()
    # sqrt(m + 1) - 1 loses all digits of a small m; the equal form m / (sqrt(m + 1) + 1) keeps them.
    return x.sign() * (magnitude / (th.sqrt(magnitude + 1.0) + 1.0)) + EPSILON * x


def decompress(y: th.Tensor) -> th.Tensor:
    """Inverse of :func:`compress`, elementwise."""
    magnitude = y.abs()
    # With u = sqrt(m + 1): EPSILON u^2 + u - (1 + EPSILON + |y|) = 0, and m = u^2 - 1 = (u - 1)(u + 1). The difference
    # u - 1 is written without cancellation so that small values keep their digits.
    root = th.sqrt(1.0 + 4.0 * EPSILON * (1.0 + EPSILON + magnitude))
    u_minus_1 = 2.0 * magnitude / (root + (1.0 + 2.0 * EPSILON))
    return y.sign() * u_minus_1 * (u_minus_1 + 2.0)


def two_hot(x: th.Tensor, low: float, high: float, n_bins: int) -> th.Tensor:
    """Distribution over ``n_bins`` evenly spaced points whose mean is ``x``.

    :param x: values in the support's space ``[...]``; what lies outside is moved to the nearest end
    :param low: first point
    :param high: last point
    :param n_bins: number of points, at least 2
    :return: probabilities ``[..., n_bins]``, at most two of them positive
    """
    position = (x.clamp(low, high) - low) * ((n_bins - 1) / (high - low))
    position = position.clamp(max=n_bins - 1)  # rounding may put the last point behind itself
    lower = position.floor().clamp(0, n_bins - 2)
    upper_weight = (position - lower).unsqueeze(-1)
    lower_index = lower.long().unsqueeze(-1)
    probabilities = th.zeros(*x.shape, n_bins, dtype=x.dtype, device=x.device)
    probabilities.scatter_(-1, lower_index, 1.0 - upper_weight)
    probabilities.scatter_(-1, lower_index + 1, upper_weight)
    return probabilities


def expectation(logits: th.Tensor, low: float, high: float) -> th.Tensor:
    """Mean of the categorical distribution with these logits over evenly spaced points from ``low`` to ``high``.

    :param logits: ``[..., n_bins]``
    :return: ``[...]``
    """
    points = th.linspace(low, high, logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return th.softmax(logits, dim=-1) @ points
