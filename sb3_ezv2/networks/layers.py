"""Building blocks of the networks for vectors."""

from collections.abc import Callable

import torch as th
import torch.nn.functional as F
from torch import nn

Activation = Callable[[th.Tensor], th.Tensor]


def activation(kind: type[nn.Module]) -> Activation:
    """A new activation of this kind; ``ReLU``, the usual one, as the function alone, which costs less."""
    return th.relu if kind is nn.ReLU else kind()


class ResidualBlock(nn.Module):
    """``x + W2 f(W1 norm(x))``: a residual block with the normalisation in front.

    :param dim: size of input and output
    :param hidden_dim: size in between
    :param activation_fn: ``f``
    """

    def __init__(self, dim: int, hidden_dim: int, activation_fn: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.activation = activation(activation_fn)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, dim)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """``[..., dim] -> [..., dim]``."""
        return x + self.contract(self.activation(self.expand(self.norm(x))))


def start_at_zero(outputs: nn.Module) -> None:
    """Let output layers give zeros.

    This makes the first prediction of a categorical head the middle of its support, which is the value 0, and the
    first policy uniform (or of mean 0).
    """
    for parameter in outputs.parameters():
        nn.init.zeros_(parameter)


class Heads(nn.Module):
    """Several heads with one hidden layer each on a common LayerNorm; the output layers start at zero.

    The hidden layers are one matrix, so that several heads cost little more than one.

    :param dim: size of the input
    :param hidden_dim: size of the hidden layer of each head
    :param output_dims: size of the output of each head; ``None`` for a head that gives its hidden layer
    :param activation_fn: behind the hidden layers
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        output_dims: tuple[int | None, ...],
        activation_fn: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.activation = activation(activation_fn)
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, hidden_dim * len(output_dims))
        self.outputs = nn.ModuleList(nn.Identity() if n is None else nn.Linear(hidden_dim, n) for n in output_dims)
        start_at_zero(self.outputs)

    def one(self, x: th.Tensor, index: int) -> th.Tensor:
        """``[..., dim]`` to the output of one head."""
        rows = slice(index * self.hidden_dim, (index + 1) * self.hidden_dim)
        hidden = F.linear(self.norm(x), self.hidden.weight[rows], self.hidden.bias[rows])
        return self.outputs[index](self.activation(hidden))

    def forward(self, x: th.Tensor) -> tuple[th.Tensor, ...]:
        """``[..., dim]`` to the outputs of all heads."""
        hidden = self.activation(self.hidden(self.norm(x))).split(self.hidden_dim, dim=-1)
        return tuple(output(part) for output, part in zip(self.outputs, hidden, strict=True))
