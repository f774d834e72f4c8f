"""Work of fixed shapes recorded once and repeated as a whole: a CUDA graph, or on another device the function itself.

A CUDA graph repeats the kernels of one run at the same addresses, without Python and without a wait between them. So a
recorded function must read its inputs from tensors that stay where they are and must never ask the device for a number;
what it returns is overwritten by the next repetition.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch as th

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
