"""Learning draws from the algorithm's own generators: no other model, and nobody else's seed, changes its course."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch as th

from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, TINY_NETWORK, assert_same_parameters, parameters_of, tiny_model
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK

KINDS = pytest.mark.parametrize(
    "policy, network, space",
    [("MlpPolicy", TINY_NETWORK, None), ("CnnPolicy", TINY_IMAGE_NETWORK, GREY)],
    ids=["vectors", "images"],
)


def beginning(policy, network, space, **kwargs):
    """A model with continuous actions after its first updates."""
    env = RandomEnv(space, CONTINUOUS)
    return tiny_model(env, policy, policy_kwargs=network, ent_coef=0.1, **kwargs).learn(40)


@KINDS
def test_learning_leaves_the_global_generators_alone(policy, network, space):
    model = beginning(policy, network, space)
    before = th.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    model.learn(10, reset_num_timesteps=False)
    assert th.equal(before[0], th.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@KINDS
def test_loading_a_model_does_not_rewind_another(policy, network, space, tmp_path):
    def run(load: bool):
        model = beginning(policy, network, space)
        model.save(tmp_path / "model")
        model.learn(5, reset_num_timesteps=False)
        if load:
            type(model).load(tmp_path / "model", device="cpu").train(0)
        return model.learn(10, reset_num_timesteps=False)

    assert_same_parameters(run(False), run(True))


def test_the_generator_of_the_updates_is_drawn_from_and_seeded():
    model = beginning("MlpPolicy", TINY_NETWORK, None)
    before = model.policy.copies.generator.get_state()
    parameters = parameters_of(model)
    model.train(1)
    assert not th.equal(before, model.policy.copies.generator.get_state())
    assert any((parameters[name] != after).any() for name, after in parameters_of(model).items())
    model.set_random_seed(3)
    first = model.policy.copies.generator.get_state()
    model.train(1)
    model.set_random_seed(3)
    assert th.equal(first, model.policy.copies.generator.get_state())


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
@KINDS
def test_a_recorded_update_goes_on_with_the_generator(policy, network, space, tmp_path):
    """On a GPU: new numbers with every repetition, the same ones after the state is set back, none of torch's own."""
    model = beginning(policy, network, space, device="cuda")
    assert model.updater.recorded is not None
    generator = model.policy.copies.generator
    before = generator.get_state()
    everybodys = th.cuda.get_rng_state()
    model.train(1)
    after = generator.get_state()
    assert not th.equal(before, after) and th.equal(everybodys, th.cuda.get_rng_state())
    generator.set_state(before)
    model.train(1)
    assert th.equal(after, generator.get_state())
