"""Running statistics of the collected data and how they enter the model."""

import numpy as np
import torch as th
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_ezv2.networks.model import MARGIN, EfficientZeroModel

VARIANCE_FLOOR = 1e-8


class DataStatistics:
    """Mean and variance of the observations, and the largest reward.

    :param observation_dim: size of the flattened observation
    """

    def __init__(self, observation_dim: int) -> None:
        self.observations = RunningMeanStd(shape=(observation_dim,))
        self.largest_reward = 0.0

    def update(self, observations: np.ndarray, rewards: np.ndarray) -> None:
        """Take in one step of every environment.

        :param observations: flattened ``[n_envs, observation_dim]``
        :param rewards: ``[n_envs]``
        """
        self.observations.update(observations)
        self.largest_reward = max(self.largest_reward, float(np.abs(rewards).max()))

    def set_observations(self, *models: EfficientZeroModel) -> None:
        """Bring the models' normalisation of the observations up to date."""
        for model in models:
            model.observation_mean.copy_(th.as_tensor(self.observations.mean))
            model.observation_std.copy_(th.as_tensor(np.sqrt(self.observations.var + VARIANCE_FLOOR)))

    def set_rewards(self, *models: EfficientZeroModel) -> None:
        """Set the reward scale to the largest reward, if there was none before or if rewards have left the supports.

        It stays as it is otherwise: every change makes a model learn its rewards and values anew.
        """
        for model in models:
            ratio = self.largest_reward / float(model.reward_scale)
            if (model.reward_is_unscaled and ratio > 0) or ratio > MARGIN:
                model.rescale(self.largest_reward)
