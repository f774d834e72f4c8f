"""``Discrete``: every action is a candidate at every node."""

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces

from sb3_ezv2.common.actions.kind import ActionKind, Candidates, Sampling
from sb3_ezv2.common.type_aliases import Plan, PolicyTargets


class DiscreteActions(ActionKind):
    """Actions counted from 0; the policy is categorical, and its logits are the prior of a search.

    Differences below ``min_value_range`` are mostly the network's error, which would make a policy that has nothing to
    gain drift; the error grows with what is predicted, hence ``min_value_share``.

    :param space: any ``Discrete``
    :param sampling: not used
    """

    shape = ()
    dtype = np.int64
    td_steps = 10
    search_value = "policy"  # which the errors of a search do not choose, as they do its improved policy
    image_hidden_dim = 32  # paper
    min_value_range = 0.1
    min_value_share = 0.1
    target_shape = (0,)  # targets are weights of all actions in order

    def __init__(self, space: spaces.Space, sampling: Sampling) -> None:
        assert isinstance(space, spaces.Discrete)
        self.start = space.start
        self.encoded_dim = self.output_dim = self.n_candidates = self.n_children = self.n_targets = int(space.n)
        self.mask_size = self.n_candidates

    def random(
        self, shape: tuple[int, ...], rng: np.random.Generator, extreme: bool = False, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Uniformly random legal actions ``[*shape]``; no action is at a bound."""
        if masks is not None:
            return np.where(masks, rng.random(masks.shape), -1.0).argmax(-1)
        return rng.integers(self.n_candidates, size=shape)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions counted from the start of the space."""
        return actions + self.start

    def from_env(self, actions: np.ndarray, n: int) -> np.ndarray:
        """Actions counted from 0."""
        if actions.shape != (n,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"actions have the shape {actions.shape} and the dtype {actions.dtype}, not ({n},) integers"
            )
        counted = actions.astype(np.int64) - self.start
        if not self.are_valid(counted):
            wrong = actions[(counted < 0) | (counted >= self.n_candidates)][0]
            raise ValueError(f"an action is {wrong}; the space has {self.n_candidates} from {self.start} on")
        return counted

    def are_valid(self, actions: np.ndarray) -> bool:
        """Whether they are numbers of actions."""
        return bool(((actions >= 0) & (actions < self.n_candidates)).all())

    def policy_targets(self, plan: Plan) -> PolicyTargets:
        """The improved policy."""
        return PolicyTargets(np.empty((*plan.improved_policy.shape, 0), np.float32), plan.improved_policy)

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

    def candidates(
        self, outputs: th.Tensor, noise: th.Tensor, explore: bool, masks: th.Tensor | None = None
    ) -> Candidates:
        """Every legal action."""
        return Candidates(outputs[:, :0], outputs if masks is None else outputs.masked_fill(~masks, -th.inf))

    def children(self, outputs: th.Tensor, noise: th.Tensor) -> Candidates:
        """Every action."""
        return Candidates(outputs[:, :0], outputs)

    def tensor_to_env(self, actions: th.Tensor) -> th.Tensor:
        """Actions counted from the start of the space."""
        return actions + int(self.start)

    def compiled_sampling(self, explore: bool) -> tuple[int, float] | None:
        """Nothing is sampled."""
        return 0, 1.0
