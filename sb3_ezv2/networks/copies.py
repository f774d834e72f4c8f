"""The copies of a world model and its optimiser, with the rules that move one to the other."""

from copy import deepcopy
from typing import Any

import torch as th

from sb3_ezv2.networks.model import EfficientZeroModel


class ModelCopies:
    """A world model in training, its two copies, and its optimiser.

    ``model`` is trained. ``average`` is its exponential moving average, which acts and which multi-step targets
    bootstrap from. ``target`` is a copy of the average that stands still between refreshes, so that the results of its
    searches can be kept. ``generator`` gives all random numbers of the updates.

    :param model: to be trained
    :param optimizer_class: optimiser of the model
    :param optimizer_kwargs: its arguments besides the learning rate
    :param learning_rate: the first one
    """

    def __init__(
        self,
        model: EfficientZeroModel,
        optimizer_class: type[th.optim.Optimizer],
        optimizer_kwargs: dict[str, Any],
        learning_rate: float,
    ) -> None:
        self.model = model
        self.average = deepcopy(model).requires_grad_(False).eval()
        self.target = deepcopy(self.average)
        # Lists, because walking through the modules takes a tenth of a small update.
        self.trained: list[th.Tensor] = list(self.model.parameters())
        self.averaged: list[th.Tensor] = list(self.average.parameters())
        modules = zip(self.average.modules(), self.model.modules(), strict=True)
        self.with_buffers = [(ours, theirs) for ours, theirs in modules if any(True for _ in theirs.buffers(False))]
        self.optimizer = optimizer_class(self.trained, lr=learning_rate, **optimizer_kwargs)  # type: ignore[call-arg]
        self.seed(None)

    def seed(self, seed: int | None) -> None:
        """Restart the random numbers of the updates, on the device where the model is.

        :param seed: of the generator; ``None`` for one that the system gives
        """
        self.generator = th.Generator(self.model.reward_scale.device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def update_average(self, tau: float) -> None:
        """Move the average by the share ``tau`` towards the model; statistics of batches are copied."""
        with th.no_grad():
            th._foreach_lerp_(self.averaged, self.trained, tau)
            for ours, theirs in self.with_buffers:
                for statistic, newest in zip(ours.buffers(False), theirs.buffers(False), strict=True):
                    statistic.copy_(newest)

    def update_target(self) -> None:
        """Copy the average, its statistics included, to the target."""
        self.target.load_state_dict(self.average.state_dict())
