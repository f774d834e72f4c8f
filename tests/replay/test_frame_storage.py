"""Stacks rebuilt from single frames against lists of what the policy saw, bit for bit; memory; what is refused."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numba as nb
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from sb3_ezv2 import EfficientZeroV2, TrajectoryReplayBuffer, frame_storage
from sb3_ezv2.replay.frame_storage import ZERO_FRAME, FrameStorage, frames_stacked_by, stack_axis
from sb3_ezv2.replay.slots import EMPTY, TRANSITION
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import tiny_model

ACTION_SPACE = spaces.Discrete(2)


def image_space(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


class Film(gym.Env):
    """Frames of random bytes, some all zero and some equal to the one before; ends when told.

    :param shape: of a frame
    :param seed: of the frames
    :param named: whether an observation is a dictionary of a frame and a vector
    """

    action_space = ACTION_SPACE

    def __init__(self, shape: tuple[int, ...], seed: int, named: bool = False) -> None:
        self.rng, self.named, self.end = np.random.default_rng(seed), named, "step"
        self.frame = np.zeros(shape, np.uint8)
        image = image_space(*shape)
        self.observation_space = spaces.Dict({"image": image, "vector": spaces.Box(0, 1, (2,))}) if named else image

    def _next(self) -> Any:
        choice = self.rng.random()
        if choice < 0.1:
            self.frame = np.zeros_like(self.frame)
        elif choice > 0.2:
            self.frame = self.rng.integers(0, 256, self.frame.shape, np.uint8)
        return {"image": self.frame, "vector": self.rng.random(2, np.float32)} if self.named else self.frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self._next(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._next(), 0.0, self.end == "terminated", self.end == "truncated", {}


def vec_stack(order: str, shape: tuple[int, ...], named: bool = False) -> Callable[[int, int], tuple[VecEnv, Any]]:
    """SB3's wrapper, which pads with zeros."""

    def make(n_envs: int, n_stack: int) -> tuple[VecEnv, list[Film]]:
        films = [Film(shape, seed, named) for seed in range(n_envs)]
        return VecFrameStack(DummyVecEnv([lambda film=film: film for film in films]), n_stack, order), films

    return make


def gym_stack(padding: Any, shape: tuple[int, ...]) -> Callable[[int, int], tuple[VecEnv, Any]]:
    """Gymnasium's wrapper, which pads with what it is told to."""

    def make(n_envs: int, n_stack: int) -> tuple[VecEnv, list[Film]]:
        films = [Film(shape, seed) for seed in range(n_envs)]

        def wrapped(film: Film) -> gym.Env:
            return FrameStackObservation(film, n_stack, padding_type=padding)

        return DummyVecEnv([lambda film=film: wrapped(film) for film in films]), films

    return make


STACKS = {
    "sb3, channels first": (vec_stack("first", (3, 5, 6)), "first"),
    "sb3, channels last": (vec_stack("last", (5, 6, 3)), "last"),
    "sb3, one channel": (vec_stack("last", (6, 5, 1)), "last"),
    "sb3, dictionary": (vec_stack("first", (2, 4, 7), named=True), "first"),
    "gymnasium, first frame repeated": (gym_stack("reset", (6, 7)), "first"),
    "gymnasium, zeros": (gym_stack("zero", (6, 7)), "first"),
    "gymnasium, colours": (gym_stack("reset", (6, 7, 3)), None),
    "gymnasium, constant": (gym_stack(np.full((6, 7), 9, np.uint8), (6, 7)), "first"),
}


class Recording:
    """Steps environments, writes to a buffer, and keeps lists of what a policy would have seen, by environment."""

    def __init__(self, kind: str, n_envs: int, n_stack: int, rows: int, wrong: dict[str, Any] | None = None) -> None:
        make, order = STACKS[kind]
        self.env, self.films = make(n_envs, n_stack)
        self.buffer = TrajectoryReplayBuffer(
            rows * n_envs,
            self.env.observation_space,
            ACTION_SPACE,
            n_envs,
            **{"n_stack": n_stack, "channels_order": order, **(wrong or {})},
        )
        self.rows = rows
        self.seen: list[list[tuple[dict[str, np.ndarray], str]]] = [[] for _ in range(n_envs)]
        self.last: Any = self.env.reset()
        self.open = False

    def parts(self, observations: Any, env: int | None = None) -> dict[str, np.ndarray]:
        """Copies by key, of one environment if there are several."""
        named = observations if isinstance(observations, dict) else {"observation": observations}
        return {key: np.array(part if env is None else part[env]) for key, part in named.items()}

    def step(self, ends: list[str]) -> None:
        """One step of every environment, which ends as told."""
        for film, end in zip(self.films, ends, strict=True):
            film.end = end
        n = len(self.films)
        before = [self.parts(self.last, env) for env in range(n)]
        after, rewards, dones, infos = self.env.step(np.zeros(n, np.int64))
        for env, (history, end) in enumerate(zip(self.seen, ends, strict=True)):
            if self.open:
                history.pop()
            history.append((before[env], "step"))
            if end != "step":
                history.append((self.parts(infos[env]["terminal_observation"]), end))
            history.append((self.parts(after, env), "open"))
        self.buffer.add(self.last, after, np.zeros(n, np.int64), rewards, dones, infos)
        self.last, self.open = after, True

    def close(self, reset: bool) -> None:
        """End all streams; without ``reset`` the next ones begin within an episode."""
        self.buffer.close_streams()
        if self.open:
            for history in self.seen:
                history[-1] = (history[-1][0], "truncated")
        if reset:
            self.last = self.env.reset()
        self.open = False

    def check(self) -> None:
        """Everything that still fits comes back, and so does every sampled window."""
        buffer, n_envs = self.buffer, len(self.films)
        at_slot = {}
        for env, history in enumerate(self.seen):
            for i in range(max(len(history) - self.rows, 0), len(history)):
                at_slot[(i % self.rows) * n_envs + env] = (history, i)
        slots = np.array(sorted(at_slot), np.int64)
        assert set(np.flatnonzero(buffer.kinds.reshape(-1) != EMPTY)) == set(at_slot)
        found = buffer.observations_at(slots)
        for row, slot in enumerate(slots):
            history, i = at_slot[int(slot)]
            for key, part in history[i][0].items():
                np.testing.assert_array_equal(found[key][row], part)
                assert found[key].dtype == part.dtype
        steps = {slot for slot, (history, i) in at_slot.items() if history[i][1] == "step"}
        assert len(buffer) == len(steps)
        if steps:
            self.check_windows(steps, at_slot)
        for storage in buffer.stacks.values():
            check_users(storage)

    def check_windows(self, steps: set[int], at_slot: dict[int, tuple[Any, int]]) -> None:
        """Samples of three steps and more, which stop at the end of an episode or a stream."""
        self.buffer.update_priorities(np.arange(self.buffer.n_slots), np.ones(self.buffer.n_slots))
        batch = self.buffer.sample(len(steps), 3, 2, 0.0, np.random.default_rng(0))
        assert set(batch.slots[:, 0].tolist()) == steps
        for row, slot in enumerate(batch.slots[:, 0].tolist()):
            history, i = at_slot[slot]
            for k in range(4):
                for key, part in history[i][0].items():
                    np.testing.assert_array_equal(batch.observations[key][row, k], part)
                i += history[i][1] == "step"


def check_users(storage: FrameStorage) -> None:
    """Frames are counted as often as slots refer to them, and the others are free."""
    n = len(storage.users)
    counted = np.bincount(storage.frames[storage.frames != ZERO_FRAME], minlength=n)
    np.testing.assert_array_equal(storage.users[ZERO_FRAME + 1 :], counted[ZERO_FRAME + 1 :])
    assert len(set(storage.free)) == len(storage.free)
    assert set(storage.free) == set(range(storage.block_frames, n)) - set(np.flatnonzero(counted).tolist())
    assert not storage.blocks[0].any()


ends = st.sampled_from(["step"] * 5 + ["terminated", "truncated"])


@given(
    data=st.data(),
    kind=st.sampled_from(sorted(STACKS)),
    n_envs=st.integers(1, 3),
    n_stack=st.integers(2, 5),
    rows=st.integers(3, 25),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_streams_equal_what_the_policy_saw(data, kind, n_envs, n_stack, rows):
    recording = Recording(kind, n_envs, n_stack, rows)
    for _ in range(data.draw(st.integers(1, 4))):
        for _ in range(data.draw(st.integers(0, 20))):
            recording.step(data.draw(st.lists(ends, min_size=n_envs, max_size=n_envs)))
        recording.check()
        if data.draw(st.booleans()):
            recording.close(reset=data.draw(st.booleans()))
            recording.check()
        if data.draw(st.booleans()):
            recording.buffer = pickle.loads(pickle.dumps(recording.buffer, protocol=pickle.HIGHEST_PROTOCOL))
            recording.check()


@pytest.mark.parametrize("kind", ["sb3, channels first", "gymnasium, colours"])
def test_growing_and_wrapping_a_long_stream(kind, monkeypatch):
    """Across every enlargement of the memory, with pools of many blocks, and then round the ring."""
    monkeypatch.setattr(frame_storage, "BLOCK_BYTES", 4000)
    recording, rng = Recording(kind, 2, 4, 2100), np.random.default_rng(0)
    kinds = rng.choice(["step", "terminated", "truncated"], p=[0.9, 0.05, 0.05], size=(2600, 2)).tolist()
    for t, ends_now in enumerate(kinds, start=1):
        recording.step(ends_now)
        if t in (1000, 1950, 2600):
            recording.check()
    (storage,) = recording.buffer.stacks.values()
    assert len(storage.blocks) > 50
    assert all(block.nbytes <= 4000 for block in storage.blocks)


@pytest.mark.parametrize("kind", sorted(STACKS))
def test_paddings_take_no_room(kind):
    """Of many short episodes, each new frame is stored once; only an unusual padding is stored too."""
    recording = Recording(kind, 1, 4, 400)
    for t in range(200):
        recording.step(["terminated" if t % 3 == 2 else "step"])
    recording.check()
    key = "image" if "image" in recording.buffer.stacks else "observation"
    storage = recording.buffer.stacks[key]
    n_observations, n_episodes = len(recording.seen[0]), 67
    assert n_observations == 200 + n_episodes
    extra = n_episodes if kind == "gymnasium, constant" else 0
    assert 0.6 * n_observations < int((storage.users[1:] > 0).sum()) <= n_observations + extra


def test_an_interrupted_write_takes_no_frame_from_another_slot(monkeypatch):
    rng = np.random.default_rng(0)
    storage = FrameStorage(image_space(4, 5, 6), 4, 0, 6)
    images = rng.integers(1, 256, (40, 4, 5, 6), np.uint8)
    held = {}
    for i, image in enumerate(images):
        slot = i % 6
        if i % 3 == 2:
            with monkeypatch.context() as patch:
                patch.setattr(storage, "free", Interrupting(storage.free, after=int(rng.integers(0, 4))))
                with pytest.raises(KeyboardInterrupt):
                    storage.write(slot, image, None)
        else:
            storage.write(slot, image, None)
            held[slot] = image
        for other, expected in held.items():
            np.testing.assert_array_equal(storage.read(np.array(other)), expected)


class Interrupting(list):
    """A list that is interrupted after some calls of ``pop``."""

    def __init__(self, items: list[int], after: int) -> None:
        super().__init__(items)
        self.after = after

    def pop(self, *args: Any) -> int:
        self.after -= 1
        if self.after < 0:
            raise KeyboardInterrupt
        return super().pop(*args)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space, kwargs, message",
    [
        (image_space(10, 32, 32), {"n_stack": 4}, r"n_stack=4 does not divide the length 10 of axis 0.*n_stack=1"),
        (image_space(32, 36, 6), {"n_stack": 4}, r"n_stack=4 does not divide the length 6 of axis 2.*channels_order"),
        (image_space(3, 32, 36, 3), {"n_stack": 2}, r"n_stack=2 does not divide the length 3 of axis 0"),
        (spaces.Dict({"view": image_space(3, 32, 32)}), {"n_stack": 2}, r"n_stack=2 .* observation 'view'"),
        (spaces.Discrete(4), {"n_stack": 4}, r"n_stack=4, but the observation space Discrete.*leave n_stack=1"),
        (spaces.Box(0, 1, (4, 32, 32)), {"n_stack": 4}, r"n_stack=4, but .*uint8"),
        (image_space(4, 32, 32), {"n_stack": 0}, r"n_stack=0 must be an integer of at least 1"),
        (image_space(4, 32, 32), {"n_stack": 2.0}, r"n_stack=2.0 must be an integer"),
        (
            image_space(4, 32, 32),
            {"n_stack": 4, "channels_order": "middle"},
            r"channels_order='middle' must be 'first'",
        ),
    ],
)
def test_a_stack_that_cannot_be(space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryReplayBuffer(100, space, ACTION_SPACE, **kwargs)


@pytest.mark.parametrize(
    "kind, wrong",
    [
        ("sb3, channels first", {"n_stack": 2}),
        ("sb3, channels first", {"n_stack": 12}),
        ("sb3, channels first", {"n_stack": 3, "channels_order": "last"}),
        ("sb3, channels last", {"n_stack": 5, "channels_order": "first"}),
        ("gymnasium, zeros", {"n_stack": 2}),
    ],
)
def test_frames_stacked_otherwise(kind, wrong):
    recording = Recording(kind, 2, 4, 20, wrong)
    order = wrong.get("channels_order", STACKS[kind][1])
    with pytest.raises(
        ValueError, match=rf"n_stack={wrong['n_stack']} and channels_order='{order}' do not fit.*'n_stack': 1"
    ):
        for _ in range(3):  # zeros at the beginning may look like anything
            recording.step(["step", "step"])


@pytest.mark.parametrize("end", ["step", "terminated"])
def test_a_stack_that_does_not_follow_leaves_nothing_behind(end):
    """The second environment returns something else than its stack, one frame later."""
    recording = Recording("sb3, channels first", 2, 4, 20)
    for _ in range(5):
        recording.step(["step", "step"])
    other = recording.last.copy()
    if end == "step":
        other[1] = 1
    infos = [{}, {"terminal_observation": np.ones_like(other[1])} if end == "terminated" else {}]
    after = np.concatenate([other[:, 3:], np.ones_like(other[:, :3])], axis=1)
    if end == "step":
        after[1, 0] ^= 1
    with pytest.raises(ValueError, match=r"observation 'observation' of environment 1.*nothing of the step was stored"):
        recording.buffer.add(
            recording.last, after, np.zeros(2, np.int64), np.zeros(2), np.array([False, end == "terminated"]), infos
        )
    recording.check()
    recording.step(["step", "terminated"])
    recording.check()


# -- the axis, and VecFrameStack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, order, axis",
    [
        ((4, 84, 84), None, 0),
        ((12, 96, 64), None, 0),
        ((84, 84, 4), None, 2),
        ((4, 96, 96, 3), None, 0),
        ((96, 96, 3, 4), "last", 3),
        ((12, 8, 8), "first", 0),
        ((8, 8, 12), "last", 2),
    ],
)
def test_axis_of_the_frames(shape, order, axis):
    assert stack_axis(image_space(*shape), order) == axis


class Inverted(VecEnvWrapper):
    """Changes the images after they were stacked."""

    def reset(self) -> Any:
        return 255 - self.venv.reset()

    def step_wait(self) -> Any:
        observations, *others = self.venv.step_wait()
        return (255 - observations, *others)


def films(shape: tuple[int, ...], named: bool = False) -> VecEnv:
    return DummyVecEnv([lambda: Film(shape, 0, named)])


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: films((32, 36, 3)), 1),
        (lambda: VecFrameStack(films((32, 36, 3)), 4), 4),
        (lambda: VecFrameStack(films((3, 32, 36)), 4), 4),
        (lambda: VecTransposeImage(VecFrameStack(films((32, 36, 3)), 2)), 2),
        (lambda: VecTransposeImage(VecMonitor(VecFrameStack(films((32, 36, 1)), 3))), 3),
        (lambda: VecFrameStack(VecTransposeImage(films((32, 36, 3))), 3), 3),
        (lambda: VecFrameStack(films((3, 32, 36), named=True), 4), 4),
        (lambda: VecNormalize(VecFrameStack(films((32, 36, 3)), 4), norm_obs=False), 4),
        (lambda: VecNormalize(VecFrameStack(films((32, 36, 3)), 4)), 1),  # images of floats then
        (lambda: VecFrameStack(DummyVecEnv([RandomEnv]), 4), 4),  # vectors
        (lambda: VecNormalize(VecFrameStack(DummyVecEnv([RandomEnv]), 4)), 1),  # whose ends come back rounded
        (lambda: Inverted(VecFrameStack(films((32, 36, 3)), 4)), 1),
        (lambda: VecFrameStack(films((8, 8, 2)), 4), 1),  # which of the three axes has the channels?
        (lambda: VecFrameStack(films((32, 36, 3)), 4, "first"), 1),  # images one above the other
        (lambda: VecFrameStack(films((3, 36, 32)), 4, "last"), 1),
        (lambda: VecFrameStack(films((5, 6, 7, 3)), 2), 1),
    ],
)
def test_frames_of_a_vec_frame_stack_are_noticed(make, expected):
    assert frames_stacked_by(make()) == expected


def stacked_model(env: VecEnv | None = None, **kwargs: Any) -> EfficientZeroV2:
    """A model of a small film in stacks of four; the images are channels first in the end."""
    if env is None:
        env = VecFrameStack(DummyVecEnv([lambda i=i: LimitedFilm(i) for i in range(2)]), 4)
    return tiny_model(env, **kwargs)


class LimitedFilm(Film):
    """Episodes of seven steps, every second of them truncated."""

    def __init__(self, seed: int) -> None:
        super().__init__((9, 8, 1), seed)
        self.steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.end = "step" if self.steps % 7 else ("terminated", "truncated")[self.steps // 7 % 2]
        return super().step(action)


def test_learning_replays_what_the_policy_saw(monkeypatch):
    model = stacked_model(learning_starts=0)
    assert model.replay_buffer.n_stack == 4 and set(model.replay_buffer.stacks) == {"observation"}
    seen, search = [], model.policy.search

    def watched(observations: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(observations.numpy().copy())
        return search(observations, *args, **kwargs)

    monkeypatch.setattr(model.policy, "search", watched)
    model.learn(120)
    assert model._n_updates > 0 and seen[0].dtype == np.uint8 and seen[0].shape == (2, 4, 9, 8)
    buffer = model.replay_buffer
    transitions = np.flatnonzero(buffer.kinds == TRANSITION)
    stored = buffer.observations_at(transitions)["observation"]
    for env in range(2):
        ours = stored[transitions % 2 == env]
        np.testing.assert_array_equal(ours, [observations[env] for observations in seen])


def test_n_stack_of_the_user_comes_first():
    model = stacked_model(replay_buffer_kwargs={"n_stack": 1})
    assert model.replay_buffer.n_stack == 1 and not model.replay_buffer.stacks
    assert stacked_model(replay_buffer_kwargs={"n_stack": 2}).replay_buffer.n_stack == 2
    assert stacked_model(replay_buffer_kwargs={"alpha": 0.3}).replay_buffer.n_stack == 4


def test_a_buffer_class_of_the_user_gets_only_what_the_user_gives():
    class OldBuffer(TrajectoryReplayBuffer):
        def __init__(self, buffer_size, observation_space, action_space, n_envs):
            super().__init__(buffer_size, observation_space, action_space, n_envs)

    assert stacked_model(replay_buffer_class=OldBuffer).replay_buffer.n_stack == 1


def test_a_model_loaded_without_environments_remembers(tmp_path):
    model = stacked_model().learn(50)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = EfficientZeroV2.load(tmp_path / "model")
    assert loaded.replay_buffer.n_stack == 4
    loaded.set_env(stacked_model().env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    transitions = np.flatnonzero(model.replay_buffer.kinds == TRANSITION)
    np.testing.assert_array_equal(
        loaded.replay_buffer.observations_at(transitions)["observation"],
        model.replay_buffer.observations_at(transitions)["observation"],
    )
    loaded.learn(20, reset_num_timesteps=False)
    assert len(loaded.replay_buffer) == 70


# -- memory ------------------------------------------------------------------------------------------------------------


def peak_of(work: Callable[[], Any]) -> tuple[Any, int, int]:
    """What ``work`` returns, and the bytes that it held at most and in the end."""
    tracemalloc.start()
    try:
        result = work()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return result, peak, held


def test_a_large_buffer_costs_nothing_until_it_is_used():
    make = lambda: TrajectoryReplayBuffer(1_000_000, image_space(12, 96, 96), ACTION_SPACE, n_stack=4)  # noqa: E731
    buffer, peak, _ = peak_of(make)
    assert peak < 2_000_000
    np.testing.assert_array_equal(buffer.observations_at(np.arange(3))["observation"], 0)


def filled(n: int) -> TrajectoryReplayBuffer:
    """``n`` transitions of 32 x 32 RGB in stacks of four, an episode every 100."""
    buffer = TrajectoryReplayBuffer(1_000_000, image_space(12, 32, 32), ACTION_SPACE, n_stack=4)
    rng, stack = np.random.default_rng(0), np.zeros((1, 12, 32, 32), np.uint8)
    for t in range(n):
        frame = rng.integers(1, 256, (1, 3, 32, 32), np.uint8)
        following = np.concatenate([stack[:, 3:], frame], axis=1)
        done, infos = t % 100 == 99, [{"terminal_observation": following[0]}]
        after = np.concatenate([np.zeros_like(stack[:, 3:]), frame], axis=1) if done else following
        buffer.add(stack, after, np.zeros(1, np.int64), np.zeros(1), np.array([done]), infos)
        stack = after
    buffer.take_new_slots()
    return buffer


@pytest.mark.skipif(
    bool(nb.config.DISABLE_JIT), reason="copies 60 million bytes one by one, which is for compiled code"
)
def test_memory_is_that_of_single_frames_while_filling_saving_and_loading(monkeypatch, tmp_path):
    block, n = 2**18, 5000
    monkeypatch.setattr(frame_storage, "BLOCK_BYTES", block)
    filled(2)  # whatever is done once
    frames = (n + n // 100) * 3 * 32 * 32
    buffer, peak, _ = peak_of(lambda: filled(n))
    overhead = 2_000_000  # all but the images, for 8192 slots, and twice that for a moment when their number doubles
    assert buffer.stacks["observation"].nbytes > 0.99 * frames  # the comparison is not empty
    assert peak < frames + block + overhead
    path = tmp_path / "buffer.pkl"
    _, peak, _ = peak_of(lambda: save_to_pkl(path, buffer))
    assert peak < 3 * block + overhead
    assert path.stat().st_size < frames + block + overhead
    loaded, peak, _ = peak_of(lambda: load_from_pkl(path))
    assert peak < frames + 3 * block + overhead
    slots = np.arange(0, n, 7)
    np.testing.assert_array_equal(
        loaded.observations_at(slots)["observation"], buffer.observations_at(slots)["observation"]
    )


def test_many_more_frames_than_slots_do_not_leak():
    recording = Recording("sb3, channels first", 1, 4, 10)
    for t in range(500):
        recording.step(["terminated" if t % 9 == 8 else "step"])
    (storage,) = recording.buffer.stacks.values()
    assert int((storage.users[1:] > 0).sum()) <= 10 + 3
    check_users(storage)
