"""Small tasks with known best returns are solved, whatever the scale of their rewards."""

from __future__ import annotations

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from tests.helpers.envs import Aim, Corridor, RandomEnv
from tests.helpers.tiny import tiny_model

SETTINGS = {
    "learning_rate": 1e-3,
    "learning_starts": 100,
    "batch_size": 32,
    "n_simulations": 8,
    "target_update_interval": 25,
    "policy_kwargs": {"latent_dim": 32, "hidden_dim": 32, "projection_dim": 32},
}


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_shortest_way_is_found(scale):
    """The best return, from the start and from everywhere else."""
    env = Corridor(scale=scale)
    model = tiny_model(env, **SETTINGS).learn(400)
    mean, spread = evaluate_policy(model, Monitor(Corridor(scale=scale)), n_eval_episodes=2)
    assert mean == pytest.approx(env.best_return, rel=1e-5) and spread == 0.0
    positions = np.eye(5, dtype=np.float32)[:4]
    np.testing.assert_array_equal(model.predict(positions, deterministic=True)[0], 1)
    values = model.policy.predict_values(model.policy.obs_to_tensor(positions)[0]).numpy()[:, 0]
    assert values[3] - values[0] > 0.05 * scale  # more is left to earn near the goal, in the environment's units


def test_a_continuous_action_is_aimed():
    """The mean distance to the target, where random actions have about 2.9 and the middle of the box has 1.5."""
    model = tiny_model(Aim(), **{**SETTINGS, "n_candidates": 8}).learn(450)
    mean, _ = evaluate_policy(model, Monitor(Aim()), n_eval_episodes=40)
    assert mean > -1.4


def test_a_refresh_waits_until_every_stored_state_was_drawn_four_times():
    targets = tiny_model(RandomEnv(), target_update_interval=None).arguments.targets
    per_update = 64 * (targets.unroll_steps + 1)
    assert targets.updates_until_refresh(0, 64) == targets.updates_until_refresh(4_000, 64) == 50
    for n_stored in (50_000, 100_000):
        updates = targets.updates_until_refresh(n_stored, 64)
        assert updates * per_update <= 4 * n_stored < (updates + 1) * per_update
    fixed = tiny_model(RandomEnv(), target_update_interval=7).arguments.targets
    assert fixed.updates_until_refresh(100_000, 64) == 7
