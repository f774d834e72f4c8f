"""The small network for images: its size follows the image, a search of it is compiled, and old files keep theirs."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2 import CnnPolicy, EfficientZeroV2, EZV2Policy
from sb3_ezv2.networks.encoder import EncodedImageModel, channels_of, n_halvings, shift_of
from sb3_ezv2.planning.fused_search import plan_fused
from sb3_ezv2.planning.fused_weights import supports_fusion
from sb3_ezv2.planning.torch_search import plan_in_torch
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE, assert_finite_parameters, assert_same_parameters, tiny_model

TINY = {"channels": 4, "latent_dim": 16, "hidden_dim": 16, "projection_dim": 16}
MIXED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (20, 24, 3), np.uint8),
        "map": spaces.Box(0, 255, (7, 7, 2), np.uint8),
        "speed": spaces.Box(-1.0, 1.0, (2,)),
    }
)


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def small_model(space: spaces.Space, action_space: spaces.Space = DISCRETE, **kwargs: Any) -> EfficientZeroV2:
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy"
    return tiny_model(RandomEnv(space, action_space), policy, **{"policy_kwargs": TINY, **kwargs})


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", range(5, 129))
def test_a_grid_of_four_to_seven_cells(side):
    cells = side
    for _ in range(n_halvings(side, side)):
        cells = -(-cells // 2)
    assert (4 if side > 7 else 5) <= cells <= 7
    assert n_halvings(side, 128) == n_halvings(128, side) == n_halvings(side, side)


def test_channels_double_up_to_those_of_the_last_convolution():
    assert [channels_of(n, 32) for n in range(5)] == [[16], [16], [16, 32], [8, 16, 32], [8, 16, 32, 32]]
    assert channels_of(3, 1) == [1, 1, 1]


def test_small_images_are_not_augmented():
    assert [shift_of(side, 128) for side in (5, 23, 24, 36, 64, 84, 96, 128)] == [0, 0, 1, 1, 2, 3, 4, 4]
    model = small_model(image(10, 10, 4)).policy.model
    pixels = th.randint(0, 256, (3, 10, 10, 4), dtype=th.uint8)
    assert model.training and th.equal(
        model._image(pixels, image(10, 10, 4), None, shift_of(10, 10)), pixels.movedim(-1, -3) / 255
    )


@pytest.mark.parametrize("shape", [(5, 5, 1), (4, 10, 10), (7, 7, 3), (36, 36, 3), (84, 84, 4), (6, 20, 1)])
def test_features_are_as_many_as_the_encoder_says(shape):
    policy = CnnPolicy(image(*shape), DISCRETE, lambda _: 1e-3)
    images = th.randint(0, 256, (2, *shape), dtype=th.uint8)
    output = policy.model.initial_inference({"observation": images})
    assert output.latents.shape == (2, 128)
    (encoder,) = policy.model.encoders.values()
    assert policy.model.vectors({"observation": images}).shape == (2, encoder.features_dim)
    assert sum(parameter.numel() for parameter in policy.model.parameters()) < 700_000


@pytest.mark.parametrize("size, other", [("small", "paper"), ("paper", "small")])
def test_sizes_of_the_other_network_are_refused(size, other):
    name = "latent_dim" if other == "small" else "stem_channels"
    with pytest.raises(ValueError, match=f"{name}=8 is a size of net_size='{other}'.*pass net_size='{other}' too"):
        CnnPolicy(image(36, 36, 1), DISCRETE, lambda _: 1e-3, net_size=size, **{name: 8})
    with pytest.raises(ValueError, match="net_size='large' must be 'small' or 'paper'"):
        CnnPolicy(image(36, 36, 1), DISCRETE, lambda _: 1e-3, net_size="large")


@pytest.mark.parametrize("shape", [(4, 5, 1), (129, 40, 1)])
def test_images_that_are_too_small_or_too_large_are_refused(shape):
    with pytest.raises(ValueError, match=r"CnnPolicy takes 5 to 128 pixels per side\. Resize"):
        small_model(image(*shape))


# -- search and learning -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("space", [image(10, 10, 4), MIXED], ids=["image", "dict"])
def test_learns_saves_and_goes_on(space, action_space, tmp_path):
    model = small_model(space, action_space).learn(45)
    assert isinstance(model.policy.model, EncodedImageModel)
    assert_finite_parameters(model)
    model.save(tmp_path / "model")
    model.save_policy(tmp_path / "policy")
    loaded = EfficientZeroV2.load(tmp_path / "model", env=RandomEnv(space, action_space))
    assert_same_parameters(model, loaded)
    observations = model.get_env().reset()
    acting = EfficientZeroV2.load(tmp_path / "policy.pt")
    for other in (loaded, acting):
        np.testing.assert_array_equal(
            model.predict(observations, deterministic=True)[0], other.predict(observations, deterministic=True)[0]
        )
    assert_finite_parameters(loaded.learn(35, reset_num_timesteps=False))


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("space", [image(10, 10, 4), MIXED], ids=["image", "dict"])
def test_the_compiled_search_is_the_search_in_torch(space, action_space):
    model = small_model(space, action_space).learn(45)
    policy, network = model.policy, model.policy.average_model
    with th.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * th.randn(parameter.shape, generator=th.Generator().manual_seed(0)))
        network.observation_mean.fill_(0.3)
        network.observation_std.fill_(0.7)
    assert supports_fusion(network)
    observations = model.replay_buffer.observations_at(np.arange(20))
    tensors = {key: th.from_numpy(value) for key, value in observations.items()}
    noise = policy.planner.draw_noise(network, 20, np.random.default_rng(0))
    with th.no_grad():
        (ours, drawn), (theirs, expected) = (
            plan(network, tensors, noise, True, policy.planner.settings(network))
            for plan in (plan_fused, plan_in_torch)
        )
    if network.action_kind.sampled:
        np.testing.assert_allclose(drawn, expected, rtol=1e-4, atol=1e-4)
    same = (ours.visit_counts == theirs.visit_counts).all(axis=1)
    assert same.mean() >= 0.9
    np.testing.assert_allclose(ours.root_values[same], theirs.root_values[same], rtol=1e-3, atol=1e-4)


def test_every_part_of_a_dictionary_has_the_same_weight_at_first():
    model = CnnPolicy(MIXED, DISCRETE, lambda _: 1e-3).model
    weight = model.representation.layers[0].weight
    widths = [int(encoder.features_dim) for encoder in model.encoders.values()] + [2]
    norms = [float(columns.square().sum()) for columns in weight.split(widths, dim=1)]
    assert len(norms) == 3 and max(norms) < 1.5 * min(norms)


def test_a_batch_has_nothing_in_common_in_its_features():
    model = small_model(image(10, 10, 4)).policy.model
    features = model.vectors({"observation": th.randint(0, 256, (64, 4, 10, 10), dtype=th.uint8)})
    assert features.mean(dim=0).abs().max() < 1e-3
    assert (features.std(dim=0) - 1.0).abs().median() < 0.02


# -- files from before net_size ----------------------------------------------------------------------------------------


def without_net_size(path: Any, old: Any, drop: tuple[str, ...]) -> None:
    """The same model as a release without ``net_size`` wrote it."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "data":
                data = json.loads(content)
                data.pop("_from_before_net_size")
                for key in drop:
                    data["policy_kwargs"].pop(key)
                content = json.dumps(data).encode()
            target.writestr(name, content)


def test_a_model_from_before_has_the_network_of_the_paper(tmp_path):
    tiny = {"net_size": "paper", "stem_channels": 2, "latent_channels": 2, "projection_dim": 4, "prediction_dim": 4}
    model = small_model(image(32, 32, 1), policy_kwargs=tiny).learn(35)
    model.save(tmp_path / "model")
    without_net_size(tmp_path / "model.zip", tmp_path / "old.zip", ("net_size",))
    loaded = EfficientZeroV2.load(tmp_path / "old", env=RandomEnv(image(32, 32, 1), DISCRETE))
    assert loaded.policy_kwargs == tiny
    assert_same_parameters(model, loaded)
    loaded.save(tmp_path / "again")
    assert_same_parameters(model, EfficientZeroV2.load(tmp_path / "again"))


def test_a_model_from_before_flattens_images_that_were_too_small(tmp_path):
    space = spaces.Dict({"map": image(7, 7, 2), "speed": spaces.Box(-1.0, 1.0, (2,))})
    sizes = {"latent_dim": 16, "hidden_dim": 16, "projection_dim": 16}
    model = tiny_model(RandomEnv(space), EZV2Policy, policy_kwargs=sizes).learn(35)
    model.policy_class = EfficientZeroV2.policy_aliases["MultiInputPolicy"]  # as the user named it then
    model.save(tmp_path / "model")
    without_net_size(tmp_path / "model.zip", tmp_path / "old.zip", ())
    loaded = EfficientZeroV2.load(tmp_path / "old")
    assert type(loaded.policy) is EZV2Policy
    assert_same_parameters(model, loaded)


def test_a_policy_from_before_has_the_network_of_the_paper(tmp_path, monkeypatch):
    policy = CnnPolicy(image(32, 32, 1), DISCRETE, lambda _: 1e-3, net_size="paper", stem_channels=2, latent_channels=2)
    given = policy._get_constructor_parameters()
    monkeypatch.setattr(
        policy, "_get_constructor_parameters", lambda: {name: v for name, v in given.items() if name != "net_size"}
    )
    policy.save(tmp_path / "old.pt")
    loaded = CnnPolicy.load(tmp_path / "old.pt")
    assert loaded.network.net_size == "paper"
    for name, value in loaded.average_model.state_dict().items():
        assert th.equal(value, policy.average_model.state_dict()[name])
