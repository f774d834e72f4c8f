"""The same search by mctx: the paper's network for vectors in JAX, with the weights of a torch model.

Only for comparison by ``benchmarks.speed.search_cost``; needs the extra ``benchmarks``. mctx has the same number of
actions everywhere, so below the root of a continuous search all but the sampled children are given no probability.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mctx
import numpy as np
from torch import nn

from sb3_ezv2.common.actions.box import MEAN_BOUND, MIN_FLATTENED_STD, MIN_STD
from sb3_ezv2.common.type_aliases import Noise
from sb3_ezv2.networks.layers import ResidualBlock
from sb3_ezv2.networks.model import EfficientZeroModel
from sb3_ezv2.networks.supports import UNUSED, Support

Layer = Callable[[jax.Array], jax.Array]
IMPOSSIBLE = -1e9
"""Prior logit of an action that does not exist."""


def layer(module: nn.Module) -> Layer:
    """A torch layer, or several, as a function of JAX."""
    if isinstance(module, nn.Sequential):
        parts = [layer(part) for part in module]
        return lambda x: _in_order(parts, x)
    if isinstance(module, ResidualBlock):
        norm, expand, contract = layer(module.norm), layer(module.expand), layer(module.contract)
        return lambda x: x + contract(jax.nn.relu(expand(norm(x))))
    if isinstance(module, nn.ReLU):
        return jax.nn.relu
    if isinstance(module, nn.Tanh):
        return jnp.tanh
    assert isinstance(module, nn.Linear | nn.LayerNorm)
    weight, bias = jnp.asarray(module.weight.detach().numpy()), jnp.asarray(module.bias.detach().numpy())
    if isinstance(module, nn.Linear):
        return lambda x: x @ weight.T + bias
    return lambda x: jax.nn.standardize(x, epsilon=1e-5) * weight + bias


def _in_order(parts: list[Layer], x: jax.Array) -> jax.Array:
    for part in parts:
        x = part(x)
    return x


def _scalar(logits: jax.Array, support: Support) -> jax.Array:
    """Mean over the points within the reach, see :class:`sb3_ezv2.networks.supports.Support`."""
    points = jnp.asarray(support.points.numpy())
    used = jnp.where(jnp.abs(points) > float(support.reach), UNUSED, logits)
    return jax.nn.softmax(used) @ points


class MctxPlanner:
    """Gumbel MuZero of mctx with the network of a torch model whose reward scale is 1.

    :param model: for vectors
    :param n_simulations: model calls per state
    :param n_considered: candidates that sequential halving starts with
    :param discount: of one step
    """

    def __init__(self, model: EfficientZeroModel, n_simulations: int, n_considered: int, discount: float) -> None:
        self.model = model
        self.kind = model.action_kind
        self.settings = (n_simulations, n_considered, discount)
        self.represent = layer(model.representation.layers)
        self.embed, self.combine = layer(model.dynamics.embed_action), layer(model.dynamics.combine)  # type: ignore[arg-type]
        self.blocks = layer(model.dynamics.blocks)  # type: ignore[arg-type]
        self.norm, self.hidden = layer(model.heads.norm), layer(model.heads.hidden)  # type: ignore[arg-type]
        self.outputs = [layer(output) for output in model.heads.outputs]
        self._search = jax.jit(self._plan)

    def read(self, latents: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rewards ``[n]``, values ``[n]`` and policies of latent states."""
        parts = jnp.split(jax.nn.relu(self.hidden(self.norm(latents))), len(self.outputs), axis=-1)
        rewards, values, policies = (output(part) for output, part in zip(self.outputs, parts, strict=True))
        return _scalar(rewards, self.model.reward_support), _scalar(values, self.model.value_support), policies

    def next_latents(self, latents: jax.Array, actions: jax.Array) -> jax.Array:
        """One step of the dynamics with encoded actions."""
        joint = jnp.concatenate([latents, self.embed(actions)], axis=-1)
        return self.blocks(latents + self.combine(joint))

    def _gaussian(self, policies: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, spread = jnp.split(policies[:, None], 2, axis=-1)
        return MEAN_BOUND * jnp.tanh(mean / MEAN_BOUND), jax.nn.softplus(spread + 1.0) + MIN_STD

    def _candidates(self, policies: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Prior logits and encoded actions at the root ``[n, n_candidates, action_dim]``."""
        if not self.kind.sampled:
            return policies, jnp.broadcast_to(
                jnp.eye(self.kind.n_candidates), (*policies.shape, self.kind.n_candidates)
            )
        mean, std = self._gaussian(policies)
        flattened = jnp.maximum(std * self.kind.flatten_factor, MIN_FLATTENED_STD)
        of_policy = jnp.arange(self.kind.n_candidates)[:, None] < self.kind.n_policy_candidates
        return jnp.zeros(noise.shape[:2]), jnp.tanh(mean + jnp.where(of_policy, std, flattened) * noise)

    def _children(self, policies: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The same below the root, as many as at the root."""
        if not self.kind.sampled:
            return self._candidates(policies, noise)
        mean, std = self._gaussian(policies)
        possible = jnp.arange(self.kind.n_candidates) < self.kind.n_children
        return jnp.where(possible, 0.0, IMPOSSIBLE) * jnp.ones((len(policies), 1)), jnp.tanh(mean + std * noise)

    def _plan(self, observations: jax.Array, noise: Any, key: jax.Array) -> jax.Array:
        n_simulations, n_considered, discount = self.settings
        rows = jnp.arange(len(observations))

        def recurrent(_: Any, key: jax.Array, actions: jax.Array, embedding: Any) -> Any:
            latents = self.next_latents(embedding["latents"], embedding["actions"][rows, actions])
            rewards, values, policies = self.read(latents)
            # Fresh noise instead of a table of it: the cheapest way in JAX.
            logits, choices = self._children(policies, jax.random.normal(key, embedding["actions"].shape))
            output = mctx.RecurrentFnOutput(
                reward=rewards, discount=jnp.full_like(rewards, discount), prior_logits=logits, value=values
            )
            return output, {"latents": latents, "actions": choices}

        latents = self.represent(jnp.sign(observations) * jnp.log1p(jnp.abs(observations)))
        _, values, policies = self.read(latents)
        logits, choices = self._candidates(policies, noise)
        root = mctx.RootFnOutput(prior_logits=logits, value=values, embedding={"latents": latents, "actions": choices})
        found = mctx.gumbel_muzero_policy(
            None, key, root, recurrent, n_simulations, max_num_considered_actions=n_considered
        )
        return found.action

    def plan(self, observations: np.ndarray, noise: Noise) -> np.ndarray:
        """Index of the chosen candidate of every state, whose observations are ``[n, observation_dim]``."""
        return np.asarray(self._search(observations, noise.candidates, jax.random.PRNGKey(0)))
