"""The value prefix: the sum of the rewards since the unroll began, read by a recurrent network.

EfficientZero (arXiv 2111.00210, section 4.2) and EfficientZero V2 (appendix on architectures). Of a reward that comes
soon it is hard to say at which step, and much easier to say that it will have come after a few. The reward of one step
is the difference between two prefixes.
"""

from collections.abc import Callable

import torch as th
from torch import nn

from sb3_ezv2.networks.layers import start_at_zero


class ValuePrefix(nn.Module):
    """Undiscounted sums of rewards from features of latent states; the sum begins again every ``horizon`` steps.

    A *memory* is all that the next step needs to know of the steps before it: the two parts of the LSTM's state, the
    prefix in the environment's units and the number of steps. All zero, it is the beginning of an unroll.

    :param n_inputs: size of the features of one state
    :param lstm_dim: size of the LSTM's state
    :param hidden_dim: size of the layer between the LSTM and the output
    :param n_bins: categories of the output, which starts at zero
    :param horizon: steps after which state and sum begin again
    :param norm: normalisation of the LSTM's output
    """

    def __init__(
        self, n_inputs: int, lstm_dim: int, hidden_dim: int, n_bins: int, horizon: int, norm: nn.Module
    ) -> None:
        super().__init__()
        self.lstm_dim = lstm_dim
        self.horizon = horizon
        self.memory_dim = 2 * lstm_dim + 2
        self.cell = nn.LSTMCell(n_inputs, lstm_dim)
        self.hidden = nn.Sequential(norm, nn.ReLU(), nn.Linear(lstm_dim, hidden_dim), nn.ReLU())
        self.output = nn.Linear(hidden_dim, n_bins)
        start_at_zero(self.output)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """Unroll: ``[batch, n_steps, n_inputs]`` of states 1 to ``n_steps`` to logits ``[batch, n_steps, n_bins]``."""
        state, states = None, []
        for k in range(features.shape[1]):
            state = self.cell(features[:, k], None if k % self.horizon == 0 else state)
            states.append(state[0])
        hidden = self.hidden(th.stack(states, dim=1).flatten(0, 1))
        return self.output(hidden).unflatten(0, features.shape[:2])

    def step(
        self, features: th.Tensor, memories: th.Tensor, decode: Callable[[th.Tensor], th.Tensor]
    ) -> tuple[th.Tensor, th.Tensor]:
        """One step further from any place of an unroll.

        :param features: of the states behind the step ``[batch, n_inputs]``
        :param memories: of the states in front of it ``[batch, memory_dim]``
        :param decode: makes scalars of logits
        :return: rewards of the step ``[batch]``, as differences of prefixes, and memories ``[batch, memory_dim]``
        """
        steps = memories[:, -1:]
        continued = th.where(steps % self.horizon == 0, th.zeros_like(memories), memories)
        hidden, cell, before, _ = continued.split((self.lstm_dim, self.lstm_dim, 1, 1), dim=1)
        hidden, cell = self.cell(features, (hidden, cell))
        prefixes = decode(self.output(self.hidden(hidden))).unsqueeze(1)
        return (prefixes - before).squeeze(1), th.cat([hidden, cell, prefixes, steps + 1], dim=1)
