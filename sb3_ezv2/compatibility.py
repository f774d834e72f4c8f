"""Files of older releases: the modules that their pickles name, and what was different when they were written."""

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_ezv2.policies import CnnPolicy, EZV2Policy, MlpPolicy, MultiInputPolicy, seen_images

MOVED = {
    "frame_storage": "replay.frame_storage",
    "replay_buffer": "replay.buffer",
    "schedules": "common.schedules",
    "statistics": "learning.statistics",
}
"""Modules of release 0.1 whose classes are saved with models and buffers, and where they are now."""


def resolve_old_names() -> None:
    """Let ``sb3_ezv2.<old name>`` be imported as the module of its new name."""
    for old, new in MOVED.items():
        sys.modules.setdefault(f"sb3_ezv2.{old}", import_module(f"sb3_ezv2.{new}"))


def bring_up_to_date(attributes: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Change the attributes of a model of release 0.1 so that its networks are built as they were.

    Where ``td_phase`` and ``td_fresh`` are shares of the run, counts take their place, with one warning that says so.

    :param attributes: of an :class:`~sb3_ezv2.ezv2.EfficientZeroV2`, from a file
    :param defaults: arguments by name
    """
    if "random_repeat" in attributes:
        del attributes["random_repeat"]
    attributes.setdefault("novelty_coef", 0.0)  # which release 0.1 did not have
    attributes.setdefault("max_depth", attributes["n_simulations"])  # nor that one: nothing is deeper
    attributes.setdefault("search_value", "improved")
    remembered = vars(attributes["statistics"]) if "statistics" in attributes else {}
    if "largest_reward" in remembered:  # only release 0.1 had it
        del remembered["largest_reward"]
        attributes["policy_kwargs"] = {**attributes["policy_kwargs"], "transformed_support": True}
    if attributes["policy_class"] is EZV2Policy:  # MlpPolicy and MultiInputPolicy were one class
        attributes["policy_class"] = MultiInputPolicy
    shares = [name for name in ("td_phase", "td_fresh") if isinstance(attributes[name], float | np.floating)]
    if shares:
        listed = " and ".join(f"{name}={defaults[name]} instead of {attributes[name]}" for name in shares)
        warnings.warn(
            f"the model was saved with shares of its run, which release 0.1 had; it goes on with the counts {listed}",
            stacklevel=2,
        )
        attributes.update({name: defaults[name] for name in shares})


def keep_network(attributes: dict[str, Any]) -> None:
    """Change the attributes of a model from before ``net_size`` so that it sees its images with the paper's network.

    Images that this network is too large for were flattened.

    :param attributes: of an :class:`~sb3_ezv2.ezv2.EfficientZeroV2`, from a file
    """
    policy_class, kwargs = attributes["policy_class"], attributes["policy_kwargs"]
    space, paper = attributes["observation_space"], {"net_size": "paper"}
    has_extractor = kwargs.get("features_extractor_class") is not None
    sees_images = issubclass(policy_class, CnnPolicy)
    if has_extractor or not (
        sees_images or (issubclass(policy_class, MultiInputPolicy) and isinstance(space, spaces.Dict))
    ):
        return
    if sees_images or seen_images(space, kwargs | paper):
        attributes["policy_kwargs"] = paper | kwargs
    else:
        attributes["policy_class"] = MlpPolicy
