"""Stored frames once more in the memory of a GPU, which puts stacks together itself.

A batch of the paper's size has 1,536 stacks of four images: 170 MB that the CPU would copy together and send at every
update, for the sake of a few frames that are new. So a GPU keeps the frames of a
:class:`~sb3_ezv2.replay.frame_storage.FrameStorage` too, byte for byte; the CPU draws, and sends numbers of frames.
"""

import math
import warnings
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.normalization import UNCHANGED, Normalizer
from sb3_ezv2.common.spaces import named_arrays, named_spaces
from sb3_ezv2.common.tensors import on_device
from sb3_ezv2.common.type_aliases import GatheredObservations, ObservationArrays
from sb3_ezv2.replay.frame_storage import FrameStorage

MAX_SHARE = 0.5
"""Of the device's free memory, which frames may take when they begin there and whenever they need more."""
WORD = 8
"""Bytes that are copied at once where frames are a multiple of them."""


class FrameMirror:
    """The frames of one storage on a device, brought up to date whenever they are read.

    :param device: where the frames lie
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self.frames = th.empty(0, 0, dtype=th.uint8, device=device)  # [capacity, bytes of a frame]
        self._written: list[int] | None = None  # of the storage, once all that came before is here

    def follow(self, storage: FrameStorage) -> bool:
        """Bring the frames up to date.

        :param storage: whose frames these are, the same one every time
        :return: whether the device has room for them; if not, none are kept
        """
        n_frames = len(storage.blocks) * storage.block_frames
        begins = self._written is None or storage.written is not self._written
        if n_frames > len(self.frames) and not self._grow(n_frames, math.prod(storage.frame_shape), begins):
            self.frames, self._written, storage.written = self.frames[:0].clone(), None, None
            return False
        if begins:
            for number, block in enumerate(storage.blocks[1:], 1):
                rows = slice(number * storage.block_frames, (number + 1) * storage.block_frames)
                self.frames[rows].copy_(th.from_numpy(block).flatten(1))
            self._written = storage.written = []
        elif self._written:
            n_new = len(self._written)
            numbers = np.unique(self._written[:n_new])
            newest = np.stack([storage.frame(number).reshape(-1) for number in numbers.tolist()])
            self.frames.index_copy_(0, on_device(numbers, self.device), on_device(newest, self.device))
            del self._written[:n_new]
        return True

    def read(self, storage: FrameStorage, slots: np.ndarray) -> th.Tensor:
        """As :meth:`FrameStorage.read`, on the device; :meth:`follow` has to come before."""
        numbers = on_device(storage.frames[slots].reshape(-1), self.device)
        outer, inner = storage.frame_shape
        wide = self.frames.shape[1] % WORD == 0
        stacks = (self.frames.view(th.int64) if wide else self.frames).index_select(0, numbers).view(th.uint8)
        stacks = stacks.view(-1, storage.n_stack, outer, inner).transpose(1, 2).reshape(-1)
        dtype = th.from_numpy(np.empty(0, storage.dtype)).dtype
        return stacks.view(dtype).view(*slots.shape, *storage.shape)

    def _grow(self, n_frames: int, n_bytes: int, begins: bool) -> bool:
        """Make room for ``n_frames`` and some more; whether the device has it."""
        capacity = 1 << (n_frames - 1).bit_length()
        if not _has_room(capacity * n_bytes, self.device):
            return False
        grown = th.zeros(capacity, n_bytes, dtype=th.uint8, device=self.device)
        if not begins:
            grown[: len(self.frames)].copy_(self.frames)
        self.frames = grown
        return True


def _has_room(n_bytes: int, device: th.device) -> bool:
    """Whether the device can spare so many bytes; a warning says so if it cannot."""
    if device.type != "cuda":
        return True
    free, _ = th.cuda.mem_get_info(device)
    if n_bytes <= MAX_SHARE * free:
        return True
    warnings.warn(
        f"updates are slower because the stored frames stay on the CPU: they need {n_bytes / 2**30:.1f} GiB of the "
        f"GPU's memory, of which {free / 2**30:.1f} GiB are free; a smaller buffer_size needs less",
        stacklevel=2,
    )
    return False


class FrameMirrors:
    """Those of all storages of images on one device.

    :param device: where the frames lie
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self._mirrors: WeakKeyDictionary[FrameStorage, FrameMirror | None] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["FrameMirrors"], tuple[th.device]]:
        """A copy of a buffer begins with mirrors of its own."""
        return FrameMirrors, (self.device,)

    def of(self, storage: FrameStorage) -> FrameMirror | None:
        """The mirror of a storage, up to date; ``None`` where it is of vectors, or once there was no room for it."""
        if storage not in self._mirrors:
            self._mirrors[storage] = FrameMirror(self.device) if storage.dtype == np.uint8 else None
        mirror = self._mirrors[storage]
        if mirror is not None and not mirror.follow(storage):
            mirror = self._mirrors[storage] = None
        return mirror


class MirroredOnDevice:
    """The part of :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer` that gives a model its observations."""

    observation_space: spaces.Space
    stacks: dict[str, FrameStorage]
    observations_at: Callable[..., ObservationArrays]
    parts_at: Callable[..., ObservationArrays]
    mirrors: FrameMirrors | None = None

    def mirror_on(self, device: th.device) -> None:
        """Keep the frames of stacked images in the memory of a GPU too, from the next reading on.

        :param device: of the model; on a CPU nothing is kept twice
        """
        if device.type == "cuda" and (self.mirrors is None or self.mirrors.device != device):
            self.mirrors = FrameMirrors(device)

    def observations_for_model(self, slots: np.ndarray, normalizer: Normalizer = UNCHANGED) -> GatheredObservations:
        """As :meth:`observations_at`; what is mirrored comes from there, as tensors on that device."""
        if self.mirrors is None or not self.stacks:
            return self.observations_at(slots, normalizer)
        normalised = set(normalizer.observation_keys())
        found: dict[str, np.ndarray | th.Tensor] = {}
        for key, storage in self.stacks.items():
            mirror = None if key in normalised else self.mirrors.of(storage)
            if mirror is not None:
                found[key] = mirror.read(storage, slots)
        if not found:
            return self.observations_at(slots, normalizer)
        keys = list(named_spaces(self.observation_space))
        rest = [key for key in keys if key not in found]
        others = named_arrays(normalizer.observations(self.parts_at(slots, rest))) if rest else {}
        return {key: found[key] if key in found else others[key] for key in keys}
