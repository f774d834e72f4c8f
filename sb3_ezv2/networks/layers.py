"""Building blocks of the networks for vectors."""

import torch as th
import torch.nn.functional as F
from torch import nn


class ResidualBlock(nn.Module):
    """``x + W2 relu(W1 norm(x))``: a residual block with the normalisation in front.

    :param dim: size of input and output
    :param hidden_dim: size in between
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, dim)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """``[..., dim] -> [..., dim]``."""
        return x + self.contract(th.relu(self.expand(self.norm(x))))


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
    """

    def __init__(self, dim: int, hidden_dim: int, output_dims: tuple[int | None, ...]) -> None:
        super().__init__()
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
        return self.outputs[index](th.relu(hidden))

    def forward(self, x: th.Tensor) -> tuple[th.Tensor, ...]:
        """``[..., dim]`` to the outputs of all heads."""
        hidden = th.relu(self.hidden(self.norm(x))).split(self.hidden_dim, dim=-1)
        return tuple(output(part) for output, part in zip(self.outputs, hidden, strict=True))
