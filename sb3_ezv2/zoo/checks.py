"""Checks of folders and model files before anything is written."""

import os
from pathlib import Path

from sb3_ezv2.common.archives import archive_parts
from sb3_ezv2.model_files import MODEL_PARTS
from sb3_ezv2.policy_files import is_policy_archive


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
    """Refuse a file that is neither a whole saved model nor a policy.

    :param path: zip file written by ``save`` or ``save_policy``
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it is damaged or something else
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path}")
    with open(path, "rb") as file:
        if not is_policy_archive(archive_parts(file, str(path))):
            archive_parts(file, str(path), MODEL_PARTS)
