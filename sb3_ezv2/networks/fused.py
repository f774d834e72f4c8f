"""The vector model in numba, for the CPU: what torch computes, without its overhead per operation.

A search makes one model call per simulation, and for few roots most of a call in torch is overhead. Here a whole
inference is one compiled function over the same memory: the weights are views of torch's parameters, so they are
always the newest ones and nothing has to be copied or refreshed.
"""

from typing import NamedTuple

import numba as nb
import numpy as np
import torch as th
from torch import nn

from sb3_ezv2.networks.action_heads import MAX_ACTION, MEAN_BOUND, MIN_STD
from sb3_ezv2.networks.layers import Heads, ResidualBlock
from sb3_ezv2.networks.model import POLICY, REWARD, VALUE, EfficientZeroModel
from sb3_ezv2.supports import EPSILON

NORM_EPSILON = 1e-5


class LinearWeights(NamedTuple):
    """A linear layer; ``weight`` is ``[inputs, outputs]``."""

    weight: np.ndarray
    bias: np.ndarray


class NormWeights(NamedTuple):
    """A LayerNorm."""

    weight: np.ndarray
    bias: np.ndarray


class BlockWeights(NamedTuple):
    """A residual block."""

    norm: NormWeights
    expand: LinearWeights
    contract: LinearWeights


class HeadWeights(NamedTuple):
    """One head behind the common norm."""

    hidden: LinearWeights
    output: LinearWeights


class DynamicsWeights(NamedTuple):
    """The dynamics."""

    embed: LinearWeights
    embed_norm: NormWeights
    joint_norm: NormWeights
    combine: LinearWeights
    contract: LinearWeights
    blocks: tuple[BlockWeights, ...]


class ModelWeights(NamedTuple):
    """Everything that a search needs below the root."""

    dynamics: DynamicsWeights
    norm: NormWeights
    reward: HeadWeights
    value: HeadWeights
    policy: HeadWeights
    reward_bound: float
    value_bound: float


def _linear(layer: nn.Module) -> LinearWeights:
    assert isinstance(layer, nn.Linear)
    return LinearWeights(layer.weight.detach().numpy().T, layer.bias.detach().numpy())


def _norm(layer: nn.Module) -> NormWeights:
    assert isinstance(layer, nn.LayerNorm) and layer.eps == NORM_EPSILON, layer
    return NormWeights(layer.weight.detach().numpy(), layer.bias.detach().numpy())


def _block(block: nn.Module) -> BlockWeights:
    assert isinstance(block, ResidualBlock)
    return BlockWeights(_norm(block.norm), _linear(block.expand), _linear(block.contract))


def _head(heads: Heads, index: int) -> HeadWeights:
    rows = slice(index * heads.hidden_dim, (index + 1) * heads.hidden_dim)
    hidden = _linear(heads.hidden)
    return HeadWeights(LinearWeights(hidden.weight[:, rows], hidden.bias[rows]), _linear(heads.outputs[index]))


def model_weights(model: EfficientZeroModel) -> ModelWeights:
    """Views of the parameters of a model on the CPU."""
    embed, embed_norm, _ = model.dynamics.embed_action
    joint_norm, combine, _, contract = model.dynamics.combine
    return ModelWeights(
        dynamics=DynamicsWeights(
            _linear(embed),
            _norm(embed_norm),
            _norm(joint_norm),
            _linear(combine),
            _linear(contract),
            tuple(_block(block) for block in model.dynamics.blocks),
        ),
        norm=_norm(model.heads.norm),
        reward=_head(model.heads, REWARD),
        value=_head(model.heads, VALUE),
        policy=_head(model.heads, POLICY),
        reward_bound=model.reward_support.bound,
        value_bound=model.value_support.bound,
    )


@nb.njit(nogil=True, fastmath=True)
def _apply_linear(x: np.ndarray, layer: LinearWeights) -> np.ndarray:
    """``x W + b``."""
    out = np.dot(x, layer.weight)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += layer.bias[j]
    return out


@nb.njit(nogil=True, fastmath=True)
def _apply_norm(x: np.ndarray, norm: NormWeights, out: np.ndarray, rectify: bool) -> None:
    """LayerNorm of every row into ``out`` (which may be ``x``), then ReLU if ``rectify``."""
    n = x.shape[1]
    for i in range(x.shape[0]):
        mean = np.float32(0.0)
        for j in range(n):
            mean += x[i, j]
        mean /= np.float32(n)
        variance = np.float32(0.0)
        for j in range(n):
            variance += (x[i, j] - mean) ** 2
        factor = np.float32(1.0) / np.sqrt(variance / np.float32(n) + NORM_EPSILON)
        for j in range(n):
            y = (x[i, j] - mean) * factor * norm.weight[j] + norm.bias[j]
            out[i, j] = max(y, np.float32(0.0)) if rectify else y


@nb.njit(nogil=True, fastmath=True)
def _rectify(x: np.ndarray) -> None:
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            x[i, j] = max(x[i, j], np.float32(0.0))


@nb.njit(nogil=True, fastmath=True)
def _apply_block(x: np.ndarray, block: BlockWeights) -> None:
    """Residual block in place."""
    hidden = np.empty_like(x)
    _apply_norm(x, block.norm, hidden, False)
    wide = _apply_linear(hidden, block.expand)
    _rectify(wide)
    x += _apply_linear(wide, block.contract)


@nb.njit(nogil=True, fastmath=True)
def _apply_head(normed: np.ndarray, head: HeadWeights) -> np.ndarray:
    """Outputs of a head."""
    hidden = _apply_linear(normed, head.hidden)
    _rectify(hidden)
    return _apply_linear(hidden, head.output)


@nb.njit(nogil=True)
def _decode(logits: np.ndarray, bound: float, scale: float) -> np.ndarray:
    """``scale * decompress(E[support])`` of every row; see :mod:`sb3_ezv2.supports`."""
    n, n_bins = logits.shape
    scalars = np.empty(n, np.float32)
    step = 2.0 * bound / (n_bins - 1)
    for i in range(n):
        largest = logits[i].max()
        total, weighted = 0.0, 0.0
        for j in range(n_bins):
            p = np.exp(logits[i, j] - largest)
            total += p
            weighted += p * (j * step - bound)
        y = weighted / total
        root = np.sqrt(1.0 + 4.0 * EPSILON * (1.0 + EPSILON + abs(y)))
        u_minus_1 = 2.0 * abs(y) / (root + (1.0 + 2.0 * EPSILON))
        scalars[i] = scale * np.sign(y) * u_minus_1 * (u_minus_1 + 2.0)
    return scalars


@nb.njit(cache=True, nogil=True)
def recurrent_inference(
    weights: ModelWeights, scale: float, latents: np.ndarray, encoded_actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Next latent states, rewards, values and policy outputs; the arithmetic of ``EfficientZeroModel``.

    :param weights: from :func:`model_weights`
    :param scale: the model's reward scale
    :param latents: ``[n, latent_dim]`` float32
    :param encoded_actions: ``[n, action_dim]`` float32, one-hot if discrete
    """
    dynamics = weights.dynamics
    embedded = _apply_linear(encoded_actions, dynamics.embed)
    _apply_norm(embedded, dynamics.embed_norm, embedded, True)
    joint = np.concatenate((latents, embedded), axis=1)
    _apply_norm(joint, dynamics.joint_norm, joint, False)
    wide = _apply_linear(joint, dynamics.combine)
    _rectify(wide)
    following = _apply_linear(wide, dynamics.contract)
    following += latents
    for block in dynamics.blocks:
        _apply_block(following, block)
    normed = np.empty_like(following)
    _apply_norm(following, weights.norm, normed, False)
    rewards = _decode(_apply_head(normed, weights.reward), weights.reward_bound, scale)
    values = _decode(_apply_head(normed, weights.value), weights.value_bound, scale)
    return following, rewards, values, _apply_head(normed, weights.policy)


@nb.njit(cache=True, nogil=True)
def sample_children(outputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Actions ``[n, n_children, action_dim]`` of the squashed Gaussian policy; see ``ContinuousActionHead.children``.

    :param outputs: of the policy head ``[n, 2 * action_dim]``
    :param noise: standard normal ``[n or 1, n_children, action_dim]``
    """
    n, n_children, dim = outputs.shape[0], noise.shape[1], noise.shape[2]
    actions = np.empty((n, n_children, dim), np.float32)
    for i in range(n):
        row = min(i, noise.shape[0] - 1)
        for d in range(dim):
            mean = MEAN_BOUND * np.tanh(outputs[i, d] / MEAN_BOUND)
            x = outputs[i, dim + d] + 1.0
            std = max(x, 0.0) + np.log1p(np.exp(-abs(x))) + MIN_STD
            for c in range(n_children):
                action = np.tanh(mean + std * noise[row, c, d])
                actions[i, c, d] = min(max(action, -MAX_ACTION), MAX_ACTION)
    return actions


class FusedModel:
    """Compiled inference of a :class:`~sb3_ezv2.networks.model.EfficientZeroModel` on the CPU.

    :param model: shares its parameters
    """

    def __init__(self, model: EfficientZeroModel) -> None:
        self._weights = model_weights(model)
        self._reward_scale = model.reward_scale.numpy()

    def recurrent_inference(
        self, latents: np.ndarray, encoded_actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Next latents ``[n, latent_dim]``, rewards ``[n]``, values ``[n]``, policy outputs ``[n, outputs]``."""
        return recurrent_inference(self._weights, float(self._reward_scale), latents, encoded_actions)


def supports_fusion(model: EfficientZeroModel) -> bool:
    """Whether the model lies where :class:`FusedModel` can read it."""
    return model.reward_scale.device == th.device("cpu")
