"""The parameters of a torch model, one after the other in a single array, as compiled functions read them.

The parameters are copied for every search: that takes a few percent of it, whatever changed them (optimiser steps,
running averages, ``load_state_dict``, another device) is always seen, and one array of one type means that the
functions are compiled once for networks of all sizes.
"""

from collections.abc import Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from torch import nn

from sb3_ezv2.networks.layers import Heads, ResidualBlock
from sb3_ezv2.networks.mlp import ACTION_EMBEDDING_DIM, MlpDynamics, MlpRepresentation
from sb3_ezv2.networks.model import POLICY, REWARD, VALUE, EfficientZeroModel

NORM_EPSILON = 1e-5


class ModelWeights(NamedTuple):
    """Everything that a search needs of a model.

    ``flat`` holds three parts, each with its tensors in the order in which they are used: the representation (with the
    statistics of the observations in front), the heads (their norm, then value, policy, reward, each with its rows of
    the common hidden layer) and the dynamics.
    """

    flat: np.ndarray  # [n] float32
    heads: int  # where that part begins
    dynamics: int  # where that part begins
    n_blocks: int  # of the representation, and of the dynamics
    observation_dim: int
    action_dim: int
    embedding_dim: int
    latent_dim: int
    hidden_dim: int
    n_reward_bins: int
    n_value_bins: int
    n_policy_outputs: int
    reward_bound: float
    value_bound: float
    reward_scale: float


def _layer(layer: nn.Module) -> list[th.Tensor]:
    assert isinstance(layer, nn.Linear | nn.LayerNorm) and layer.bias is not None
    assert isinstance(layer, nn.Linear) or layer.eps == NORM_EPSILON, layer
    return [layer.weight, layer.bias]


def _block(block: nn.Module) -> list[th.Tensor]:
    assert isinstance(block, ResidualBlock)
    return [*_layer(block.norm), *_layer(block.expand), *_layer(block.contract)]


def _representation(model: EfficientZeroModel) -> list[th.Tensor]:
    assert isinstance(model.representation, MlpRepresentation)
    features, _, *blocks = model.representation.layers
    tensors = [model.observation_mean, model.observation_std, *_layer(features)]
    return tensors + [tensor for block in blocks for tensor in _block(block)]


def _heads(heads: Heads) -> list[th.Tensor]:
    tensors = _layer(heads.norm)
    for index in (VALUE, POLICY, REWARD):
        rows = slice(index * heads.hidden_dim, (index + 1) * heads.hidden_dim)
        tensors += [heads.hidden.weight[rows], heads.hidden.bias[rows], *_layer(heads.outputs[index])]
    return tensors


def _dynamics(dynamics: MlpDynamics) -> list[th.Tensor]:
    embed, embed_norm, _ = dynamics.embed_action
    joint_norm, combine, _, contract = dynamics.combine
    tensors = [tensor for layer in (embed, embed_norm, joint_norm, combine, contract) for tensor in _layer(layer)]
    return tensors + [tensor for block in dynamics.blocks for tensor in _block(block)]


def supports_fusion(model: EfficientZeroModel) -> bool:
    """Whether compiled functions can compute the model: a network for vectors in float32 on the CPU."""
    return (
        model.reward_scale.device.type == "cpu"
        and model.reward_scale.dtype == th.float32
        and isinstance(model.representation, MlpRepresentation)
        and isinstance(model.dynamics, MlpDynamics)
    )


def _addresses(module: nn.Module) -> Iterator[int]:
    """Where all tensors of a module lie; ``nn.Module``'s own iterators are several times slower."""
    for tensors in (module._parameters, module._buffers):
        for tensor in tensors.values():
            if tensor is not None:
                yield tensor.data_ptr()
    for child in module._modules.values():
        if child is not None:
            yield from _addresses(child)


class _Source(NamedTuple):
    """Views of a model's tensors, and the array that they are copied to."""

    addresses: list[int]  # of all tensors of the model; they stay taken as long as the views exist
    views: list[np.ndarray]  # one-dimensional, in order
    weights: ModelWeights  # with an array of their total length


def _source(model: EfficientZeroModel, addresses: list[int]) -> _Source:
    assert isinstance(model.heads, Heads) and isinstance(model.dynamics, MlpDynamics)
    parts = (_representation(model), _heads(model.heads), _dynamics(model.dynamics))
    views = [tensor.detach().reshape(-1).numpy() for part in parts for tensor in part]
    heads, dynamics = np.cumsum([sum(tensor.numel() for tensor in part) for part in parts])[:2].tolist()
    weights = ModelWeights(
        flat=np.empty(sum(map(len, views)), np.float32),
        heads=heads,
        dynamics=dynamics,
        n_blocks=len(model.dynamics.blocks),
        observation_dim=len(model.observation_mean),
        action_dim=model.action_head.encoded_dim,
        embedding_dim=ACTION_EMBEDDING_DIM,
        latent_dim=model.heads.dim,
        hidden_dim=model.heads.hidden_dim,
        n_reward_bins=model.reward_support.n_bins,
        n_value_bins=model.value_support.n_bins,
        n_policy_outputs=model.action_head.output_dim,
        reward_bound=model.reward_support.bound,
        value_bound=model.value_support.bound,
        reward_scale=1.0,
    )
    return _Source(addresses, views, weights)


_SOURCES: WeakKeyDictionary[EfficientZeroModel, _Source] = WeakKeyDictionary()


def model_weights(model: EfficientZeroModel) -> ModelWeights:
    """The parameters and statistics of a model that :func:`supports_fusion`, as they are now.

    The next call for the same model writes into the same array.
    """
    addresses = list(_addresses(model))
    source = _SOURCES.get(model)
    if source is None or source.addresses != addresses:
        source = _SOURCES[model] = _source(model, addresses)
    np.concatenate(source.views, out=source.weights.flat)
    return source.weights._replace(reward_scale=float(model.reward_scale))
