"""``Box``: a squashed Gaussian policy, and candidates sampled from it."""

import math

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces

from sb3_ezv2.common.actions.kind import ActionKind, Candidates, Sampling
from sb3_ezv2.common.type_aliases import Plan, PolicyTargets

MAX_ACTION = 0.999
"""Sampled actions are kept inside +-this, where ``atanh`` is finite."""
MEAN_BOUND = 2.0
"""Means before squashing stay within this (paper: 5). Candidates near the corners of the box win by chance while values
are still noise; a mean that followed them to 5 would leave no candidate on the other side, and exploration ends."""
MIN_STD = 0.1
MIN_FLATTENED_STD = 1.0
"""Least standard deviation before squashing of the flattened policy, for the same reason."""
BOUND_TOLERANCE = 1e-5
"""Actions of a data set may leave the bounds by this share of their distance, as rounding does."""
CHILDREN_PER_NODE = 2
"""Sampled actions at every node below the root (EfficientZero V2, section 4.1)."""


class BoxActions(ActionKind):
    """Vectors in the normalised box [-1, 1].

    The policy's mean before squashing is softly clamped to +-2 and its standard deviation is ``softplus(x + 1) + 0.1``.
    The prior over sampled actions is uniform: the policy has spoken by sampling them.

    :param space: ``Box`` of floats with finite, distinct bounds
    :param sampling: candidates at the root
    :raises ValueError: if the space is none
    """

    dtype = np.float32
    scaled = True
    td_steps = 5
    image_hidden_dim = 64  # paper
    min_value_range = 0.01
    sampled = True
    gumbel = False

    def __init__(self, space: spaces.Space, sampling: Sampling) -> None:
        assert isinstance(space, spaces.Box)
        if space.dtype.kind != "f":
            raise ValueError(
                f"action space {space} has the dtype {space.dtype}; use a Box of floats, or Discrete for whole numbers"
            )
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
            raise ValueError(
                f"action space {space} has bounds low={space.low}, high={space.high}; every bound must be finite with "
                "low < high, for example through gymnasium.wrappers.TransformAction(env, lambda action: action, "
                "Box(-1.0, 1.0, shape)) with bounds that suit the task"
            )
        self.low, self.high = space.low, space.high
        dim = math.prod(space.shape)
        self.shape = self.target_shape = (dim,)
        self.encoded_dim = self.noise_dim = dim
        self.output_dim = 2 * dim
        self.n_candidates, self.n_policy_candidates, self.flatten_factor = sampling
        self.n_children = CHILDREN_PER_NODE
        # In one dimension the policy learns the whole improved policy, in more the chosen action (paper, section 4.1).
        self.n_targets = self.n_candidates if dim == 1 else 1

    def random(
        self, shape: tuple[int, ...], rng: np.random.Generator, extreme: bool = False, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Uniformly random actions ``[*shape, action_dim]``, or only -1 and 1 where ``extreme``."""
        actions = rng.uniform(-1.0, 1.0, (*shape, *self.shape)).astype(np.float32)
        return np.copysign(np.float32(1.0), actions) if extreme else actions

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions between the bounds of the space, which rounding does not leave."""
        low, high = self.low.reshape(-1).astype(np.float64), self.high.reshape(-1).astype(np.float64)
        share = 0.5 * (actions.astype(np.float64) + 1.0)
        scaled = (1.0 - share) * low + share * high  # the difference of the bounds may be too large for a number
        return scaled.clip(low, high).astype(self.low.dtype).reshape(*actions.shape[:-1], *self.low.shape)

    def from_env(self, actions: np.ndarray, n: int) -> np.ndarray:
        """Actions scaled to [-1, 1]."""
        shape = (n, *self.low.shape)
        if actions.shape != shape or actions.dtype.kind not in "fiu":
            raise ValueError(
                f"actions have the shape {actions.shape} and the dtype {actions.dtype}, not {shape} floats"
            )
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        share = (actions - low) / (high - low)
        if not ((share >= -BOUND_TOLERANCE) & (share <= 1.0 + BOUND_TOLERANCE)).all():
            worst = actions.reshape(-1)[np.nanargmax(np.nan_to_num(np.abs(share - 0.5), nan=np.inf))]
            raise ValueError(f"an action is {worst}, outside of the bounds low={self.low}, high={self.high}")
        return (2.0 * share - 1.0).clip(-1.0, 1.0).astype(np.float32).reshape(n, *self.shape)

    @property
    def at_rest(self) -> np.ndarray:
        """Zero in the environment's units, or the bound that is nearest to it."""
        return self.from_env(np.zeros_like(self.low).clip(self.low, self.high)[None], 1)[0]

    def policy_targets(self, plan: Plan) -> PolicyTargets:
        """All candidates with the improved policy as weights, or the chosen action alone."""
        if self.n_targets == 1:
            return PolicyTargets(plan.actions[:, None], np.ones((len(plan.actions), 1), np.float32))
        return PolicyTargets(plan.candidates, plan.improved_policy)

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """Actions as they are."""
        return actions

    def gaussian(self, outputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and standard deviation before squashing ``[..., action_dim]``."""
        mean, spread = outputs.chunk(2, dim=-1)
        return MEAN_BOUND * th.tanh(mean / MEAN_BOUND), F.softplus(spread + 1.0) + MIN_STD

    def log_prob(self, outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Log density in the box ``[..., n]`` of ``actions [..., n, action_dim]`` for ``outputs [..., output_dim]``."""
        mean, std = self.gaussian(outputs.unsqueeze(-2))
        unsquashed = th.atanh(actions.clamp(-MAX_ACTION, MAX_ACTION))
        return _squashed_log_density(unsquashed, mean, std).sum(-1)

    def log_likelihood(self, outputs: th.Tensor, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """``sum_i w_i log p(a_i)`` over the actions of the target."""
        return (weights * self.log_prob(outputs, actions)).sum(-1)

    def entropy(self, outputs: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """``-log p`` of one reparametrised sample."""
        mean, std = self.gaussian(outputs)
        noise = th.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return -_squashed_log_density(mean + std * noise, mean, std).sum(-1)

    def candidates(
        self, outputs: th.Tensor, noise: th.Tensor, explore: bool, masks: th.Tensor | None = None
    ) -> Candidates:
        """Sampled actions with a uniform prior.

        Exploring: ``n_policy_candidates`` from the policy, the others from the flattened one. Greedy: all from the
        policy, the first one being its mean.
        """
        mean, std = self.gaussian(outputs.unsqueeze(-2))
        stds = std.repeat(1, self.n_candidates, 1)
        if explore:
            flattened = stds[:, self.n_policy_candidates :]
            flattened.mul_(self.flatten_factor).clamp_(min=MIN_FLATTENED_STD)
        else:
            stds[:, 0].zero_()
        return _with_uniform_prior(_squash(mean + stds * noise))

    def children(self, outputs: th.Tensor, noise: th.Tensor) -> Candidates:
        """Actions sampled from the policy, with a uniform prior."""
        mean, std = self.gaussian(outputs.unsqueeze(-2))
        return _with_uniform_prior(_squash(mean + std * noise))

    def tensor_to_env(self, actions: th.Tensor) -> th.Tensor:
        """Actions between the bounds of the space."""
        low, high = (th.as_tensor(bound.reshape(-1), dtype=th.float64) for bound in (self.low, self.high))
        share = 0.5 * (actions.double() + 1.0)
        scaled = th.minimum(th.maximum((1.0 - share) * low + share * high, low), high)
        return scaled.to(th.from_numpy(self.low[:0]).dtype).reshape(*actions.shape[:-1], *self.low.shape)

    def compiled_sampling(self, explore: bool) -> tuple[int, float] | None:
        """How many candidates come from the policy itself (-1 if greedy), and the factor of the flattened policy."""
        return self.n_policy_candidates if explore else -1, float(self.flatten_factor)


def _squash(unsquashed: th.Tensor) -> th.Tensor:
    return th.tanh(unsquashed).clamp(-MAX_ACTION, MAX_ACTION)


def _with_uniform_prior(actions: th.Tensor) -> Candidates:
    return Candidates(actions, actions.new_zeros(actions.shape[:2]))


def _squashed_log_density(unsquashed: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """Log density of ``tanh(u)`` per dimension, where ``u`` is Gaussian; the Jacobian is a sum of logarithms."""
    gaussian = -0.5 * ((unsquashed - mean) / std) ** 2 - th.log(std) - 0.5 * math.log(2.0 * math.pi)
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), which does not overflow.
    return gaussian - 2.0 * (math.log(2.0) - unsquashed - F.softplus(-2.0 * unsquashed))
