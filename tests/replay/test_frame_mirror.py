"""Stacks that a device puts together from its own copy of the frames are those of the replay buffer, bit for bit."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch as th

from sb3_ezv2 import frame_storage
from sb3_ezv2.replay import frame_mirror
from sb3_ezv2.replay.frame_mirror import FrameMirrors
from sb3_ezv2.replay.slots import EMPTY
from tests.helpers.tiny import assert_same_parameters
from tests.replay.test_frame_storage import STACKS, Recording, stacked_model

CPU = th.device("cpu")


def assert_alike(buffer, normalizer=None):
    """All observations of a buffer, in one axis and in two, those never written included."""
    more = {} if normalizer is None else {"normalizer": normalizer}
    for slots in (np.arange(buffer.n_slots), np.arange(2 * (buffer.n_slots // 2)).reshape(2, -1)):
        expected, found = buffer.observations_at(slots, **more), buffer.observations_for_model(slots, **more)
        assert list(found) == list(expected)
        for key, part in expected.items():
            np.testing.assert_array_equal(np.asarray(found[key]), part)
            assert np.asarray(found[key]).dtype == part.dtype
            assert isinstance(found[key], th.Tensor) == (key in buffer.stacks)


def ends(rng, n):
    return [str(end) for end in rng.choice(["step", "terminated", "truncated"], n, p=[0.8, 0.1, 0.1])]


@pytest.mark.parametrize("kind", STACKS)
@pytest.mark.parametrize("block_bytes", [1, 2**12])
def test_stacks_come_back_while_the_ring_turns_and_the_memory_grows(kind, block_bytes, monkeypatch):
    monkeypatch.setattr(frame_storage, "BLOCK_BYTES", block_bytes)
    recording, rng, capacities = Recording(kind, 2, 3, 60), np.random.default_rng(0), set()
    buffer = recording.buffer
    buffer.mirrors = FrameMirrors(CPU)
    for step in range(150):
        recording.step(ends(rng, 2))
        if step % 7 == 0 or step > 140:
            assert_alike(buffer)
            capacities |= {len(buffer.mirrors.of(storage).frames) for storage in buffer.stacks.values()}
    assert (buffer.kinds != EMPTY).all() and len(buffer.stacks) > 0
    assert len(capacities) > 1 or block_bytes > 1


def test_only_what_is_new_is_copied(monkeypatch):
    recording, rng = Recording("sb3, channels first", 2, 3, 60), np.random.default_rng(0)
    recording.buffer.mirrors = mirrors = FrameMirrors(CPU)
    (storage,) = recording.buffer.stacks.values()
    for _ in range(20):
        recording.step(ends(rng, 2))
    mirror = mirrors.of(storage)
    first = mirror.frames.data_ptr()
    recording.step(["step", "step"])
    recording.step(["step", "step"])
    assert 0 < len(storage.written) <= 4
    copied = []
    monkeypatch.setattr(frame_mirror, "on_device", lambda array, device: copied.append(array) or th.as_tensor(array))
    assert mirrors.of(storage) is mirror and mirror.frames.data_ptr() == first
    assert len(copied[1]) <= 4 and storage.written == []
    assert_alike(recording.buffer)


def test_a_buffer_that_was_loaded_copied_or_emptied_is_mirrored_anew(tmp_path):
    model = stacked_model().learn(40)
    buffer = model.replay_buffer
    buffer.mirrors = FrameMirrors(CPU)
    assert_alike(buffer)
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    loaded = model.replay_buffer
    assert loaded is not buffer
    loaded.mirrors = FrameMirrors(CPU)
    assert_alike(loaded)
    model.learn(20, reset_num_timesteps=False)
    assert_alike(loaded)
    for copied in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert copied.mirrors is not loaded.mirrors
        assert_alike(copied)
    shared = copy.copy(loaded)  # two mirrors of the same frames, which tell each other
    shared.mirrors = FrameMirrors(CPU)
    assert_alike(shared)
    model.learn(5, reset_num_timesteps=False)
    assert_alike(loaded)
    assert_alike(shared)
    loaded.reset()
    assert_alike(loaded)


@pytest.mark.parametrize("norm_obs_keys", [None, ["vector"]])
def test_what_is_normalised_is_gathered_by_the_cpu(norm_obs_keys):
    recording = Recording("sb3, dictionary", 2, 3, 60)
    for _ in range(10):
        recording.step(["step", "step"])
    buffer = recording.buffer
    buffer.mirrors = FrameMirrors(CPU)

    def normalised(parts):
        return {key: part + 1 if key in keys else part for key, part in parts.items()}

    keys = norm_obs_keys or ["image", "vector"]
    normalizer = SimpleNamespace(observation_keys=lambda: keys, observations=normalised)
    found, expected = (
        each(np.arange(9), normalizer) for each in (buffer.observations_for_model, buffer.observations_at)
    )
    assert isinstance(found["image"], th.Tensor) == ("image" not in keys)
    for key, part in expected.items():
        np.testing.assert_array_equal(np.asarray(found[key]), part)


def test_learning_is_the_same_with_mirrors():
    plain = stacked_model(learning_starts=20).learn(60)
    mirrored = stacked_model(learning_starts=20)
    mirrored.replay_buffer.mirrors = FrameMirrors(CPU)
    mirrored.learn(60)
    assert mirrored._n_updates > 0 and mirrored.replay_buffer.stacks["observation"].written is not None
    assert_same_parameters(plain, mirrored)


def test_without_room_the_cpu_gathers(monkeypatch):
    recording, rng = Recording("sb3, channels first", 2, 3, 60), np.random.default_rng(0)
    buffer = recording.buffer
    buffer.mirrors = FrameMirrors(CPU)
    (storage,) = buffer.stacks.values()
    recording.step(ends(rng, 2))
    assert_alike(buffer)
    monkeypatch.setattr(frame_mirror, "_has_room", lambda n_bytes, device: False)
    mirror = buffer.mirrors.of(storage)
    for _ in range(50):
        recording.step(["step", "step"])
    monkeypatch.setattr(storage, "block_frames", len(mirror.frames) + 1)  # more than there is
    assert buffer.mirrors.of(storage) is None and storage.written is None and mirror.frames.numel() == 0
    found = buffer.observations_for_model(np.arange(3))
    assert isinstance(found["observation"], np.ndarray)


def test_room_is_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr(th.cuda, "mem_get_info", lambda device: (2**30, 2**34))
    gpu = th.device("cuda")
    assert frame_mirror._has_room(2**29, gpu) and frame_mirror._has_room(2**40, CPU)
    with pytest.warns(UserWarning, match="need 0.6 GiB of the GPU's memory, of which 1.0 GiB are free"):
        assert not frame_mirror._has_room(2**29 + 2**27, gpu)


def test_only_a_gpu_keeps_frames_twice():
    buffer = Recording("sb3, channels first", 1, 3, 60).buffer
    buffer.mirror_on(CPU)
    assert buffer.mirrors is None
    buffer.mirror_on(th.device("cuda"))
    mirrors = buffer.mirrors
    buffer.mirror_on(th.device("cuda"))
    assert mirrors is not None and buffer.mirrors is mirrors
