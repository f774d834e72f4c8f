"""Statistics of the collected data and how they enter the model: the scale of observations and of rewards."""

from collections.abc import Iterator

import numpy as np
import torch as th
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.ranks import ALONE, Ranks
from sb3_ezv2.learning.agreement import merged_moments
from sb3_ezv2.networks.model import EfficientZeroModel

VARIANCE_FLOOR = 1e-8
FAR, N_KNOWN = 10.0, 100
"""An observation counts as at most this many standard deviations away from the mean, once so many are known. A sensor
that reports a huge number for "nothing seen" would otherwise make everything else look the same."""
ALIKE = 0.2
"""Statistics describe data whose mean and standard deviation are theirs up to this many standard deviations."""


def typical_size(rewards: np.ndarray, ranks: Ranks = ALONE) -> float:
    """``(mean of sqrt(|r|) over rewards that are not zero)^2``: the unit of rewards and values.

    It has the units of a reward and is larger for larger rewards, but a rare one counts little: one reward of 10,000
    among 10,000 of size 1 gives 1.02. It is 0 if there is no reward at all.

    :param rewards: ``[n]`` of this rank
    :param ranks: whose rewards count together
    """
    sizes = np.abs(np.asarray(rewards, np.float64))
    sizes = sizes[sizes > 0.0]
    n, total = ranks.table([len(sizes), np.sqrt(sizes).sum()]).sum(axis=0)
    return float((total / n) ** 2) if n > 0 else 0.0


def set_rewards(rewards: np.ndarray, bonus: float, *models: EfficientZeroModel, ranks: Ranks = ALONE) -> None:
    """Set the unit of rewards and values, and how far their supports reach, from all rewards that are stored.

    Nothing is remembered: the unit follows the rewards as they are now, under the present normalisation.

    :param rewards: ``[n]`` of this rank
    :param bonus: largest intrinsic reward
    :param models: to be set
    :param ranks: whose rewards count together
    """
    unit = typical_size(rewards, ranks) or bonus
    if unit > 0.0:
        largest = float(ranks.table([np.abs(rewards).max(initial=0.0)]).max()) + bonus
        for model in models:
            model.set_rewards(unit, largest)


def normalised_outside(model: EfficientZeroModel, normalizer: Normalizer) -> np.ndarray:
    """Which numbers of a flattened observation ``[observation_dim]`` a ``VecNormalize`` has normalised already."""
    keys = normalizer.observation_keys()
    parts = [np.full(get_flattened_obs_dim(space), key in keys) for key, space in model.flat_parts().items()]
    return np.concatenate([np.empty(0, bool), *parts])


class DataStatistics:
    """Mean and variance of the observations as the environment gives them.

    :param observation_dim: size of the flattened observation
    """

    count_in_models = 0.0  # of the observations that the models' normalisation is made of

    def __init__(self, observation_dim: int) -> None:
        self.observations = RunningMeanStd(shape=(observation_dim,))

    def update(self, observations: np.ndarray) -> None:
        """Take in one step of every environment.

        :param observations: flattened ``[n, observation_dim]``
        """
        known = self.observations
        if known.count > N_KNOWN:
            far = FAR * np.sqrt(known.var)
            moving = far > 0.0
            clipped = np.clip(observations, known.mean - far, known.mean + far)
            observations = np.where(moving, clipped, observations)
        known.update(np.asarray(observations, np.float64))

    def describe(self, batches: Iterator[np.ndarray]) -> None:
        """Begin again with other data, unless the statistics describe them already, as those of the same run do.

        :param batches: of flattened observations ``[n, observation_dim]``
        """
        found = DataStatistics(len(self.observations.mean))
        for observations in batches:
            found.update(observations)
        ours, theirs = self.observations, found.observations
        std = np.sqrt(theirs.var + VARIANCE_FLOOR)
        alike = np.abs(ours.mean - theirs.mean) < ALIKE * std
        alike &= np.abs(np.sqrt(ours.var + VARIANCE_FLOOR) - std) < ALIKE * std
        if not (alike.all() and ours.count > 1.0):
            self.observations = theirs

    def set_observations(self, normalizer: Normalizer, *models: EfficientZeroModel, ranks: Ranks = ALONE) -> None:
        """Bring the models' normalisation of the observations up to date.

        :param normalizer: what it normalises is left as it is
        :param models: to be set
        :param ranks: whose observations count together
        """
        seen = merged_moments(self.observations, ranks)
        for model in models:
            done = normalised_outside(model, normalizer)
            model.observation_mean.copy_(th.as_tensor(np.where(done, 0.0, seen.mean)))
            std = np.sqrt(seen.var + VARIANCE_FLOOR)
            model.observation_std.copy_(th.as_tensor(np.where(done, 1.0, std)))
            model.observation_count.fill_(seen.count)
        self.count_in_models = seen.count

    def read_observations(self, model: EfficientZeroModel) -> None:
        """Go on from the statistics that came with a model's parameters, unless these are where they came from."""
        count = model.observation_count.item()
        if count not in (0.0, self.count_in_models):
            self.observations.mean = model.observation_mean.cpu().numpy().astype(np.float64)
            self.observations.var = model.observation_std.cpu().numpy().astype(np.float64) ** 2
            self.observations.count = float(count)
