"""The published settings: they build, nobody can change them by accident, and the zoo has the same."""

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ezv2 import EfficientZeroV2, WarmUp
from sb3_ezv2.presets import PAPER, paper
from sb3_ezv2.zoo.settings import ZOO_NAMES, choose_file, hyperparameter_file, read_entries, read_schedule
from tests.helpers.envs import RandomEnv
from tests.helpers.tiny import CONTINUOUS, DISCRETE

ENTRIES = {"vectors": "default", "images": "dm_control/walker-run-vision-v0", "atari": "atari"}
PIXELS = spaces.Box(0, 255, (3, 32, 32), np.uint8)


@pytest.mark.parametrize("kind", PAPER)
def test_published_settings_build_a_model(kind):
    env = RandomEnv(*([] if kind == "vectors" else [PIXELS]), action_space=DISCRETE if kind == "atari" else CONTINUOUS)
    model = EfficientZeroV2("MlpPolicy" if kind == "vectors" else "CnnPolicy", env, device="cpu", **paper(kind))
    assert model.batch_size == 256 and model.reanalyzer.search_value == "mean"
    assert model.n_simulations == (16 if kind == "atari" else 32)
    assert kind == "atari" or model.policy.planner.n_considered == 16
    assert model.predict(model.env.reset())[0].shape == (1, *env.action_space.shape)


def test_published_settings_are_copies():
    paper()["policy_kwargs"]["n_blocks"] = 7
    assert paper()["policy_kwargs"]["n_blocks"] == 3


def test_an_unknown_name():
    with pytest.raises(ValueError, match="kind='sounds' must be 'vectors', 'images' or 'atari'"):
        paper("sounds")


@pytest.mark.parametrize("kind", PAPER)
def test_the_zoo_has_the_same(kind):
    file = hyperparameter_file().with_name("paper.yml")
    entry = read_entries(file)[ENTRIES[kind]]
    assert choose_file("Unheard-v0", "paper") == (
        str(file),
        f"{file} has no settings for Unheard-v0: its entry 'default' is used",
    )
    stored = {name: value for name, value in entry.items() if name not in ZOO_NAMES}
    expected = paper(kind)
    rate, found = expected.pop("learning_rate"), read_schedule(stored.pop("learning_rate"))
    assert isinstance(found, WarmUp) and vars(found) == vars(rate)
    stored_kwargs, expected_kwargs = stored.pop("policy_kwargs"), expected.pop("policy_kwargs")
    if isinstance(stored_kwargs, str):
        stored_kwargs = eval(stored_kwargs, {"th": __import__("torch")})
    assert stored_kwargs == expected_kwargs
    assert stored == {**({"ent_coef": 0.005} if kind == "images" else {}), **expected}
