"""Checks of folders and model files before anything is written."""

import os
import zipfile
from pathlib import Path

MODEL_PARTS = {"data", "policy.pth", "policy.optimizer.pth"}
"""What a saved model of this package holds."""


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that cannot be written to.

    :param folder: to be used; it need not exist
    :raises OSError: naming the place that stands in the way
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"cannot write to {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write to {folder}: no permission for {place}")


def check_model_file(path: str | os.PathLike[str]) -> None:
    """Refuse a file that is not a whole saved model.

    :param path: zip file written by ``save``
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is damaged or something else
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged, parts = archive.testzip(), set(archive.namelist())
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a saved model: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} cannot be read")
    if not parts >= MODEL_PARTS:
        raise ValueError(
            f"{path} is not a model of this algorithm: {', '.join(sorted(MODEL_PARTS - parts))} is missing"
        )
