"""Replay buffers come back as they were, and damaged files never reach compiled code."""

from __future__ import annotations

import io
import pickle
import random

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ezv2 import TrajectoryReplayBuffer
from sb3_ezv2.replay.saving import check_buffer, load_buffer, save_buffer

DISCRETE, CONTINUOUS = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
IMAGE = spaces.Box(0, 255, (2, 8, 8), np.uint8)
DICT = spaces.Dict(
    {
        "image": IMAGE,
        "vector": spaces.Box(-1, 1, (3,)),
        "kind": spaces.Discrete(4, start=1),
        "bits": spaces.MultiBinary(2),
    }
)
KINDS = {
    "vectors": {"observation_space": spaces.Box(-1, 1, (3,)), "action_space": CONTINUOUS},
    "images": {"observation_space": IMAGE, "action_space": DISCRETE},
    "frames": {"observation_space": IMAGE, "action_space": DISCRETE, "n_stack": 2},
    "dict": {"observation_space": DICT, "action_space": DISCRETE, "n_stack": 2, "alpha": 0.3},
}


def stacked(frames):
    return np.stack(frames).reshape(2, 8, 8)


def filled(kind: str, steps: int = 60, buffer_size: int = 100, n_envs: int = 2) -> TrajectoryReplayBuffer:
    """A buffer whose ring has turned, with priorities and new slots."""
    settings = KINDS[kind]
    buffer = TrajectoryReplayBuffer(buffer_size, n_envs=n_envs, **settings)
    rng = np.random.default_rng(0)
    space = settings["observation_space"]
    frames = [rng.integers(0, 255, (8, 8)).astype(np.uint8)] * 2

    def observe():
        frames.append(rng.integers(0, 255, (8, 8)).astype(np.uint8))
        image = stacked(frames[-2:])
        parts = {"image": image, "vector": rng.random(3), "kind": rng.integers(1, 5), "bits": rng.integers(0, 2, 2)}
        found = parts if isinstance(space, spaces.Dict) else {"": image if space.dtype == np.uint8 else rng.random(3)}
        many = {key: np.stack([np.asarray(part)] * n_envs) for key, part in found.items()}
        return many if isinstance(space, spaces.Dict) else many[""]

    before = observe()
    for step in range(steps):
        after = observe()
        dones = np.full(n_envs, step % 7 == 6)
        first = {key: part[0] for key, part in after.items()} if isinstance(after, dict) else after[0]
        infos = [{"terminal_observation": first, "TimeLimit.truncated": step % 2 == 0}] * n_envs
        discrete = isinstance(settings["action_space"], spaces.Discrete)
        actions = rng.integers(0, 3, n_envs) if discrete else rng.uniform(-1, 1, (n_envs, 2)).astype(np.float32)
        slots = buffer.add(before, after, actions, rng.random(n_envs), dones, infos)
        if step < steps - 3:
            buffer.take_new_slots()
            buffer.update_priorities(slots, rng.random(n_envs))
        before = after
    return buffer


def empty(kind: str, n_envs: int = 2, **kwargs) -> TrajectoryReplayBuffer:
    return TrajectoryReplayBuffer(1000, n_envs=n_envs, **{**KINDS[kind], **kwargs})


def saved(buffer: TrajectoryReplayBuffer) -> bytes:
    file = io.BytesIO()
    save_buffer(buffer, file)
    return file.getvalue()


def loaded(data: bytes, like: TrajectoryReplayBuffer, **kwargs) -> TrajectoryReplayBuffer:
    return load_buffer(io.BytesIO(data), "the.pkl", like, **kwargs)


def assert_alike(ours: TrajectoryReplayBuffer, theirs: TrajectoryReplayBuffer) -> None:
    """Same arrays where something is stored, and the same samples."""
    for name in ("kinds", "observation_ids", "frontiers", "next_rows", "sum_tree"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    for name in ("n_rows", "n_observations", "n_transitions", "buffer_size", "alpha", "n_stack", "max_rows"):
        assert getattr(ours, name) == getattr(theirs, name), name
    used = ours.kinds != 0
    np.testing.assert_array_equal(ours.actions[used], theirs.actions[used])
    np.testing.assert_array_equal(ours.rewards[used], theirs.rewards[used])
    slots = np.flatnonzero(used)
    for key, part in ours.observations_at(slots).items():
        np.testing.assert_array_equal(part, theirs.observations_at(slots)[key])
    one, other = (buffer.sample(8, 3, 2, 0.4, np.random.default_rng(1)) for buffer in (ours, theirs))
    for a, b in zip(one, other, strict=True):
        for key in a if isinstance(a, dict) else [None]:
            np.testing.assert_array_equal(a if key is None else a[key], b if key is None else b[key])
    np.testing.assert_array_equal(ours.take_new_slots(), theirs.take_new_slots())


@pytest.mark.parametrize("steps", [3, 20, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_comes_back(kind, steps):
    buffer = filled(kind, steps)
    if steps > 10:
        assert_alike(loaded(saved(buffer), empty(kind)), buffer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_that_came_back_goes_on_alike(kind):
    """Frames may get other numbers, but the stacks are the same."""
    buffer = filled(kind)
    again = loaded(saved(buffer), empty(kind))
    other = filled(kind, steps=60)
    for some in (again, other):
        some.close_streams()
        observation = {key: part[:1].repeat(2, 0) for key, part in buffer.observations_at(np.array([4, 5])).items()}
        whole = observation if len(observation) > 1 else observation["observation"]
        dones = np.ones(2, bool)
        first = {key: part[0] for key, part in observation.items()} if len(observation) > 1 else whole[0]
        infos = [{"terminal_observation": first}] * 2
        if some.n_stack == 1:
            some.add(whole, whole, some.actions[0], np.ones(2), dones, infos)
    assert_alike(again, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_buffer_is_read_and_checked(kind):
    buffer = filled(kind)
    assert_alike(loaded(pickle.dumps(buffer, 5), empty(kind)), buffer)
    buffer.frontiers[0] = 10**6
    with pytest.raises(ValueError, match=r"the.pkl is damaged: a frontier lies outside"):
        loaded(pickle.dumps(buffer, 5), empty(kind))


def test_only_rows_in_use_are_written():
    small, large = filled("vectors", 20, 100), filled("vectors", 20, 100_000)
    assert large.n_rows > 10 * small.n_rows
    assert len(saved(large)) < 1.2 * len(saved(small))


def test_a_larger_ring_grows_on_after_loading():
    buffer = filled("frames", 20, 100_000)
    again = loaded(saved(buffer), empty("frames"))
    assert again.n_rows == buffer.n_rows and again.max_rows == buffer.max_rows
    assert_alike(again, buffer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["flip", "cut", "zero", "append"])
def test_every_damage_is_noticed(kind, change):
    data, rng = saved(filled(kind)), random.Random(0)
    for _ in range(60):
        damaged, place = bytearray(data), rng.randrange(len(data))
        if change == "flip":
            damaged[place] ^= 1 << rng.randrange(8)
        elif change == "cut":
            del damaged[place:]
        elif change == "zero":
            damaged[place : place + 64] = bytes(64)
        else:
            damaged += b"\0"
        if damaged == data:
            continue
        with pytest.raises(ValueError, match=r"the\.pkl"):
            loaded(bytes(damaged), empty(kind))


def test_damaged_pickles_end_in_an_error_or_in_a_sound_buffer():
    data, rng = pickle.dumps(filled("frames"), 5), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            found = loaded(bytes(damaged), empty("frames"))
        except ValueError:
            continue
        check_buffer(found)
        if len(found) >= 4:
            found.sample(4, 3, 2, 0.4, np.random.default_rng(0))


class Command:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("thing", [Command(), {"a": 1}, np.zeros(3)])
def test_pickles_of_something_else_are_refused_and_not_executed(thing, capsys):
    with pytest.raises(ValueError, match=r"the\.pkl"):
        loaded(pickle.dumps(thing), empty("vectors"))
    assert "executed" not in capsys.readouterr().out


CRAFTED = {
    "a kind": lambda b: b.kinds.fill(9),
    "a frontier": lambda b: b.frontiers.fill(b.n_rows),
    "a next row": lambda b: b.next_rows.fill(-5),
    "an action": lambda b: b.actions.fill(77),
    "a reward": lambda b: b.rewards.fill(np.nan),
    "a priority": lambda b: b.sum_tree.fill(-1.0),
    "a new slot": lambda b: b._new_slots.append(np.array([10**9])),
    "a frame": lambda b: b.stacks["image"].frames.fill(10**9),
    "an early frame": lambda b: b.stacks["image"].frames.fill(1),
    "an observation": lambda b: b.observations["kind"].fill(40),
    "a number": lambda b: b.observation_ids.fill(10**9),
    "a shape": lambda b: setattr(b, "rewards", b.rewards[:-1]),
    "a dtype": lambda b: setattr(b, "kinds", b.kinds.astype(np.int64)),
    "rows": lambda b: setattr(b, "n_rows", b.n_rows + 1),
    "a block": lambda b: b.stacks["image"].blocks.__setitem__(1, b.stacks["image"].blocks[1][:1]),
    "a tree": lambda b: setattr(b, "sum_tree", b.sum_tree[:64]),
}


@pytest.mark.parametrize("what", CRAFTED)
def test_crafted_contents_are_refused(what):
    buffer = filled("dict")
    CRAFTED[what](buffer)
    with pytest.raises(ValueError, match=r"the\.pkl is damaged"):
        loaded(pickle.dumps(buffer, 5), empty("dict"))


@pytest.mark.parametrize(
    "kwargs, difference",
    [({"n_envs": 1}, "n_envs=2"), ({"action_space": spaces.Discrete(4)}, r"action_space=Discrete\(3\)")],
)
def test_another_layout_is_refused(kwargs, difference):
    data, like = saved(filled("images")), empty("images", **kwargs)
    with pytest.raises(ValueError, match=difference):
        loaded(data, like)
    assert len(like) == 0


class Subclass(TrajectoryReplayBuffer):
    """Has an attribute of its own."""

    mine = None


def test_a_subclass_keeps_its_attributes_and_another_class_does_not_drop_them():
    buffer = Subclass(100, **KINDS["vectors"])
    buffer.mine = np.arange(3)
    data = saved(buffer)
    assert loaded(data, Subclass(100, **KINDS["vectors"])).mine.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="test_saving.Subclass with pickled attributes"):
        loaded(data, empty("vectors", n_envs=1))


def test_the_digest_tells_files_apart():
    first, second = filled("vectors", 20), filled("vectors", 21)
    digest = save_buffer(first, io.BytesIO())
    assert_alike(loaded(saved(first), empty("vectors"), digest=digest), first)
    with pytest.raises(ValueError, match=r"the\.pkl is the replay buffer of another checkpoint"):
        loaded(saved(second), empty("vectors"), digest=digest)
