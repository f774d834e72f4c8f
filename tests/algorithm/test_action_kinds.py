"""A further kind of action needs a class and a row in ``KINDS``, nothing else: the factorised one and two made-up ones
go all the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from gymnasium import spaces

from sb3_ezv2 import CnnPolicy, EfficientZeroV2
from sb3_ezv2.common.actions import (
    KINDS,
    MANY_ACTIONS,
    ActionKind,
    BoxActions,
    DiscreteActions,
    FactorisedActions,
    action_kind_of,
)
from sb3_ezv2.common.actions.kind import Candidates, Sampling
from sb3_ezv2.common.type_aliases import Plan, PolicyTargets
from sb3_ezv2.networks.model import VALUE
from sb3_ezv2.planning.planner import Planner, choose_search
from sb3_ezv2.planning.torch_search import plan_in_torch
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, assert_finite_parameters, tiny_model, tiny_network
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK


class SwitchActions(ActionKind):
    """``MultiBinary``: every combination is a candidate; the policy has one logit per switch.

    Neither the stored action, nor its code, nor the prior is what ``Discrete`` has.
    """

    dtype = np.int8
    td_steps = 7
    image_hidden_dim = 24
    min_value_range = 0.05

    def __init__(self, space: spaces.Space, sampling: Sampling) -> None:
        (dim,) = self.shape = space.shape
        self.encoded_dim = self.output_dim = dim
        self.n_candidates = self.n_children = self.n_targets = 2**dim
        self.target_shape = (0,)

    def numbered(self, numbers: th.Tensor) -> th.Tensor:
        return numbers.unsqueeze(-1) >> th.arange(self.encoded_dim, device=numbers.device) & 1

    def random(self, shape, rng, extreme=False):
        return rng.integers(2, size=(*shape, *self.shape)).astype(self.dtype)

    def to_env(self, actions):
        return actions

    def from_env(self, actions, n):
        return actions.astype(self.dtype)

    def tensor_to_env(self, actions):
        return actions

    def encode(self, actions):
        return 2.0 * actions.float() - 1.0

    def log_probabilities(self, outputs):
        """Of every combination."""
        signs = self.encode(self.numbered(th.arange(self.n_candidates, device=outputs.device)))
        return F.logsigmoid(outputs.unsqueeze(-2) * signs).sum(-1)

    def policy_targets(self, plan: Plan) -> PolicyTargets:
        return PolicyTargets(np.empty((*plan.improved_policy.shape, 0), np.float32), plan.improved_policy)

    def log_likelihood(self, outputs, actions, weights):
        return (weights * self.log_probabilities(outputs)).sum(-1)

    def entropy(self, outputs, generator=None):
        log_probabilities = self.log_probabilities(outputs)
        return -(log_probabilities.exp() * log_probabilities).sum(-1)

    def candidates(self, outputs, noise, explore):
        return Candidates(outputs[:, :0], self.log_probabilities(outputs))

    def children(self, outputs, noise):
        return self.candidates(outputs, noise, explore=False)


class DialActions(ActionKind):
    """``MultiDiscrete``: sampled whole numbers, with Gumbel noise and the policy's own likelihood as prior."""

    dtype = np.int64
    td_steps = 3
    image_hidden_dim = 40
    min_value_range = 0.02
    sampled = True
    n_children = 3
    n_targets = 1

    def __init__(self, space: spaces.Space, sampling: Sampling) -> None:
        self.sizes = space.nvec.tolist()
        self.shape = self.target_shape = (len(self.sizes),)
        self.encoded_dim = self.output_dim = self.noise_dim = sum(self.sizes)
        self.n_candidates = sampling.n_candidates

    def random(self, shape, rng, extreme=False):
        return rng.integers(self.sizes, size=(*shape, *self.shape))

    def to_env(self, actions):
        return actions

    def from_env(self, actions, n):
        return actions.astype(self.dtype)

    def tensor_to_env(self, actions):
        return actions

    def encode(self, actions):
        parts = zip(actions.unbind(-1), self.sizes, strict=True)
        return th.cat([F.one_hot(part.long(), size) for part, size in parts], dim=-1).float()

    def log_prob(self, outputs, actions):
        logits = th.cat([part.log_softmax(-1) for part in outputs.split(self.sizes, dim=-1)], dim=-1)
        return (logits.unsqueeze(-2) * self.encode(actions)).sum(-1)

    def policy_targets(self, plan: Plan) -> PolicyTargets:
        return PolicyTargets(plan.actions[:, None].astype(np.float32), np.ones((len(plan.actions), 1), np.float32))

    def log_likelihood(self, outputs, actions, weights):
        return (weights * self.log_prob(outputs, actions)).sum(-1)

    def entropy(self, outputs, generator=None):
        parts = (part.log_softmax(-1) for part in outputs.split(self.sizes, dim=-1))
        return -sum((part.exp() * part).sum(-1) for part in parts)

    def children(self, outputs, noise):
        scores = (outputs.unsqueeze(-2) + noise).split(self.sizes, dim=-1)
        actions = th.stack([part.argmax(-1) for part in scores], dim=-1)
        return Candidates(actions, self.log_prob(outputs, actions))

    def candidates(self, outputs, noise, explore):
        return self.children(outputs, noise)


THIRD_KINDS = {
    "switches": (spaces.MultiBinary(3), SwitchActions),
    "dials": (spaces.MultiDiscrete([3, 4]), DialActions),
    "multi_discrete": (spaces.MultiDiscrete([3, 4, 2], start=[1, 0, -5]), FactorisedActions),
    "multi_discrete_matrix": (spaces.MultiDiscrete([[3, 300], [2, 2]]), FactorisedActions),
    "multi_binary": (spaces.MultiBinary(200), FactorisedActions),
    "multi_binary_matrix": (spaces.MultiBinary([2, 3]), FactorisedActions),
    "many": (spaces.Discrete(MANY_ACTIONS, start=3), FactorisedActions),
}


@pytest.fixture(params=THIRD_KINDS.values(), ids=THIRD_KINDS)
def space(request, monkeypatch) -> spaces.Space:
    """A space that is supported while a test runs."""
    action_space, kind = request.param
    if kind is not FactorisedActions:
        monkeypatch.setitem(KINDS, type(action_space), kind)
    return action_space


@pytest.mark.parametrize("policy, network, images", [("MlpPolicy", {}, None), ("CnnPolicy", TINY_IMAGE_NETWORK, GREY)])
def test_a_third_kind_learns_saves_loads_and_plans(space, policy, network, images, tmp_path):
    kwargs = {"policy_kwargs": network} if network else {}
    model = tiny_model(RandomEnv(images, space), policy, learning_starts=20, **kwargs).learn(60)
    assert_finite_parameters(model)
    kind = model.policy.action_kind
    assert model.arguments.targets.n_step(model.policy.action_kind) == kind.td_steps
    assert model.replay_buffer.actions.shape[2:] == kind.shape and model.replay_buffer.actions.dtype == kind.dtype
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "buffer")
    observations = np.stack([model.observation_space.sample() for _ in range(5)])
    for deterministic in (True, False):
        actions, _ = loaded.predict(observations, deterministic=deterministic)
        assert all(space.contains(action) for action in actions)
    plan = loaded.policy.plan(observations)
    assert plan.candidates.shape == (5, kind.n_candidates, *space.shape)
    assert all(space.contains(action) for action in plan.candidates.reshape(-1, *space.shape))
    loaded.learn(20)


def test_a_third_kind_is_searched_in_torch_and_on_a_device(space, monkeypatch):
    model = tiny_network(space)
    assert choose_search(model) is plan_in_torch
    planner, n = Planner(16, 3, 0.97), 40
    observations = {"observation": th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32))}
    noise = planner.draw_noise(model, n, np.random.default_rng(1))
    here = planner.plan(model, observations, noise, explore=True)
    monkeypatch.setattr("sb3_ezv2.planning.planner._is_on_gpu", lambda model: True)
    there = planner.plan(model, observations, noise, explore=True)
    assert here.candidates.dtype == there.candidates.dtype == model.action_kind.dtype
    np.testing.assert_array_equal(here.candidates, there.candidates)
    same = (here.visit_counts == there.visit_counts).all(axis=1)
    assert same.mean() > 0.9  # rounding decides between equal candidates
    np.testing.assert_array_equal(here.actions[same], there.actions[same])


def test_the_heads_on_images_have_the_size_that_the_kind_says(space):
    def size_of(action_space: spaces.Space) -> int:
        network = {name: value for name, value in TINY_IMAGE_NETWORK.items() if name != "hidden_dim"}
        return CnnPolicy(GREY, action_space, lambda _: 1e-3, **network).model.heads.outputs[VALUE].in_features

    assert size_of(space) == action_kind_of(space).image_hidden_dim
    assert (size_of(DISCRETE), size_of(CONTINUOUS)) == (32, 64)


def test_subclasses_of_a_space_are_of_its_kind():
    class Named(spaces.Discrete):
        pass

    assert type(action_kind_of(Named(4))) is DiscreteActions
    assert type(action_kind_of(CONTINUOUS)) is BoxActions


def test_a_space_without_a_kind_is_refused():
    with pytest.raises(ValueError, match="Text.* is not supported; use one of Discrete, Box, Multi"):
        action_kind_of(spaces.Text(3))


def test_large_discrete_spaces_are_sampled():
    assert type(action_kind_of(spaces.Discrete(MANY_ACTIONS - 1))) is DiscreteActions
    assert type(action_kind_of(spaces.Discrete(MANY_ACTIONS))) is FactorisedActions


def test_a_dict_of_actions_names_a_wrapper():
    with pytest.raises(ValueError, match="Dict.* is not supported.*gymnasium.wrappers.TransformAction"):
        action_kind_of(spaces.Dict({"a": spaces.Discrete(2)}))


def test_random_draws_are_what_they_have_always_been():
    """Seeds of earlier versions give the same runs."""
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    np.testing.assert_array_equal(
        action_kind_of(spaces.Discrete(7, start=3)).random((6,), rng), twin.integers(7, size=6)
    )
    box = action_kind_of(spaces.Box(-2.0, 5.0, (2, 2)))
    uniform = twin.uniform(-1.0, 1.0, (6, 4)).astype(np.float32)
    np.testing.assert_array_equal(box.random((6,), rng), uniform)
    signs = np.copysign(np.float32(1.0), twin.uniform(-1.0, 1.0, (6, 4)).astype(np.float32))
    np.testing.assert_array_equal(box.random((6,), rng, extreme=True), signs)
    assert rng.random() == twin.random()
