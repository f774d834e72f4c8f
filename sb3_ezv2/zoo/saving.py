"""Saving a run, in another place if its folder takes nothing any more."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ezv2.checkpoints import CheckpointedAlgorithm
from sb3_ezv2.common.files import replacing
from sb3_ezv2.zoo.resuming import CHECKPOINTS, KEPT

OTHER_PLACE = "ezv2-saved"
"""Folder for runs whose own folder takes nothing any more."""


def save_run(model: BaseAlgorithm, run: Path, name: str, with_buffer: bool, with_checkpoint: bool) -> Path:
    """Save the model, its replay buffer and its normalisation as the zoo names them, and a checkpoint.

    If the run's folder takes nothing, as on a full disk, a folder elsewhere does. Nothing is overwritten before its
    successor is whole.

    :param model: to be saved
    :param run: folder of the run
    :param name: of the environment, in the names of files
    :param with_buffer: whether to save the replay buffer
    :param with_checkpoint: whether to save a checkpoint; algorithms of others have their replay buffer saved instead
    :return: folder that holds all of it
    :raises OSError: if no place takes it
    """
    errors: list[OSError] = []
    for place in (run, *other_places(run)):
        try:
            _save_parts(model, place, name, with_buffer, with_checkpoint)
        except OSError as error:
            errors.append(error)
            print(f"Cannot save in {place}: {error}", file=sys.stderr)
            continue
        if place != run:
            shutil.copytree(run / name, place / name, ignore=_only_missing(place / name), dirs_exist_ok=True)
        return place
    raise errors[0]


def _save_parts(model: BaseAlgorithm, folder: Path, name: str, with_buffer: bool, with_checkpoint: bool) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    if isinstance(model, CheckpointedAlgorithm):
        if with_checkpoint:
            model.save_checkpoint(folder / CHECKPOINTS, KEPT)
    else:
        with_buffer = with_buffer or with_checkpoint
    _replace(folder / f"{name}.zip", model.save)
    if with_buffer and hasattr(model, "save_replay_buffer"):
        _replace(folder / "replay_buffer.pkl", model.save_replay_buffer)
    vec_normalize = model.get_vec_normalize_env()
    if vec_normalize is not None:
        _replace(folder / name / "vecnormalize.pkl", lambda path: vec_normalize.save(str(path)))


def _replace(path: Path, save: Callable[[Path], Any]) -> None:
    with replacing(path) as temporary:
        save(temporary)


def other_places(run: Path) -> Iterator[Path]:
    """Folders outside a run's own one: in the system's folder for temporary files, at home, and in memory."""
    name = f"{run.name}-{os.getpid()}"
    for find in (tempfile.gettempdir, Path.home, lambda: "/dev/shm"):
        try:
            parent = Path(find())
        except (OSError, RuntimeError):
            continue  # there is none
        if parent.is_dir():
            yield parent / OTHER_PLACE / name


def _only_missing(target: Path) -> Callable[[Any, list[str]], list[str]]:
    """For ``copytree``: leave out what is in ``target`` already."""
    return lambda _, names: [name for name in names if (target / name).exists()]


def speak_without_a_terminal() -> None:
    """Let nothing that is printed fail any more, if a terminal or a pipe that took it is gone."""
    for name in ("stdout", "stderr"):
        try:
            print(file=getattr(sys, name), flush=True)
        except (OSError, ValueError, AttributeError):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
