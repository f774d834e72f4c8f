"""A model small enough to be saved and loaded hundreds of times, and what it is after some more steps."""

import hashlib
import os
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_ezv2 import EfficientZeroV2

ENV = "Pendulum-v1"
SETTINGS: dict[str, Any] = {
    "learning_starts": 30,
    "batch_size": 8,
    "n_simulations": 4,
    "n_candidates": 4,
    "n_policy_candidates": 2,
    "policy_kwargs": {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16},
    "device": "cpu",
    "seed": 0,
}


def new_env() -> VecEnv:
    """Pendulum with ``VecNormalize``."""
    return VecNormalize(make_vec_env(ENV, 1))


def new_model(steps: int = 60) -> EfficientZeroV2:
    """A model after that many steps."""
    return EfficientZeroV2("MlpPolicy", new_env(), **SETTINGS).learn(steps)


def fingerprint(model: EfficientZeroV2, steps: int = 4) -> str:
    """Hash of all parameters after some more steps."""
    model.learn(steps, reset_num_timesteps=False)
    digest = hashlib.sha256()
    for name, value in sorted(model.policy.state_dict().items()):
        digest.update(name.encode() + np.ascontiguousarray(value.numpy()).tobytes())
    return digest.hexdigest()


def in_a_child(work: Callable[[], str]) -> str:
    """What ``work`` returns in a copy of this process; ``"crash ..."`` if that does not survive it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = work()
        except BaseException:
            answer = "error " + traceback.format_exc()
        os.write(writing, answer.encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return f"crash by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else answer
