"""Parts of the algorithm that can be chosen or left out: the value target, the value of a search, acting by search."""

import math

import numpy as np
import pytest
import torch as th

from sb3_ezv2.learning.reanalyze import MixedValueRule
from tests.helpers.envs import RandomEnv
from tests.helpers.masked import MaskedEnv
from tests.helpers.plans import observations_of
from tests.helpers.tiny import CONTINUOUS, DISCRETE, assert_finite_parameters, parameters_of, tiny_model, tiny_network


def test_rules_of_the_value_target():
    def rules(**arguments: object) -> list[MixedValueRule]:
        targets = tiny_model(RandomEnv(), td_phase=10, td_fresh=20, **arguments).arguments.targets
        return [targets.rule(n_updates) for n_updates in (9, 10)]

    assert rules() == [(True, 20), (False, 20)]
    assert rules(value_target="search") == [(False, -math.inf)] * 2
    assert [rule.td_phase for rule in rules(value_target="multi_step")] == [True, True]


def test_every_target_learns_and_says_what_it_takes():
    kept = {}
    for target, value in (("mixed", "improved"), ("search", "mean"), ("search", "policy"), ("multi_step", "improved")):
        model = tiny_model(RandomEnv(), value_target=target, search_value=value, td_phase=10**6).learn(60)
        assert_finite_parameters(model)
        assert (model.reanalyzer.search_value_fraction > 0) == (target == "search")
        kept[target, value] = parameters_of(model)
    first = kept["mixed", "improved"]
    assert all(np.array_equal(first[name], kept["multi_step", "improved"][name]) for name in first)
    assert any((first[name] != kept["search", "mean"][name]).any() for name in first)


def test_the_value_of_a_search_can_be_assigned():
    model = tiny_model(RandomEnv())
    model.search_value = "mean"
    assert model.reanalyzer.search_value == "mean"


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS])
def test_acting_without_a_search(action_space, monkeypatch):
    model = tiny_model(RandomEnv(action_space=action_space), act_with="policy")
    monkeypatch.setattr(model.policy, "search", None)
    model.learn(60)
    assert_finite_parameters(model)
    model.act_with = "search"
    with pytest.raises(TypeError):
        model.learn(10, reset_num_timesteps=False)


def test_without_a_search_discrete_actions_follow_the_policy():
    policy = tiny_model(RandomEnv()).policy
    network, observations = tiny_network(DISCRETE), observations_of(1)
    with th.no_grad():
        expected = network.initial_inference(observations).policies.softmax(-1)[0].numpy()
    many = {key: part.repeat(4_000, 1) for key, part in observations.items()}
    drawn = policy.planner.draw_actions(network, many, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 4_000, expected, atol=0.03)


@pytest.mark.parametrize("n_policy_candidates", [0, 6])
def test_without_a_search_candidates_are_the_noise(n_policy_candidates):
    """Without candidates of the policy all actions have the flattened spread, with nothing else all have its own."""
    network = tiny_network(CONTINUOUS, n_policy_candidates=n_policy_candidates, flatten_factor=1.5)
    observations = {key: part.repeat(4_000, 1) for key, part in observations_of(1).items()}
    with th.no_grad():
        outputs = network.initial_inference(observations).policies[0]
    mean, std = network.action_kind.gaussian(outputs)
    drawn = tiny_model(RandomEnv()).policy.planner.draw_actions(network, observations, np.random.default_rng(0))
    inside = np.arctanh(np.clip(drawn, -0.9985, 0.9985))
    spread = std.numpy() if n_policy_candidates else np.maximum(1.5 * std.numpy(), 1.0)
    # Medians and quartiles, which the ends of the box do not move.
    np.testing.assert_allclose(np.median(inside, axis=0), mean, atol=0.15)
    np.testing.assert_allclose(np.diff(np.quantile(inside, [0.25, 0.75], axis=0), axis=0)[0] / 1.349, spread, rtol=0.1)


def test_without_a_search_actions_are_legal():
    """The environment raises where an action is illegal."""
    tiny_model(MaskedEnv(), act_with="policy").learn(60)


def test_without_a_search_a_diverged_network_is_noticed():
    model = tiny_model(RandomEnv(), act_with="policy").learn(35)
    with th.no_grad():
        for parameter in model.policy.average_model.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite"):
        model.policy.draw_actions({"observation": th.zeros(1, 3)})
