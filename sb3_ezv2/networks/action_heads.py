"""What depends on the kind of action: its encoding, the policy over it, and the actions a search considers.

One class for ``Discrete`` and one for ``Box``, chosen once when the policy is built. Continuous actions live in the
normalised box [-1, 1] and are kept inside +-MAX_ACTION.
"""

import math

import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim

MAX_ACTION = 0.999
MEAN_BOUND = 2.0
"""Means before squashing stay within this (paper: 5). Candidates near the corners of the box win by chance while values
are still noise; a mean that followed them to 5 would leave no candidate on the other side, and exploration ends."""
MIN_STD = 0.1
MIN_FLATTENED_STD = 1.0
"""Least standard deviation before squashing of the flattened policy, for the same reason."""
CHILDREN_PER_NODE = 2
"""Sampled actions at every node below the root of a continuous search (EfficientZero V2, section 4.1)."""


class DiscreteActionHead:
    """Every action is a candidate, with the policy's logits as prior.

    :param n_actions: number of actions
    """

    def __init__(self, n_actions: int) -> None:
        self.encoded_dim = self.output_dim = self.n_candidates = self.n_children = self.n_targets = n_actions

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """One-hot."""
        return F.one_hot(actions, self.encoded_dim).float()

    def log_likelihood(self, outputs: th.Tensor, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """``sum_a w(a) log softmax(outputs)(a)``; ``actions`` is not used."""
        return (weights * F.log_softmax(outputs, dim=-1)).sum(-1)

    def entropy(self, outputs: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """Exact entropy of the categorical policy; ``generator`` is not used."""
        log_probabilities = F.log_softmax(outputs, dim=-1)
        return -(log_probabilities.exp() * log_probabilities).sum(-1)


class ContinuousActionHead:
    """A squashed Gaussian policy and candidates sampled from it.

    The mean before squashing is softly clamped to +-2 and the standard deviation is ``softplus(x + 1) + 0.1``.

    :param action_dim: number of action dimensions
    :param n_candidates: actions sampled at the root
    :param n_policy_candidates: how many of them come from the policy itself while exploring; the others from the
        flattened policy
    :param flatten_factor: multiplies the standard deviation of the flattened policy
    """

    def __init__(self, action_dim: int, n_candidates: int, n_policy_candidates: int, flatten_factor: float) -> None:
        self.encoded_dim = action_dim
        self.output_dim = 2 * action_dim
        self.n_candidates = n_candidates
        self.n_children = CHILDREN_PER_NODE
        # In one dimension the policy learns the whole improved policy, in more the chosen action (paper, section 4.1).
        self.n_targets = n_candidates if action_dim == 1 else 1
        self.n_policy_candidates = n_policy_candidates
        self.flatten_factor = flatten_factor

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
        """``-log p`` of one reparametrised sample.

        :param outputs: of the policy network ``[..., output_dim]``
        :param generator: of the sample, on their device; ``None`` for torch's global one
        """
        mean, std = self.gaussian(outputs)
        noise = th.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return -_squashed_log_density(mean + std * noise, mean, std).sum(-1)

    def root_candidates(self, outputs: th.Tensor, noise: th.Tensor, explore: bool) -> th.Tensor:
        """Candidates at the root ``[n, n_candidates, action_dim]``.

        Exploring: ``n_policy_candidates`` from the policy, the others from the flattened one. Greedy: all from the
        policy, the first one being its mean.

        :param outputs: of the policy network ``[n, output_dim]``
        :param noise: standard normal ``[n or 1, n_candidates, action_dim]``
        :param explore: whether to explore
        """
        mean, std = self.gaussian(outputs.unsqueeze(-2))
        stds = std.repeat(1, self.n_candidates, 1)
        if explore:
            flattened = stds[:, self.n_policy_candidates :]
            flattened.mul_(self.flatten_factor).clamp_(min=MIN_FLATTENED_STD)
        else:
            stds[:, 0].zero_()
        return _squash(mean + stds * noise)

    def children(self, outputs: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Actions at a node below the root ``[n, n_children, action_dim]`` from ``noise`` of that shape."""
        mean, std = self.gaussian(outputs.unsqueeze(-2))
        return _squash(mean + std * noise)


def _squash(unsquashed: th.Tensor) -> th.Tensor:
    return th.tanh(unsquashed).clamp(-MAX_ACTION, MAX_ACTION)


def _squashed_log_density(unsquashed: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """Log density of ``tanh(u)`` per dimension, where ``u`` is Gaussian; the Jacobian is a sum of logarithms."""
    gaussian = -0.5 * ((unsquashed - mean) / std) ** 2 - th.log(std) - 0.5 * math.log(2.0 * math.pi)
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u)), which does not overflow.
    return gaussian - 2.0 * (math.log(2.0) - unsquashed - F.softplus(-2.0 * unsquashed))


def make_action_head(
    action_space: spaces.Space, n_candidates: int, n_policy_candidates: int, flatten_factor: float
) -> DiscreteActionHead | ContinuousActionHead:
    """Head for an action space that :class:`~sb3_ezv2.ezv2.EfficientZeroV2` accepts."""
    if isinstance(action_space, spaces.Discrete):
        return DiscreteActionHead(int(action_space.n))
    return ContinuousActionHead(get_action_dim(action_space), n_candidates, n_policy_candidates, flatten_factor)
