"""Images and vectors together in a ``Dict``, seen by ``MultiInputPolicy``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from sb3_ezv2 import CnnPolicy, EfficientZeroV2, MultiInputPolicy
from sb3_ezv2.networks.model import REWARD
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    DISCRETE,
    assert_finite_parameters,
    assert_same_parameters,
    parameters_of,
    tiny_model,
)
from tests.networks.test_cnn import TINY_IMAGE_NETWORK


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def dict_space(**parts: spaces.Space) -> spaces.Dict:
    return spaces.Dict(parts)


MIXED = dict_space(
    camera=image(36, 32, 3), wrist=image(36, 32, 1), speed=spaces.Box(-1.0, 1.0, (2,)), gear=spaces.Discrete(3)
)


def model_for(space: spaces.Space, **kwargs: Any) -> EfficientZeroV2:
    env = RandomEnv(space, kwargs.pop("action_space", DISCRETE))
    return tiny_model(env, "MultiInputPolicy", **{"policy_kwargs": TINY_IMAGE_NETWORK, **kwargs})


def some(model: EfficientZeroV2, n: int) -> dict[str, np.ndarray]:
    drawn = [model.observation_space.sample() for _ in range(n)]
    return {key: np.stack([one[key] for one in drawn]) for key in drawn[0]}


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_learns_saves_and_loads(action_space, tmp_path):
    model = model_for(MIXED, action_space=action_space)
    assert isinstance(model.policy, CnnPolicy)
    before = parameters_of(model)
    model.learn(60)
    assert_finite_parameters(model)
    after = parameters_of(model)
    for part in ("model.representation.embed_vector.0.weight", "model.representation.layers.0.weight"):
        assert (before[part] != after[part]).any(), part
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=RandomEnv(MIXED, action_space))
    assert_same_parameters(model, loaded)
    batch = some(model, 5)
    np.testing.assert_array_equal(
        model.predict(batch, deterministic=True)[0], loaded.predict(batch, deterministic=True)[0]
    )
    loaded.learn(40, reset_num_timesteps=False)
    assert_finite_parameters(loaded)


@pytest.mark.parametrize("key", ["camera", "wrist", "speed", "gear"])
def test_every_part_matters(key):
    """The value depends on each of them."""
    model = model_for(MIXED).learn(60)
    with th.no_grad():
        for parameter in model.policy.average_model.parameters():
            parameter.add_(0.1 * th.randn(parameter.shape, generator=th.Generator().manual_seed(0)))
    batch = some(model, 16)
    other = batch | {key: some(model, 16)[key]}
    values = [model.policy.predict_values(model.policy.obs_to_tensor(each)[0]) for each in (batch, other)]
    assert (values[0] != values[1]).any()


def test_images_are_seen_and_the_rest_is_normalised():
    model = model_for(MIXED).learn(60)
    network = model.policy.model
    assert network.representation.layers[0].in_channels == 4
    assert set(network.images) == {"camera", "wrist"}
    assert network.observation_mean.shape == (5,)  # two numbers and a one-hot of three
    flat = network.flatten(model.policy.obs_to_tensor(some(model, 7))[0])
    assert flat.shape == (7, 5) and (flat[:, -3:].sum(1) == 1).all() or (flat.sum(1) != 0).any()
    stds = network.observation_std.numpy()
    assert ((stds > 0.2) & (stds < 0.8)).all()


def test_channels_first_and_last_give_the_same_network():
    first = model_for(dict_space(camera=image(3, 36, 32), speed=spaces.Box(-1.0, 1.0, (2,))))
    last = model_for(dict_space(camera=image(36, 32, 3), speed=spaces.Box(-1.0, 1.0, (2,))))
    assert last.observation_space["camera"].shape == (3, 36, 32)  # VecTransposeImage
    assert_same_parameters(first, last)


def test_only_images_are_augmented():
    policy = model_for(MIXED).policy
    tensors, _ = policy.obs_to_tensor(some(model_for(MIXED), 9))
    before = {key: value.clone() for key, value in tensors.items()}
    seen = {}
    for name, model in (("trained", policy.model), ("searched", policy.average_model)):
        model.representation.register_forward_pre_hook(lambda _, arguments, name=name: seen.update({name: arguments}))
        model.represent(tensors)
    for trained, searched in zip(seen["trained"][0].split(1, dim=1), seen["searched"][0].split(1, dim=1), strict=True):
        assert trained.shape == searched.shape and not th.equal(trained, searched)
    assert th.equal(seen["trained"][1], seen["searched"][1])
    assert all(th.equal(tensors[key], before[key]) for key in tensors)


@pytest.mark.parametrize("side, kwargs", [(4, None), (31, {"net_size": "paper"})])
def test_images_that_are_too_small_are_flattened(side, kwargs):
    space = dict_space(grid=image(side, side, 3), speed=spaces.Box(-1.0, 1.0, (2,)), eye=image(36, 32, 3))
    model = model_for(space, policy_kwargs=kwargs)
    assert set(model.policy.model.images) == {"eye"}
    assert len(model.policy.model.observation_mean) == side * side * 3 + 2


def test_a_dictionary_without_images_for_the_network_takes_no_sizes_of_it():
    space = dict_space(grid=image(4, 4, 3), speed=spaces.Box(-1.0, 1.0, (2,)))
    assert type(model_for(space, policy_kwargs=None).policy) is MultiInputPolicy
    with pytest.raises(ValueError, match="'net_size' is not among MultiInputPolicy's policy_kwargs"):
        model_for(space, policy_kwargs={"net_size": "paper"})


def test_arguments_of_the_network_for_vectors_are_refused_where_there_are_images():
    with pytest.raises(ValueError, match="'normalize_image' is not among CnnPolicy's policy_kwargs; the nearest name"):
        model_for(MIXED, policy_kwargs={"normalize_image": True})


def test_images_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match=r"different sizes.*'camera': \(36, 32\).*'wrist': \(40, 32\).*Resize"):
        model_for(dict_space(camera=image(36, 32, 3), wrist=image(40, 32, 3)))
    with pytest.raises(ValueError, match="no image of at least 32 pixels.*net_size='paper'.*MultiInputPolicy"):
        CnnPolicy(dict_space(grid=image(7, 7, 3)), DISCRETE, lambda _: 1e-3, net_size="paper")


def test_what_needs_picture_and_vector_is_learnt():
    """A reward that is 1 if the action says whether the bright half of the picture is the one that a switch names."""
    space = dict_space(picture=image(32, 32, 1), switch=spaces.Box(-1.0, 1.0, (1,)))
    th.manual_seed(0)
    sizes = TINY_IMAGE_NETWORK | {"latent_channels": 12}
    model = CnnPolicy(space, spaces.Discrete(2), lambda _: 1e-3, augment=False, **sizes).model
    bright, switch, actions = (bits.flatten() for bits in th.meshgrid(*3 * [th.arange(2)], indexing="ij"))
    pictures = th.zeros(8, 32, 32, 1, dtype=th.uint8)
    for picture, half in zip(pictures, bright, strict=True):
        picture[:, 16 * half : 16 * half + 16] = 255
    observations = {"picture": pictures, "switch": 2.0 * switch[:, None] - 1.0}
    rewards = (actions == (bright ^ switch)).float()
    targets = model.reward_support.encode(rewards, model.reward_scale)
    optimizer = th.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(200):
        logits = model.heads.one(model.next_latents(model.represent(observations), actions), REWARD)
        loss = -(targets * model.reward_support.used(logits).log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = model.reward_support.decode(logits, model.reward_scale)
    assert (predicted - rewards).abs().max() < 0.1


def test_stacks_of_frames_in_a_dict():
    space = dict_space(camera=image(36, 32, 3), speed=spaces.Box(-1.0, 1.0, (2,)))
    env = VecFrameStack(DummyVecEnv([lambda: RandomEnv(space)]), 2)
    model = tiny_model(env, "MultiInputPolicy", policy_kwargs=TINY_IMAGE_NETWORK).learn(60)
    assert model.policy.model.representation.layers[0].in_channels == 6
    assert_finite_parameters(model)
