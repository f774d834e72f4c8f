"""Building blocks of the networks for vectors."""

import torch as th
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


def head(dim: int, hidden_dim: int, output_dim: int) -> nn.Sequential:
    """LayerNorm and two hidden layers; the output layer starts at zero.

    Starting at zero makes the first prediction of a categorical head the middle of its support, which is the value 0,
    and the first policy uniform (or of mean 0).
    """
    output = nn.Linear(hidden_dim, output_dim)
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden_dim),
        nn.LayerNorm(hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        output,
    )
