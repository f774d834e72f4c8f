"""Scalars as categorical distributions over a support (MuZero, appendix F; two-hot as in EfficientZero V2).

The points of a support are as dense as ``h(x) = sign(x) (sqrt(|x| + 1) - 1) + eps x`` is steep. A scalar is spread over
its two neighbours so that the mean of the distribution is the scalar.
"""

import torch as th
from torch import nn

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


def two_hot(x: th.Tensor, points: th.Tensor) -> th.Tensor:
    """Distribution over ``points`` whose mean is ``x``.

    :param x: scalars ``[...]``; what lies outside is moved to the nearest end
    :param points: the support, increasing ``[n_bins]``, at least 2
    :return: probabilities ``[..., n_bins]``, at most two of them positive
    """
    x = x.clamp(points[0], points[-1]).contiguous()
    lower = (th.searchsorted(points, x, right=True) - 1).clamp(0, len(points) - 2)
    below, above = points[lower], points[lower + 1]
    upper_weight = ((x - below) / (above - below)).clamp(0.0, 1.0).unsqueeze(-1)
    lower = lower.unsqueeze(-1)
    probabilities = th.zeros(*x.shape, len(points), dtype=x.dtype, device=x.device)
    probabilities.scatter_(-1, lower, 1.0 - upper_weight)
    probabilities.scatter_(-1, lower + 1, upper_weight)
    return probabilities


def expectation(logits: th.Tensor, points: th.Tensor) -> th.Tensor:
    """Mean of the categorical distribution with these logits.

    :param logits: ``[..., n_bins]``
    :param points: the support ``[n_bins]``
    :return: ``[...]``
    """
    return th.softmax(logits, dim=-1) @ points


UNUSED = -1e9
"""Logit of a point beyond the reach; finite, because a product of zero and infinity is not a number."""
TAIL_RATIO, N_TAIL = 2.0, 17
"""Beyond the dense part of a support every point is this many times the one before, this often."""


class Support(nn.Module):
    """Reads and writes scalars in units of the reward scale as distributions over fixed points; means are exact.

    The points lie densely up to ``bound`` and geometrically from there on, to ``2^17`` times as much. Only those within
    the *reach* are used: the data says how large a scalar can be, and points beyond it would only add noise to the
    mean. Points are symmetric, so that equal logits mean zero, however far the reach is.

    :param bound: where the dense part ends, in units of the reward scale
    :param n_bins: points of the dense part, an odd number
    """

    points: th.Tensor
    reach: th.Tensor

    def __init__(self, bound: float, n_bins: int) -> None:
        super().__init__()
        self.bound = bound
        dense = decompress(
            th.linspace(0.0, float(compress(th.tensor(bound, dtype=th.float64))), n_bins // 2 + 1, dtype=th.float64)
        )
        tail = dense[-1] * TAIL_RATIO ** th.arange(1, N_TAIL + 1, dtype=th.float64)
        positive = th.cat([dense[1:], tail]).float()
        self.register_buffer("points", th.cat([-positive.flip(0), th.zeros(1), positive]), persistent=False)
        self.register_buffer("reach", dense[-1].float())

    @property
    def n_bins(self) -> int:
        """Number of points."""
        return len(self.points)

    @th.no_grad()
    def set_reach(self, largest: float) -> None:
        """Use the points up to the first that is at least ``largest`` (in units of the reward scale)."""
        beyond = self.points[self.n_bins // 2 :]
        self.reach.copy_(beyond[(beyond < largest).sum().clamp(max=len(beyond) - 1)])

    def used(self, logits: th.Tensor) -> th.Tensor:
        """``logits [..., n_bins]`` with those of points beyond the reach at :data:`UNUSED`."""
        return logits.masked_fill(self.points.abs() > self.reach, UNUSED)

    def decode(self, logits: th.Tensor, scale: th.Tensor) -> th.Tensor:
        """Scalars ``[...]`` in the environment's units from ``logits [..., n_bins]``."""
        return scale * expectation(self.used(logits), self.points)

    def encode(self, scalars: th.Tensor, scale: th.Tensor) -> th.Tensor:
        """Target distribution ``[..., n_bins]`` of ``scalars [...]``; what lies beyond the reach is moved there."""
        return two_hot((scalars / scale).clamp(-self.reach, self.reach), self.points)

    def outside(self, scalars: th.Tensor, scale: th.Tensor) -> th.Tensor:
        """Whether scalars ``[...]`` lie beyond the reach."""
        return (scalars / scale).abs() > self.reach


class TransformedSupport(Support):
    """The support of release 0.1 and, in its form, of the paper: evenly spaced points and means in transformed space.

    ``scale * decompress(E[points])`` (MuZero, appendix F). Its reach never changes. Where the outcome is random, such a
    mean is nearer to zero than that of the scalars.

    :param bound: largest scalar, in units of the reward scale
    :param n_bins: number of points
    """

    def __init__(self, bound: float, n_bins: int) -> None:
        super().__init__(bound, n_bins)
        top = float(compress(th.tensor(bound)))
        self.points = th.linspace(-top, top, n_bins)
        self.reach = th.tensor(bound)

    def set_reach(self, largest: float) -> None:
        """Nothing: the reach is fixed."""

    def used(self, logits: th.Tensor) -> th.Tensor:
        """``logits``: all points are used."""
        return logits

    def decode(self, logits: th.Tensor, scale: th.Tensor) -> th.Tensor:
        """Scalars ``[...]`` in the environment's units from ``logits [..., n_bins]``."""
        return scale * decompress(expectation(logits, self.points))

    def encode(self, scalars: th.Tensor, scale: th.Tensor) -> th.Tensor:
        """Target distribution ``[..., n_bins]`` of ``scalars [...]``."""
        return two_hot(compress(scalars / scale), self.points)
