"""Settings by name: the published algorithm, in place of the defaults for short runs on a CPU."""

import copy
from typing import Any

import torch as th

from sb3_ezv2.common.arguments import OneOf
from sb3_ezv2.common.schedules import WarmUp

EVERYWHERE: dict[str, Any] = {
    "learning_starts": 2_000,
    "batch_size": 256,
    "tau": 1.0,  # no running average: the newest weights act
    "gamma": 0.997,
    "replay_buffer_kwargs": {"alpha": 1.0},
    "priority_beta": 1.0,
    "novelty_coef": 0.0,
    "max_depth": 32,  # no limit: no search has more simulations
    "td_steps": 5,
    "td_phase": 40_000,
    "td_fresh": 20_000,
    "search_value": "mean",
    "target_update_interval": 400,
}
CONTINUOUS: dict[str, Any] = {"n_simulations": 32, "n_candidates": 16, "n_policy_candidates": 4}  # all are considered
SGD: dict[str, Any] = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 1e-4}}

PAPER: dict[str, dict[str, Any]] = {
    "vectors": {
        **EVERYWHERE,
        **CONTINUOUS,
        "learning_rate": WarmUp(3e-4, begin=0.04, end=0.05),
        "ent_coef": 0.05,
        "policy_kwargs": {
            "hidden_dim": 256, "n_blocks": 3, "projection_dim": 512, "optimizer_kwargs": {"weight_decay": 2e-5},
        },
    },
    "images": {
        **EVERYWHERE,
        **CONTINUOUS,
        "learning_rate": WarmUp(0.2, begin=0.02, end=0.03),
        "policy_kwargs": {**SGD, "net_size": "paper"},
    },
    "atari": {
        **EVERYWHERE,
        "learning_rate": WarmUp(0.2, begin=0.02, end=0.03),
        "value_coef": 0.25,
        "policy_kwargs": {**SGD, "net_size": "paper", "value_prefix": True},
    },
}  # fmt: skip


def paper(kind: str = "vectors") -> dict[str, Any]:
    """Arguments of the published algorithm, in place of the defaults: ``EfficientZeroV2("MlpPolicy", env, **paper())``.

    They are those of the benchmarks: ``"vectors"`` for 50,000 decisions of dm_control, ``"images"`` for 100,000 of
    dm_control from pixels, ``"atari"`` for 100,000 of Atari. T1 and T2 are counts and the warm-up of the learning rate
    is a share of the run, so other budgets want other ones. What no argument reaches stays as the page "Deviations from
    the paper" says: supports, the shape of the heads, the unit of rewards, the bound of continuous policies' means.

    Source: EfficientZero V2 (arXiv 2403.00564), sections 4 and 5 and its tables of hyperparameters.

    :param kind: which of them
    :raises ValueError: if there is no such name
    """
    return copy.deepcopy(PAPER[OneOf(tuple(PAPER))("kind", kind)])
