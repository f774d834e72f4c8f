"""Policies to hand on: the acting network and its settings alone, read without executing anything.

The file is one of ``torch.save``, a zip archive of tensors with a dictionary of texts and numbers, and is loaded with
``weights_only=True``.
"""

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_ezv2.common.archives import archive_parts
from sb3_ezv2.common.array_files import DamagedFileError
from sb3_ezv2.common.plain_spaces import space_from_plain, space_to_plain

FORMAT = "sb3_ezv2 policy"
FORMAT_VERSION = 1
OF_TRAINING = {"observation_space", "action_space", "lr_schedule", "optimizer_class", "optimizer_kwargs"}
"""Arguments of a policy that are no settings of the file."""
PLAIN = (bool, int, float, str, type(None))


def write_policy(
    file: BinaryIO,
    name: str,
    arguments: Mapping[str, Any],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    state: Mapping[str, th.Tensor],
) -> None:
    """Write a policy.

    :param file: open for writing
    :param name: of the policy's class
    :param arguments: of its constructor
    :param observation_space: of the environment
    :param action_space: of the environment
    :param state: of the acting network
    :raises ValueError: if an argument is no number, text or ``None``, or a space has no description
    """
    settings = {key: _plain(value) for key, value in arguments.items() if key not in OF_TRAINING}
    for key, value in settings.items():
        if not isinstance(value, PLAIN):
            raise ValueError(f"{key}={value!r} cannot be saved with a policy: it is no number, text or None")
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "class": name,
        "settings": settings,
        "observation_space": space_to_plain(observation_space),
        "action_space": space_to_plain(action_space),
        "state": {key: value.cpu() for key, value in state.items()},
    }
    th.save(content, file)


def read_policy(file: BinaryIO, name: str) -> dict[str, Any]:
    """Read what :func:`write_policy` wrote, with spaces in place of their descriptions.

    :param file: open for reading, and seekable
    :param name: of the file, for errors
    :raises ValueError: if the file is damaged, something else or of a later release
    """
    archive_parts(file, name)
    try:
        content = th.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises different errors for what is not tensors and numbers
        raise DamagedFileError(
            f"{name} is no policy file of this package, or holds Python objects that loading would execute: write it "
            "with model.save_policy, or load a whole model that you trust with EfficientZeroV2.load"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{name} is no policy file of this package; model.save_policy writes one")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(f"{name} has the format version {content['format_version']}; this release reads 1")
    for key in ("observation_space", "action_space"):
        content[key] = space_from_plain(content[key])
    return content


def is_policy_archive(parts: set[str]) -> bool:
    """Whether the members of an archive are those of ``torch.save``, not of a whole model."""
    return any(part.endswith("/data.pkl") for part in parts)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
