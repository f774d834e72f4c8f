"""Networks of the user's own: extractors of features, sizes of layers, activations; alone and with everything else."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.networks.features import FeaturesModel
from sb3_ezv2.planning.device_search import plan_on_device
from sb3_ezv2.planning.fused_search import plan_fused
from sb3_ezv2.planning.planner import choose_search
from sb3_ezv2.planning.torch_search import plan_in_torch
from sb3_ezv2.policies import CnnPolicy, EZV2Policy, PlanningPolicy
from tests.helpers.envs import RandomEnv
from tests.helpers.plans import assert_same_plans, observations_of, plans
from tests.helpers.tiny import CONTINUOUS, DISCRETE, TINY_NETWORK, assert_same_parameters, tiny_model, tiny_network
from tests.networks.test_cnn import TINY_IMAGE_NETWORK

SIZES = {"latent_dim": 16, "projection_dim": 16}


class Own(BaseFeaturesExtractor):
    """With a layer that normalises and one that drops out, so that its two modes differ."""

    def __init__(self, observation_space: spaces.Box, features_dim: int = 12) -> None:
        super().__init__(observation_space, features_dim)
        n_inputs = int(np.prod(observation_space.shape))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(n_inputs, features_dim), nn.BatchNorm1d(features_dim), nn.Tanh(), nn.Dropout(0.1)
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


OWN = {"features_extractor_class": Own, "features_extractor_kwargs": {"features_dim": 9}}
NETWORKS = {
    "extractor": {**SIZES, **OWN, "hidden_dim": 16},
    "net_arch": {**SIZES, "net_arch": [24, 8, 16]},
    "activation": {**TINY_NETWORK, "activation_fn": nn.SiLU},
    "all of them": {**SIZES, **OWN, "net_arch": [8, 16], "activation_fn": nn.Tanh, "optimizer_class": th.optim.AdamW},
    "with a value prefix": {**SIZES, **OWN, "net_arch": [8, 16], "value_prefix": True, "lstm_dim": 8},
}


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_goes_on_and_its_files_act_alike(name, n_envs, tmp_path):
    def make() -> VecNormalize:
        return VecNormalize(make_vec_env("Pendulum-v1", n_envs))

    given = dict(NETWORKS[name])
    settings = {"policy_kwargs": given, "target_update_interval": 7}
    whole = tiny_model(make(), **settings).learn(66, log_interval=None)
    stopped = tiny_model(make(), **settings).learn(42, log_interval=None)
    stopped.save_checkpoint(tmp_path)
    resumed = EfficientZeroV2.load_checkpoint(tmp_path, make(), device="cpu")
    resumed.learn(66 - resumed.num_timesteps, reset_num_timesteps=False, log_interval=None)
    assert given == NETWORKS[name] and whole._n_updates > 0
    assert_same_parameters(resumed, whole)

    whole.save(tmp_path / "model")
    whole.save_policy(tmp_path / "policy")
    loaded = EfficientZeroV2.load(tmp_path / "model", device="cpu")
    assert_same_parameters(loaded, whole)
    observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expected, _ = whole.predict(observations, deterministic=True)
    for other in (loaded, PlanningPolicy.load(tmp_path / "policy.pt", "cpu")):
        np.testing.assert_array_equal(other.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("action_space", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("network", [{**OWN}, {"net_arch": [24, 8, 16]}, {**OWN, "net_arch": [5]}], ids=str)
def test_compiled_and_torch_searches_agree(network, action_space, monkeypatch):
    sizes = SIZES if "net_arch" in network else {**SIZES, "hidden_dim": 16}
    model = tiny_network(action_space, **{"hidden_dim": 128, **sizes, **network}).eval()
    assert choose_search(model) is plan_fused
    for explore in (False, True):
        ours, torchs, device = plans(
            model, observations_of(200), explore, monkeypatch, plan_fused, plan_in_torch, plan_on_device
        )
        assert_same_plans(ours, torchs)
        assert_same_plans(ours, device)
    assert len(np.unique(ours.root_values)) > 100  # the observations reach the search


def test_torch_searches_what_compiled_code_does_not_know(recwarn):
    model = tiny_network(DISCRETE, activation_fn=nn.ELU)
    assert choose_search(model) is plan_in_torch
    tiny_model(RandomEnv(), policy_kwargs=NETWORKS["activation"]).learn(40)
    assert [str(warning.message) for warning in recwarn if "slower" in str(warning.message)] == []


def test_an_extractor_is_trained_and_seen_by_every_copy():
    model = tiny_model(RandomEnv(), policy_kwargs=NETWORKS["extractor"], target_update_interval=7)
    policy = model.policy
    assert isinstance(policy.model, FeaturesModel) and policy.model.extractor.features_dim == 9
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    model.learn(60)
    for copy in ("model", "average_model", "target_model"):
        after = policy.state_dict()
        names = [name for name in after if name.startswith(f"{copy}.extractor.")]
        assert any("running_mean" in name for name in names)
        assert all(not th.equal(before[name], after[name]) for name in names if "num_batches" not in name), copy
    trained = {id(parameter) for group in policy.optimizer.param_groups for parameter in group["params"]}
    assert {id(parameter) for parameter in policy.model.extractor.parameters()} <= trained


def test_an_extractor_gets_what_stable_baselines_gives():
    seen = []

    class Watching(FlattenExtractor):
        def forward(self, observations: th.Tensor) -> th.Tensor:
            seen.append(observations)
            return super().forward(observations)

    image = spaces.Box(0, 255, (3, 40, 40), np.uint8)
    for space, check in (
        (spaces.Box(-100.0, 100.0, (3,)), lambda x: x.abs().max() > 3.0),
        (image, lambda x: x.shape[1:] == (3, 40, 40) and 0.9 < x.max() <= 1.0),
        (spaces.Discrete(4, start=2), lambda x: x.shape[-1] == 4 and x.sum() == len(x)),
    ):
        sizes = {**SIZES, "hidden_dim": 16, "features_extractor_class": Watching}
        policy = EZV2Policy(space, DISCRETE, lambda _: 1e-3, **sizes)
        seen.clear()
        policy.predict(np.stack([space.sample() for _ in range(5)]))
        assert len(seen) == 1 and check(seen[0]), space


def test_images_and_dicts_go_to_an_extractor_as_a_whole():
    image = spaces.Box(0, 255, (40, 40, 3), np.uint8)
    mixed = spaces.Dict({"image": image, "speed": spaces.Box(-1.0, 1.0, (2,)), "gear": spaces.Discrete(3)})
    sizes = {**SIZES, "hidden_dim": 16}
    for policy, space, extractor in (
        ("CnnPolicy", image, NatureCNN),
        ("MultiInputPolicy", mixed, CombinedExtractor),
        ("MlpPolicy", image, FlattenExtractor),
    ):
        model = tiny_model(RandomEnv(space), policy, policy_kwargs={**sizes, "features_extractor_class": extractor})
        assert isinstance(model.policy, EZV2Policy) and not isinstance(model.policy, CnnPolicy)
        model.learn(36)
        assert model._n_updates > 0
        observation = model.observation_space.sample()
        assert model.action_space.contains(int(model.predict(observation)[0]))


def test_image_networks_have_sizes_and_activations_too():
    network = {**TINY_IMAGE_NETWORK, "activation_fn": nn.ELU, "net_arch": [12, 10]}
    del network["hidden_dim"]
    model = tiny_model(RandomEnv(spaces.Box(0, 255, (32, 32, 1), np.uint8)), "CnnPolicy", policy_kwargs=network)
    kinds = {type(part) for part in model.policy.model.modules()}
    assert nn.ELU in kinds and nn.ReLU not in kinds
    linear = [part for part in model.policy.model.heads.hidden[0] if isinstance(part, nn.Linear)]
    assert [part.out_features for part in linear] == [12, 10]
    assert model.learn(34)._n_updates > 0


def test_sizes_of_layers_are_those_of_net_arch():
    model = EZV2Policy(spaces.Box(-1, 1, (3,)), DISCRETE, lambda _: 1e-3, net_arch=[24, 8]).model
    usual = EZV2Policy(spaces.Box(-1, 1, (3,)), DISCRETE, lambda _: 1e-3).model
    one = EZV2Policy(spaces.Box(-1, 1, (3,)), DISCRETE, lambda _: 1e-3, net_arch=[128]).model
    blocks = [block.expand.out_features for block in model.dynamics.blocks]
    assert blocks == [24, 8] and model.heads.hidden_dim == 8 and model.dynamics.combine[1].out_features == 24
    assert {name: value.shape for name, value in one.state_dict().items()} == {
        name: value.shape for name, value in usual.state_dict().items()
    }


class NotFinite(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations) / 0.0


class WrongSize(FlattenExtractor):
    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations)[:, :2]


@pytest.mark.parametrize(
    "network, message",
    [
        ({"features_extractor_class": NotFinite}, "NotFinite gives (nan|inf|-inf) among its features.*division"),
        ({"features_extractor_class": WrongSize}, r"WrongSize gives \(2, 2\) for two observations.*features_dim=4"),
        ({"features_extractor_class": NatureCNN}, "NatureCNN cannot be used with .*Box"),
        ({**OWN, "features_extractor_kwargs": {"width": 3}}, "Own cannot be used with .*width.*TypeError"),
        ({"features_extractor_class": nn.Linear}, "features_extractor_class=.*BaseFeaturesExtractor"),
        ({"features_extractor_kwargs": {"features_dim": 3}}, "features_extractor_kwargs=.*features_extractor_class"),
        ({"net_arch": [64], "n_blocks": 2}, r"net_arch=\[64\] takes the place of hidden_dim=128 and n_blocks=2"),
        ({"net_arch": {"pi": [64], "vf": [64]}}, "net_arch=.*must be a list of 1 to 100 sizes"),
        ({"net_arch": [64, 0]}, "every size of net_arch=0 must be an integer"),
        ({"activation_fn": th.tanh}, "activation_fn=.*must be a class"),
        ({"activation_fn": nn.GLU}, "activation_fn=.*must be a class"),
    ],
)
def test_networks_that_cannot_work_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        EfficientZeroV2("MlpPolicy", gym.make("CartPole-v1"), policy_kwargs=network)
