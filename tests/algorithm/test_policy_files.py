"""Policies handed on: small, safe, and the same actions; damaged and foreign files are refused."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2 import CnnPolicy, EfficientZeroV2, EZV2Policy
from sb3_ezv2.policies import PlanningPolicy
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, TINY_NETWORK, tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

MIXED = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3, start=1)})
KINDS = {
    "discrete": (None, DISCRETE, "MlpPolicy", TINY_NETWORK),
    "continuous": (None, CONTINUOUS, "MlpPolicy", {**TINY_NETWORK, "value_prefix": True}),
    "images": (GREY, DISCRETE, "CnnPolicy", TINY_IMAGE_NETWORK),
    "dict": (MIXED, CONTINUOUS, "MultiInputPolicy", TINY_NETWORK),
}


def model_of(kind: str) -> EfficientZeroV2:
    space, actions, policy, network = KINDS[kind]
    return tiny_model(RandomEnv(space, actions), policy, policy_kwargs=network, n_simulations=6).learn(34)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_file_acts_as_the_model_did(kind, tmp_path):
    model = model_of(kind)
    model.save_policy(tmp_path / "policy")
    model.save(tmp_path / "model.zip")
    path = tmp_path / "policy.pt"
    assert path.stat().st_size < 0.5 * (tmp_path / "model.zip").stat().st_size
    observation = model.observation_space.sample()
    expected = model.policy.plan(observation, deterministic=True)
    th.load(path, weights_only=True)
    policy, acting = PlanningPolicy.load(path, device="cpu"), EfficientZeroV2.load(path, device="cpu")
    assert type(policy) is type(model.policy) and acting.policy.planner.n_simulations == 6
    for some in (policy, acting.policy):
        for found, wanted in zip(some.plan(observation, deterministic=True), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(
        acting.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    with_env = EfficientZeroV2.load(path, env=model.get_env(), device="cpu", verbose=0)
    assert with_env.get_env() is model.get_env()


def test_a_policy_of_another_class_is_refused(tmp_path):
    model_of("discrete").save_policy(tmp_path / "policy.pt")
    assert type(EZV2Policy.load(tmp_path / "policy.pt", "cpu")) is EZV2Policy
    with pytest.raises(ValueError, match="holds a EZV2Policy, which is no CnnPolicy"):
        CnnPolicy.load(tmp_path / "policy.pt")


class Command:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_in_a_policy_file_is_executed(tmp_path, capsys):
    th.save({"format": "sb3_ezv2 policy", "state": Command()}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Command()))
    th.save({"weights": th.zeros(3)}, tmp_path / "c.pt")
    for name in "abc":
        for load in (PlanningPolicy.load, EfficientZeroV2.load):
            with pytest.raises(ValueError, match=f"{name}.pt"):
                load(tmp_path / f"{name}.pt")
    assert "executed" not in capsys.readouterr().out


def test_arguments_that_are_not_plain_are_refused(tmp_path, monkeypatch):
    model = model_of("discrete")
    arguments = model.policy._get_constructor_parameters() | {"activation": th.relu}
    monkeypatch.setattr(model.policy, "_get_constructor_parameters", lambda: arguments)
    with pytest.raises(ValueError, match="activation=.*cannot be saved with a policy"):
        model.save_policy(tmp_path / "policy.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", ["save", "save_policy"])
def test_damaged_files_are_noticed_or_give_the_same_model(save, tmp_path):
    model, rng = model_of("continuous"), random.Random(0)
    path = tmp_path / "file.zip"
    getattr(model, save)(path)
    data = path.read_bytes()
    expected = {name: value.clone() for name, value in model.policy.average_model.state_dict().items()}
    refused = 0
    for trial in range(60):
        damaged, place = bytearray(data), rng.randrange(len(data))
        if trial % 3 == 0:
            del damaged[place:]
        else:
            damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            loaded = EfficientZeroV2.load(path, device="cpu")
        except ValueError as error:
            assert "file.zip" in str(error)
            refused += 1
            continue
        for name, value in loaded.policy.average_model.state_dict().items():
            assert th.equal(value, expected[name]), name
    assert refused > 45


OPTIMIZER_FAULTS = {
    "the shape": lambda s: s["state"][0].update(exp_avg=th.zeros(3)),
    "the dtype": lambda s: s["state"][0].update(exp_avg=th.zeros_like(s["state"][0]["exp_avg"], dtype=th.int64)),
    "has no": lambda s: s["state"][0].pop("exp_avg_sq"),
    "of 1 parameters": lambda s: s["param_groups"][0].update(params=[0]),
    "as lr": lambda s: s["param_groups"][0].update(lr="fast"),
    "as betas": lambda s: s["param_groups"][0].update(betas=(0.9,)),
    "step with the shape": lambda s: s["state"][0].update(step=th.zeros(2)),
    "nothing as eps": lambda s: s["param_groups"][0].pop("eps"),
}


@pytest.mark.parametrize("fault", OPTIMIZER_FAULTS)
def test_a_wrong_state_of_the_optimiser_is_refused(fault):
    model = model_of("discrete")
    parameters = copy.deepcopy(model.get_parameters())  # the state itself is not a copy
    OPTIMIZER_FAULTS[fault](parameters["policy.optimizer"])
    before = model.policy.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    with pytest.raises(ValueError, match=f"{fault}.*; load the state of an optimiser of the same class"):
        model.set_parameters(parameters)
    assert th.equal(model.policy.optimizer.state_dict()["state"][0]["exp_avg"], before)
    model.learn(3, reset_num_timesteps=False)


def test_the_state_of_another_network_is_refused_and_its_own_is_taken():
    model, other = model_of("discrete"), model_of("continuous")
    with pytest.raises(ValueError, match="the optimiser's state"):
        model.set_parameters({"policy.optimizer": other.get_parameters()["policy.optimizer"]}, exact_match=False)
    model.set_parameters(model.get_parameters())
    model.learn(3, reset_num_timesteps=False)
