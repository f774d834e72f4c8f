"""Optimisers, learning rates that rise first, and updates in mixed precision."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.utils import LinearSchedule

from sb3_ezv2 import EfficientZeroV2, WarmUp
from sb3_ezv2.learning.losses import LossCoefficients, tensor_batch
from sb3_ezv2.learning.updates import UpdateSettings, update
from sb3_ezv2.zoo.settings import read_warm_up
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    DISCRETE,
    TINY_NETWORK,
    assert_finite_parameters,
    assert_same_parameters,
    parameters_of,
    tiny_model,
)
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

COEFFICIENTS = LossCoefficients(1.0, 0.5, 1.0, 2.0, 0.005)
SGD = {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9, "weight_decay": 1e-4}}


def test_warm_up_by_hand():
    rate = WarmUp(0.2, begin=0.02, end=0.03)
    for done, expected in ((0.0, 0.0), (0.02, 0.0), (0.025, 0.1), (0.03, 0.2), (0.5, 0.2), (1.0, 0.2)):
        assert rate(1.0 - done) == pytest.approx(expected)
    falling = WarmUp(LinearSchedule(1.0, 0.0, 1.0), end=0.5)
    assert falling(0.75) == pytest.approx(0.5 * 0.75) and falling(0.25) == pytest.approx(0.25)
    assert pickle.loads(pickle.dumps(rate))(0.975) == rate(0.975)
    assert repr(rate) == "WarmUp(rate=0.2, begin=0.02, end=0.03)"


@pytest.mark.parametrize("begin, end", [(-0.1, 0.5), (0.5, 0.5), (0.6, 0.2), (0.0, 1.1)])
def test_bad_warm_ups(begin, end):
    with pytest.raises(ValueError, match=f"begin={begin} and end={end} must be shares"):
        WarmUp(0.2, begin, end)


def test_warm_up_in_the_zoo():
    rate = read_warm_up("warmup_0.2_0.02_0.03")
    assert (rate.rate, rate.begin, rate.end) == (0.2, 0.02, 0.03)
    for text in ("warmup_0.2", "warmup_a_b_c", "warmup_0.2_0.3_0.1"):
        with pytest.raises(ValueError):
            read_warm_up(text)


@pytest.mark.parametrize(
    "policy, network, space", [("MlpPolicy", TINY_NETWORK, None), ("CnnPolicy", TINY_IMAGE_NETWORK, GREY)]
)
def test_sgd_with_a_warm_up_learns_saves_and_loads(policy, network, space, tmp_path):
    rates: list[float] = []

    def note(found, _) -> bool:
        rates.append(found["self"].policy.optimizer.param_groups[0]["lr"])
        return True

    model = tiny_model(
        RandomEnv(space), policy, learning_rate=WarmUp(0.2, begin=0.5, end=0.9), policy_kwargs=network | SGD
    )
    before = parameters_of(model)
    model.learn(60, callback=note)
    assert isinstance(model.policy.optimizer, th.optim.SGD)
    assert_finite_parameters(model)
    assert any((value != before[name]).any() for name, value in parameters_of(model).items())
    np.testing.assert_allclose(rates[40], 0.2 * (40 / 60 - 0.5) / 0.4, rtol=1e-5)  # of the update one step before
    assert rates[-1] == pytest.approx(0.2)
    group = model.policy.optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=model.env)
    assert isinstance(loaded.policy.optimizer, th.optim.SGD) and isinstance(loaded.learning_rate, WarmUp)
    for ours, theirs in zip(model.policy.optimizer.state.values(), loaded.policy.optimizer.state.values(), strict=True):
        th.testing.assert_close(ours["momentum_buffer"], theirs["momentum_buffer"])


def gradients(model: EfficientZeroV2) -> list[th.Tensor]:
    """Of one and the same batch, in full and in mixed precision; the optimiser does nothing."""
    rng = np.random.default_rng(0)
    batch = model.replay_buffer.sample(32, 5, 5, 0.4, rng)
    targets = model.reanalyzer.targets(
        batch,
        model.replay_buffer,
        model.policy.average_model,
        model.policy.target_model,
        1,
        model.arguments.targets.rule(model._n_updates),
        rng,
    )
    tensors = tensor_batch(batch, targets, model.device)
    model.policy.optimizer.param_groups[0]["lr"] = 0.0
    found = []
    for mixed_precision in (False, True):
        model.policy.copies.seed(0)
        output = update(model.policy.copies, tensors, UpdateSettings(COEFFICIENTS, 1e9, 0.05, mixed_precision))
        assert output.priorities.dtype == th.float32
        assert all(value.dtype == th.float32 for value in output.logs.values())
        found.append(th.cat([parameter.grad.flatten() for parameter in model.policy.model.parameters()]))
    return found


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize(
    "policy, network, space", [("MlpPolicy", TINY_NETWORK, None), ("CnnPolicy", TINY_IMAGE_NETWORK, GREY)]
)
def test_mixed_precision_goes_the_same_way(policy, network, space, action_space):
    model = tiny_model(RandomEnv(space, action_space), policy, policy_kwargs=network).learn(60)
    exact, mixed = gradients(model)
    assert mixed.dtype == th.float32 and (exact != mixed).any()
    assert th.cosine_similarity(exact, mixed, dim=0) > (0.97 if policy == "MlpPolicy" else 0.9)
    assert float(mixed.norm()) == pytest.approx(float(exact.norm()), rel=0.1)


def test_mixed_precision_repeats_bit_by_bit():
    def run() -> EfficientZeroV2:
        return tiny_model(RandomEnv(), mixed_precision=True).learn(60)

    first = run()
    assert_same_parameters(first, run())
    other = parameters_of(tiny_model(RandomEnv()).learn(60))
    assert any((value != other[name]).any() for name, value in parameters_of(first).items())
