"""Rows that are padded and recorded, and arrays that travel together; on the CPU, where a recording is the function."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from torch import nn

from sb3_ezv2.common.recording import RecordedRows, Recorder, padded
from sb3_ezv2.common.tensors import ALIGNMENT, on_device_together, packed_size, views


def apply(module: nn.Module, x: th.Tensor, scale: th.Tensor) -> th.Tensor:
    return module(x) * scale[:, None]


def test_padded_numbers_are_powers_of_two():
    assert [padded(n) for n in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 4, 8, 1024]


def test_recorded_rows_equal_those_of_the_function():
    """For all numbers of rows, in any order, also when the module's numbers change; one recording for each size."""
    module, calls = nn.Linear(3, 2), []

    def counted(module: nn.Module, x: th.Tensor, scale: th.Tensor) -> th.Tensor:
        calls.append(len(x))
        return apply(module, x, scale)

    recorded = RecordedRows(counted)
    for n in (5, 1, 8, 3, 7, 2, 5):
        x, scale = th.randn(n, 3), th.rand(n)
        with th.no_grad():
            module.weight.mul_(1.1)
            th.testing.assert_close(recorded(module, x, scale), apply(module, x, scale))
    assert set(calls) == {1, 2, 4, 8}
    assert len(recorded._recordings[module].by_shape) == 4


def test_recordings_are_given_up_with_the_places_of_the_parameters():
    module, recorded = nn.Linear(3, 2), RecordedRows(apply)
    recorded(module, th.randn(4, 3), th.rand(4))
    module.weight = nn.Parameter(th.randn(2, 3))
    x, scale = th.randn(3, 3), th.rand(3)
    th.testing.assert_close(recorded(module, x, scale), apply(module, x, scale).detach())


def test_what_cannot_be_recorded_is_computed_all_the_same(monkeypatch):
    def refuse(self, function, pool=None):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "capture", refuse)
    module, recorded = nn.Linear(3, 2), RecordedRows(apply)
    with pytest.warns(UserWarning, match="slower because no CUDA graph") as caught:
        for n in (3, 4):
            x, scale = th.randn(n, 3), th.rand(n)
            th.testing.assert_close(recorded(module, x, scale), apply(module, x, scale).detach())
    assert len(caught) == 1


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.empty((2, 3, 0), np.float32),
    np.array([True, False]),
    np.arange(5, dtype=np.uint8),
    np.arange(4, dtype=np.int64).reshape(4, 1)[::2],
    np.full((3, 2), 1.5).T,
    np.float32(2.0).reshape(()),
]


def test_arrays_lie_one_behind_the_other():
    memory = th.empty(packed_size(ARRAYS), dtype=th.uint8)
    for view, array in zip(views(memory, ARRAYS), ARRAYS, strict=True):
        view.copy_(th.as_tensor(array))
    for array, tensor in zip(ARRAYS, views(memory, ARRAYS), strict=True):
        assert tensor.numpy().dtype == array.dtype
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0


def test_on_the_cpu_arrays_are_not_copied():
    array = np.arange(3.0)
    (tensor,) = on_device_together([array], th.device("cpu"))
    tensor[0] = 7.0
    assert array[0] == 7.0
