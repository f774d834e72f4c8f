"""An intrinsic reward for as long as the rewards of the environment tell nothing apart."""

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.ranks import ALONE, Ranks
from sb3_ezv2.common.tensors import to_tensors
from sb3_ezv2.common.type_aliases import TrajectoryBatch
from sb3_ezv2.learning.statistics import typical_size
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.slots import EMPTY, TERMINATED, TRANSITION

ENOUGH = 10
"""So many transitions that tell states apart, by their reward or by a terminal end, are enough to learn from."""
EXACT = 1e-3
"""A reward is the cost of the action if the fit misses it by at most this share of the rewards' size."""
N_FIRST, MOST_FEATURES = 2_000, 256
N_REFERENCES, N_NEIGHBOURS = 512, 4
GRID = 8
"""Images are compared after pooling to this many rows and columns."""


def cost_features(kind: ActionKind, actions: np.ndarray) -> np.ndarray:
    """What the cost of an action may be a linear function of ``[n, dim]``.

    Of numbers: 1, the numbers themselves, their absolute values and squares, which covers the usual costs. Of choices
    the 1 alone: rewards that differ between them are there to be learnt.

    :param kind: of the actions
    :param actions: as stored ``[n, ...]``
    """
    parts = [np.ones((len(actions), 1))]
    if kind.scaled and kind.encoded_dim <= MOST_FEATURES:
        encoded = kind.encode(th.from_numpy(actions)).flatten(1).double().numpy()
        parts += [encoded, np.abs(encoded), encoded**2]
    return np.concatenate(parts, axis=1)


def n_informative(rewards: np.ndarray, features: np.ndarray, rest: np.ndarray) -> int:
    """How many rewards tell something: those that are not the cost of the action.

    A cost is a linear function of the action's features, and no action costs less than to rest; if one does, all
    rewards tell something. The function is fitted twice, the second time without the rewards that the first fit missed
    most.

    :param rewards: ``[n]``
    :param features: of the actions ``[n, dim]``
    :param rest: those of the action that does nothing ``[dim]``
    """
    if len(rewards) == 0:
        return 0
    fitted = np.ones(len(rewards), bool)
    for _ in range(2):
        weights = np.linalg.lstsq(features[fitted], rewards[fitted].astype(np.float64), rcond=None)[0]
        costs = features @ weights
        missed = np.abs(rewards - costs)
        fitted = missed <= np.quantile(missed, 0.9)
    negligible = EXACT * np.abs(rewards).max()
    if costs.max() > rest @ weights + negligible:
        return len(rewards)
    return int(np.count_nonzero(missed > negligible))


def as_vectors(model: EfficientZeroModel, observations: dict[str, th.Tensor]) -> th.Tensor:
    """Observations as vectors ``[n, dim]`` in standard deviations; images are pooled, others as they are."""
    parts = [model.normalised(observations)]
    for key in model.spaces:
        if key not in model.flat_parts():
            raw = observations[key].float()
            parts.append(F.adaptive_avg_pool2d(raw / 255.0, GRID).flatten(1) if raw.dim() == 4 else raw.flatten(1))
    return th.cat(parts, dim=1)


def _vectors(
    slots: np.ndarray, buffer: TrajectoryReplayBuffer, model: EfficientZeroModel, normalizer: Normalizer
) -> th.Tensor:
    """:func:`as_vectors` of the observations in ``slots [n]``."""
    return as_vectors(model, to_tensors(buffer.observations_for_model(slots, normalizer), model.reward_scale.device))


def _n_telling(rewards: np.ndarray, buffer: TrajectoryReplayBuffer, kind: ActionKind) -> int:
    """:func:`n_informative` of all stored transitions, or of some where these are enough: it costs little then."""
    slots = np.flatnonzero(buffer.kinds == TRANSITION)  # in the order of the rewards
    actions = buffer.actions.reshape(-1, *buffer.actions.shape[2:])
    every, (rest,) = max(1, len(rewards) // N_FIRST), cost_features(kind, kind.at_rest[None])
    n = n_informative(rewards[::every], cost_features(kind, actions[slots[::every]]), rest)
    return n if n >= ENOUGH or every == 1 else n_informative(rewards, cost_features(kind, actions[slots]), rest)


class Novelty:
    """Distance of an observation to its neighbours in the buffer, as a reward for arriving there.

    While nothing ends and rewards are none at all, a constant or the cost of the action, all states have the same value
    and a search has nothing to search for. Then the reward of a transition is
    ``coefficient * unit * (b - mean b)`` with ``b = d / (d + mean d)``, where ``d`` is the distance of the next
    observation to its nearest neighbours among observations drawn from the buffer (a particle estimate of the entropy
    of visited states, as in Liu and Abbeel 2021). Over the first :data:`ENOUGH` transitions that tell something the
    environment's rewards take its place.
    """

    def __init__(self) -> None:
        self.share = 0.0  # of the reward that is intrinsic
        self.weight = 0.0  # of the intrinsic reward, in the environment's units
        self.distance, self.middle = 1.0, 0.0  # means of d and b
        self.references = np.empty((0, 0), np.float32)  # observations that others are compared with, as vectors

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, by name."""
        return {
            "numbers": np.array([self.share, self.weight, self.distance, self.middle]),
            "references": self.references,
        }

    def use(self, numbers: np.ndarray, references: np.ndarray) -> None:
        """Go on from what :meth:`arrays` gave."""
        self.share, self.weight, self.distance, self.middle = numbers.tolist()
        self.references = references

    @th.no_grad()
    def refresh(
        self,
        coefficient: float,
        rewards: np.ndarray,
        buffer: TrajectoryReplayBuffer,
        model: EfficientZeroModel,
        normalizer: Normalizer,
        rng: np.random.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        """Draw new observations to compare with, or switch off.

        :param coefficient: weight of the intrinsic reward in units of the rewards
        :param rewards: of all stored transitions ``[n]``
        :param buffer: that stores them
        :param model: normalises observations
        :param normalizer: of observations
        :param rng: source of all randomness
        :param ranks: whose transitions count together; each draws its part of the observations
        """
        self.share, n = 0.0, int((buffer.kinds == TERMINATED).sum())
        if coefficient > 0.0:
            n += _n_telling(rewards, buffer, model.action_kind) if n < ENOUGH else 0
            self.share = max(0.0, 1.0 - int(ranks.table([n]).sum()) / ENOUGH)
        if self.share == 0.0:
            self.references = self.references[:0]
            return
        self.weight = coefficient * (typical_size(rewards, ranks) or 1.0)
        slots = np.flatnonzero(buffer.kinds.reshape(-1) != EMPTY)
        chosen = rng.choice(slots, min(N_REFERENCES // ranks.size, len(slots)), replace=False)
        drawn = _vectors(chosen, buffer, model, normalizer).cpu().numpy()
        self.references = np.concatenate(ranks.gathered(drawn))
        distances = self._distances(th.from_numpy(self.references))
        self.distance = float(distances.mean()) or 1.0
        self.middle = float((distances / (distances + self.distance)).mean())

    def _distances(self, vectors: th.Tensor) -> th.Tensor:
        """Mean distance ``[n]`` of ``vectors [n, dim]`` to their nearest neighbours."""
        references = th.from_numpy(self.references).to(vectors.device)
        nearest = th.cdist(vectors, references).topk(min(N_NEIGHBOURS, len(references)), largest=False)
        return nearest.values.mean(dim=1)

    @th.no_grad()
    def bonus(
        self, slots: np.ndarray, buffer: TrajectoryReplayBuffer, model: EfficientZeroModel, normalizer: Normalizer
    ) -> np.ndarray:
        """Intrinsic rewards of arriving at the observations in ``slots``, of their shape."""
        distinct, inverse = np.unique(slots, return_inverse=True)
        distances = self._distances(_vectors(distinct, buffer, model, normalizer))
        found = distances / (distances + self.distance) - self.middle
        return (self.weight * found.cpu().numpy())[inverse.reshape(slots.shape)]

    def mixed(
        self,
        rewards: np.ndarray,
        following: np.ndarray,
        buffer: TrajectoryReplayBuffer,
        model: EfficientZeroModel,
        normalizer: Normalizer,
    ) -> np.ndarray:
        """Rewards to learn from, given those of the environment and the slots of the observations that followed."""
        if self.share == 0.0:
            return rewards
        mixed = (1.0 - self.share) * rewards + self.share * self.bonus(following, buffer, model, normalizer)
        return mixed.astype(rewards.dtype)

    def mixed_batch(
        self, batch: TrajectoryBatch, buffer: TrajectoryReplayBuffer, model: EfficientZeroModel, normalizer: Normalizer
    ) -> TrajectoryBatch:
        """A batch with these rewards; past the ends they stay zero."""
        if self.share == 0.0:
            return batch
        n = batch.rewards.shape[1]
        inside = np.arange(n) < batch.n_ahead[:, None]
        rewards = batch.rewards.copy()
        rewards[inside] = self.mixed(rewards[inside], batch.slots[:, 1 : n + 1][inside], buffer, model, normalizer)
        return batch._replace(rewards=rewards)
