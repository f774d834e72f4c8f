"""Plans by several searches, and how alike they must be."""

from __future__ import annotations

import numpy as np
import torch as th

from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning.planner import PlanFunction, Planner

PLANNER = Planner(12, 3, 0.97)


def observations_of(n: int, seed: int = 0) -> dict[str, th.Tensor]:
    """For ``tiny_network``."""
    return {"observation": th.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (n, 3)).astype(np.float32))}


def plans(
    model: EfficientZeroModel, observations: dict[str, th.Tensor], explore: bool, monkeypatch, *searches: PlanFunction
) -> list[Plan]:
    """By each of the searches, with the same noise."""
    n = len(next(iter(observations.values())))
    noise = PLANNER._draw(model, n, np.random.default_rng(n)) if explore else PLANNER.greedy_noise(model)
    found = []
    for search in searches:
        monkeypatch.setattr("sb3_ezv2.planning.planner.choose_search", lambda model, search=search: search)
        found.append(PLANNER.plan(model, observations, noise, explore))
    return found


def assert_same_plans(here: Plan, there: Plan) -> None:
    """Equal up to rounding, in all but the few states where rounding decides between equal candidates."""
    for name, ours, theirs in zip(Plan._fields, here, there, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name
    same = (here.visit_counts == there.visit_counts).all(axis=1)
    same &= np.isclose(here.root_values, there.root_values, rtol=1e-4, atol=1e-4)  # the same below the root, too
    assert same.mean() > 0.97
    for name, ours, theirs in zip(Plan._fields, here, there, strict=True):
        np.testing.assert_allclose(ours[same], theirs[same], rtol=1e-4, atol=1e-4, err_msg=name)
