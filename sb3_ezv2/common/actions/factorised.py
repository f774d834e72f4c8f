"""``MultiDiscrete``, ``MultiBinary`` and large ``Discrete`` spaces: one categorical policy per dimension, sampled."""

import math

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.actions.kind import ActionKind, Candidates, Sampling
from sb3_ezv2.common.type_aliases import Plan, PolicyTargets

CHILDREN_PER_NODE = 2
"""Sampled actions at every node below the root, as for ``Box``."""
SMALLEST = 1e-30
"""Least share that a choice is drawn from: what has no probability is never drawn, not even in front of all others."""
MOST_DRAWN = 4
"""Dimensions of a greedy candidate that are drawn from the policy; the others have their most probable choice."""
FEW_CHOICES = 16
"""Up to so many choices of a dimension are compared one by one when one of them is drawn."""


class FactorisedActions(ActionKind):
    """Vectors of whole numbers counted from 0; the dimensions of the policy are independent of each other.

    Candidates are drawn with replacement and merged: of equal ones the first remains, with the logarithm of their
    number as prior; the others are no candidates (prior ``-inf``). Otherwise the prior is uniform, as for ``Box``: the
    policy has spoken by drawing them.

    While exploring the candidates beyond ``n_policy_candidates`` come from a flattened policy of the temperature
    ``1 + (flatten_factor - 1) / sqrt(dimensions)``: all dimensions depart at once, and with the same temperature
    everywhere a candidate of hundreds of dimensions would always be worse than those of the policy.

    Greedy candidates are the most probable action and others that differ from it in few dimensions: of more than
    :data:`MOST_DRAWN` dimensions so many are drawn from the policy on average. If all were, those of hundreds of
    dimensions would differ wherever the policy is unsure, and a search would choose between bad ones.

    A mask has one entry per choice, those of all dimensions one after the other, as in sb3-contrib.

    :param space: ``MultiDiscrete``, ``MultiBinary`` or ``Discrete``
    :param sampling: candidates at the root
    """

    td_steps = 5
    image_hidden_dim = 64
    min_value_range = 0.01
    sampled = True
    merges = True
    gumbel = False

    def __init__(self, space: spaces.Space, sampling: Sampling) -> None:
        if isinstance(space, spaces.Discrete):
            self.sizes, self.start = np.array([space.n], np.int64), np.asarray(space.start)
        elif isinstance(space, spaces.MultiBinary):
            self.sizes, self.start = np.full(math.prod(space.shape), 2, np.int64), np.zeros(space.shape, np.int64)
        else:
            assert isinstance(space, spaces.MultiDiscrete)
            self.sizes, self.start = space.nvec.reshape(-1).astype(np.int64), np.asarray(space.start)
        dim, most = len(self.sizes), int(self.sizes.max())
        self.env_dtype = space.dtype
        self.shape = () if isinstance(space, spaces.Discrete) else (dim,)
        self.dtype = np.uint8 if most <= 256 else np.int16 if most <= 2**15 else np.int32
        self.noise_dim = dim
        self.encoded_dim = self.output_dim = self.mask_size = int(self.sizes.sum())
        self.n_candidates, self.n_policy_candidates, self.flatten_factor = sampling
        self.n_children = CHILDREN_PER_NODE
        self.temperature = 1.0 + (self.flatten_factor - 1.0) / math.sqrt(dim)
        self.greedy_share = min(1.0, MOST_DRAWN / dim)  # of the policy in what greedy candidates are drawn from
        # The candidates themselves in one dimension, the probability of every choice in more: what the loss needs,
        # and the smaller of the two.
        self.n_targets, self.target_shape = (self.n_candidates, (1,)) if dim == 1 else (1, (self.output_dim,))
        offsets = np.concatenate([[0], self.sizes.cumsum()[:-1]])
        self.offsets = th.from_numpy(offsets)  # of the first choice of every dimension
        # Where each choice of each dimension is among all, and past the end where there are fewer. Dimensions lie side
        # by side, because sums over a last axis of two are slow.
        places = np.where(np.arange(most)[:, None] < self.sizes, offsets + np.arange(most)[:, None], self.output_dim)
        self.places = th.from_numpy(places)  # [most choices, dimensions]
        self.codes = th.from_numpy(np.random.default_rng(0).integers(1, 2**62, dim))

    # -- arrays ----------------------------------------------------------------------------------------------------

    def random(
        self, shape: tuple[int, ...], rng: np.random.Generator, extreme: bool = False, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Uniformly random legal actions ``[*shape, *self.shape]``; no action is at a bound."""
        if masks is None:
            drawn = rng.integers(self.sizes, size=(*shape, len(self.sizes)))
        else:
            scores = np.where(masks, rng.random(masks.shape), -1.0)
            drawn = np.append(scores, np.full((*shape, 1), -2.0), axis=-1)[..., self.places.numpy()].argmax(-2)
        return drawn.astype(self.dtype).reshape((*shape, *self.shape))

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions counted from the start of the space, in its shape."""
        leading = actions.shape[: actions.ndim - len(self.shape)]
        return (actions.reshape(*leading, *self.start.shape) + self.start).astype(self.env_dtype)

    def from_env(self, actions: np.ndarray, n: int) -> np.ndarray:
        """Actions counted from 0, in one row."""
        expected = (n, *self.start.shape)
        if actions.shape != expected or actions.dtype.kind not in "iub":
            raise ValueError(
                f"actions have the shape {actions.shape} and the dtype {actions.dtype}, not {expected} integers"
            )
        counted = (actions.astype(np.int64) - self.start).reshape(n, *self.shape)
        wrong = [row for row, action in enumerate(counted) if not self.are_valid(action)]
        if wrong:
            raise ValueError(f"action {actions[wrong[0]].tolist()} is none of the space")
        return counted.astype(self.dtype)

    def are_valid(self, actions: np.ndarray) -> bool:
        """Whether every number is one of its dimension's."""
        numbers = actions if self.shape else actions[..., None]
        return bool(((numbers >= 0) & (numbers < self.sizes)).all())

    def are_legal(self, actions: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Whether masks allow all parts of the actions ``[n]``."""
        numbers = actions.reshape(len(actions), -1).astype(np.int64) + self.offsets.numpy()
        return np.logical_and.reduce(np.take_along_axis(masks, numbers, axis=1), axis=1)

    def have_legal(self, masks: np.ndarray) -> np.ndarray:
        """Whether masks leave a choice in every dimension ``[n]``."""
        padded = np.append(masks, np.zeros((len(masks), 1), bool), axis=1)
        return np.logical_and.reduce(np.logical_or.reduce(padded[:, self.places.numpy()], axis=1), axis=1)

    def policy_targets(self, plan: Plan) -> PolicyTargets:
        """The candidates with the improved policy as weights, or what it gives every choice of every dimension."""
        n = len(plan.candidates)
        numbers = plan.candidates.reshape(n, self.n_candidates, -1)
        if self.n_targets > 1:
            return PolicyTargets(numbers.astype(np.float32), plan.improved_policy)
        shares, rows = np.zeros((n, self.output_dim), np.float32), np.arange(n)[:, None]
        for k in range(self.n_candidates):
            shares[rows, numbers[:, k] + self.offsets.numpy()] += plan.improved_policy[:, k, None]
        return PolicyTargets(shares[:, None], np.ones((n, 1), np.float32))

    # -- tensors ---------------------------------------------------------------------------------------------------

    def _numbers(self, actions: th.Tensor) -> th.Tensor:
        """Actions as places among all choices ``[..., dimensions]``."""
        numbers = actions if self.shape else actions.unsqueeze(-1)
        return numbers.long() + self.offsets.to(actions.device)

    def _by_dimension(self, numbers: th.Tensor, padding: float) -> th.Tensor:
        """Numbers of all choices ``[..., output_dim]`` as ``[..., most choices, dimensions]``."""
        most, dim = self.places.shape
        if most * dim == self.output_dim:
            return numbers.unflatten(-1, (dim, most)).transpose(-1, -2).contiguous()
        padded = th.cat([numbers, numbers.new_full((*numbers.shape[:-1], 1), padding)], dim=-1)
        return padded[..., self.places.to(numbers.device)]

    def _log_probabilities(self, outputs: th.Tensor) -> th.Tensor:
        """Of every choice within its dimension ``[..., output_dim]``."""
        together = self._by_dimension(outputs, -th.inf).log_softmax(-2).transpose(-1, -2).flatten(-2)
        if together.shape[-1] == self.output_dim:
            return together
        return together[..., (self.places < self.output_dim).T.flatten().to(outputs.device)]

    def encode(self, actions: th.Tensor) -> th.Tensor:
        """One-hot in every dimension."""
        places = self._numbers(actions)
        zeros = th.zeros(*places.shape[:-1], self.encoded_dim, device=actions.device)
        return zeros.scatter_(-1, places, 1.0)

    def log_prob(self, outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Log probability ``[..., n]`` of ``actions [..., n, *shape]`` for ``outputs [..., output_dim]``."""
        places = self._numbers(actions)
        return self._log_probabilities(outputs).unsqueeze(-2).expand(*places.shape[:-1], -1).gather(-1, places).sum(-1)

    def log_likelihood(self, outputs: th.Tensor, actions: th.Tensor, weights: th.Tensor) -> th.Tensor:
        """``sum_d sum_c w_d(c) log p_d(c)``, over the choices ``c`` of every dimension ``d``."""
        log_probabilities = self._log_probabilities(outputs)
        if self.n_targets > 1:
            return (weights * log_probabilities.gather(-1, actions[..., 0].long())).sum(-1)
        return (actions[..., 0, :] * log_probabilities).sum(-1)

    def entropy(self, outputs: th.Tensor, generator: th.Generator | None = None) -> th.Tensor:
        """Exact entropy, the sum over the dimensions; ``generator`` is not used."""
        log_probabilities = self._log_probabilities(outputs)
        return -(log_probabilities.exp() * log_probabilities).sum(-1)

    def candidates(
        self, outputs: th.Tensor, noise: th.Tensor, explore: bool, masks: th.Tensor | None = None
    ) -> Candidates:
        """Distinct actions drawn from the policy and, exploring, from the flattened one.

        Greedy: the policy's most probable action first, then what is drawn around it.
        """
        logits = outputs if masks is None else outputs.masked_fill(~masks, -th.inf)
        by_dimension = self._by_dimension(logits, -th.inf)
        if not explore:
            best = by_dimension.argmax(-2)
            drawn = self._draw(self._nearer(by_dimension, best), noise)
            drawn[:, 0] = best
        else:
            n = self.n_policy_candidates
            flattened = self._draw(by_dimension / self.temperature, noise[:, n:])
            drawn = th.cat([self._draw(by_dimension, noise[:, :n]), flattened], dim=1)
        return self._merged(drawn)

    def children(self, outputs: th.Tensor, noise: th.Tensor) -> Candidates:
        """Distinct actions drawn from the policy."""
        return self._merged(self._draw(self._by_dimension(outputs, -th.inf), noise))

    def _nearer(self, logits: th.Tensor, best: th.Tensor) -> th.Tensor:
        """Logits ``[n, most choices, dimensions]`` of the policy mixed with its ``best [n, dimensions]`` choices."""
        if self.greedy_share == 1.0:
            return logits
        is_best = th.arange(len(self.places), device=logits.device)[:, None] == best.unsqueeze(-2)
        return (self.greedy_share * logits.softmax(-2) + (1.0 - self.greedy_share) * is_best).log()

    def _draw(self, logits: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """Numbers ``[n, n_actions, dimensions]`` by inversion of the distribution function.

        :param logits: ``[n, most choices, dimensions]``
        :param noise: standard normal ``[n or 1, n_actions, dimensions]``
        """
        sums = logits.softmax(-2).cumsum(-2)
        sums = sums / sums[:, -1:]  # exactly 1 from the last choice on that has any probability
        if len(self.places) <= FEW_CHOICES:
            return (noise.unsqueeze(2) > th.special.ndtri(sums[:, None, :-1])).sum(2)
        shares = th.special.ndtr(noise).clamp_min(SMALLEST).expand(len(logits), -1, -1)
        found = th.searchsorted(sums.transpose(1, 2).contiguous(), shares.transpose(1, 2).contiguous())
        return found.transpose(1, 2)

    def _merged(self, numbers: th.Tensor) -> Candidates:
        """Candidates of the drawn ``numbers [n, n_actions, dimensions]``, where of equal ones the first counts."""
        codes = (numbers * self.codes.to(numbers.device)).sum(-1)  # modulo 2^64
        equal = codes.unsqueeze(1) == codes.unsqueeze(2)
        first = ~equal.tril(-1).any(-1)
        priors = equal.sum(-1).float().log().masked_fill(~first, -th.inf)
        dtype = th.from_numpy(np.empty(0, self.dtype)).dtype
        return Candidates(numbers.to(dtype).reshape(*numbers.shape[:2], *self.shape), priors)

    def tensor_to_env(self, actions: th.Tensor) -> th.Tensor:
        """Actions counted from the start of the space, in its shape."""
        leading = actions.shape[: actions.ndim - len(self.shape)]
        return actions.to(th.int64).reshape(*leading, *self.start.shape) + th.as_tensor(self.start, dtype=th.int64)
