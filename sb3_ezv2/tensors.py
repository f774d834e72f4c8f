"""From numpy to torch, and torch's threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch as th

from sb3_ezv2.type_aliases import ObservationArrays


def to_tensors(observations: ObservationArrays, device: th.device) -> dict[str, th.Tensor]:
    """Observations by key as tensors on ``device``."""
    return {key: on_device(value, device) for key, value in observations.items()}


def on_device(array: np.ndarray, device: th.device) -> th.Tensor:
    """An array as a tensor on ``device``; to a GPU through pinned memory, so that the copy need not be waited for."""
    tensor = th.as_tensor(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@contextmanager
def torch_threads(n_threads: int | None) -> Iterator[None]:
    """Let torch use ``n_threads`` threads within the block; ``None`` changes nothing."""
    before = th.get_num_threads()
    th.set_num_threads(n_threads or before)
    try:
        yield
    finally:
        th.set_num_threads(before)
