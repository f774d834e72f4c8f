"""Learning rates that change."""

import pytest

from sb3_ezv2 import EfficientZeroV2, InverseSqrt
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import tiny_model


def test_inverse_square_root():
    rate = InverseSqrt(0.01, 100)
    assert [rate.after(n) for n in (0, 300, 9_900)] == pytest.approx([0.01, 0.005, 0.001])
    assert rate == InverseSqrt(0.01, 100) != InverseSqrt(0.01, 101)
    for wrong in ((0.0, 100), (0.01, 0), (float("nan"), 1), (0.01, float("inf"))):
        with pytest.raises(ValueError, match="must be positive"):
            InverseSqrt(*wrong)


def test_it_counts_updates_and_not_the_progress(tmp_path):
    model = tiny_model(RandomEnv(), learning_rate=InverseSqrt(0.01, 10), learning_starts=20).learn(50)
    (group,) = model.policy.optimizer.param_groups
    assert model._n_updates == 30
    assert group["lr"] == pytest.approx(0.01 / (1 + 29 / 10) ** 0.5)
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=RandomEnv())
    assert loaded.learning_rate == InverseSqrt(0.01, 10)
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.policy.optimizer.param_groups[0]["lr"] < group["lr"]
    model.learning_rate = 1e-4
    model.learn(10, reset_num_timesteps=False)
    assert group["lr"] == 1e-4


def test_the_zoo_reads_it():
    from sb3_ezv2.zoo.settings import read_schedule

    assert read_schedule("sqrt_1e-3_1000") == InverseSqrt(1e-3, 1000)
    for wrong in ("sqrt_1e-3", "sqrt_0_10", "sqrt_a_b"):
        with pytest.raises(ValueError, match="sqrt_1e-3_1000"):
            read_schedule(wrong)
