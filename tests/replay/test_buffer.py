"""The replay buffer against a model of plain Python lists, and its promises about sampling and memory."""

from __future__ import annotations

import pickle
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_ezv2 import TrajectoryReplayBuffer
from sb3_ezv2.replay.slots import TRANSITION
from tests.helpers.envs import provenance_reward

PLACE = spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTIONS = {"discrete": spaces.Discrete(1_000_000), "box": spaces.Box(-1.0, 1.0, (2,))}


def action_of(place: tuple[int, int, int], discrete: bool) -> Any:
    """The action taken at a place ``(environment, episode, step)``; names that place."""
    env_id, episode, step = place
    number = 10_000 * env_id + 50 * episode + step
    return number if discrete else np.array([number / 2.0**20, -number / 2.0**20], np.float32)


class Streams:
    """Environments that write their places to a buffer and, for comparison, to plain lists.

    ``written[env]`` is the history of that environment's observations: ``(place, kind)`` with the kind ``"step"``
    (something was done there), ``"terminated"``, ``"truncated"`` or ``"open"``.
    """

    def __init__(self, buffer: TrajectoryReplayBuffer, discrete: bool = True) -> None:
        self.buffer, self.discrete, self.n_envs = buffer, discrete, buffer.n_envs
        self.places = [(env, 0, 0) for env in range(self.n_envs)]
        self.written: list[list[tuple[tuple[int, int, int], str]]] = [[] for _ in range(self.n_envs)]
        self.closed = True

    def step(self, ends: list[str]) -> np.ndarray:
        """One step of every environment; ``ends`` says what happens: ``"step"``, ``"terminated"``, ``"truncated"``."""
        before, after, infos = list(self.places), [], []
        for env, (place, end) in enumerate(zip(before, ends, strict=True)):
            if self.closed:
                self.written[env].append((place, "open"))
            self.written[env][-1] = (place, "step")
            following = (env, place[1], place[2] + 1)
            if end != "step":
                self.written[env].append((following, end))
                infos.append({"terminal_observation": np.array(following, np.float64)})
                infos[-1]["TimeLimit.truncated"] = end == "truncated"
                following = (env, place[1] + 1, 0)
            else:
                infos.append({})
            self.written[env].append((following, "open"))
            after.append(following)
        self.closed, self.places = False, after
        return self.buffer.add(
            np.array(before, np.float64),
            np.array(after, np.float64),
            np.array([action_of(place, self.discrete) for place in before]),
            np.array([provenance_reward(*place) for place in before]),
            np.array([end != "step" for end in ends]),
            infos,
        )

    def close(self) -> None:
        """The environments are reset from outside."""
        self.buffer.close_streams()
        if not self.closed:
            for env in range(self.n_envs):
                self.written[env][-1] = (self.written[env][-1][0], "truncated")
            self.places = [(env, episode + 1, 0) for env, episode, _ in self.places]
        self.closed = True

    def kept(self) -> list[list[tuple[tuple[int, int, int], str]]]:
        """What still fits, by environment."""
        rows = self.buffer.buffer_size // self.n_envs
        return [history[-rows:] for history in self.written]

    def windows(self, length: int) -> dict[tuple[int, int, int], tuple[list[tuple[int, int, int]], str]]:
        """By starting place: the real places of its window and the kind of the last of them."""
        found = {}
        for history in self.kept():
            for i, (place, kind) in enumerate(history):
                if kind == "step":
                    n = next((k for k in range(length) if history[i + k][1] != "step"), length)
                    found[place] = ([other for other, _ in history[i : i + n + 1]], history[i + n][1])
        return found


def assert_equal_to_lists(streams: Streams, unroll: int, td_steps: int) -> None:
    """Every transition is sampled, and every window is what the lists say."""
    buffer, expected = streams.buffer, streams.windows(unroll + td_steps)
    assert len(buffer) == len(expected)
    if not expected:
        return
    buffer.update_priorities(np.arange(buffer.n_slots), np.ones(buffer.n_slots))
    batch = buffer.sample(len(buffer), unroll, td_steps, 1.0, np.random.default_rng(0))
    observations = batch.observations["observation"]
    assert batch.slots.shape == (len(buffer), unroll + td_steps + 1)
    assert observations.shape == (len(buffer), unroll + 1, 3)
    assert batch.rewards.shape == (len(buffer), unroll + td_steps) and batch.rewards.dtype == np.float32
    starts = [tuple(start) for start in observations[:, 0].astype(int).tolist()]
    assert set(starts) == set(expected)
    np.testing.assert_allclose(batch.weights, 1.0)
    for row, start in enumerate(starts):
        places, kind = expected[start]
        n = len(places) - 1
        assert batch.n_ahead[row] == n
        assert batch.terminated[row] == (kind == "terminated")
        padded = places + [places[-1]] * (unroll + td_steps - n)
        np.testing.assert_array_equal(observations[row], padded[: unroll + 1])
        chain = buffer.observations_at(batch.slots[row])["observation"]
        np.testing.assert_array_equal(chain, padded)
        rewards = [provenance_reward(*place) for place in places[:-1]] + [0.0] * (unroll + td_steps - n)
        np.testing.assert_array_equal(batch.rewards[row], rewards)
        for k in range(min(unroll, n)):
            np.testing.assert_array_equal(batch.actions[row, k], action_of(places[k], streams.discrete))
    action_space = buffer.action_space
    for action in batch.actions.reshape(-1, *batch.actions.shape[2:]):  # the random ones too
        assert action_space.contains(action), action
    # The age of an observation is the number of observations stored since, its own included.
    ids = buffer.ids_at(batch.slots[:, : unroll + 1])
    np.testing.assert_array_equal(batch.ages, buffer.n_observations - ids)
    assert batch.ages.min() >= 1


ends = st.sampled_from(["step"] * 5 + ["terminated", "truncated"])


@given(
    data=st.data(),
    n_envs=st.integers(1, 3),
    rows=st.integers(3, 40),
    unroll=st.integers(1, 5),
    td_steps=st.integers(1, 5),
    discrete=st.booleans(),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_any_streams_equal_the_lists(data, n_envs, rows, unroll, td_steps, discrete):
    buffer = TrajectoryReplayBuffer(
        n_envs * rows + data.draw(st.integers(0, n_envs - 1)), PLACE, ACTIONS["discrete" if discrete else "box"], n_envs
    )
    streams = Streams(buffer, discrete)
    for _ in range(data.draw(st.integers(1, 3))):
        for _ in range(data.draw(st.integers(0, 30))):
            streams.step(data.draw(st.lists(ends, min_size=n_envs, max_size=n_envs)))
        assert_equal_to_lists(streams, unroll, td_steps)
        if data.draw(st.booleans()):
            streams.close()
            assert_equal_to_lists(streams, unroll, td_steps)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_growing_and_wrapping_a_long_stream(n_envs):
    """Across every enlargement of the memory and then round the ring."""
    buffer = TrajectoryReplayBuffer(2100 * n_envs, PLACE, ACTIONS["discrete"], n_envs)
    streams, rng = Streams(buffer), np.random.default_rng(0)
    kinds = rng.choice(["step", "terminated", "truncated"], p=[0.9, 0.05, 0.05], size=(2600, n_envs)).tolist()
    for t, ends in enumerate(kinds, start=1):
        streams.step(ends)
        if t in (1000, 1950, 2600):
            assert_equal_to_lists(streams, 3, 2)


def test_slots_returned_by_add_are_those_of_the_new_transitions():
    streams = Streams(TrajectoryReplayBuffer(30, PLACE, ACTIONS["discrete"], 3))
    for end in ("step", "terminated", "truncated", "step", "step", "step", "step"):
        places = streams.places
        slots = streams.step([end, "step", "terminated"])
        np.testing.assert_array_equal(streams.buffer.observations_at(slots)["observation"], places)
        rewards, terminal, following = streams.buffer.transitions_at(slots)
        np.testing.assert_array_equal(rewards, [provenance_reward(*place) for place in places])
        np.testing.assert_array_equal(terminal, [end == "terminated", False, True])
        np.testing.assert_array_equal(
            streams.buffer.observations_at(following)["observation"], np.array(places) + [0, 0, 1]
        )


def test_an_identifier_changes_exactly_when_a_slot_is_written():
    streams = Streams(TrajectoryReplayBuffer(8, PLACE, ACTIONS["discrete"]))
    seen: dict[int, tuple[int, list[float]]] = {}
    for end in ["step", "step", "terminated", "step", "truncated", "step", "step", "step", "step", "step"]:
        streams.step([end])
        buffer = streams.buffer
        for slot in range(8):
            number = int(buffer.ids_at(np.array([slot]))[0])
            place = buffer.observations_at(np.array([slot]))["observation"][0].tolist()
            if number >= 0 and slot in seen and seen[slot][0] == number:
                assert seen[slot][1] == place
            seen[slot] = (number, place)
        numbers = [number for number, _ in seen.values() if number >= 0]
        assert len(set(numbers)) == len(numbers)


def buffer_with(n: int, **kwargs: Any) -> tuple[TrajectoryReplayBuffer, np.ndarray]:
    """A buffer with ``n`` transitions of one open episode, and their slots."""
    streams = Streams(TrajectoryReplayBuffer(10 * n, PLACE, ACTIONS["discrete"], **kwargs))
    return streams.buffer, np.concatenate([streams.step(["step"]) for _ in range(n)])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_sampling_is_proportional_to_priorities(alpha):
    buffer, slots = buffer_with(50, alpha=alpha)
    rng = np.random.default_rng(0)
    priorities = rng.exponential(size=50) + 1e-3
    buffer.update_priorities(slots, priorities)
    expected = priorities**alpha / (priorities**alpha).sum()
    counts = np.zeros(500)
    n_batches, batch_size = 400, 40
    for _ in range(n_batches):
        np.add.at(counts, buffer.sample(batch_size, 1, 1, 0.4, rng).slots[:, 0], 1)
    drawn = counts[slots] / (n_batches * batch_size)
    assert counts.sum() == counts[slots].sum()
    # At most the deviation of independent draws, with room for 50 comparisons.
    assert (np.abs(drawn - expected) < 4.5 * np.sqrt(expected / (n_batches * batch_size))).all()


def test_a_transition_of_priority_zero_is_never_sampled():
    buffer, slots = buffer_with(20)
    buffer.update_priorities(slots[[3, 8]], np.array([1.0, 2.0]))
    rng = np.random.default_rng(0)
    starts = np.concatenate([buffer.sample(20, 2, 2, 0.4, rng).slots[:, 0] for _ in range(20)])
    assert set(starts) == set(slots[[3, 8]])


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights(beta):
    buffer, slots = buffer_with(30, alpha=1.0)
    priorities = np.random.default_rng(1).uniform(0.1, 3.0, 30)
    buffer.update_priorities(slots, priorities)
    batch = buffer.sample(25, 2, 2, beta, np.random.default_rng(0))
    probability = dict(zip(slots, priorities / priorities.sum(), strict=True))
    weights = np.array([(30 * probability[slot]) ** -beta for slot in batch.slots[:, 0]])
    np.testing.assert_allclose(batch.weights, np.maximum(weights / weights.max(), 0.1), rtol=1e-5)
    assert batch.weights.dtype == np.float32 and batch.weights.max() == 1.0


def test_importance_weights_are_bounded_below():
    buffer, slots = buffer_with(10, alpha=1.0)
    buffer.update_priorities(slots, np.array([1e4] + [1.0] * 9))
    weights = np.concatenate([buffer.sample(10, 1, 1, 1.0, np.random.default_rng(i)).weights for i in range(300)])
    np.testing.assert_allclose([weights.min(), weights.max()], [0.1, 1.0])


def test_an_overwritten_transition_loses_its_priority():
    streams = Streams(TrajectoryReplayBuffer(10, PLACE, ACTIONS["discrete"]))
    old = np.concatenate([streams.step(["step"]) for _ in range(5)])
    streams.buffer.update_priorities(old, np.full(5, 100.0))
    new = np.concatenate([streams.step(["step"]) for _ in range(9)])  # nine fit beside the newest observation
    streams.buffer.update_priorities(new, np.ones(9))
    batch = streams.buffer.sample(9, 1, 1, 1.0, np.random.default_rng(0))
    assert sorted(batch.observations["observation"][:, 0, 2]) == list(range(5, 14))


def test_priorities_of_anything_but_transitions_are_left_alone():
    streams = Streams(TrajectoryReplayBuffer(10, PLACE, ACTIONS["discrete"]))
    slots = np.concatenate([streams.step([end]) for end in ("step", "terminated", "step")])
    streams.buffer.update_priorities(np.arange(10), np.arange(10) + 1.0)  # terminal, newest and empty slots as well
    starts = streams.buffer.sample(3, 1, 1, 1.0, np.random.default_rng(0)).slots[:, 0]
    assert set(starts) <= set(slots)


def test_equal_generators_give_equal_samples():
    buffer, slots = buffer_with(30)
    buffer.update_priorities(slots, np.arange(30) + 1.0)
    first, second = (buffer.sample(16, 3, 2, 0.4, np.random.default_rng(5)) for _ in range(2))
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        if name != "observations":
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    other = buffer.sample(16, 3, 2, 0.4, np.random.default_rng(6))
    assert (other.slots != first.slots).any()


def test_a_batch_larger_than_the_data_is_refused():
    buffer, slots = buffer_with(7)
    buffer.update_priorities(slots, np.ones(7))
    with pytest.raises(ValueError, match=r"batch_size=8 .*7 transitions.*(collect more|smaller)"):
        buffer.sample(8, 1, 1, 0.4, np.random.default_rng(0))
    assert len(buffer.sample(7, 1, 1, 0.4, np.random.default_rng(0)).slots) == 7


def test_a_ring_too_small_for_its_environments_is_refused():
    with pytest.raises(ValueError, match=r"buffer_size=8.*n_envs=3.*larger"):
        TrajectoryReplayBuffer(8, PLACE, ACTIONS["discrete"], 3)
    TrajectoryReplayBuffer(9, PLACE, ACTIONS["discrete"], 3)


def test_a_step_that_cannot_be_stored_leaves_nothing_behind():
    """The second environment ends with an observation of a wrong shape."""
    streams = Streams(TrajectoryReplayBuffer(60, PLACE, ACTIONS["discrete"], 2))
    for _ in range(5):
        streams.step(["step", "step"])
    places = np.array(streams.places, np.float64)
    with pytest.raises(ValueError):
        streams.buffer.add(
            places,
            places + 1,
            np.zeros(2, np.int64),
            np.zeros(2),
            np.array([False, True]),
            [{}, {"terminal_observation": np.zeros(7), "TimeLimit.truncated": False}],
        )
    streams.close()
    assert_equal_to_lists(streams, 3, 2)
    streams.step(["step", "terminated"])
    assert_equal_to_lists(streams, 3, 2)


def test_a_reset_buffer_is_empty_and_works_again():
    streams = Streams(TrajectoryReplayBuffer(20, PLACE, ACTIONS["discrete"]))
    for _ in range(30):
        streams.step(["step"])
    streams.buffer.reset()
    assert len(streams.buffer) == 0
    streams = Streams(streams.buffer)
    for end in ("step", "terminated", "step"):
        streams.step([end])
    assert_equal_to_lists(streams, 2, 2)


# -- memory ------------------------------------------------------------------------------------------------------------


def array_bytes(thing: Any) -> int:
    """Memory of all arrays in an object's attributes."""
    arrays = [
        part for value in vars(thing).values() for part in (value.values() if isinstance(value, dict) else [value])
    ]
    return sum(part.nbytes for part in arrays if isinstance(part, np.ndarray))


def test_a_large_buffer_costs_nothing_until_it_is_used():
    tracemalloc.start()
    buffer = TrajectoryReplayBuffer(1_000_000, spaces.Box(-1.0, 1.0, (100,)), spaces.Box(-1.0, 1.0, (6,)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert array_bytes(buffer) < 2_000_000


def test_memory_follows_use_and_observations_are_stored_once():
    space = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    buffer = TrajectoryReplayBuffer(1_000_000, space, spaces.Discrete(2))
    frame, action, done = np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64), np.zeros(1, bool)
    for _ in range(5000):
        buffer.add(frame, frame, action, np.zeros(1), done, [{}])
    one_copy = 5000 * frame.nbytes
    assert one_copy < array_bytes(buffer) < 1.75 * one_copy  # room is doubled when it ends: here it is for 8192


# -- spaces ------------------------------------------------------------------------------------------------------------

OBSERVATION_SPACES = {
    "box": spaces.Box(-1.0, 1.0, (4,)),
    "box64": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "uint8": spaces.Box(0, 255, (3, 8, 8), np.uint8),
    "discrete": spaces.Discrete(7, start=-3),
    "multi_discrete": spaces.MultiDiscrete([3, 4], start=[1, -1]),
    "multi_binary": spaces.MultiBinary(5),
    "dict": spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,)), "b": spaces.Discrete(4), "c": spaces.MultiBinary((2, 2))}),
}


@pytest.mark.parametrize("kind", OBSERVATION_SPACES)
def test_observations_come_back_as_they_were(kind):
    space = OBSERVATION_SPACES[kind]
    space.seed(0)
    buffer = TrajectoryReplayBuffer(200, space, spaces.Box(-1.0, 1.0, (1,)), n_envs=2)

    def stacked(samples: list[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: np.stack([np.asarray(sample[key]) for sample in samples]) for key in space.spaces}
        return np.stack([np.asarray(sample) for sample in samples])

    stored: list[Any] = []  # in slot order
    current = [space.sample(), space.sample()]
    for step in range(12):
        following, done = [space.sample(), space.sample()], step % 5 == 4
        infos = [
            {"terminal_observation": space.sample(), "TimeLimit.truncated": bool(i)} if done else {} for i in (0, 1)
        ]
        slots = buffer.add(stacked(current), stacked(following), np.zeros((2, 1)), np.zeros(2), np.full(2, done), infos)
        stored.append((slots, stacked(current)))
        if done:
            _, _, last = buffer.transitions_at(slots)
            stored.append((last, stacked([info["terminal_observation"] for info in infos])))
        current = following
    for slots, expected in stored:
        found = buffer.observations_at(slots)
        parts = expected if isinstance(space, spaces.Dict) else {"observation": expected}
        assert found.keys() == parts.keys()
        for key, part in parts.items():
            np.testing.assert_array_equal(found[key], part)
            assert found[key].dtype == (space[key] if isinstance(space, spaces.Dict) else space).dtype


def test_a_pickled_buffer_samples_the_same():
    streams = Streams(TrajectoryReplayBuffer(60, PLACE, ACTIONS["box"], 2), discrete=False)
    for t in range(40):
        streams.step(["terminated" if t % 7 == 6 else "step", "truncated" if t % 9 == 8 else "step"])
    streams.buffer.update_priorities(np.arange(60), np.arange(60) + 1.0)
    copied = pickle.loads(pickle.dumps(streams.buffer))
    first, second = (b.sample(20, 3, 3, 0.4, np.random.default_rng(0)) for b in (streams.buffer, copied))
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        if name != "observations":
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    streams.buffer = copied
    for _ in range(20):
        streams.step(["step", "step"])
    assert_equal_to_lists(streams, 3, 3)


# -- interruptions -----------------------------------------------------------------------------------------------------


def interrupt_at_line(number: int):
    """A trace function that raises ``KeyboardInterrupt`` before the given line that the buffer runs."""
    n_lines = 0

    def trace(frame, event, argument):
        nonlocal n_lines
        if frame.f_globals["__name__"] != "sb3_ezv2.replay.buffer":
            return None
        if event == "line":
            n_lines += 1
            if n_lines == number:
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize(("n_before", "ends"), [(1, ["step", "step"]), (4, ["terminated", "step"]), (9, ["step"] * 2)])
def test_a_step_that_is_interrupted_anywhere_leaves_a_whole_buffer(n_before, ends, monkeypatch):
    monkeypatch.setattr("sb3_ezv2.replay.buffer.FIRST_ROWS", 2)
    tracer, number = sys.gettrace(), 0
    while True:
        number += 1
        streams = Streams(TrajectoryReplayBuffer(16, PLACE, ACTIONS["discrete"], n_envs=2))
        for _ in range(n_before):
            streams.step(["step", "step"])
        streams.buffer.update_priorities(streams.buffer.take_new_slots(), np.ones(2 * n_before))
        try:
            sys.settrace(interrupt_at_line(number))
            streams.step(ends)
        except KeyboardInterrupt:
            sys.settrace(tracer)
        else:
            sys.settrace(tracer)
            break
        buffer = streams.buffer
        buffer.close_streams()
        alive = np.flatnonzero(buffer.kinds == TRANSITION)
        assert len(buffer) == len(alive) >= min(2 * n_before, 12) - 2
        _, _, following = buffer.transitions_at(alive)
        here, there = (buffer.observations_at(slots)["observation"] for slots in (alive, following))
        np.testing.assert_array_equal(there, here + [0, 0, 1])  # each with what followed
        weights = buffer.sum_tree[len(buffer.sum_tree) // 2 :][: buffer.n_slots]
        assert set(np.flatnonzero(weights)) <= set(alive)
        streams.places = [(env, 7, 0) for env in range(2)]
        for _ in range(9):  # a whole round of the ring
            buffer.add(*next_step(streams))
        assert len(buffer) == (buffer.kinds == TRANSITION).sum() == 14
    assert number > 20


def next_step(streams: Streams) -> tuple[Any, ...]:
    """Arguments of ``add`` for one more step of every environment."""
    before = np.array(streams.places, np.float64)
    streams.places = [(env, episode, step + 1) for env, episode, step in streams.places]
    after = np.array(streams.places, np.float64)
    return before, after, np.zeros(2, np.int64), np.zeros(2), np.zeros(2, bool), [{}, {}]
