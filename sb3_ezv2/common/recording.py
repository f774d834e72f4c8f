"""Work of fixed shapes recorded once and repeated as a whole: a CUDA graph, or on another device the function itself.

A CUDA graph repeats the kernels of one run at the same addresses, without Python and without a wait between them. So a
recorded function must read its inputs from tensors that stay where they are and must never ask the device for a number;
what it returns is overwritten by the next repetition.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch as th
from torch import nn

from sb3_ezv2.common.tensors import addresses_of

Output = TypeVar("Output")


class Recorder:
    """Records functions on one device.

    :param device: whose kernels are recorded
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self.stream = th.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Run a block on the stream that is recorded, ordered with what the current stream does before and after.

        What sets itself up at first use (libraries, an optimiser's state, the nodes that gather gradients) must have
        run there before it is recorded.
        """
        if self.stream is None:
            yield
            return
        current = th.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with th.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def capture(
        self, function: Callable[[], Output], pool: Any = None, generator: th.Generator | None = None
    ) -> Callable[[], Output]:
        """Record ``function``, which on a CUDA device is not carried out by that.

        :param function: has run under :meth:`beside` before
        :param pool: memory that other recordings use too, from ``th.cuda.graph_pool_handle()``; ``None`` for its own
        :param generator: of the random numbers in ``function``, which goes on with every repetition
        :return: repeats it and returns the same tensors every time
        :raises RuntimeError: if something in ``function`` cannot be part of a graph
        """
        if self.stream is None:
            return function
        graph, current = th.cuda.CUDAGraph(), th.cuda.current_stream(self.device)
        generators = [th.cuda.default_generators[current.device_index], *([] if generator is None else [generator])]
        states = [(one, one.clone_state()) for one in generators if hasattr(one, "clone_state")]  # since PyTorch 2.4
        if generator is not None and hasattr(graph, "register_generator_state"):
            graph.register_generator_state(generator)
        # What other threads do on the device meanwhile is no part of the graph, and no reason to give up.
        recording = th.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local")
        try:
            with th.cuda.device(self.device), recording:
                outputs = function()
        except Exception as error:
            # PyTorch leaves the stream of a recording that breaks off current, and the random numbers in recording.
            th.cuda.set_stream(current)
            for one, state in states:
                one.graphsafe_set_state(state)
            if isinstance(error, RuntimeError) and error.__context__ is not None:
                raise RuntimeError(str(error.__context__)) from error  # the cause, not that the recording is invalid
            raise

        def repeat() -> Output:
            graph.replay()
            return outputs

        return repeat


def padded(n: int) -> int:
    """The smallest power of two that is at least ``n``; what is recorded for it serves all smaller numbers."""
    return 1 << (n - 1).bit_length()


class _Recording(NamedTuple):
    """A function of inputs that stay where they are."""

    inputs: list[th.Tensor]  # [rows, ...]
    repeat: Callable[[], th.Tensor] | None  # ``None`` if it could not be recorded


class _Recordings:
    """Those of one module, given up together when its tensors lie elsewhere; they share their memory.

    :param module: not kept
    """

    def __init__(self, module: nn.Module) -> None:
        self.addresses = addresses_of(module)
        self.recorder = Recorder(next(module.parameters()).device)
        self.by_shape: dict[tuple, _Recording] = {}
        self.pool = th.cuda.graph_pool_handle() if self.recorder.stream is not None else None


class RecordedRows:
    """A function of a module and of independent rows of numbers, recorded for every padded number of rows.

    :param function: takes the module and tensors ``[n, ...]``, returns one tensor ``[n, ...]``, needs no gradient
    """

    def __init__(self, function: Callable[..., th.Tensor]) -> None:
        self.function = function
        self._recordings: WeakKeyDictionary[nn.Module, _Recordings] = WeakKeyDictionary()

    @th.no_grad()
    def __call__(self, module: nn.Module, *tensors: th.Tensor) -> th.Tensor:
        """What the function returns for these tensors, overwritten by the next call for this module.

        :param module: may change its numbers between two calls
        :param tensors: ``[n, ...]`` on the module's device
        """
        recordings = self._recordings.get(module)
        if recordings is None or recordings.addresses != addresses_of(module):
            recordings = self._recordings[module] = _Recordings(module)
        n, rows = len(tensors[0]), padded(len(tensors[0]))
        key = (rows, *((tensor.dtype, tensor.shape[1:]) for tensor in tensors))
        if key not in recordings.by_shape:
            recordings.by_shape[key] = self._record(module, recordings, tensors, rows)
        inputs, repeat = recordings.by_shape[key]
        for ours, theirs in zip(inputs, tensors, strict=True):
            ours[:n].copy_(theirs)
        return (repeat() if repeat is not None else self.function(module, *inputs))[:n]

    def recordings_of(self, module: nn.Module) -> list[_Recording]:
        """What is kept for a module, one for every kind and number of rows."""
        recordings = self._recordings.get(module)
        return [] if recordings is None else list(recordings.by_shape.values())

    def _record(
        self, module: nn.Module, recordings: _Recordings, tensors: tuple[th.Tensor, ...], rows: int
    ) -> _Recording:
        inputs = [tensor[:1].repeat_interleave(rows, 0) for tensor in tensors]
        with recordings.recorder.beside():
            self.function(module, *inputs)
        try:
            repeat = recordings.recorder.capture(lambda: self.function(module, *inputs), recordings.pool)
        except RuntimeError as error:
            warnings.warn(f"reanalysis is slower because no CUDA graph can be recorded: {error}", stacklevel=2)
            return _Recording(inputs, None)
        return _Recording(inputs, repeat)
