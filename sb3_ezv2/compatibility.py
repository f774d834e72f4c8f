"""Where files of release 0.1 find what they name: pickles hold the module of every class."""

import sys
from importlib import import_module

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
