"""Replay buffers as files: plain arrays and a description, checked before anything samples from them.

See :mod:`sb3_ezv2.common.array_files` for the layout of the file. What follows from other arrays is not written: the
sums of the priorities, the number of transitions, and how many stacks each frame belongs to.
"""

import copy
import pickle
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from gymnasium import spaces

from sb3_ezv2.common.action_masks import MASKS, unpack
from sb3_ezv2.common.actions import action_kind_of
from sb3_ezv2.common.array_files import MAGIC, ArrayReader, DamagedFileError, write_arrays
from sb3_ezv2.common.plain_spaces import space_from_plain, space_to_plain
from sb3_ezv2.common.spaces import named_spaces
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.frame_storage import ZERO_FRAME, FrameStorage
from sb3_ezv2.replay.slots import EMPTY, FRONTIER, NO_FRONTIER, TRANSITION, TRUNCATED
from sb3_ezv2.replay.sources import Kept
from sb3_ezv2.replay.sum_tree import new_sum_tree

KIND = "replay buffer"
SETTINGS = ("buffer_size", "n_envs", "alpha", "n_stack", "channels_order", "action_masks")
BY_ROW = ("actions", "rewards", "kinds", "observation_ids")
"""Arrays ``[n_rows, n_envs, ...]`` of every buffer."""
EXTRA = "pickled attributes"
OWN_ATTRIBUTES = {
    *SETTINGS,
    *BY_ROW,
    *("observation_space", "action_space", "max_rows", "n_rows", "stacks", "observations", "sum_tree"),
    *("n_observations", "n_transitions", "_new_slots", "frontiers", "next_rows"),
}
"""What a buffer of this package consists of; a subclass may have more."""
OPTIONAL_ATTRIBUTES = {"kept", "has_old_data", "largest_weight", "mirrors"}
"""What one may have besides, written in a form of their own or not at all."""
NAMES_IN_PICKLES = {
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy.random._pickle": {"__generator_ctor", "__bit_generator_ctor"},
    "numpy.random._pcg64": {"PCG64"},
    "numpy.random.bit_generator": {"SeedSequence", "__pyx_unpickle_SeedSequence"},
    "gymnasium.spaces.box": {"Box"},
    "gymnasium.spaces.dict": {"Dict"},
    "gymnasium.spaces.discrete": {"Discrete"},
    "gymnasium.spaces.multi_binary": {"MultiBinary"},
    "gymnasium.spaces.multi_discrete": {"MultiDiscrete"},
    "collections": {"OrderedDict"},
    "_codecs": {"encode"},
    "sb3_ezv2.replay_buffer": {"TrajectoryReplayBuffer"},
    "sb3_ezv2.frame_storage": {"FrameStorage"},
    "sb3_ezv2.replay.buffer": {"TrajectoryReplayBuffer"},
    "sb3_ezv2.replay.frame_storage": {"FrameStorage"},
}
"""All that a pickled buffer of release 0.1 may name: none of it runs what the file says."""


def save_buffer(buffer: TrajectoryReplayBuffer, file: BinaryIO) -> str:
    """Write a replay buffer, with no more memory than a few megabytes.

    :param buffer: to be saved
    :param file: open for writing
    :return: digest, for :func:`load_buffer`
    """
    used = _used_rows(buffer)
    slots = used * buffer.n_envs
    arrays: dict[str, Sequence[np.ndarray]] = {name: [getattr(buffer, name)[:used]] for name in BY_ROW}
    arrays["priorities"] = [buffer.sum_tree[len(buffer.sum_tree) // 2 :][:slots]]
    arrays |= {name: [getattr(buffer, name)] for name in ("frontiers", "next_rows")}
    arrays["new_slots"] = [np.concatenate([np.empty(0, np.int64), *buffer._new_slots])]
    arrays |= {f"observations/{key}": [array[:used]] for key, array in buffer.observations.items()}
    for key, stacks in buffer.stacks.items():
        arrays[f"stacks/{key}"] = [stacks.frames[:slots]]
        arrays[f"frames/{key}"] = _used_frames(stacks, slots)
    if buffer.kept is not None:
        arrays |= {"kept/slots": [buffer.kept.slots], "kept/ids": [buffer.kept.ids]}
    extra = {name: value for name, value in vars(buffer).items() if name not in OWN_ATTRIBUTES | OPTIONAL_ATTRIBUTES}
    if extra:
        arrays[EXTRA] = [np.frombuffer(pickle.dumps(extra), np.uint8)]
    content = {
        "settings": {name: _plain(getattr(buffer, name)) for name in SETTINGS},
        "observation_space": space_to_plain(buffer.observation_space),
        "action_space": space_to_plain(buffer.action_space),
        "n_rows": buffer.n_rows,
        "n_observations": buffer.n_observations,
        "kept_share": 0.0 if buffer.kept is None else buffer.kept.share,
        "class": f"{type(buffer).__module__}.{type(buffer).__qualname__}",
    }
    return write_arrays(file, KIND, content, arrays)


def load_buffer(
    file: BinaryIO, name: str, like: TrajectoryReplayBuffer, digest: str | None = None
) -> TrajectoryReplayBuffer:
    """Read a replay buffer and check it.

    :param file: open for reading, and seekable; written by :func:`save_buffer`, or pickled by release 0.1
    :param name: of the file, for errors
    :param like: a buffer of the same class, spaces and number of environments; it is left alone
    :param digest: that the file must have, from :func:`save_buffer`
    :return: the buffer, with the file's own ``buffer_size``, ``alpha`` and frames per stack
    :raises ValueError: if the file is damaged, something else, or of other spaces or environments
    """
    place = file.tell()
    begins = file.read(len(MAGIC))
    file.seek(place)
    if begins == MAGIC or not begins.startswith(b"\x80"):
        loaded = _read(ArrayReader(file, name, KIND), name, like, digest)
    else:
        loaded = _unpickled(file, name, like)
        like.check_same_layout(loaded)
    try:
        check_buffer(loaded)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise DamagedFileError(f"{name} is damaged: {error}; use another copy of the file") from error
    return loaded


def _read(reader: ArrayReader, name: str, like: TrajectoryReplayBuffer, digest: str | None) -> TrajectoryReplayBuffer:
    """A buffer from an open file, whose arrays have the right shapes; their contents are not looked at."""
    content = reader.content
    loaded = copy.copy(like)  # with what a subclass has besides
    loaded.action_masks = False  # files of release 0.1 and of its time do not say it
    for key, value in content["settings"].items():
        setattr(loaded, key, value)
    loaded.observation_space = space_from_plain(content["observation_space"])
    loaded.action_space = space_from_plain(content["action_space"])
    like.check_same_layout(loaded)
    loaded.observation_space, loaded.action_space = like.observation_space, like.action_space
    loaded.max_rows = loaded.buffer_size // loaded.n_envs
    loaded.reset(content["n_rows"])
    loaded.n_observations = content["n_observations"]
    kept: dict[str, np.ndarray] = {}
    used, n_envs = reader.shape_and_dtype("kinds")[0][0], loaded.n_envs
    if used > loaded.n_rows:
        raise DamagedFileError(f"{name} is damaged: it has {used} rows of {loaded.n_rows}")
    for key in reader.names:
        group, _, part = key.partition("/")
        if key in BY_ROW or (group == "observations" and part in loaded.observations):
            target = loaded.observations[part] if part else getattr(loaded, key)
            reader.expect(key, (used, *target.shape[1:]), target.dtype)
            _fill(target, reader.pieces(key))
        elif key == "priorities":
            reader.expect(key, (used * n_envs,), np.float64)
            _fill(loaded.sum_tree[len(loaded.sum_tree) // 2 :], reader.pieces(key))
        elif key in ("frontiers", "next_rows", "new_slots"):
            reader.expect(key, (n_envs if key != "new_slots" else None,), np.int64)
            setattr(loaded, key, reader.read(key))
        elif group == "kept":
            reader.expect(key, (None,), np.int64)
            kept[part] = reader.read(key)
        elif group == "stacks" and part in loaded.stacks:
            reader.expect(key, (used * n_envs, loaded.n_stack), np.int64)
            _fill(loaded.stacks[part].frames, reader.pieces(key))
        elif group == "frames" and part in loaded.stacks:
            reader.expect(key, (None, *loaded.stacks[part].frame_shape), np.uint8)
            loaded.stacks[part].restore(reader.shape_and_dtype(key)[0][0], reader.pieces(key))
        elif key == EXTRA and type(like) is not TrajectoryReplayBuffer:
            vars(loaded).update(pickle.loads(reader.read(key).tobytes()))
        else:
            raise ValueError(
                f"{name} was saved by {content['class']} with {key}, which {type(like).__name__} does not know; load "
                "it into a model with the same replay_buffer_class"
            )
    loaded._new_slots = [vars(loaded).pop("new_slots")]
    if kept:
        loaded.kept = Kept(content["kept_share"], kept["slots"], kept["ids"])
    if digest is not None and reader.digest != digest:
        raise ValueError(f"{name} is the replay buffer of another checkpoint")
    reader.finish()
    return loaded


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _fill(target: np.ndarray, pieces: Any) -> None:
    place = 0
    for piece in pieces:
        target[place : place + len(piece)] = piece
        place += len(piece)


def _used_rows(buffer: TrajectoryReplayBuffer) -> int:
    return int(np.flatnonzero((buffer.kinds != EMPTY).any(axis=1)).max(initial=-1)) + 1


def _used_frames(stacks: FrameStorage, n_slots: int) -> list[np.ndarray]:
    """The frames up to the last one that a slot refers to, as they lie in blocks; the zero frame is left out."""
    n_frames = int(stacks.frames[:n_slots].max(initial=ZERO_FRAME)) + 1 - stacks.block_frames
    full, rest = divmod(max(n_frames, 0), stacks.block_frames)
    return [*stacks.blocks[1 : full + 1], *([stacks.blocks[full + 1][:rest]] if rest else []), stacks.blocks[0][:0]]


class _BufferUnpickler(pickle.Unpickler):
    """Reads nothing but a replay buffer.

    :param file: to read from
    :param like: whose class may be in the file
    """

    def __init__(self, file: BinaryIO, like: TrajectoryReplayBuffer) -> None:
        super().__init__(file)
        self.own_class = type(like)

    def find_class(self, module: str, name: str) -> Any:
        """Classes and functions by name; see ``pickle.Unpickler``."""
        if (module, name) == (self.own_class.__module__, self.own_class.__qualname__):
            return self.own_class
        if name not in NAMES_IN_PICKLES.get(module, ()):
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which no replay buffer consists of")
        return super().find_class(module, name)


def _unpickled(file: BinaryIO, name: str, like: TrajectoryReplayBuffer) -> TrajectoryReplayBuffer:
    """A buffer as release 0.1 saved it; its contents are not looked at."""
    try:
        loaded = _BufferUnpickler(file, like).load()
    except Exception as error:  # damaged pickles raise whatever they happen to call
        raise DamagedFileError(f"{name} is damaged or no replay buffer: {error}") from error
    if not isinstance(loaded, TrajectoryReplayBuffer):
        raise ValueError(f"{name} holds a {type(loaded).__name__}, not a TrajectoryReplayBuffer of this package")
    loaded.action_masks = vars(loaded).get("action_masks", False)
    missing = OWN_ATTRIBUTES - vars(loaded).keys()
    if missing:
        raise DamagedFileError(f"{name} is damaged: the replay buffer in it has no {', '.join(sorted(missing))}")
    return loaded


def check_buffer(buffer: TrajectoryReplayBuffer) -> None:
    """Refuse a buffer that compiled code would read beyond its arrays, or whose numbers cannot be learnt from.

    What follows from other arrays is made anew.

    :param buffer: whose attributes come from a file
    :raises ValueError: naming what is wrong
    """
    _check_shapes(buffer)
    kinds, used = buffer.kinds, _used_rows(buffer)
    _require(bool(np.isin(kinds, range(TRUNCATED + 1)).all()), "a slot is of no known kind")
    envs = np.flatnonzero(buffer.frontiers != NO_FRONTIER)
    frontiers = buffer.frontiers[envs]
    _require(bool(np.all((frontiers >= 0) & (frontiers < buffer.n_rows))), "a frontier lies outside")
    next_rows = buffer.next_rows
    _require(
        bool(np.all((next_rows >= 0) & (next_rows <= buffer.n_rows) & (next_rows < buffer.max_rows))),
        "a next row lies outside",
    )
    open_ended = kinds == TRANSITION
    open_ended[frontiers, envs] = False  # where a step was interrupted
    _require(not (open_ended & (np.roll(kinds, -1, axis=0) == EMPTY)).any(), "a transition leads nowhere")
    _require(int((kinds == FRONTIER).sum()) <= len(envs), "there are frontiers without a stream")
    ids = buffer.observation_ids
    _require(bool(np.all((ids >= -1) & (ids < buffer.n_observations))), "an observation has an impossible number")
    transitions = kinds == TRANSITION
    _check_numbers(buffer, transitions, used)
    leaves = buffer.sum_tree[len(buffer.sum_tree) // 2 :]
    _require(bool(np.isfinite(leaves).all() and (leaves >= 0).all()), "a priority is negative or not finite")
    without = np.flatnonzero(leaves)
    _require(bool(transitions.reshape(-1)[without[without < kinds.size]].all()), "a priority belongs to no transition")
    _require(not leaves[kinds.size :].any(), "a priority belongs to no slot")
    for new in buffer._new_slots:
        _require(bool(np.all((new >= 0) & (new < kinds.size))), "a new slot lies outside")
    if buffer.kept is not None:
        share, slots, ids = buffer.kept
        inside = bool(np.all((slots >= 0) & (slots < kinds.size)))
        _require(0.0 < share <= 1.0 and slots.shape == ids.shape and inside, "a kept transition lies outside")
    for stacks in buffer.stacks.values():
        stacks.recount()
    _sum_up(buffer.sum_tree)
    buffer.n_transitions = int(transitions.sum())


def _check_shapes(buffer: TrajectoryReplayBuffer) -> None:
    """Refuse arrays of other shapes or dtypes than a new buffer of the same settings would have."""
    for name in ("buffer_size", "n_envs", "n_rows", "max_rows", "n_observations", "n_stack"):
        value = getattr(buffer, name)
        _require(isinstance(value, int) and value >= 0, f"{name} is {value!r}")
    _require(0 < buffer.n_rows <= buffer.max_rows == buffer.buffer_size // buffer.n_envs, "its sizes disagree")
    _require(isinstance(buffer.alpha, int | float) and 0.0 <= buffer.alpha < np.inf, f"alpha is {buffer.alpha!r}")
    layout = (buffer.n_rows, buffer.n_envs)
    fresh = TrajectoryReplayBuffer(
        *(3 * buffer.n_envs, buffer.observation_space, buffer.action_space, buffer.n_envs, buffer.alpha),
        *(buffer.n_stack, buffer.channels_order, buffer.action_masks),
    )
    _require(buffer.observations.keys() == fresh.observations.keys(), "its observations have other keys")
    _require(buffer.stacks.keys() == fresh.stacks.keys(), "its stacks have other keys")
    # An array, one like it, its leading axes, and how many of the other's they replace.
    expected: list[tuple[Any, np.ndarray, tuple[int, ...], int]] = []
    expected += [(getattr(buffer, name), getattr(fresh, name), layout, 2) for name in BY_ROW]
    expected += [(buffer.observations[key], array, layout, 2) for key, array in fresh.observations.items()]
    expected += [(getattr(buffer, name), getattr(fresh, name), (), 0) for name in ("frontiers", "next_rows")]
    expected.append((buffer.sum_tree, fresh.sum_tree, new_sum_tree(layout[0] * layout[1]).shape, 1))
    expected += [(new, np.empty(1, np.int64), (len(new),), 1) for new in buffer._new_slots]
    for key, theirs in fresh.stacks.items():
        ours = buffer.stacks[key]
        names = ("shape", "n_stack", "frame_shape", "block_frames")
        _require(all(getattr(ours, name) == getattr(theirs, name) for name in names), "its stacks have other shapes")
        expected.append((ours.frames, theirs.frames, (layout[0] * layout[1],), 1))
        expected += [
            (block, theirs.blocks[0], (ours.block_frames if i else 1,), 1) for i, block in enumerate(ours.blocks)
        ]
    for found, like, leading, n_axes in expected:
        shape = (*leading, *like.shape[n_axes:])
        fits = isinstance(found, np.ndarray) and found.shape == shape and found.dtype == like.dtype
        _require(fits and found.flags.c_contiguous and found.flags.writeable, f"an array is not of the shape {shape}")


def _check_numbers(buffer: TrajectoryReplayBuffer, transitions: np.ndarray, used: int) -> None:
    """Refuse rewards, actions and observations that are not finite, or not of their space."""
    kind = action_kind_of(buffer.action_space)
    _require(kind.are_valid(buffer.actions[transitions]), "an action is not of its space")
    _require(bool(np.isfinite(buffer.rewards[transitions]).all()), "a reward is not finite")
    for key, space in named_spaces(buffer.observation_space).items():
        if key in buffer.stacks:
            continue
        for row in range(0, used, 1024):
            rows = slice(row, min(row + 1024, used))
            found = buffer.observations[key][rows][buffer.kinds[rows] != EMPTY]
            if isinstance(space, spaces.Box):
                fits = found.dtype.kind != "f" or np.isfinite(found).all()
            elif isinstance(space, spaces.MultiBinary):
                fits = (found <= 1).all()
            else:
                last = space.start + (space.n if isinstance(space, spaces.Discrete) else space.nvec)  # type: ignore
                fits = ((found >= space.start) & (found < last)).all()  # type: ignore[attr-defined]
            _require(bool(fits), f"an observation {key!r} is not finite or not of its space")

    if buffer.action_masks:
        _require(bool(kind.have_legal(_masks(buffer, transitions)).all()), "a state has no legal action")


def _masks(buffer: TrajectoryReplayBuffer, where: np.ndarray) -> np.ndarray:
    return unpack(buffer.observations[MASKS][where], action_kind_of(buffer.action_space))


def _sum_up(tree: np.ndarray) -> None:
    """Make the inner nodes of a tree of sums anew, each as the sum of its children."""
    first = len(tree) // 2
    while first > 1:
        children = tree[first : 2 * first].reshape(-1, 2)
        first //= 2
        tree[first : 2 * first] = children[:, 0] + children[:, 1]
    tree[0] = 0.0


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
