"""EfficientZero V2 for Stable-Baselines3."""

from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.policies import CnnPolicy, EZV2Policy, MlpPolicy, MultiInputPolicy
from sb3_ezv2.replay_buffer import TrajectoryReplayBuffer
from sb3_ezv2.schedules import WarmUp

__all__ = [
    "CnnPolicy",
    "EZV2Policy",
    "EfficientZeroV2",
    "MlpPolicy",
    "MultiInputPolicy",
    "TrajectoryReplayBuffer",
    "WarmUp",
]
