"""The ``VecNormalize`` around the environments, or none: one object for both."""

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from sb3_ezv2.common.type_aliases import ObservationArrays

Observations = np.ndarray | ObservationArrays


class Normalizer:
    """Gives data as the environments did and as the model sees it; without a ``VecNormalize`` both are the same.

    :param env: the environments with all their wrappers, ``None`` if there are none
    :raises ValueError: if wrappers outside ``VecNormalize`` change the observations, so that what it remembers of them
        is not what the model would see
    """

    def __init__(self, env: VecEnv | None = None) -> None:
        self.vec_normalize: VecNormalize | None = None
        self.transposed: list[VecTransposeImage] = []
        outer: list[VecEnvWrapper] = []
        while isinstance(env, VecEnvWrapper) and not isinstance(env, VecNormalize):
            outer.append(env)
            env = env.venv
        if not isinstance(env, VecNormalize):
            return
        self.vec_normalize = env
        if not env.norm_obs:
            return
        for wrapper in reversed(outer):
            if isinstance(wrapper, VecTransposeImage):
                self.transposed.append(wrapper)
            elif wrapper.observation_space != wrapper.venv.observation_space:
                name = type(wrapper).__name__
                raise ValueError(
                    f"{name} around VecNormalize changes normalised observations, and what they were before is not "
                    f"known; wrap in the other order, VecNormalize({name}(env, ...), ...), or use "
                    "VecNormalize(..., norm_obs=False)"
                )

    def observation_keys(self) -> list[str]:
        """Parts of the observations that are normalised; a single one is called ``"observation"``."""
        if self.vec_normalize is None or not self.vec_normalize.norm_obs:
            return []
        return self.vec_normalize.norm_obs_keys or ["observation"]

    def raw_observations(self, observations: Observations) -> Observations:
        """The newest observations of all environments before they were normalised."""
        if self.vec_normalize is None or not self.vec_normalize.norm_obs:
            return observations
        raw = self.vec_normalize.get_original_obs()
        for wrapper in self.transposed:
            raw = wrapper.transpose_observations(raw)
        return raw

    def raw_observation(self, observation: Observations) -> Observations:
        """Any single normalised observation as it was, within the limits that ``VecNormalize`` clips to."""
        return observation if self.vec_normalize is None else self.vec_normalize.unnormalize_obs(observation)

    def raw_rewards(self, rewards: np.ndarray) -> np.ndarray:
        """The newest rewards of all environments before they were normalised."""
        return rewards if self.vec_normalize is None else self.vec_normalize.get_original_reward()

    def observations(self, raw: Observations) -> Observations:
        """Raw observations as the model sees them now."""
        return raw if self.vec_normalize is None else self.vec_normalize.normalize_obs(raw)

    def rewards(self, raw: np.ndarray) -> np.ndarray:
        """Raw rewards as the model sees them now, float32."""
        return raw if self.vec_normalize is None else self.vec_normalize.normalize_reward(raw).astype(np.float32)


UNCHANGED = Normalizer()
"""Without ``VecNormalize``."""
