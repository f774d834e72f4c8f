"""Policies to hand on: the acting network and its settings alone, read without executing anything.

The file is one of ``torch.save``, a zip archive of tensors with a dictionary of texts and numbers, and is loaded with
``weights_only=True``. Classes of networks are named in it; whoever reads it must have imported them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_ezv2.common.archives import archive_parts
from sb3_ezv2.common.array_files import DamagedFileError
from sb3_ezv2.common.plain_spaces import space_from_plain, space_to_plain

FORMAT = "sb3_ezv2 policy"
FORMAT_VERSION = 1
OF_TRAINING = {"observation_space", "action_space", "lr_schedule", "optimizer_class", "optimizer_kwargs"}
"""Arguments of a policy that are no settings of the file."""
CLASS = "class of networks"
"""The only key of what stands for a class."""
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
    :raises ValueError: if an argument is neither plain (numbers, texts, ``None``, lists, dictionaries) nor a class of
        networks, or a space has no description
    """
    settings = {key: _plain(key, value) for key, value in arguments.items() if key not in OF_TRAINING}
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
    content["settings"] = {key: _with_classes(value, name) for key, value in content["settings"].items()}
    return content


def is_policy_archive(parts: set[str]) -> bool:
    """Whether the members of an archive are those of ``torch.save``, not of a whole model."""
    return any(part.endswith("/data.pkl") for part in parts)


def _plain(key: str, value: Any) -> Any:
    """An argument without Python objects; a class of networks, such as an extractor, becomes its name.

    :raises ValueError: if it is something else
    """
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, list | tuple):
        return [_plain(key, part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(key, part) for name, part in value.items()}
    if isinstance(value, type) and issubclass(value, nn.Module):
        return {CLASS: _class_name(value)}
    if not isinstance(value, PLAIN):
        raise ValueError(
            f"{key}={value!r} cannot be saved with a policy: it is no number, text, None, list, dictionary or class of "
            "networks; save the whole model with model.save"
        )
    return value


def _with_classes(value: Any, name: str) -> Any:
    """An argument with classes in place of their names; only classes that are imported already are found.

    :raises ValueError: if one is not
    """
    if isinstance(value, list):
        return [_with_classes(part, name) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {CLASS}:
        return {key: _with_classes(part, name) for key, part in value.items()}
    found = next((kind for kind in _networks(nn.Module) if _class_name(kind) == value[CLASS]), None)
    if found is None:
        raise ValueError(f"{name} needs the class {value[CLASS]}; import it before the policy is loaded")
    return found


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _networks(kind: type[nn.Module]) -> Iterator[type[nn.Module]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _networks(subclass)
