"""Every argument of the constructor times one fixed list of values: what is refused, and whether rightly and clearly.

``python -m tests.helpers.bad_arguments`` prints the counts and what is wrong, if anything is; with ``--learn``, every
model that was accepted also learns for a few steps.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ezv2 import CnnPolicy, EfficientZeroV2, EZV2Policy, TrajectoryReplayBuffer
from sb3_ezv2.policies import policy_arguments
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import TINY_NETWORK

VALUES: list[Any] = [
    *(None, True, False, np.bool_(True), "no", "1", "", b"1", "step"),
    *(-1, 0, 1, 2, 10**6, 10**30, np.int64(3), np.int64(-3)),
    *(-0.5, 0.5, 1.0, 2.5, 1e300, math.nan, math.inf, -math.inf, np.float32(0.5), np.float64(math.nan)),
    *(1j, Decimal(1), th.tensor(1.0), np.array([1, 2]), np.array(1)),
    *((), [], [1], [1, "minute"], {}, {"unknown_name": 1}, {1: 2}, set(), object(), int, len, ReplayBuffer),
]
"""Numbers of every kind, what looks like a number, what is none, containers and callables."""

Legal = Callable[[Any], bool]


def whole(low: int, high: int = 10**12, none: bool = False) -> Legal:
    def legal(value: Any) -> bool:
        return (none and value is None) or (type(value) in (int, np.int64) and low <= value <= high)

    return legal


def real(low: float, high: float) -> Legal:
    return lambda value: type(value) in (int, float, np.int64, np.float32, np.float64) and low <= value <= high


def only(*values: Any) -> Legal:
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def switch(value: Any) -> bool:
    return type(value) in (bool, np.bool_)


# What is right, said once more and apart from the package: with three discrete actions and the settings below.
LEGAL: dict[str, Legal] = {
    "policy": only(),
    "env": only(),
    "learning_rate": real(0.0, 1e3),
    "buffer_size": whole(17),
    "learning_starts": whole(0),
    "batch_size": whole(1, (10**6 - 1) // 2),
    "tau": real(0.0, 1.0),
    "gamma": real(0.0, 1.0),
    "train_freq": whole(1),
    "gradient_steps": whole(-1),
    "replay_buffer_class": only(None),
    "replay_buffer_kwargs": only(None, {}),
    "novelty_coef": real(0.0, 1e6),
    "n_simulations": whole(1, 10_000),
    "n_candidates": whole(1, 10_000),
    "n_considered": whole(1, 3, none=True),
    "max_depth": whole(1, 10_000, none=True),
    "n_policy_candidates": whole(0, 16),
    "flatten_factor": real(1.0, 1e3),
    "act_with": only("search", "policy"),
    "unroll_steps": whole(1, 1_000),
    "td_steps": whole(1, 10_000, none=True),
    "td_phase": whole(0),
    "td_fresh": whole(0),
    "target_update_interval": whole(1, none=True),
    "value_target": only("mixed", "search", "multi_step"),
    "search_value": only("improved", "mean", "policy", None),
    "priority_beta": real(0.0, 10.0),
    "reward_coef": real(0.0, 1e6),
    "value_coef": real(0.0, 1e6),
    "policy_coef": real(0.0, 1e6),
    "consistency_coef": real(0.0, 1e6),
    "ent_coef": real(0.0, 1e6),
    "max_grad_norm": real(1e-300, 1e12),
    "mixed_precision": switch,
    "use_target_cache": switch,
    "n_threads": whole(1, 1024, none=True),
    "stats_window_size": whole(1),
    "tensorboard_log": only(None, "no", "1", "step"),
    "policy_kwargs": only(None, {}),
    "verbose": lambda value: type(value) is bool or whole(0, 2)(value),
    "seed": whole(0, 2**32 - 1, none=True),
    "device": only(),
    "_init_setup_model": switch,
}
LEGAL_IN_BUFFER: dict[str, Legal] = {
    "alpha": real(0.0, 10.0),
    "n_stack": lambda value: whole(1, 3)(value) and value != 2,  # an observation has three numbers
    "channels_order": only(None),
    "action_masks": switch,
}
LEGAL_IN_POLICY: dict[str, Legal] = {
    "optimizer_class": only(),
    "optimizer_kwargs": only(None, {}),
    "n_blocks": whole(1, 1_000),
    "prefix_horizon": whole(1, 1_000),
    "net_size": only(),
    **dict.fromkeys(("value_prefix", "augment", "transformed_support"), switch),
    # The networks of the tests have a hidden_dim, whose place net_arch would take.
    **{"net_arch": only(None), "activation_fn": only()},
    **{"features_extractor_class": only(None), "features_extractor_kwargs": only(None, {})},
    # Without bytes, the image of the test is none.
    "normalize_images": lambda value: switch(value),
}
SIZE, SIZE_OR_DEFAULT = whole(1, 2**16), whole(1, 2**16, none=True)
SMALL: dict[str, Any] = {"learning_starts": 30, "batch_size": 8, "n_policy_candidates": 1, "device": "cpu"}
SMALL_IMAGE_NETWORK = {
    "net_size": "paper",
    **{"stem_channels": 2, "latent_channels": 2, "action_channels": 2, "head_channels": 1, "projection_dim": 4},
    **{"prediction_dim": 4, "hidden_dim": 4},
}


SIZES_OF_IMAGES = {*SMALL_IMAGE_NETWORK, "channels", "latent_dim", "n_blocks"} - {"net_size"}
OF_SMALL = SIZES_OF_IMAGES - SMALL_IMAGE_NETWORK.keys()
"""Sizes that the paper's network does not have."""


class Trial(NamedTuple):
    """One value for one argument."""

    name: str  # of the argument, after that of the dictionary that it is in
    value: Any
    legal: bool
    build: Callable[[], EfficientZeroV2]


def vector_model(**arguments: Any) -> EfficientZeroV2:
    settings = {"policy": "MlpPolicy", "env": RandomEnv(), "policy_kwargs": TINY_NETWORK, **SMALL}
    return EfficientZeroV2(**{**settings, **arguments})


def image_model(**network: Any) -> EfficientZeroV2:
    env = RandomEnv(spaces.Box(0, 255, (1, 32, 32), np.uint8))
    sizes = {"latent_dim": 4, "hidden_dim": 4} if OF_SMALL & network.keys() else SMALL_IMAGE_NETWORK
    return EfficientZeroV2("CnnPolicy", env, policy_kwargs={**sizes, **network}, **SMALL)


def trials() -> Iterator[Trial]:
    """All arguments, those inside of dictionaries included, times all values."""
    names = [name for name in inspect.signature(EfficientZeroV2.__init__).parameters if name != "self"]
    assert set(names) == set(LEGAL), set(names) ^ set(LEGAL)
    buffer = set(inspect.signature(TrajectoryReplayBuffer.__init__).parameters)
    assert set(LEGAL_IN_BUFFER) == buffer - {"self", "buffer_size", "observation_space", "action_space", "n_envs"}
    searching = set(LEGAL) & policy_arguments(EZV2Policy)
    for value in VALUES:
        for name, legal in LEGAL.items():
            yield Trial(name, value, legal(value), lambda n=name, v=value: vector_model(**{n: v}))
        for name, legal in LEGAL_IN_BUFFER.items():
            build = lambda n=name, v=value: vector_model(replay_buffer_kwargs={n: v})  # noqa: E731
            yield Trial(f"replay_buffer_kwargs.{name}", value, legal(value), build)
        for policy in (EZV2Policy, CnnPolicy):
            for name in sorted(policy_arguments(policy) - searching):
                legal = LEGAL_IN_POLICY.get(name, SIZE)
                if policy is CnnPolicy and name in SIZES_OF_IMAGES:
                    legal = SIZE_OR_DEFAULT if name != "n_blocks" else whole(1, 1_000, none=True)
                if policy is EZV2Policy:
                    build = lambda n=name, v=value: vector_model(policy_kwargs={**TINY_NETWORK, n: v})  # noqa: E731
                else:
                    build = lambda n=name, v=value: image_model(**{n: v})  # noqa: E731
                yield Trial(f"{policy.__name__}.{name}", value, legal(value), build)


def outcome(trial: Trial, learn: bool = False) -> str:
    """What came of a trial; everything but ``accepted`` and ``refused`` is a fault.

    :param trial: to be made
    :param learn: whether an accepted model has to learn, too
    """
    name = trial.name.rpartition(".")[2]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = trial.build()
            if learn and hasattr(model, "policy"):
                model.learn(33)
    except ValueError as error:
        if name not in str(error):
            return "obscure"
        return "wrongly refused" if trial.legal else "refused"
    except Exception:  # whatever it is, it is no ValueError
        return "obscure"
    return "accepted" if trial.legal else "wrongly accepted"


def count(learn: bool = False) -> tuple[Counter[str], list[str]]:
    """How many trials had which outcome, and a line for every fault."""
    counts: Counter[str] = Counter(
        {"refused": 0, "accepted": 0, "obscure": 0, "wrongly accepted": 0, "wrongly refused": 0}
    )
    faults = []
    for trial in trials():
        found = outcome(trial, learn)
        counts[found] += 1
        if found not in ("accepted", "refused"):
            faults.append(f"{trial.name}={trial.value!r}: {found}")
    return counts, faults


if __name__ == "__main__":
    os.chdir(tempfile.mkdtemp())  # some trials name folders for logs
    found_counts, found_faults = count("--learn" in sys.argv)
    print(*found_faults, sep="\n")
    print(f"{sum(found_counts.values())} inputs:", ", ".join(f"{n} {name}" for name, n in found_counts.items()))
