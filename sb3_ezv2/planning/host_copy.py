"""A copy on the CPU of a model that lies on a GPU, for searches of so few states that a GPU takes longer for them.

A GPU starts the kernels of all simulations one after the other, however small they are; compiled code on the CPU is
through with one state in the meantime.
"""

from copy import deepcopy
from weakref import WeakKeyDictionary

import torch as th

from sb3_ezv2.common.tensors import tensors_of
from sb3_ezv2.networks.model import EfficientZeroModel


class HostCopy:
    """A model's copy whose numbers lie one behind the other, so that they come in one piece.

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

    @th.no_grad()
    def refresh(self, model: EfficientZeroModel) -> EfficientZeroModel:
        """The copy, with the numbers that the model has now."""
        self.flat.copy_(th.cat([part.flatten() for part in _numbers(model)]))
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
