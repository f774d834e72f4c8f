"""A torch model as compiled functions read it: its parameters in one array, and its layers as rows of a table.

The parameters are copied for every search: that takes a few percent of it, whatever changed them (optimiser steps,
running averages, ``load_state_dict``, another device) is always seen, and one array of one type means that the
functions are compiled once for networks of all sizes.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from torch import nn

from sb3_ezv2.common.tensors import addresses_of
from sb3_ezv2.networks.layers import Heads, ResidualBlock
from sb3_ezv2.networks.mlp import ACTION_EMBEDDING_DIM, MlpDynamics, MlpRepresentation
from sb3_ezv2.networks.model import POLICY, REWARD, VALUE, EfficientZeroModel
from sb3_ezv2.networks.supports import Support, TransformedSupport

NORM_EPSILON = 1e-5
LINEAR, NORM, JOIN, DECODE = range(4)
"""Kinds of layers: ``x W^T + b``; LayerNorm; a copy into some columns; scalars from categories."""
AS_IS, RELU, TANH, ADD, TRANSFORMED = range(5)
"""What becomes of the outputs of a linear layer or (only the first two) of a norm; ``ADD`` adds them to the target.
``TRANSFORMED`` scalars are those of a ``TransformedSupport``."""
LINE = 16
"""Numbers in a line of the processor's cache: where blocks of memory begin."""


class Block(NamedTuple):
    """A part of the working memory: ``width`` numbers of a state, see :func:`sb3_ezv2.planning.fused_network.block`."""

    begin: int  # numbers of a state in front of it
    width: int


class Layer(NamedTuple):
    """A row of a table of layers: what is computed from which block into which."""

    kind: int
    source: int  # where that block begins
    n_inputs: int
    target: int  # where that block begins
    n_outputs: int
    form: int  # what becomes of the outputs
    at: int  # where the layer's parameters begin; of JOIN, the first column


class ModelWeights(NamedTuple):
    """Everything that a search needs of a model."""

    flat: np.ndarray  # [n] float32, all parameters
    initial: np.ndarray  # [n_layers, 7] int64, from normalised observations to latents, values and policies
    recurrent: np.ndarray  # [n_layers, 7] int64, from latents and actions to the next latents and all predictions
    width: int  # of the working memory
    observations: Block  # normalised
    actions: Block  # encoded
    latents: Block
    rewards: Block  # one number
    values: Block  # one number
    policies: Block


def supports_fusion(model: EfficientZeroModel) -> bool:
    """Whether compiled functions can compute the model and choose its actions where it is: on the CPU."""
    return model.reward_scale.device.type == "cpu" and has_compiled_form(model)


def has_compiled_form(model: EfficientZeroModel) -> bool:
    """Whether they could if it were on the CPU: for vectors, in float32, with ReLU, without a value prefix."""
    return (
        model.reward_scale.dtype == th.float32
        and isinstance(model.heads, Heads)
        and model.heads.activation is th.relu
        and isinstance(model.representation, MlpRepresentation)
        and isinstance(model.dynamics, MlpDynamics)
        and model.value_prefix is None
        and model.action_kind.compiled_sampling(explore=False) is not None
    )


class _Builder:
    """Lists the layers of a model and their parameters, and divides up the working memory."""

    def __init__(self, model: EfficientZeroModel) -> None:
        assert isinstance(model.heads, Heads)
        self.model, self.heads = model, model.heads
        self.tensors = list(model.vector_statistics())
        n_inputs = len(self.tensors[0])
        self.n_numbers = 2 * n_inputs
        self.width = 0
        latent_dim, embedding_dim = self.heads.dim, ACTION_EMBEDDING_DIM
        self.block(latent_dim)  # the first one, for products that are added to something
        self.observations = self.block(n_inputs)
        self.actions, self.embedded = self.block(model.action_kind.encoded_dim), self.block(embedding_dim)
        self.joint = self.block(latent_dim + embedding_dim)
        self.latents, self.normed = self.block(latent_dim), self.block(latent_dim)
        self.hidden = self.block(max(_hidden_sizes(model)))  # every layer uses what it needs of it
        self.logits = self.block(max(model.reward_support.n_bins, model.value_support.n_bins))
        self.rewards, self.values = self.block(1), self.block(1)
        self.policies = self.block(model.action_kind.output_dim)

    def block(self, width: int) -> Block:
        begin = self.width
        self.width += -(-width // LINE) * LINE
        return Block(begin, width)

    def layer(self, kind: int, source: Block, target: Block, form: int, *parameters: th.Tensor) -> Layer:
        at = self.n_numbers
        self.tensors += parameters
        self.n_numbers += sum(tensor.numel() for tensor in parameters)
        return Layer(kind, *source, *target, form, at)

    def linear(self, layer: nn.Module, source: Block, target: Block, form: int = AS_IS) -> Layer:
        assert isinstance(layer, nn.Linear) and layer.weight.shape == (target.width, source.width)
        return self.layer(LINEAR, source, target, form, layer.weight, layer.bias)

    def norm(self, layer: nn.Module, source: Block, target: Block, form: int = AS_IS) -> Layer:
        assert isinstance(layer, nn.LayerNorm) and layer.eps == NORM_EPSILON, layer
        return self.layer(NORM, source, target, form, layer.weight, layer.bias)

    def residual(self, blocks: Iterable[nn.Module]) -> Iterator[Layer]:
        for block in blocks:
            assert isinstance(block, ResidualBlock)
            hidden = self.hidden._replace(width=block.expand.out_features)
            yield self.norm(block.norm, self.latents, self.normed)
            yield self.linear(block.expand, self.normed, hidden, RELU)
            yield self.linear(block.contract, hidden, self.latents, ADD)

    def representation(self) -> Iterator[Layer]:
        assert isinstance(self.model.representation, MlpRepresentation)
        features, _, *blocks = self.model.representation.layers
        yield self.linear(features, self.observations, self.latents, TANH)
        yield from self.residual(blocks)

    def transition(self) -> Iterator[Layer]:
        assert isinstance(self.model.dynamics, MlpDynamics)
        embed, embed_norm, _ = self.model.dynamics.embed_action
        joint_norm, combine, _, contract = self.model.dynamics.combine
        assert isinstance(combine, nn.Linear)
        hidden = self.hidden._replace(width=combine.out_features)
        yield self.linear(embed, self.actions, self.embedded)
        yield self.norm(embed_norm, self.embedded, self.embedded, RELU)
        yield Layer(JOIN, *self.latents, *self.joint, AS_IS, at=0)
        yield Layer(JOIN, *self.embedded, *self.joint, AS_IS, at=self.latents.width)
        yield self.norm(joint_norm, self.joint, self.joint)
        yield self.linear(combine, self.joint, hidden, RELU)
        yield self.linear(contract, hidden, self.latents, ADD)
        yield from self.residual(self.model.dynamics.blocks)

    def head(self, index: int, outputs: Block) -> Iterator[Layer]:
        rows = slice(index * self.heads.hidden_dim, (index + 1) * self.heads.hidden_dim)
        weight, bias = self.heads.hidden.weight[rows], self.heads.hidden.bias[rows]
        hidden = self.hidden._replace(width=self.heads.hidden_dim)
        yield self.layer(LINEAR, self.normed, hidden, RELU, weight, bias)
        yield self.linear(self.heads.outputs[index], hidden, outputs)

    def scalar_head(self, index: int, support: Support, scalars: Block) -> Iterator[Layer]:
        logits = self.logits._replace(width=support.n_bins)
        yield from self.head(index, logits)
        form = TRANSFORMED if isinstance(support, TransformedSupport) else AS_IS
        yield self.layer(DECODE, logits, scalars, form, self.model.reward_scale, support.reach, support.points)


def _hidden_sizes(model: EfficientZeroModel) -> Iterator[int]:
    """Hidden sizes of all residual blocks and of the heads."""
    assert isinstance(model.heads, Heads)
    yield model.heads.hidden_dim
    yield from (block.expand.out_features for block in model.modules() if isinstance(block, ResidualBlock))


def _tables(builder: _Builder) -> tuple[np.ndarray, np.ndarray]:
    """The layers of both inferences."""
    model = builder.model
    representation, transition = list(builder.representation()), list(builder.transition())
    heads = [
        builder.norm(builder.heads.norm, builder.latents, builder.normed),
        *builder.scalar_head(VALUE, model.value_support, builder.values),
        *builder.head(POLICY, builder.policies),
    ]
    reward = list(builder.scalar_head(REWARD, model.reward_support, builder.rewards))
    return np.array(representation + heads), np.array(transition + heads + reward)


class _Source(NamedTuple):
    """Views of a model's tensors, and the array that they are copied to."""

    addresses: list[int]  # of all tensors of the model; they stay taken as long as the views exist
    views: list[np.ndarray]  # one-dimensional, in order
    weights: ModelWeights  # with an array of their total length


def _source(model: EfficientZeroModel, addresses: list[int]) -> _Source:
    builder = _Builder(model)
    initial, recurrent = _tables(builder)
    weights = ModelWeights(
        flat=np.empty(builder.n_numbers, np.float32),
        initial=initial,
        recurrent=recurrent,
        width=builder.width,
        observations=builder.observations,
        actions=builder.actions,
        latents=builder.latents,
        rewards=builder.rewards,
        values=builder.values,
        policies=builder.policies,
    )
    return _Source(addresses, [tensor.detach().reshape(-1).numpy() for tensor in builder.tensors], weights)


_SOURCES: WeakKeyDictionary[EfficientZeroModel, _Source] = WeakKeyDictionary()


def model_weights(model: EfficientZeroModel) -> ModelWeights:
    """The parameters and statistics of a model that :func:`supports_fusion`, as they are now.

    The next call for the same model writes into the same array.
    """
    addresses = addresses_of(model)
    source = _SOURCES.get(model)
    if source is None or source.addresses != addresses:
        source = _SOURCES[model] = _source(model, addresses)
    np.concatenate(source.views, out=source.weights.flat)
    return source.weights
