"""Learning from images: shapes, learning, saving, independence of rows, what is augmented, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, is_vecenv_wrapped
from stable_baselines3.common.vec_env.vec_transpose import VecTransposeImage

from sb3_ezv2 import CnnPolicy, EfficientZeroV2, EZV2Policy
from sb3_ezv2.learning.losses import consistency_loss, unroll_latents
from sb3_ezv2.learning.statistics import typical_size
from sb3_ezv2.networks.cnn import ConvBlock, latent_size
from sb3_ezv2.networks.model import VALUE, ImageModel
from sb3_ezv2.planning.fused_weights import supports_fusion
from sb3_ezv2.policies import policy_arguments
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import (
    CONTINUOUS,
    DISCRETE,
    ONE_DIMENSION,
    assert_finite_parameters,
    assert_same_parameters,
    parameters_of,
    tiny_model,
)

TINY_IMAGE_NETWORK = {
    "net_size": "paper",
    "stem_channels": 4,
    "latent_channels": 6,
    "action_channels": 3,
    "head_channels": 2,
    "hidden_dim": 8,
    "projection_dim": 16,
    "prediction_dim": 8,
}
GREY = spaces.Box(0, 255, (32, 32, 1), np.uint8)


def image_space(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def tiny_policy(space: spaces.Space, action_space: spaces.Space = DISCRETE, **kwargs: Any) -> CnnPolicy:
    """A policy with random weights in every layer, outputs included."""
    settings = {"n_simulations": 4, "n_candidates": 4, "n_policy_candidates": 2, **TINY_IMAGE_NETWORK, **kwargs}
    th.manual_seed(0)
    policy = CnnPolicy(space, action_space, lambda _: 1e-3, **settings)
    with th.no_grad():
        for model in (policy.model, policy.average_model):
            for parameter in model.parameters():
                parameter.add_(0.3 * th.randn(parameter.shape))
    return policy


def tiny_image_model(env: Any, **kwargs: Any) -> EfficientZeroV2:
    """A model that learns from images from its 31st transition on."""
    return tiny_model(env, policy="CnnPolicy", **{"policy_kwargs": TINY_IMAGE_NETWORK, **kwargs})


def samples(space: spaces.Box, n: int, seed: int = 0) -> th.Tensor:
    """Random images ``[n, *space.shape]``."""
    return th.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, *space.shape)).astype(space.dtype))


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, latent",
    [
        ((1, 32, 32), (4, 4)),
        ((12, 96, 96), (6, 6)),
        ((3, 128, 128), (8, 8)),
        ((33, 47, 4), (5, 6)),
        ((64, 100, 12), (4, 7)),
        ((32, 128, 1), (4, 16)),
    ],
)
@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS])
def test_shapes(shape, latent, action_space):
    space = image_space(*shape)
    model = tiny_policy(space, action_space, augment=False).model
    observations = {"observation": samples(space, 3)}
    root = model.initial_inference(observations)
    assert root.latents.shape == (3, 6, *latent) and root.values.shape == (3,)
    assert root.policies.shape == (3, model.action_kind.output_dim)
    discrete = isinstance(action_space, spaces.Discrete)
    actions = th.tensor([0, 1, 2]) if discrete else th.zeros(3, 2)
    output = model.recurrent_inference(root.latents, actions)
    assert output.latents.shape == root.latents.shape and output.rewards.shape == (3,)
    th.testing.assert_close(model.values(observations), root.values, rtol=1e-4, atol=1e-3)
    unrolled = unroll_latents(model, root.latents, th.stack([actions, actions], dim=1))
    assert unrolled.shape == (3, 3, 6, *latent)
    sizes = [output.shape for output in model.heads(unrolled)]
    expected = (model.reward_support.n_bins, model.value_support.n_bins, model.action_kind.output_dim)
    assert sizes == [(3, 3, n) for n in expected]
    th.testing.assert_close(model.heads.one(unrolled, VALUE), model.heads(unrolled)[VALUE])
    later = {"observation": samples(space, 6).view(3, 2, *shape)}
    assert consistency_loss(model, unrolled[:, 1:], later).shape == (3, 2)


def test_sizes_of_the_paper():
    discrete = CnnPolicy(image_space(12, 96, 96), DISCRETE, lambda _: 1e-3, net_size="paper").model
    assert discrete.represent({"observation": samples(image_space(12, 96, 96), 1)}).shape == (1, 64, 6, 6)
    assert discrete.heads.outputs[VALUE].in_features == 32
    assert [layer.out_features for layer in discrete.projection if isinstance(layer, th.nn.Linear)] == [1024] * 3
    assert [layer.out_features for layer in discrete.prediction if isinstance(layer, th.nn.Linear)] == [256, 1024]
    continuous = CnnPolicy(image_space(3, 32, 32), CONTINUOUS, lambda _: 1e-3, net_size="paper").model
    assert continuous.heads.outputs[VALUE].in_features == 64


def test_latent_size_rounds_up_as_the_network_does():
    for side in (32, 33, 63, 64, 65, 96, 127, 128):
        space = image_space(1, side, side)
        latents = tiny_policy(space).model.represent({"observation": samples(space, 1)})
        assert tuple(latents.shape[2:]) == latent_size(side, side)
        assert 4 <= latents.shape[2] <= 8


def test_action_planes_are_a_convolution_of_constant_planes():
    model = tiny_policy(image_space(3, 48, 32), CONTINUOUS).model
    linear, norm, _ = model.dynamics.embed_action
    actions = th.tensor([[0.3, -0.7]])
    planes = actions[:, :, None, None].expand(1, 2, 3, 2)
    convolved = th.nn.functional.conv2d(planes, linear.weight[:, :, None, None], linear.bias)
    expected = th.relu(norm(convolved.movedim(1, -1))).movedim(-1, 1)
    found = model.dynamics.embed_action(actions)[:, :, None, None].expand(1, -1, 3, 2)
    th.testing.assert_close(found, expected)


def test_a_block_keeps_its_input_where_the_residual_is_zero():
    block = ConvBlock(4, 4)
    th.nn.init.zeros_(block.residual[-1].weight)
    x = th.rand(2, 4, 5, 5)
    assert th.equal(block(x), x)
    assert ConvBlock(4, 6, stride=2)(x).shape == (2, 6, 3, 3)


def test_first_predictions_are_zero():
    model = CnnPolicy(image_space(1, 32, 32), DISCRETE, lambda _: 1e-3, **TINY_IMAGE_NETWORK).model
    output = model.initial_inference({"observation": samples(image_space(1, 32, 32), 2)})
    for prediction in (output.values, output.rewards, output.policies):
        th.testing.assert_close(prediction, th.zeros_like(prediction), atol=1e-4, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_rows_of_a_batch_are_independent_where_the_model_acts_and_searches(training):
    space = image_space(3, 32, 40)
    policy = tiny_policy(space, CONTINUOUS)
    policy.train(training)
    images = samples(space, 4)
    others = images.clone()
    others[1:] = samples(space, 3, seed=9)
    for model in (policy.average_model, policy.target_model):
        for one, other in (
            (model.initial_inference({"observation": x}) for x in pair)
            for pair in ((images, others), (images, images[:1]))
        ):
            for ours, theirs in zip(one, other, strict=True):
                th.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-4)
        latents = model.represent({"observation": images})
        actions = th.zeros(4, 2)
        th.testing.assert_close(
            model.next_latents(latents, actions)[:1],
            model.next_latents(latents[:1], actions[:1]),
            rtol=1e-4,
            atol=1e-4,
        )


def test_training_takes_away_what_a_batch_has_in_common_and_the_copies_learn_it():
    space = image_space(1, 32, 32)
    policy = CnnPolicy(space, DISCRETE, lambda _: 1e-3, augment=False, **TINY_IMAGE_NETWORK)
    images = samples(space, 16)
    before = policy.average_model.represent({"observation": images})
    for _ in range(200):
        of_batch = policy.model.represent({"observation": images})
        policy.copies.update_average(0.05)
    policy.copies.update_target()
    # The weights are those of the beginning, so that only the running statistics can have changed the copies.
    for copy in (policy.average_model, policy.target_model):
        running = copy.represent({"observation": images})
        th.testing.assert_close(running, of_batch, rtol=0.05, atol=0.05)
        assert (running - before).abs().max() > 0.5


def test_channel_orders_are_the_same_image():
    first, last = (tiny_policy(image_space(*shape), augment=False) for shape in ((3, 32, 40), (32, 40, 3)))
    images = samples(image_space(3, 32, 40), 2)
    ours = first.model.represent({"observation": images})
    th.testing.assert_close(ours, last.model.represent({"observation": images.movedim(1, -1)}))


def test_bytes_are_divided_by_255_and_floats_are_not():
    images = samples(image_space(3, 32, 32), 2)
    bytes_model = tiny_policy(image_space(3, 32, 32), augment=False).model
    float_space = spaces.Box(0.0, 1.0, (3, 32, 32))
    float_model = tiny_policy(float_space, normalize_images=False, augment=False).model
    th.testing.assert_close(
        bytes_model.represent({"observation": images}), float_model.represent({"observation": images / 255.0})
    )


def test_images_keep_no_statistics_and_are_not_compiled():
    model = tiny_image_model(RandomEnv(GREY)).learn(40)
    assert isinstance(model.policy.model, ImageModel) and not supports_fusion(model.policy.model)
    assert len(model.policy.model.observation_mean) == 0
    assert model.statistics.observations.mean.size == 0
    unit = typical_size(model.replay_buffer.stored_rewards())
    assert float(model.policy.model.reward_scale) == pytest.approx(unit, rel=0.2)  # of the last refresh


# -- the algorithm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS, ONE_DIMENSION])
@pytest.mark.parametrize("space", [GREY, image_space(3, 32, 36)], ids=["last", "first"])
def test_learn_predict_save_load(action_space, space, tmp_path):
    env = DummyVecEnv([lambda: RandomEnv(space, action_space) for _ in range(2)])
    model = tiny_image_model(env)
    before = parameters_of(model)
    model.learn(50)
    assert model._n_updates > 0
    assert_finite_parameters(model)
    after = parameters_of(model)
    assert all((before[name] != after[name]).any() for name in before if name.startswith("model.representation"))
    assert model.replay_buffer.observations["observation"].dtype == np.uint8
    assert is_vecenv_wrapped(model.env, VecTransposeImage) == (space is GREY)
    space.seed(0)
    image = space.sample()
    action, _ = model.predict(image, deterministic=True)
    assert model.action_space.contains(action if action.ndim else int(action))
    images = np.stack([image, space.sample()])
    expected = model.predict(images, deterministic=True)[0]
    assert len(expected) == 2
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=env)
    assert_same_parameters(model, loaded)
    np.testing.assert_array_equal(loaded.predict(images, deterministic=True)[0], expected)
    loaded.learn(40, reset_num_timesteps=False)
    assert_finite_parameters(loaded)


def test_policy_alone_keeps_its_settings(tmp_path):
    model = tiny_image_model(RandomEnv(GREY), policy_kwargs={**TINY_IMAGE_NETWORK, "augment": False})
    model.policy.save(tmp_path / "policy.pkl")
    loaded = CnnPolicy.load(tmp_path / "policy.pkl")
    assert loaded.model.augment is False and loaded.network == model.policy.network
    image = np.full((1, 32, 32), 7, np.uint8)
    assert loaded.predict(image, deterministic=True)[0] == model.predict(image, deterministic=True)[0]


def test_float_images_with_channels_last(tmp_path):
    space = spaces.Box(0.0, 1.0, (32, 32, 3))
    settings = {**TINY_IMAGE_NETWORK, "normalize_images": False}
    model = tiny_image_model(RandomEnv(space), policy_kwargs=settings).learn(40)
    assert_finite_parameters(model)
    model.save(tmp_path / "model")
    loaded = EfficientZeroV2.load(tmp_path / "model")
    assert loaded.policy.normalize_images is False
    assert model.predict(space.sample())[0] in range(3)


def test_stacked_frames():
    env = VecFrameStack(DummyVecEnv([lambda: RandomEnv(image_space(32, 32, 3))]), 4, channels_order="last")
    model = tiny_image_model(env).learn(40)
    assert model.policy.model.images["observation"].shape == (12, 32, 32)
    assert_finite_parameters(model)


def test_one_seed_one_result():
    ours, theirs = (tiny_image_model(RandomEnv(GREY), seed=3).learn(45) for _ in range(2))
    assert ours._n_updates == 15
    assert_same_parameters(ours, theirs)


# -- augmentation ------------------------------------------------------------------------------------------------------


def test_losses_see_changed_images_and_searches_clean_ones(monkeypatch):
    model = tiny_image_model(RandomEnv(GREY)).learn(31)
    stored = {image.tobytes() for image in model.replay_buffer.observations["observation"].reshape(-1, 1, 32, 32)}
    seen: dict[str, list[th.Tensor]] = {"trained": [], "searched": []}

    def watch(network: ImageModel, kind: str) -> None:
        def keep(module, arguments):
            seen[kind].append(arguments[0].clone())

        network.representation.register_forward_pre_hook(keep)

    watch(model.policy.model, "trained")
    watch(model.policy.average_model, "searched")
    watch(model.policy.target_model, "searched")
    model._n_updates = 0  # the next update refreshes the target network, which then searches everything
    model.train(2)
    model.predict(np.zeros((1, 32, 32), np.uint8))

    def as_bytes(images: th.Tensor) -> list[bytes]:
        return [image.tobytes() for image in (255 * images).round().numpy().astype(np.uint8)]

    assert len(seen["searched"]) > 2
    for images in seen["searched"][:-1]:
        assert set(as_bytes(images)) <= stored
    assert len(seen["trained"]) == 4  # the first states and the targets of the consistency loss, twice
    for images in seen["trained"]:
        assert not stored & set(as_bytes(images))


def test_no_augmentation_where_it_is_not_wanted():
    space = image_space(1, 32, 32)
    images = samples(space, 6)
    for model in (tiny_policy(space, augment=False).model, tiny_policy(space).average_model):
        assert th.equal(model._image(images, space, None), images / 255)


def test_augmentation_knows_where_the_channels_are():
    first, last = tiny_policy(image_space(3, 32, 40)).model, tiny_policy(image_space(32, 40, 3)).model
    images = samples(image_space(3, 32, 40), 6)
    before = images.clone()
    generators = [th.Generator().manual_seed(1) for _ in range(2)]
    changed = first._image(images, first.images["observation"], generators[0])
    assert th.equal(changed, last._image(images.movedim(-3, -1), last.images["observation"], generators[1]))
    assert not th.equal(changed, images / 255)
    assert th.equal(images, before)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space, said",
    [
        (spaces.Box(-1.0, 1.0, (3,)), "CnnPolicy"),
        (spaces.Box(0.0, 1.0, (32, 32, 3)), "normalize_images"),
        (spaces.Box(0, 200, (32, 32, 3), np.uint8), "bounds 0 and 255"),
        (spaces.Box(0, 255, (32, 32), np.uint8), "ReshapeObservation"),
        (spaces.Discrete(4), "CnnPolicy"),
        (image_space(31, 32, 3), "31 x 32 pixels; CnnPolicy with net_size='paper' takes 32 to 128.*ResizeObservation"),
        (image_space(3, 40, 129), "40 x 129 pixels"),
        (
            image_space(32, 32, 13),
            "13 channels; CnnPolicy with net_size='paper' takes at most 12.*Grayscale",
        ),
    ],
)
def test_observation_spaces_that_are_refused(space, said):
    with pytest.raises(ValueError, match=said):
        tiny_image_model(RandomEnv(space))


@pytest.mark.parametrize("name", sorted(TINY_IMAGE_NETWORK.keys() - {"net_size"}))
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be an integer between 1"):
        tiny_policy(image_space(1, 32, 32), **{name: 0})


def test_arguments_of_the_vector_policy_are_refused():
    with pytest.raises(ValueError, match="'features_extractor_class' is not among CnnPolicy's arguments"):
        tiny_policy(image_space(1, 32, 32), features_extractor_class=None)


def test_another_image_size_on_load(tmp_path):
    tiny_image_model(RandomEnv(GREY)).save(tmp_path / "model")
    with pytest.raises(ValueError, match="[Oo]bservation space"):
        EfficientZeroV2.load(tmp_path / "model", env=RandomEnv(image_space(40, 40, 1)))


def test_the_arguments_of_the_policies_are_known():
    common = {"gamma", "n_simulations", "optimizer_class", "optimizer_kwargs", "value_prefix"}
    images, vectors = policy_arguments(CnnPolicy), policy_arguments(EZV2Policy)
    assert images - vectors == TINY_IMAGE_NETWORK.keys() - {"hidden_dim", "projection_dim"} | {"augment", "channels"}
    assert vectors - images == {"features_extractor_class", "features_extractor_kwargs"}
    assert common <= images & vectors
    assert not {"kwargs", "network_kwargs", "args"} & (images | vectors)
