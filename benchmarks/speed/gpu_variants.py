"""Ways to compute the same update on a GPU, against each other; see :mod:`benchmarks.speed.gpu_checks`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import torch as th

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.common.recording import RecordedRows, Recorder
from sb3_ezv2.learning import stored_states
from sb3_ezv2.learning.losses import LossOutput, TensorBatch, unroll_loss
from sb3_ezv2.learning.updates import WARM_UPS, Updater, UpdateSettings
from sb3_ezv2.networks.model import ImageModel
from sb3_ezv2.planning import device_search

WORTH_IT = 0.95
"""A variant is chosen if it takes at most this share of the usual time."""


class Variant(NamedTuple):
    """How numbers are computed and where they lie; the values here are the program's and PyTorch's own."""

    mixed_precision: bool = False
    convolutions_in_tf32: bool = True
    products: str = "highest"  # or "high": TF32
    channels_last: bool = True
    tries: bool = False  # whether cuDNN tries its algorithms first
    compiled: bool = False  # whether torch.compile makes the loss and its gradient


USUAL = "as it is"
VARIANTS = {
    USUAL: Variant(),
    "TF32 products": Variant(products="high"),
    "mixed": Variant(mixed_precision=True),
    "compiled": Variant(compiled=True),
    "mixed, compiled": Variant(compiled=True, mixed_precision=True),
}
IMAGE_VARIANTS = {
    USUAL: Variant(),
    "channels first": Variant(channels_last=False),
    "mixed": Variant(mixed_precision=True),
    "mixed, channels first": Variant(mixed_precision=True, channels_last=False),
    "TF32 products": Variant(products="high"),
    "cuDNN tries": Variant(products="high", tries=True),
    "full fp32": Variant(convolutions_in_tf32=False),
}


@cache
def compiled_loss(backend: str) -> Callable[..., LossOutput]:
    """The loss, compiled with its gradient when first called; what draws from a generator is left out of that."""
    return th.compile(unroll_loss, dynamic=False, backend=backend)


@contextmanager
def computed_by(variant: Variant, device: th.device) -> Iterator[None]:
    """Compute what is recorded within the block as the variant says; its precision is up to the caller."""
    cudnn, products = th.backends.cudnn, th.get_float32_matmul_precision()
    before = cudnn.allow_tf32, cudnn.benchmark, ImageModel.channels_last_on_gpu
    loss = compiled_loss("inductor" if device.type == "cuda" else "aot_eager") if variant.compiled else unroll_loss
    cudnn.allow_tf32, cudnn.benchmark = variant.convolutions_in_tf32, variant.tries
    ImageModel.channels_last_on_gpu = variant.channels_last
    th.set_float32_matmul_precision(variant.products)
    try:
        with mock.patch("sb3_ezv2.learning.updates.unroll_loss", loss):
            yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, ImageModel.channels_last_on_gpu = before
        th.set_float32_matmul_precision(products)


def forget_recordings() -> None:
    """Let searches and evaluations be recorded anew, as the present variant computes them."""
    device_search._SEARCHES.clear()
    for function in stored_states.RECORDED:
        stored_states.RECORDED[function] = RecordedRows(function)


def updates_by(
    model: EfficientZeroV2, batch: TensorBatch, settings: UpdateSettings, variant: Variant
) -> Callable[[], object]:
    """Updates of a batch that lies ready, recorded as the variant says; they go on with the model."""
    settings = settings._replace(mixed_precision=variant.mixed_precision)
    updater = Updater(model.policy.copies, Recorder(model.policy.model.reward_scale.device))
    with computed_by(variant, model.device):
        for _ in range(WARM_UPS + 1):
            updater(batch, settings)
    return partial(updater, batch, settings)


def evaluations_by(
    model: EfficientZeroV2, observations: dict[str, th.Tensor], variant: Variant
) -> Callable[[], object]:
    """Values of observations by the averaged model; nothing is recorded, so the variant counts at every call."""

    @th.no_grad()
    def evaluate() -> th.Tensor:
        with computed_by(variant, model.device):
            return model.policy.average_model.values(observations)

    return evaluate


def best_of(times: dict[str, float], mixed: bool) -> str:
    """The fastest variant, or the usual one where none is much faster.

    :param times: of an update, by the variant's name
    :param mixed: whether it may compute in bfloat16
    """
    # cuDNN would try its algorithms again for every new number of states.
    times = {name: time for name, time in times.items() if not name.endswith("tries")}
    allowed = {name: time for name, time in times.items() if mixed or not name.startswith("mixed")}
    best = min(allowed, key=allowed.__getitem__)
    return best if allowed[best] <= WORTH_IT * times[USUAL] else USUAL


def use(model: EfficientZeroV2, variant: Variant) -> None:
    """Let a model in training go on as the variant says, within :func:`computed_by`."""
    model.mixed_precision = variant.mixed_precision
    model.updater = Updater(model.policy.copies)
    forget_recordings()


def differences(variant: Variant) -> dict[str, Any]:
    """In what it differs from the usual one."""
    return {name: value for name, value in variant._asdict().items() if value != getattr(Variant(), name)}
