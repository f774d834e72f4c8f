"""The loss of an unrolled batch and the densities of the policies, against slow and independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch as th
import torch.nn.functional as F
from torch.distributions import Categorical, Independent, Normal, TanhTransform, TransformedDistribution

from sb3_ezv2.learning.losses import LossCoefficients, TensorBatch, unroll_loss
from sb3_ezv2.networks.model import EfficientZeroModel
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, tiny_network

BATCH, UNROLL = 6, 4
SPACES = {"discrete": DISCRETE, "box": CONTINUOUS, "box1": ONE_DIMENSION}
COEFFICIENTS = LossCoefficients(reward=1.0, value=0.5, policy=0.75, consistency=2.0, entropy=0.0)
NOTHING = LossCoefficients(0.0, 0.0, 0.0, 0.0, 0.0)


def random_batch(model: EfficientZeroModel, seed: int = 0, all_count: bool = False) -> TensorBatch:
    """Random observations, actions, targets, masks and weights."""
    generator = th.Generator().manual_seed(seed)

    def uniform(*shape: int) -> th.Tensor:
        return 2 * th.rand(shape, generator=generator) - 1

    def mask(*shape: int) -> th.Tensor:
        return th.ones(shape) if all_count else (th.rand(shape, generator=generator) < 0.6).float()

    kind = model.action_kind
    n_targets = kind.n_targets
    return TensorBatch(
        observations={"observation": uniform(BATCH, UNROLL + 1, 3)},
        actions=uniform(BATCH, UNROLL, *kind.shape)
        if kind.sampled
        else th.randint(kind.n_candidates, (BATCH, UNROLL), generator=generator),
        weights=th.rand(BATCH, generator=generator) + 0.1,
        rewards=3 * uniform(BATCH, UNROLL),
        values=30 * uniform(BATCH, UNROLL + 1),
        policy_actions=0.9 * uniform(BATCH, UNROLL + 1, n_targets, *kind.target_shape),
        policy_weights=th.softmax(3 * uniform(BATCH, UNROLL + 1, n_targets), dim=-1),
        policy_mask=mask(BATCH, UNROLL + 1),
        consistency_mask=mask(BATCH, UNROLL),
    )


def total(model: EfficientZeroModel, batch: TensorBatch, coefficients: LossCoefficients = COEFFICIENTS) -> th.Tensor:
    """The loss that is minimised, with the same random numbers every time."""
    th.manual_seed(0)
    return unroll_loss(model, batch, coefficients).total


def gradients(model: EfficientZeroModel, loss: th.Tensor) -> dict[str, th.Tensor]:
    """By parameter, zeros where the loss does not depend on one."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = th.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: th.zeros_like(parameter) if gradient is None else gradient
        for name, parameter, gradient in zip(names, parameters, found, strict=True)
    }


def latents_step_by_step(model: EfficientZeroModel, batch: TensorBatch, keep: float = 1.0) -> list[th.Tensor]:
    """Unrolled latent states; ``keep`` is the share of the gradient that enters each dynamics step."""
    latents = [model.represent({key: value[:, 0] for key, value in batch.observations.items()})]
    for k in range(UNROLL):
        entering = keep * latents[-1] + (1 - keep) * latents[-1].detach()
        latents.append(model.next_latents(entering, batch.actions[:, k]))
    return latents


def loss_step_by_step(
    model: EfficientZeroModel, batch: TensorBatch, coefficients: LossCoefficients, keep: float = 0.5
) -> th.Tensor:
    """The loss written as one loop over the unrolled states, sample by sample, every head evaluated at every state."""
    latents = latents_step_by_step(model, batch, keep)
    scale, result = model.reward_scale, th.zeros(())
    for k, latent in enumerate(latents):
        reward_logits, value_logits, policies = model.heads(latent)
        for i in range(BATCH):
            value = model.value_support.encode(batch.values[i, k], scale)
            loss = coefficients.value * F.cross_entropy(model.value_support.used(value_logits[i]), value)
            likelihood = model.action_kind.log_likelihood(
                policies[i], batch.policy_actions[i, k], batch.policy_weights[i, k]
            )
            loss = loss - coefficients.policy * batch.policy_mask[i, k] * likelihood
            if k > 0:
                reward = model.reward_support.encode(batch.rewards[i, k - 1], scale)
                used = model.reward_support.used(reward_logits[i])
                loss = loss + coefficients.reward * F.cross_entropy(used, reward)
                real = model.represent({key: value[i : i + 1, k] for key, value in batch.observations.items()})
                predicted = model.prediction(model.projection(latent[i : i + 1]))[0]
                target = model.projection(real)[0].detach()
                cosine = (predicted @ target) / (predicted.norm() * target.norm())
                loss = loss - coefficients.consistency * batch.consistency_mask[i, k - 1] * cosine
            result = result + batch.weights[i] * loss
    return result / (BATCH * UNROLL)


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("reward_scale", [1.0, 0.02])
def test_the_loss_and_its_gradient_equal_a_loop(kind, reward_scale):
    model = tiny_network(SPACES[kind], reward_scale=reward_scale)
    batch = random_batch(model)
    loss, slow = total(model, batch), loss_step_by_step(model, batch, COEFFICIENTS)
    assert loss.item() == pytest.approx(slow.item(), rel=1e-4)
    ours, theirs = gradients(model, loss), gradients(model, slow)
    for name, gradient in ours.items():
        th.testing.assert_close(
            gradient, theirs[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("step", range(1, UNROLL + 1))
def test_the_gradient_of_a_latent_is_halved_at_every_step(step):
    """What the policy after ``step`` steps teaches the representation is the plain gradient divided by ``2^step``."""
    model = tiny_network(DISCRETE)
    batch = random_batch(model, all_count=True)
    mask = th.zeros(BATCH, UNROLL + 1)
    mask[:, step] = 1.0
    batch = batch._replace(policy_mask=mask)
    only_policy = NOTHING._replace(policy=1.0)
    ours = gradients(model, total(model, batch, only_policy))
    plain = gradients(model, loss_step_by_step(model, batch, only_policy, keep=1.0))
    for name, gradient in ours.items():
        if name.startswith("representation"):
            assert gradient.abs().max() > 0
            th.testing.assert_close(gradient, plain[name] / 2**step, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", SPACES)
def test_a_masked_target_changes_nothing(kind):
    model = tiny_network(SPACES[kind])
    batch = random_batch(model)
    coefficients = COEFFICIENTS._replace(entropy=0.1)
    counts, spoiled = batch.policy_mask, batch.policy_weights.clone()
    spoiled[counts == 0] = 0.777
    other = batch._replace(policy_weights=spoiled)
    ours, theirs = total(model, batch, coefficients), total(model, other, coefficients)
    assert ours.item() == theirs.item()
    expected = gradients(model, theirs)
    for name, gradient in gradients(model, ours).items():
        th.testing.assert_close(gradient, expected[name], rtol=0, atol=0)
    spoiled[counts == 1] = 0.777
    assert total(model, batch._replace(policy_weights=spoiled), coefficients).item() != ours.item()


def test_masked_actions_of_a_policy_target_change_nothing():
    model = tiny_network(CONTINUOUS)
    batch = random_batch(model)
    spoiled = batch.policy_actions.clone()
    spoiled[batch.policy_mask == 0] = 0.5
    assert total(model, batch._replace(policy_actions=spoiled)).item() == total(model, batch).item()


def test_masked_observations_change_nothing():
    """An observation past the end of an episode takes part in the consistency loss only."""
    model = tiny_network(DISCRETE)
    batch = random_batch(model)
    spoiled = batch.observations["observation"].clone()
    spoiled[:, 1:][batch.consistency_mask == 0] = 0.5
    assert total(model, batch._replace(observations={"observation": spoiled})).item() == total(model, batch).item()


def test_a_batch_with_nothing_that_counts_has_no_gradient():
    model = tiny_network(DISCRETE)
    batch = random_batch(model)
    batch = batch._replace(**{name: th.zeros_like(getattr(batch, name)) for name in batch._fields if "mask" in name})
    output = unroll_loss(model, batch, COEFFICIENTS._replace(reward=0.0, value=0.0))
    assert output.total.item() == 0.0
    assert all(math.isfinite(value) for value in output.logs.values())
    assert max(gradient.abs().max() for gradient in gradients(model, output.total).values()) == 0


@pytest.mark.parametrize("kind", SPACES)
def test_importance_weights_scale_the_samples(kind):
    model = tiny_network(SPACES[kind])
    batch = random_batch(model)
    alone = []
    for i in range(BATCH):
        weights = th.zeros(BATCH)
        weights[i] = 1.0
        alone.append(total(model, batch._replace(weights=weights)).item())
    assert len({round(loss, 6) for loss in alone}) == BATCH
    expected = np.dot(alone, batch.weights.numpy())
    assert total(model, batch).item() == pytest.approx(expected, rel=1e-4)
    doubled = total(model, batch._replace(weights=2 * batch.weights))
    assert doubled.item() == pytest.approx(2 * expected, rel=1e-4)


@pytest.mark.parametrize("kind", SPACES)
def test_the_loss_is_linear_in_its_coefficients(kind):
    model = tiny_network(SPACES[kind])
    batch = random_batch(model)
    coefficients = LossCoefficients(0.3, 0.7, 1.1, 1.3, 0.2)
    parts = [
        value * total(model, batch, NOTHING._replace(**{name: 1.0})).item()
        for name, value in coefficients._asdict().items()
    ]
    assert total(model, batch, coefficients).item() == pytest.approx(sum(parts), rel=1e-4)


def test_the_entropy_bonus_makes_the_policy_less_certain():
    for space in SPACES.values():
        model = tiny_network(space)
        batch = random_batch(model, all_count=True)._replace(weights=th.ones(BATCH))
        th.manual_seed(0)
        output = unroll_loss(model, batch, NOTHING._replace(entropy=1.0))
        # The sum over the states, divided by the number of dynamics steps.
        assert output.total.item() == pytest.approx(
            output.logs["entropy_loss"].item() * (UNROLL + 1) / UNROLL, rel=1e-4
        )
        optimizer = th.optim.SGD(model.heads.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            total(model, batch, NOTHING._replace(entropy=1.0)).backward()
            optimizer.step()
        assert total(model, batch, NOTHING._replace(entropy=1.0)) < output.total


def test_the_real_branch_of_the_consistency_loss_gets_no_gradient():
    model = tiny_network(DISCRETE)
    batch = random_batch(model, all_count=True)
    observations = batch.observations["observation"].requires_grad_()
    loss = total(model, batch, NOTHING._replace(consistency=1.0))
    (gradient,) = th.autograd.grad(loss, observations)
    assert (gradient[:, 1:] == 0).all()
    assert (gradient[:, 0] != 0).any()


def test_the_consistency_loss_is_a_cosine():
    model = tiny_network(DISCRETE)
    batch = random_batch(model, all_count=True)
    logs = unroll_loss(model, batch, COEFFICIENTS).logs
    assert -1.0 <= logs["consistency_loss"].item() <= 1.0
    loss = total(model, batch, NOTHING._replace(consistency=1.0))
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        total(model, batch, NOTHING._replace(consistency=1.0)).backward()
        optimizer.step()
    assert total(model, batch, NOTHING._replace(consistency=1.0)) < min(loss.item(), -0.5 * batch.weights.mean().item())


def test_priorities_are_the_distance_of_the_first_value():
    """In compressed units of the reward scale, as far as the support reaches."""
    for scale in (1.0, 7.0):
        model = tiny_network(DISCRETE, reward_scale=scale)
        batch = random_batch(model)
        with th.no_grad():
            values = model.values({"observation": batch.observations["observation"][:, 0]})
            expected = model.value_distance(values, batch.values[:, 0])
        output = unroll_loss(model, batch, COEFFICIENTS)
        assert not output.priorities.requires_grad
        th.testing.assert_close(output.priorities, expected, rtol=1e-3, atol=1e-3)


def test_targets_outside_the_support_are_noticed_and_harmless():
    model = tiny_network(DISCRETE)
    batch = random_batch(model, all_count=True)
    logs = unroll_loss(model, batch, COEFFICIENTS).logs
    assert logs["value_target_outside_rate"] == logs["reward_outside_rate"] == 0.0
    values, rewards = batch.values.clone(), batch.rewards.clone()
    values[0, :2], rewards[:3, 0] = 1e9, -1e9
    output = unroll_loss(model, batch._replace(values=values, rewards=rewards), COEFFICIENTS)
    assert output.logs["value_target_outside_rate"].item() == pytest.approx(2 / values.numel())
    assert output.logs["reward_outside_rate"].item() == pytest.approx(3 / rewards.numel())
    assert th.isfinite(output.total) and th.isfinite(output.priorities).all()


def test_logged_losses_are_averages_over_what_counts():
    model = tiny_network(DISCRETE)
    batch = random_batch(model)
    logs = unroll_loss(model, batch, COEFFICIENTS).logs
    counts = {
        "reward": batch.rewards.numel(),
        "value": batch.values.numel(),
        "policy": batch.policy_mask.sum().item(),
        "consistency": batch.consistency_mask.sum().item(),
    }
    for name, count in counts.items():
        ones = batch._replace(weights=th.ones(BATCH))
        summed = total(model, ones, NOTHING._replace(**{name: 1.0})).item() * BATCH * UNROLL
        assert logs[f"{name}_loss"].item() == pytest.approx(summed / count, rel=1e-4)


# -- policies ----------------------------------------------------------------------------------------------------------


def squashed(mean: th.Tensor, std: th.Tensor) -> Independent:
    """The reference: torch's own Gaussian behind torch's own tanh."""
    return Independent(TransformedDistribution(Normal(mean, std), TanhTransform()), 1)


@pytest.mark.parametrize("dim", [1, 3])
def test_log_density_equals_torch(dim):
    kind = tiny_network(CONTINUOUS if dim > 1 else ONE_DIMENSION).action_kind
    generator = th.Generator().manual_seed(0)
    outputs = 3 * th.randn(20, 2 * dim, generator=generator, dtype=th.float64)
    actions = 0.998 * (2 * th.rand(20, 5, dim, generator=generator, dtype=th.float64) - 1)
    mean, std = kind.gaussian(outputs)
    assert (std > 0).all() and mean.abs().max() < 6
    expected = squashed(mean.unsqueeze(1), std.unsqueeze(1)).log_prob(actions)
    th.testing.assert_close(kind.log_prob(outputs, actions), expected, rtol=1e-9, atol=1e-9)
    weights = th.rand(20, 5, generator=generator, dtype=th.float64)
    likelihood = kind.log_likelihood(outputs, actions, weights)
    th.testing.assert_close(likelihood, (weights * expected).sum(1), rtol=1e-9, atol=1e-9)


def test_gradient_of_the_log_density_equals_numeric_differentiation():
    kind = tiny_network(CONTINUOUS).action_kind
    generator = th.Generator().manual_seed(1)
    outputs = th.randn(6, 4, generator=generator, dtype=th.float64, requires_grad=True)
    actions = 0.95 * (2 * th.rand(6, 3, 2, generator=generator, dtype=th.float64) - 1)
    weights = th.softmax(th.randn(6, 3, generator=generator, dtype=th.float64), dim=-1)
    assert th.autograd.gradcheck(lambda x: kind.log_likelihood(x, actions, weights), outputs)


def test_the_density_integrates_to_one():
    kind = tiny_network(ONE_DIMENSION).action_kind
    actions = th.linspace(-0.99899, 0.99899, 20_001, dtype=th.float64)
    for outputs in ([0.0, 0.0], [0.7, -2.0], [-0.4, -1.0]):
        density = kind.log_prob(th.tensor(outputs, dtype=th.float64), actions[:, None]).exp()
        assert th.trapezoid(density, actions).item() == pytest.approx(1.0, abs=0.02)


def test_extreme_actions_and_outputs_stay_finite():
    kind = tiny_network(CONTINUOUS).action_kind
    outputs = th.tensor([[1e4, -1e4, 1e4, -1e4], [-50.0, 50.0, -80.0, 80.0]], requires_grad=True)
    actions = th.tensor([[[1.0, -1.0]], [[0.999, 1.0]]])
    loss = kind.log_likelihood(outputs, actions, th.ones(2, 1)).sum() + kind.entropy(outputs).sum()
    loss.backward()
    assert th.isfinite(loss) and th.isfinite(outputs.grad).all()


def test_continuous_entropy_is_right_in_the_mean():
    kind = tiny_network(CONTINUOUS).action_kind
    outputs = th.tensor([0.3, -1.0, -1.5, 0.5])
    th.manual_seed(0)
    samples = kind.entropy(outputs.expand(40_000, 4))
    reference = -(lambda d: d.log_prob(d.sample((40_000,))))(squashed(*kind.gaussian(outputs.double())))
    error = math.sqrt(samples.var().item() / 40_000 + reference.var().item() / 40_000)
    assert abs(samples.mean().item() - reference.mean().item()) < 4.5 * error


def test_the_gradient_of_the_entropy_reaches_mean_and_spread():
    kind = tiny_network(ONE_DIMENSION).action_kind
    outputs = th.tensor([1.0, -3.0], requires_grad=True)
    th.manual_seed(0)
    (gradient,) = th.autograd.grad(kind.entropy(outputs.expand(5000, 2)).mean(), outputs)
    assert gradient[0] < 0  # towards the middle of the box
    assert gradient[1] > 0  # wider


def test_discrete_entropy_and_likelihood_equal_torch():
    kind = tiny_network(DISCRETE).action_kind
    generator = th.Generator().manual_seed(0)
    logits = 4 * th.randn(30, 3, generator=generator)
    th.testing.assert_close(kind.entropy(logits), Categorical(logits=logits).entropy())
    weights = th.softmax(th.randn(30, 3, generator=generator), dim=-1)
    likelihood = kind.log_likelihood(logits, th.empty(30, 3, 0), weights)
    th.testing.assert_close(likelihood, -F.cross_entropy(logits, weights, reduction="none"))
