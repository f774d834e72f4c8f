"""Stacked observations whose frames are stored once: images and vectors, as bytes.

An observation of ``n_stack`` frames usually shares all but the newest with the observation before it. A
:class:`FrameStorage` keeps the frames in a pool, and for every slot of the replay buffer the numbers of the frames in
its stack. A stack that begins a stream is taken apart in the same way, whatever its padding: a frame that is all zero,
or equal to the one before it in the stack, takes no room. A frame stays in the pool as long as a slot refers to it, so
a stack is complete wherever the ring of the replay buffer has its head.
"""

import math
from collections.abc import Iterable

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    VecVideoRecorder,
)

from sb3_ezv2.common.compilation import entry_point
from sb3_ezv2.common.spaces import named_spaces

BLOCK_BYTES = 2**22
"""Size of the pieces that the pool grows by; the largest copy made while growing, saving and loading."""

ZERO_FRAME = 0
"""Number of the frame that is all zero."""

KEEPS_STACKS = (VecCheckNan, VecMonitor, VecNormalize, VecTransposeImage, VecVideoRecorder)
"""Wrappers around ``VecFrameStack`` that leave stacks as they are; of ``VecNormalize`` that holds for bytes only."""


@entry_point
def copy_frames(block: np.ndarray, places: np.ndarray, stacks: np.ndarray, targets: np.ndarray) -> None:
    """Copy frames of one block into stacks.

    :param block: frames ``[n, outer, inner]``
    :param places: frames to copy ``[m]``
    :param stacks: where to ``[n_stacks, outer, n_stack, inner]``
    :param targets: for every frame ``n_stack`` times its stack plus its position there, 0 for the oldest ``[m]``
    """
    n_stack = stacks.shape[2]
    for i in range(places.shape[0]):
        frame, stack, position = block[places[i]], stacks[targets[i] // n_stack], targets[i] % n_stack
        for row in range(frame.shape[0]):
            for column in range(frame.shape[1]):
                stack[row, position, column] = frame[row, column]


def is_stackable(space: spaces.Space) -> bool:
    """Whether a part of an observation is an image of bytes: a ``Box`` of at least 3 axes with the dtype ``uint8``."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) >= 3


def is_stackable_vector(space: spaces.Space) -> bool:
    """Whether a part of an observation may be a stack of vectors: a ``Box`` of one axis or two."""
    return isinstance(space, spaces.Box) and len(space.shape) in (1, 2)


def stackable_parts(space: spaces.Space) -> dict[str, spaces.Box]:
    """Parts of an observation whose frames are stored once, by key: its images or else its vectors."""
    parts = named_spaces(space).items()
    images = {key: part for key, part in parts if is_stackable(part)}
    return images or {key: part for key, part in parts if is_stackable_vector(part)}  # type: ignore[return-value]


def stack_axis(space: spaces.Box, channels_order: str | None = None) -> int:
    """Axis along which frames are stacked, the oldest first.

    :param space: of the stacked images
    :param channels_order: ``"first"`` or ``"last"``; ``None`` for the first of 4 axes (gymnasium's
        ``FrameStackObservation``) or of 2, and for the first of 3 where no other is smaller, as Stable-Baselines3 tells
        channels from pixels, else the last
    """
    first = len(space.shape) != 3 or int(np.argmin(space.shape)) == 0
    return 0 if channels_order == "first" or (channels_order is None and first) else len(space.shape) - 1


def new_frame_storages(
    space: spaces.Space, n_stack: int, channels_order: str | None, n_slots: int
) -> dict[str, "FrameStorage"]:
    """A storage for every part of :func:`stackable_parts`, by key; none where ``n_stack`` is 1.

    :param space: of the observations
    :param n_stack: frames in every part
    :param channels_order: see :func:`stack_axis`
    :param n_slots: slots to begin with
    :raises ValueError: if the space has no images or vectors of ``n_stack`` frames
    """
    if n_stack == 1:
        return {}
    parts = stackable_parts(space)
    if not parts:
        raise ValueError(
            f"n_stack={n_stack}, but the observation space {space} has no stacked frames: no image with 3 axes or "
            "more and the dtype uint8, and no Box of 1 or 2 axes; leave n_stack=1"
        )
    storages = {}
    for key, part in parts.items():
        axis = stack_axis(part, channels_order)
        if part.shape[axis] % n_stack != 0:
            raise ValueError(
                f"n_stack={n_stack} does not divide the length {part.shape[axis]} of axis {axis} "
                f"of observation {key!r}, whose space is {part}; pass the number of frames that the environment "
                "stacks, channels_order ('first' or 'last') if they are stacked along another axis, or n_stack=1"
            )
        storages[key] = FrameStorage(part, n_stack, axis, n_slots)
    return storages


class FrameStorage:
    """Stacks by slot, frames once; memory grows with use, in blocks.

    :param space: of the stacked images or vectors; what is stored are the bytes of its numbers
    :param n_stack: frames in a stack
    :param axis: along which they are stacked, the oldest first; its length is a multiple of ``n_stack``
    :param n_slots: slots to begin with
    """

    written: list[int] | None = None
    """Numbers of the frames that were written since a mirror looked last; ``None`` where no mirror has all others."""

    def __init__(self, space: spaces.Box, n_stack: int, axis: int, n_slots: int) -> None:
        self.shape = space.shape
        self.dtype = space.dtype
        self.n_stack = n_stack
        n_bytes = math.prod(self.shape[axis:]) // n_stack * self.dtype.itemsize
        self.frame_shape = (math.prod(self.shape[:axis]), n_bytes)
        self.block_frames = max(BLOCK_BYTES // math.prod(self.frame_shape), 1)
        # Frame i is frame i % block_frames of block i // block_frames; the first block has only the zero frame.
        self.blocks = [np.zeros((1, *self.frame_shape), np.uint8)]
        self.users = np.zeros(self.block_frames, np.int32)  # how often each frame is part of a slot's stack
        self.free: list[int] = []
        self.frames = np.full((n_slots, n_stack), ZERO_FRAME, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the pool and of the frames' numbers."""
        return sum(block.nbytes for block in self.blocks) + self.frames.nbytes + self.users.nbytes

    def grow(self, n_slots: int) -> None:
        """Make room for ``n_slots`` slots."""
        added = np.full((n_slots - len(self.frames), self.n_stack), ZERO_FRAME, np.int64)
        self.frames = np.concatenate([self.frames, added])

    def follows(self, stack: np.ndarray, before: np.ndarray) -> bool:
        """Whether the older frames of a stack are the newer frames of the stack before, to the last bit."""
        return np.array_equal(self._split(stack)[:, :-1], self._split(before)[:, 1:])

    def write(self, slot: int, stack: np.ndarray, previous: int | None) -> None:
        """Put a stack into a slot, in place of what was there.

        :param slot: to write
        :param stack: image of the shape of the space
        :param previous: slot of the stack that this one follows, see :meth:`follows`; ``None`` at a stream's beginning
        """
        parts = self._split(stack)
        numbers = np.empty(self.n_stack, np.int64)
        first_new = 0
        if previous is not None:
            numbers[:-1] = self.frames[previous, 1:]
            first_new = self.n_stack - 1
        for k in range(first_new, self.n_stack):
            repeated = k > 0 and np.array_equal(parts[:, k], parts[:, k - 1])
            numbers[k] = numbers[k - 1] if repeated else self._stored(parts[:, k])
        # In this order an interruption may leave a frame in the pool too long, but never takes one from a slot.
        np.add.at(self.users, numbers, 1)
        replaced = self.frames[slot].tolist()
        self.frames[slot] = numbers
        for number in replaced:
            if number != ZERO_FRAME:
                self.users[number] -= 1
                if self.users[number] == 0:
                    self.free.append(number)

    def read(self, slots: np.ndarray) -> np.ndarray:
        """Stacks ``[*slots.shape, ...]`` as they were written; of a slot never written, zeros."""
        numbers = self.frames[slots].reshape(-1)
        stacks = np.empty((slots.size, self.frame_shape[0], self.n_stack, self.frame_shape[1]), np.uint8)
        order = np.argsort(numbers, kind="stable")
        blocks, places = np.divmod(numbers[order], self.block_frames)
        found, starts = np.unique(blocks, return_index=True)
        stops = np.searchsorted(blocks, found, side="right")
        for block, start, stop in zip(found, starts, stops, strict=True):
            copy_frames(self.blocks[block], places[start:stop], stacks, order[start:stop])
        return stacks.reshape(-1).view(self.dtype).reshape(*slots.shape, *self.shape)

    def restore(self, n_frames: int, pieces: Iterable[np.ndarray]) -> None:
        """Take in frames of a file as those that come after the zero frame; :meth:`recount` has to follow.

        :param n_frames: how many there are
        :param pieces: of them, in their order ``[n, outer, inner]``
        """
        place = self.block_frames
        self.blocks, self.written = self.blocks[:1], None
        for piece in pieces:
            for first in range(0, len(piece), self.block_frames):
                part = piece[first : first + self.block_frames]
                while place + len(part) > len(self.blocks) * self.block_frames:
                    self.blocks.append(np.zeros((self.block_frames, *self.frame_shape), np.uint8))
                block, row = divmod(place, self.block_frames)
                fitting = self.block_frames - row
                self.blocks[block][row : row + len(part)] = part[:fitting]
                if len(part) > fitting:
                    self.blocks[block + 1][: len(part) - fitting] = part[fitting:]
                place += len(part)
        assert place == self.block_frames + n_frames

    def recount(self) -> None:
        """Count anew how often each frame is part of a slot's stack.

        :raises ValueError: if a slot refers to a frame that is not there
        """
        n_frames = len(self.blocks) * self.block_frames
        inside = (self.frames >= 0) & (self.frames < n_frames)
        if not (inside & ((self.frames == ZERO_FRAME) | (self.frames >= self.block_frames))).all():
            raise ValueError("a stack refers to a frame that is not there")
        self.users = np.bincount(self.frames.reshape(-1), minlength=n_frames).astype(np.int32)
        unused = np.flatnonzero(self.users[self.block_frames :] == 0)[::-1] + self.block_frames
        self.free = unused.tolist()

    def frame(self, number: int) -> np.ndarray:
        """One frame of the pool ``[outer, inner]``, see :attr:`frames` for the numbers."""
        block, place = divmod(number, self.block_frames)
        return self.blocks[block][place]

    def _split(self, stack: np.ndarray) -> np.ndarray:
        """The stack as ``[outer, n_stack, inner]``."""
        numbers = np.ascontiguousarray(stack, self.dtype).reshape(-1)
        return numbers.view(np.uint8).reshape(self.frame_shape[0], self.n_stack, self.frame_shape[1])

    def _stored(self, frame: np.ndarray) -> int:
        """Number of a frame, which is put into the pool unless it is all zero."""
        if not frame.any():
            return ZERO_FRAME
        if not self.free:
            self._add_block()
        number = self.free.pop()
        self.frame(number)[:] = frame
        if self.written is not None:
            self.written.append(number)
        return number

    def _add_block(self) -> None:
        """Make room for more frames; nothing is copied but their counts."""
        first = len(self.blocks) * self.block_frames
        self.blocks.append(np.zeros((self.block_frames, *self.frame_shape), np.uint8))
        self.users = np.concatenate([self.users, np.zeros(first + self.block_frames - len(self.users), np.int32)])
        self.free.extend(range(first + self.block_frames - 1, first - 1, -1))


def frames_stacked_by(env: VecEnv) -> int:
    """``n_stack`` of a ``VecFrameStack`` whose stacks reach the agent as it made them.

    :return: 1 where there is none, where another wrapper may have changed its stacks, or where their shape leaves
        doubt about the axis; then whole observations are to be stored
    """
    stacked = stackable_parts(env.observation_space)
    of_bytes = all(part.dtype == np.uint8 for part in stacked.values())
    while isinstance(env, KEEPS_STACKS):
        if isinstance(env, VecNormalize) and env.norm_obs and not of_bytes:
            return 1  # the last observation of an episode comes back rounded
        env = env.venv
    if not isinstance(env, VecFrameStack):
        return 1
    single, n_stack = named_spaces(env.venv.observation_space), env.stacked_obs.n_stack
    for key, part in stacked.items():
        axis = stack_axis(part)
        frame, whole = list(part.shape), single[key].shape
        frame[axis] //= n_stack
        certain = len(frame) == 1 or np.sum(np.equal(part.shape, min(part.shape))) == 1
        if not certain or tuple(frame) not in (whole, (whole[-1], *whole[:-1])):  # type: ignore[index]
            return 1
    return n_stack if stacked else 1
