"""From numpy to torch, where tensors lie, and torch's threads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch as th
from torch import nn


def to_tensors(observations: Mapping[str, np.ndarray | th.Tensor], device: th.device) -> dict[str, th.Tensor]:
    """Observations by key as tensors on ``device``."""
    return {key: on_device(value, device) for key, value in observations.items()}


def on_device(array: np.ndarray | th.Tensor, device: th.device) -> th.Tensor:
    """An array as a tensor on ``device``; to a GPU through pinned memory, so that the copy need not be waited for."""
    tensor = th.as_tensor(array)
    if device.type != "cuda" or tensor.is_cuda or tensor.numel() == 0:
        return tensor.to(device)
    # PyTorch gives this memory to nobody else before the copy has been made.
    return tensor.pin_memory().to(device, non_blocking=True)


def on_its_way(tensor: th.Tensor) -> Callable[[], np.ndarray]:
    """A copy of a tensor that begins to travel to the CPU; what is returned waits for it and gives the array."""
    if tensor.device.type != "cuda":
        return tensor.numpy
    here = th.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    arrived = th.cuda.current_stream(tensor.device).record_event()

    def wait() -> np.ndarray:
        arrived.synchronize()
        return here.numpy()

    return wait


ALIGNMENT = 256
"""Bytes: where an array may begin in memory that several share; every kernel can read from there at full speed."""


def on_device_together(arrays: Sequence[np.ndarray | th.Tensor], device: th.device) -> list[th.Tensor]:
    """As :func:`on_device` for several arrays: to a GPU they go in one piece, so that there is one copy to start.

    What is a tensor already lies where it belongs.
    """
    if device.type != "cuda":
        return [on_device(array, device) for array in arrays]
    sent = iter(_sent_together([array for array in arrays if not isinstance(array, th.Tensor)], device))
    return [array if isinstance(array, th.Tensor) else next(sent) for array in arrays]


def _sent_together(arrays: list[np.ndarray], device: th.device) -> list[th.Tensor]:
    """Copies on a GPU, one behind the other."""
    staging = th.empty(packed_size(arrays), dtype=th.uint8, pin_memory=True)
    for view, array in zip(views(staging, arrays), arrays, strict=True):
        view.copy_(th.as_tensor(array))  # by all of torch's threads if it is large
    return views(staging.to(device, non_blocking=True), arrays)


def packed_size(arrays: Sequence[np.ndarray]) -> int:
    """Bytes that :func:`views` needs."""
    return sum(-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays)


def views(memory: th.Tensor, arrays: Sequence[np.ndarray]) -> list[th.Tensor]:
    """Tensors of the arrays' shapes and types, one behind the other in ``memory [packed_size] uint8``."""
    tensors, begin = [], 0
    for array in arrays:
        dtype = th.from_numpy(np.empty(0, array.dtype)).dtype
        tensors.append(memory[begin : begin + array.nbytes].view(dtype).view(array.shape))
        begin += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return tensors


def tensors_of(module: nn.Module) -> list[th.Tensor]:
    """All parameters and buffers; ``nn.Module``'s own iterators are several times slower."""
    tensors: list[th.Tensor | None] = []
    modules = [module]
    for part in modules:  # grows on the way
        if part._parameters:
            tensors += part._parameters.values()
        if part._buffers:
            tensors += part._buffers.values()
        modules += [child for child in part._modules.values() if child is not None]
    return [tensor for tensor in tensors if tensor is not None]


def addresses_of(module: nn.Module) -> list[int]:
    """Where all tensors of a module lie."""
    return [tensor.data_ptr() for tensor in tensors_of(module)]


@contextmanager
def torch_threads(n_threads: int | None) -> Iterator[None]:
    """Let torch use ``n_threads`` threads within the block; ``None`` changes nothing."""
    before = th.get_num_threads()
    th.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        th.set_num_threads(before)
