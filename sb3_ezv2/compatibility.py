"""Files of release 0.1: the modules that their pickles name, and what was different when they were written."""

import sys
from importlib import import_module
from typing import Any

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


def bring_up_to_date(attributes: dict[str, Any]) -> None:
    """Change the attributes of a loaded model of release 0.1 so that its networks are built as they were.

    :param attributes: of an :class:`~sb3_ezv2.ezv2.EfficientZeroV2`; those of later releases are left alone
    """
    remembered = vars(attributes["statistics"]) if "statistics" in attributes else {}
    if "largest_reward" in remembered:  # only release 0.1 had it
        del remembered["largest_reward"]
        attributes["policy_kwargs"] = {**attributes["policy_kwargs"], "transformed_support": True}
