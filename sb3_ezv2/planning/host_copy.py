"""A copy on the CPU of a model that lies on a GPU, for searches of so few states that a GPU takes longer for them.

A GPU starts the kernels of all simulations one after the other, however small they are; compiled code on the CPU is
through with a few states in the meantime.
"""

import os
from copy import deepcopy
from functools import cache
from weakref import WeakKeyDictionary

import torch as th

from sb3_ezv2.common.tensors import tensors_of
from sb3_ezv2.networks.model import EfficientZeroModel, ImageModel
from sb3_ezv2.planning.fused_weights import has_compiled_form

STATES_PER_CORE, MOST_STATES, MOST_IMAGES = 2, 8, 2
"""So many states are searched on the CPU, beside each other if it has the cores: 1.0 ms for one and 1.4 ms for two with
the paper's network for vectors, where a GPU takes 5.6 ms for one and 7.7 ms for 256. Images have to pass convolutions
first."""


class HostCopy:
    """A model's copy whose numbers lie one behind the other, so that they come in one piece.

    Its numbers are copied when they have changed, by what PyTorch counts of changes, or lie elsewhere.

    :param model: on any device; not kept
    """

    def __init__(self, model: EfficientZeroModel) -> None:
        self.copy = deepcopy(model).requires_grad_(False).cpu()
        ours = _numbers(self.copy)
        self.flat = th.cat([part.flatten() for part in ours])
        if model.reward_scale.device.type == "cuda":
            self.flat = self.flat.pin_memory()
        for part, numbers in zip(ours, self.flat.split([part.numel() for part in ours]), strict=True):
            part.data = numbers.view(part.shape)
        self._seen: list[tuple[int, int]] = []

    @th.no_grad()
    def refresh(self, model: EfficientZeroModel) -> EfficientZeroModel:
        """The copy, with the numbers that the model has now."""
        numbers = _numbers(model)
        state = [(part._version, part.data_ptr()) for part in numbers]
        if state != self._seen:
            self.flat.copy_(th.cat([part.flatten() for part in numbers]))
            self._seen = state
        return self.copy


def _numbers(model: EfficientZeroModel) -> list[th.Tensor]:
    """Parameters and statistics; what counts batches is read by no search."""
    return [tensor for tensor in tensors_of(model) if tensor.dtype == th.float32]


_COPIES: WeakKeyDictionary[EfficientZeroModel, HostCopy] = WeakKeyDictionary()


def on_host(model: EfficientZeroModel) -> EfficientZeroModel:
    """The model as it is now, on the CPU; the next call for the same model changes the same copy."""
    if model not in _COPIES:
        _COPIES[model] = HostCopy(model)
    return _COPIES[model].refresh(model)


def is_faster_on_host(model: EfficientZeroModel, n: int) -> bool:
    """Whether a copy on the CPU searches ``n`` states in less time than the GPU that the model is on."""
    most = MOST_IMAGES if isinstance(model, ImageModel) else min(STATES_PER_CORE * _n_cores(), MOST_STATES)
    return model.reward_scale.device.type == "cuda" and n <= most and has_compiled_form(model)


@cache
def _n_cores() -> int:
    """Cores that this process may use, at its beginning."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
