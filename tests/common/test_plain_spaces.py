"""Spaces survive the way through JSON."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from sb3_ezv2.common.plain_spaces import fingerprint, space_from_plain, space_to_plain

SPACES = [
    spaces.Box(-1.0, 1.0, (3,)),
    spaces.Box(np.array([-1.0, -np.inf], np.float64), np.array([0.1, np.inf], np.float64), dtype=np.float64),
    spaces.Box(0, 255, (96, 96, 3), np.uint8),
    spaces.Box(0, 255, (), np.int64),
    spaces.Discrete(4),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([3, 4], start=[1, -1]),
    spaces.MultiDiscrete([[3, 4], [2, 2]]),
    spaces.MultiBinary(5),
    spaces.MultiBinary([2, 3]),
    spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(0, 1, (2,)), "c": spaces.Dict({"d": spaces.Discrete(3)})}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_is_the_same_after_json(space):
    again = space_from_plain(json.loads(json.dumps(space_to_plain(space))))
    assert again == space and again.dtype == space.dtype
    assert fingerprint(again) == fingerprint(space)


def test_different_spaces_have_different_fingerprints():
    assert len({fingerprint(space) for space in SPACES}) == len(SPACES)


def test_a_description_of_an_image_is_short():
    assert len(json.dumps(space_to_plain(SPACES[2]))) < 100


def test_other_spaces_and_other_descriptions_are_refused():
    with pytest.raises(ValueError, match="type Text"):
        space_to_plain(spaces.Text(3))
    for plain in (
        {},
        {"type": "Box"},
        {"type": "Discrete", "n": "x", "start": 0},
        {"type": "Discrete", "n": 0, "start": 0},
    ):
        with pytest.raises(ValueError, match="describes no space"):
            space_from_plain(plain)
    with pytest.raises(ValueError, match="'Text' is no type"):
        space_from_plain({"type": "Text"})
