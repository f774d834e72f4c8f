"""The copies of a world model and its optimiser, with the rules that move one to the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch as th
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sb3_ezv2.networks.model import EfficientZeroModel

STATE_OF: dict[type[th.optim.Optimizer], set[str]] = {
    th.optim.Adam: {"step", "exp_avg", "exp_avg_sq"},
    th.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}
"""What optimisers keep of every parameter that has been trained."""


@contextmanager
def checked_optimizer(optimizer: th.optim.Optimizer) -> Iterator[None]:
    """Refuse what the block loads into an optimiser if it does not belong to its parameters.

    The fused optimisers of PyTorch do not look at shapes: a wrong state would make them write beyond their memory.

    :param optimizer: whose ``load_state_dict`` the block may call
    :raises ValueError: naming the parameter and what is wrong; then the optimiser is as it was
    """
    hook = optimizer.register_load_state_dict_pre_hook(_check_optimizer_state)
    try:
        yield
    finally:
        hook.remove()


def _check_optimizer_state(optimizer: th.optim.Optimizer, state_dict: dict[str, Any]) -> None:
    """Refuse a state of other parameters or of another optimiser, before it is loaded."""
    remedy = "load the state of an optimiser of the same class and of a model with the same policy_kwargs"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    if len(numbers) != len(parameters) or not state_dict["state"].keys() <= set(numbers):
        raise ValueError(f"the optimiser's state is of {len(numbers)} parameters, not of {len(parameters)}; {remedy}")
    for ours, theirs in zip(optimizer.param_groups, state_dict["param_groups"], strict=False):
        for name in ours.keys() - {"params"}:
            if name not in theirs or not _alike(ours[name], theirs[name]):
                given = repr(theirs[name]) if name in theirs else "nothing"
                raise ValueError(f"the optimiser's state has {given} as {name}, it had {ours[name]!r}; {remedy}")
    shapes = {number: parameter.shape for number, parameter in zip(numbers, parameters, strict=True)}
    expected = STATE_OF.get(type(optimizer))
    for number, state in state_dict["state"].items():
        if expected is not None and not expected <= state.keys():
            raise ValueError(f"the optimiser's state of parameter {number} has no {expected - state.keys()}; {remedy}")
        for name, value in state.items():
            fits = not isinstance(value, th.Tensor) or value.shape == (th.Size() if name == "step" else shapes[number])
            if not fits or (isinstance(value, th.Tensor) and not value.is_floating_point()):
                raise ValueError(
                    f"the optimiser's state of parameter {number} has {name} with the shape {tuple(value.shape)} and "
                    f"the dtype {value.dtype}, the parameter has {tuple(shapes[number])}; {remedy}"
                )


def _alike(ours: Any, theirs: Any) -> bool:
    """Whether two settings of an optimiser are of the same kind."""
    numbers = int | float | th.Tensor | None
    if isinstance(ours, tuple | list):
        return isinstance(theirs, tuple | list) and len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    return isinstance(theirs, numbers) if isinstance(ours, numbers) else isinstance(theirs, type(ours))


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
        """Move the average by the share ``tau`` towards the model; statistics of batches are copied.

        The unit of rewards moves with the weights, which predict in it.
        """
        get_ema_multi_avg_fn(1.0 - tau)(self.averaged, self.trained, None)
        with th.no_grad():
            unit = self.average.reward_scale.lerp(self.model.reward_scale, tau)
            for ours, theirs in self.with_buffers:
                for statistic, newest in zip(ours.buffers(False), theirs.buffers(False), strict=True):
                    statistic.copy_(newest)
            self.average.reward_scale.copy_(unit)

    def update_target(self) -> None:
        """Copy the average, its statistics included, to the target."""
        self.target.load_state_dict(self.average.state_dict())
