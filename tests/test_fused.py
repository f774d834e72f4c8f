"""The compiled model computes what torch computes, always with the newest weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th

from sb3_ezv2 import planning
from sb3_ezv2.networks.fused import FusedModel, sample_children, supports_fusion
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.planning import Planner
from tests.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, tiny_network

ACTION_SPACES = {"discrete": DISCRETE, "box": CONTINUOUS, "box1": ONE_DIMENSION}


def random_step(model: EfficientZeroModel, n: int, seed: int = 0) -> tuple[th.Tensor, th.Tensor, np.ndarray]:
    """Latent states and actions for torch, and the actions as the compiled model wants them."""
    rng = np.random.default_rng(seed)
    latents = th.from_numpy(rng.normal(size=(n, model.latent_dim)).astype(np.float32))
    head = model.action_head
    if head.n_candidates == head.encoded_dim == head.n_children:  # discrete
        actions = th.from_numpy(rng.integers(head.encoded_dim, size=n))
    else:
        actions = th.from_numpy(rng.uniform(-1, 1, (n, head.encoded_dim)).astype(np.float32))
    return latents, actions, head.encode(actions).numpy()


def assert_equal_outputs(model: EfficientZeroModel, fused: FusedModel, n: int, seed: int = 0) -> None:
    """Latents, rewards, values and policies agree within rounding."""
    latents, actions, encoded = random_step(model, n, seed)
    with th.no_grad():
        expected = model.recurrent_inference(latents, actions)
    found = fused.recurrent_inference(latents.numpy(), encoded)
    scale = float(model.reward_scale)
    units = (1.0, scale, scale, 1.0)
    names = ("latents", "rewards", "values", "policies")
    for name, unit, ours, theirs in zip(names, units, found, expected, strict=True):
        theirs = theirs.numpy()
        assert ours.shape == theirs.shape and ours.dtype == np.float32, name
        np.testing.assert_allclose(ours / unit, theirs / unit, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("reward_scale", [1e-3, 1.0, 1e4])
def test_outputs_equal_those_of_torch(kind, reward_scale):
    model = tiny_network(ACTION_SPACES[kind], reward_scale=reward_scale)
    fused = FusedModel(model)
    for n in (1, 2, 3, 17, 64, 300):
        assert_equal_outputs(model, fused, n, seed=n)


def test_other_sizes():
    model = tiny_network(CONTINUOUS, n_blocks=2, latent_dim=5, hidden_dim=33)
    assert_equal_outputs(model, FusedModel(model), 7)


def test_large_outputs():
    """Far out on the supports, where ``h`` is steep."""
    model = tiny_network(DISCRETE)
    middle = model.recurrent_inference(*random_step(model, 100)[:2])
    with th.no_grad():
        for output in model.heads.outputs:
            output.bias.copy_(th.linspace(-8.0, 8.0, len(output.bias)))
    far = model.recurrent_inference(*random_step(model, 100)[:2])
    assert far.values.min() > middle.values.max() and far.rewards.min() > middle.rewards.max()
    assert_equal_outputs(model, FusedModel(model), 100)


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_an_optimiser_step_is_seen_at_once(kind):
    model = tiny_network(ACTION_SPACES[kind])
    fused = FusedModel(model)
    latents, actions, encoded = random_step(model, 4)
    before = fused.recurrent_inference(latents.numpy(), encoded)
    for optimizer_class in (th.optim.Adam, th.optim.SGD):
        optimizer = optimizer_class(model.parameters(), lr=0.05)
        output = model.recurrent_inference(latents, actions)
        loss = sum(part.pow(2).mean() for part in output)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_equal_outputs(model, fused, 4)
    after = fused.recurrent_inference(latents.numpy(), encoded)
    assert all((ours != theirs).any() for ours, theirs in zip(before, after, strict=True))


def test_loaded_parameters_and_a_new_scale_are_seen_at_once():
    model, other = tiny_network(DISCRETE), tiny_network(DISCRETE, seed=3, reward_scale=50.0)
    fused = FusedModel(model)
    model.load_state_dict(other.state_dict())
    assert_equal_outputs(other, fused, 5)
    model.reward_scale.fill_(0.25)
    assert_equal_outputs(model, fused, 5)


def test_rows_do_not_depend_on_each_other():
    model = tiny_network(CONTINUOUS)
    fused = FusedModel(model)
    latents, _, encoded = random_step(model, 40)
    together = fused.recurrent_inference(latents.numpy(), encoded)
    for row in (0, 13, 39):
        alone = fused.recurrent_inference(latents.numpy()[row : row + 1], encoded[row : row + 1])
        for ours, theirs in zip(together, alone, strict=True):
            np.testing.assert_allclose(ours[row], theirs[0], rtol=1e-5, atol=1e-5)


def test_inputs_are_left_as_they_were():
    model = tiny_network(CONTINUOUS)
    latents, _, encoded = random_step(model, 6)
    latents, copies = latents.numpy(), (latents.numpy().copy(), encoded.copy())
    FusedModel(model).recurrent_inference(latents, encoded)
    np.testing.assert_array_equal(latents, copies[0])
    np.testing.assert_array_equal(encoded, copies[1])


@pytest.mark.parametrize("n_noise", [1, 9])
def test_sampled_children_equal_those_of_torch(n_noise):
    head = tiny_network(CONTINUOUS).action_head
    rng = np.random.default_rng(0)
    outputs = (20.0 * rng.normal(size=(9, head.output_dim))).astype(np.float32)
    noise = rng.normal(size=(n_noise, head.n_children, head.encoded_dim)).astype(np.float32)
    expected = head.children(th.from_numpy(outputs), th.from_numpy(noise)).numpy()
    np.testing.assert_allclose(sample_children(outputs, noise), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max() > 0.99  # the clamp at the ends is part of it


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("explore", [False, True])
def test_plans_equal_those_of_torch(kind, explore, monkeypatch):
    """The same noise leads to the same tree with either evaluation."""
    model = tiny_network(ACTION_SPACES[kind])
    assert supports_fusion(model)
    planner = Planner(12, min(4, model.action_head.n_candidates), 0.97)
    observations = {"observation": th.from_numpy(np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32))}
    noise = planner.draw_noise(model, 30, np.random.default_rng(1)) if explore else planner.greedy_noise(model)
    fused = planner.plan(model, observations, noise, explore)
    monkeypatch.setattr(planning, "supports_fusion", lambda model: False)
    torch = planner.plan(model, observations, noise, explore)
    # Rounding may decide between two nearly equal branches of a tree; that is rare.
    same = (fused.visit_counts == torch.visit_counts).all(axis=1)
    assert same.mean() > 0.9
    np.testing.assert_allclose(fused.candidates, torch.candidates, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fused.actions[same], torch.actions[same], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fused.root_values[same], torch.root_values[same], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fused.improved_policy[same], torch.improved_policy[same], rtol=1e-3, atol=1e-3)
    assert (fused.visit_counts.sum(axis=1) == 12).all()
