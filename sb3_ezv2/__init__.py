"""EfficientZero V2 for Stable-Baselines3."""

from pathlib import Path

from sb3_ezv2.background_evaluation import BackgroundEvalCallback
from sb3_ezv2.callbacks import TransitionJournal
from sb3_ezv2.checkpoints import ResumableCheckpointCallback
from sb3_ezv2.common.schedules import InverseSqrt, WarmUp
from sb3_ezv2.compatibility import resolve_old_names
from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.policies import CnnPolicy, EZV2Policy, MlpPolicy, MultiInputPolicy
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.episodes import Episode

resolve_old_names()
__version__ = Path(__file__).with_name("version.txt").read_text(encoding="utf-8").strip()

__all__ = [
    "BackgroundEvalCallback",
    "CnnPolicy",
    "EZV2Policy",
    "EfficientZeroV2",
    "Episode",
    "InverseSqrt",
    "MlpPolicy",
    "MultiInputPolicy",
    "ResumableCheckpointCallback",
    "TrajectoryReplayBuffer",
    "TransitionJournal",
    "WarmUp",
    "__version__",
]
