"""dm_control tasks with the paper's protocol: flat observations, action repeat 2, 1,000 frames an episode."""

from typing import Any, SupportsFloat

import gymnasium as gym
from gymnasium.wrappers import FlattenObservation


class ActionRepeat(gym.Wrapper):
    """Apply every action several times and add up the rewards.

    :param env: to be wrapped
    :param n_repeats: frames per decision, at least 1; an episode that ends in between ends at once
    :raises ValueError: if ``n_repeats`` is less than 1
    """

    def __init__(self, env: gym.Env, n_repeats: int) -> None:
        super().__init__(env)
        if n_repeats < 1:
            raise ValueError(f"n_repeats={n_repeats} must be at least 1")
        self.n_repeats = n_repeats

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step ``n_repeats`` frames."""
        total = 0.0
        for _ in range(self.n_repeats):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def make_dmc(task: str, action_repeat: int = 2, **kwargs: Any) -> gym.Env:
    """A dm_control task as the paper uses it.

    :param task: domain and task, for example ``"walker-walk"``
    :param action_repeat: frames per decision
    :param kwargs: for ``gymnasium.make``
    :raises ImportError: naming the extra to install if dm_control is missing
    """
    try:
        import shimmy  # registers dm_control/*

        gym.register_envs(shimmy)
    except ImportError as error:
        raise ImportError("dm_control tasks need the extra: pip install 'sb3_ezv2[dmc]'") from error
    env = gym.make(f"dm_control/{task}-v0", **kwargs)
    return FlattenObservation(ActionRepeat(env, action_repeat))
