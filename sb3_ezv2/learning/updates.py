"""One update of the networks: loss, gradient, optimiser step, running average; on a GPU recorded as a CUDA graph."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch as th

from sb3_ezv2.common.ranks import ALONE, Ranks
from sb3_ezv2.common.recording import Recorder
from sb3_ezv2.common.tensors import addresses_of
from sb3_ezv2.learning.losses import LossCoefficients, TensorBatch, unroll_loss
from sb3_ezv2.networks.copies import ModelCopies

WARM_UPS = 3
"""Updates made one kernel after the other before one is recorded."""


class UpdateOutput(NamedTuple):
    """What an update leaves behind."""

    priorities: th.Tensor  # [batch]
    logs: dict[str, th.Tensor]  # scalars by log key without the prefix


class UpdateSettings(NamedTuple):
    """Numbers that define an update."""

    coefficients: LossCoefficients
    max_grad_norm: float  # gradients are clipped to this norm
    tau: float  # share of the newest weights that enters the running average
    mixed_precision: bool  # whether the networks compute in bfloat16


def own_gradient(copies: ModelCopies, batch: TensorBatch, settings: UpdateSettings) -> UpdateOutput:
    """Put the gradient of the loss of this rank's part of the batch where the optimiser finds it.

    :param copies: its model is trained
    :param batch: with targets, on the model's device
    :param settings: of the update
    """
    output = unroll_loss(copies.model, batch, settings.coefficients, settings.mixed_precision, copies.generator)
    copies.optimizer.zero_grad()
    output.total.backward()
    return UpdateOutput(output.priorities, {"loss": output.total.detach(), **output.logs})


def common_gradient(copies: ModelCopies, output: UpdateOutput, settings: UpdateSettings, ranks: Ranks) -> UpdateOutput:
    """Take the mean of all ranks' gradients and clip it.

    :param copies: has this rank's gradient
    :param output: that came with it
    :param settings: of the update
    :param ranks: that learn together
    """
    ranks.average_gradients(copies.trained)
    grad_norm = th.nn.utils.clip_grad_norm_(copies.trained, settings.max_grad_norm)
    return output._replace(logs={"loss": output.logs["loss"], "grad_norm": grad_norm, **output.logs})


def find_gradient(
    copies: ModelCopies, batch: TensorBatch, settings: UpdateSettings, ranks: Ranks = ALONE
) -> UpdateOutput:
    """Put the clipped gradient of the loss where the optimiser finds it; see :func:`own_gradient`."""
    return common_gradient(copies, own_gradient(copies, batch, settings), settings, ranks)


def follow_gradient(copies: ModelCopies, settings: UpdateSettings) -> None:
    """Take one optimiser step and move the running average."""
    copies.optimizer.step()
    copies.update_average(settings.tau)


def update(copies: ModelCopies, batch: TensorBatch, settings: UpdateSettings, ranks: Ranks = ALONE) -> UpdateOutput:
    """One whole update; see :func:`find_gradient` and :func:`follow_gradient`."""
    output = find_gradient(copies, batch, settings, ranks)
    follow_gradient(copies, settings)
    return output


class RecordedUpdate:
    """An update of fixed settings and shapes, recorded once and then repeated with other batches.

    The optimiser's step is recorded too if it can be: of the fused optimisers those that know ``capturable``, such as
    the default Adam. Others step after the recorded part. Among several ranks the recorded part ends with the rank's
    own gradient.

    :param copies: its parameters are recorded by their places
    :param batch: the first one
    :param settings: of the update
    :param recorder: has run updates of these copies before
    :param ranks: that learn together
    """

    def __init__(
        self,
        copies: ModelCopies,
        batch: TensorBatch,
        settings: UpdateSettings,
        recorder: Recorder,
        ranks: Ranks = ALONE,
    ) -> None:
        self.copies, self.settings, self.ranks = copies, settings, ranks
        observations = {key: part.clone() for key, part in batch.observations.items()}
        self.batch = TensorBatch(observations, *(part.clone() for part in batch[1:]))
        groups = copies.optimizer.param_groups
        capturable = all(group.get("fused") and "capturable" in group for group in groups)
        self.steps_too = capturable and ranks.size == 1
        self.rates = [batch.weights.new_full((), group["lr"]) for group in groups]
        alone = update if self.steps_too else find_gradient
        function = alone if ranks.size == 1 else own_gradient
        with _rates_in_memory(copies.optimizer, self.rates if self.steps_too else []):
            self.repeat: Callable[[], UpdateOutput] = recorder.capture(
                lambda: function(copies, self.batch, settings), generator=copies.generator
            )

    def __call__(self, batch: TensorBatch) -> UpdateOutput:
        """Update with this batch and the optimiser's present learning rate; the next call overwrites the output."""
        for ours, theirs in zip(_parts(self.batch), _parts(batch), strict=True):
            ours.copy_(theirs)
        for rate, group in zip(self.rates, self.copies.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        output = self.repeat()
        # PyTorch counts no changes that a repetition makes; a copy on the CPU asks for them.
        th.autograd.graph.increment_version(self.copies.average.reward_scale)
        if self.ranks.size > 1:
            output = common_gradient(self.copies, output, self.settings, self.ranks)
        if not self.steps_too:
            follow_gradient(self.copies, self.settings)
        return output


class Updater:
    """Updates one model: on a GPU by a recorded update, elsewhere by :func:`update`.

    Recorded again when the settings, the shapes of the batch or the places of parameters and optimiser state have
    changed, for example after a model was loaded.

    :param copies: to be trained
    :param recorder: records the updates; ``None`` for one of the GPU that the model is on, if it is on one
    :param ranks: that learn together
    """

    def __init__(self, copies: ModelCopies, recorder: Recorder | None = None, ranks: Ranks = ALONE) -> None:
        self.copies, self.ranks = copies, ranks
        device = copies.model.reward_scale.device
        self.recorder = Recorder(device) if recorder is None and device.type == "cuda" else recorder
        self.recorded: RecordedUpdate | None = None
        self._key: tuple | None = None
        self._n_alike = 0

    def __call__(self, batch: TensorBatch, settings: UpdateSettings) -> UpdateOutput:
        """Take one optimiser step and move the running average.

        :param batch: with targets, on the model's device
        :param settings: of the update
        :return: to be read before the next call
        """
        if self.recorder is None:
            return update(self.copies, batch, settings, self.ranks)
        key = (settings, self.copies.generator, *((part.shape, part.dtype) for part in _parts(batch)), *self._places())
        if key != self._key:
            self._key, self._n_alike, self.recorded = key, 0, None
        if self._n_alike < WARM_UPS:
            # Kernels, libraries and the optimiser's state are set up by updates that count, not by idle ones.
            self._n_alike += 1
            with self.recorder.beside():
                return update(self.copies, batch, settings, self.ranks)
        if self.recorded is None:
            try:
                self.recorded = RecordedUpdate(self.copies, batch, settings, self.recorder, self.ranks)
            except RuntimeError as error:
                warnings.warn(f"updates are slower because no CUDA graph can be recorded: {error}", stacklevel=2)
                self.recorder = None
                return update(self.copies, batch, settings, self.ranks)
        return self.recorded(batch)

    def _places(self) -> Iterator[int]:
        """Where everything lies that an update changes."""
        for model in (self.copies.model, self.copies.average):
            yield from addresses_of(model)
        for state in self.copies.optimizer.state.values():
            yield from (part.data_ptr() for part in state.values() if isinstance(part, th.Tensor))


def _parts(batch: TensorBatch) -> list[th.Tensor]:
    return [*batch.observations.values(), *batch[1:]]


@contextmanager
def _rates_in_memory(optimizer: th.optim.Optimizer, rates: list[th.Tensor]) -> Iterator[None]:
    """Let the optimiser read its learning rates from tensors, so that a recorded step follows their changes."""
    before = [(group["lr"], group.get("capturable")) for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, rates, strict=False):
        group["lr"], group["capturable"] = rate, True
    try:
        yield
    finally:
        for group, _, (lr, capturable) in zip(optimizer.param_groups, rates, before, strict=False):
            group["lr"], group["capturable"] = lr, capturable
