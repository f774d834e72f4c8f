"""Sums of rewards instead of single rewards: targets, unroll and search agree, and it learns."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch as th

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.learning.targets import value_prefixes
from sb3_ezv2.networks.model import reward_support
from sb3_ezv2.planning.fused_weights import supports_fusion
from sb3_ezv2.planning.planner import Planner
from tests.helpers.envs import RandomEnv
from tests.helpers.reference_search import ReferenceSearch
from tests.helpers.tiny import (
    CONTINUOUS,
    DISCRETE,
    TINY_NETWORK,
    assert_finite_parameters,
    assert_same_parameters,
    tiny_model,
    tiny_network,
)
from tests.networks.test_cnn import GREY, TINY_IMAGE_NETWORK, tiny_policy

HORIZON = 3
PREFIX = {"value_prefix": True, "lstm_dim": 8, "prefix_horizon": HORIZON}


def vector_network(action_space=DISCRETE):
    return tiny_network(action_space, **PREFIX)


def image_network(action_space=DISCRETE):
    return tiny_policy(GREY, action_space, **PREFIX).average_model


def observations_of(model, n: int) -> dict[str, th.Tensor]:
    generator = th.Generator().manual_seed(n)
    if model.spaces["observation"].shape == (3,):
        return {"observation": th.rand(n, 3, generator=generator)}
    return {"observation": th.randint(0, 256, (n, 32, 32, 1), dtype=th.uint8, generator=generator)}


def test_targets_by_hand():
    rewards = np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [0.0, -1.0, 0.5, 0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(value_prefixes(rewards, 3), [[1, 3, 6, 4, 9], [0, -1, -0.5, 0, 0]])
    np.testing.assert_array_equal(value_prefixes(rewards, 1), rewards)
    np.testing.assert_array_equal(value_prefixes(rewards, 9), rewards.cumsum(axis=1))


def test_the_support_reaches_further_and_is_as_fine():
    one, five = reward_support(1), reward_support(5)
    assert five.bound > one.bound and five.n_bins % 2 == 1
    assert five.points[five.n_bins // 2 + 1] <= one.points[one.n_bins // 2 + 1]


@pytest.mark.parametrize("network", [vector_network, image_network])
@th.no_grad()
def test_steps_of_a_search_are_the_unroll_of_the_loss(network):
    """The sums of what single steps give are the prefixes that the loss sees, begun again every three steps."""
    model = network().eval()
    actions = th.tensor([[0, 2, 1, 1, 0, 2, 2], [1, 0, 0, 2, 1, 1, 0]])
    output = model.initial_inference(observations_of(model, 2))
    latents, rewards = [output.latents], []
    for k in range(actions.shape[1]):
        output = model.recurrent_inference(output.latents, actions[:, k], output.memories)
        latents.append(output.latents)
        rewards.append(output.rewards)
    logits, *_ = model.unrolled_heads(th.stack(latents, dim=1))
    prefixes = model.reward_support.decode(logits, model.reward_scale)
    assert prefixes.std() > 1e-3
    expected = value_prefixes(th.stack(rewards, dim=1).numpy(), HORIZON)
    np.testing.assert_allclose(prefixes.numpy(), expected, rtol=1e-4, atol=1e-5)


@th.no_grad()
def reward_by_hand(model, observation: dict[str, th.Tensor], path: tuple[int, ...]) -> tuple[float, float, list[float]]:
    """Reward of the last step of a path as the difference of two prefixes, with the LSTM's formulas written out."""
    latents = model.represent(observation)
    prefix = model.value_prefix
    w_in, w_state, b_in, b_state = (
        getattr(prefix.cell, name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = th.zeros(1, prefix.lstm_dim)
    before = now = 0.0
    for depth, action in enumerate(path):
        latents = model.next_latents(latents, th.tensor([action]))
        if depth % HORIZON == 0:
            hidden, cell, now = th.zeros_like(hidden), th.zeros_like(cell), 0.0
        features = model.heads(latents)[0]
        gates = features @ w_in.T + b_in + hidden @ w_state.T + b_state
        i, f, g, o = gates.chunk(4, dim=1)
        cell = th.sigmoid(f) * cell + th.sigmoid(i) * th.tanh(g)
        hidden = th.sigmoid(o) * th.tanh(cell)
        before = now
        logits = prefix.output(prefix.hidden(hidden))
        now = float(model.reward_support.decode(logits, model.reward_scale))
    _, values, policies = model.heads(latents)
    return now - before, float(model.value_support.decode(values, model.reward_scale)), policies[0].tolist()


@pytest.mark.parametrize("network", [vector_network, image_network])
def test_searches_equal_those_of_the_reference(network):
    model = network().eval()
    assert not supports_fusion(model)
    planner, n = Planner(24, 2, 0.97), 5
    observations = observations_of(model, n)
    noise = planner.draw_noise(model, n, np.random.default_rng(0))
    plan = planner.plan(model, observations, noise, explore=True)
    longest = 0
    for row in range(n):
        alone = {key: value[row : row + 1] for key, value in observations.items()}
        evaluate = partial(reward_by_hand, model, alone)
        share = model.action_kind.min_value_share
        outcome = ReferenceSearch(evaluate, noise.gumbel[row], 24, 2, 0.97, min_value_share=share).run()
        longest = max(longest, *map(len, outcome.expanded))
        assert plan.visit_counts[row].tolist() == outcome.visit_counts
        assert plan.actions[row] == outcome.selected
        np.testing.assert_allclose(plan.improved_policy[row], outcome.policy, atol=1e-4)
        np.testing.assert_allclose(plan.root_values[row], outcome.root_value, rtol=1e-4, atol=1e-4)
    assert longest > HORIZON + 1  # otherwise nothing begins again


def test_prefixes_are_learnt_and_their_differences_are_the_rewards():
    """Rewards that depend on the action and on the observation, fitted through the sums alone."""
    model = tiny_network(DISCRETE, **PREFIX | {"lstm_dim": 32})
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    observations = observations_of(model, 64)
    actions = th.randint(0, 3, (64, 5), generator=th.Generator().manual_seed(0))
    rewards = actions.float() - 1.0 + observations["observation"][:, :1]
    targets = th.from_numpy(value_prefixes(rewards.numpy(), HORIZON))
    encoded = model.reward_support.encode(targets, model.reward_scale)
    losses = []
    for _ in range(400):
        latents = [model.represent(observations)]
        for k in range(5):
            latents.append(model.next_latents(latents[-1], actions[:, k]))
        logits, *_ = model.unrolled_heads(th.stack(latents, dim=1))
        loss = -(encoded * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    with th.no_grad():
        output = model.initial_inference(observations)
        for k in range(5):
            output = model.recurrent_inference(output.latents, actions[:, k], output.memories)
            assert (output.rewards - rewards[:, k]).abs().mean() < 0.15


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_learns_saves_and_loads(policy, action_space, tmp_path):
    network = TINY_NETWORK if policy == "MlpPolicy" else TINY_IMAGE_NETWORK
    space = None if policy == "MlpPolicy" else GREY

    def run() -> EfficientZeroV2:
        return tiny_model(RandomEnv(space, action_space), policy, policy_kwargs=network | PREFIX).learn(45)

    model = run()
    assert model._n_updates == 15
    assert_finite_parameters(model)
    assert_same_parameters(model, run())
    output = model.policy.model.value_prefix.output
    assert output.weight.abs().max() > 0  # began at zero
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=model.env)
    assert_same_parameters(model, loaded)
    observations = np.stack([model.observation_space.sample() for _ in range(4)])
    np.testing.assert_array_equal(
        model.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize("name", ["lstm_dim", "prefix_horizon"])
@pytest.mark.parametrize("policy, space", [("MlpPolicy", None), ("CnnPolicy", GREY)])
def test_bad_sizes(policy, space, name):
    with pytest.raises(ValueError, match=f"{name}=0 must be an integer between 1"):
        tiny_model(RandomEnv(space), policy, policy_kwargs={"value_prefix": True, name: 0})
