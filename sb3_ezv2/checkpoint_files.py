"""The files of a checkpoint: their names, what belongs together, and which folders are checkpoints."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from sb3_ezv2.common.array_files import DamagedFileError
from sb3_ezv2.common.files import remove_folder, write_text

FORMAT_VERSION = 1
MODEL, BUFFER, LEARNING, ENVIRONMENTS, NORMALIZATION, STREAM, MANIFEST = (
    *("model.zip", "replay_buffer.pkl", "learning_state.bin"),
    *("environments.pkl", "normalization.pkl", "stream.pkl", "manifest.json"),
)
OF_RANKS = {MODEL, BUFFER, LEARNING, ENVIRONMENTS, NORMALIZATION, STREAM}
"""What lies beside the manifest and, but for the model, in the folder of every other rank."""
NAME = re.compile(r"checkpoint_(\d+)_(\d+)_steps")


def checkpoints_in(folder: str | Path) -> list[Path]:
    """All checkpoints of a folder, the oldest first; empty if there is no such folder."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted((path for path in found if (path / MANIFEST).is_file()), key=number_of)


def find_checkpoint(folder: str | Path) -> Path:
    """The folder itself if it is a checkpoint, else the newest checkpoint in it.

    :raises FileNotFoundError: if there is none
    """
    if (Path(folder) / MANIFEST).is_file():
        return Path(folder)
    found = checkpoints_in(folder)
    if not found:
        raise FileNotFoundError(f"there is no checkpoint in {folder}; save_checkpoint makes one")
    return found[-1]


def read_manifest(checkpoint: str | Path) -> dict[str, Any]:
    """What a checkpoint says about itself: run, steps, versions, files with their checksums.

    :param checkpoint: its folder
    :raises ValueError: if it is damaged, or of a later release
    """
    path = Path(checkpoint) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        content = found["content"]
        whole = _digest_of(content) == found["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}; use another checkpoint") from error
    if not whole:
        raise DamagedFileError(f"{path} is damaged; use another checkpoint")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{checkpoint} has the format version {content['format_version']}; this release reads {FORMAT_VERSION}"
        )
    return content


def write_manifest(checkpoint: Path, content: dict[str, Any]) -> None:
    """Write what a checkpoint says about itself, with a checksum; see :func:`read_manifest`."""
    text = json.dumps({"content": content, "sha256": _digest_of(content)}, indent=1)
    write_text(checkpoint / MANIFEST, text)


def part_of(checkpoint: Path, rank: int) -> Path:
    """Folder of one rank's files: the checkpoint itself for the first, a folder in it for each of the others."""
    return checkpoint if rank == 0 else checkpoint / f"rank_{rank}"


def next_checkpoint(folder: Path, num_timesteps: int) -> Path:
    """Path of the checkpoint that follows the others of a folder.

    :param folder: of checkpoints
    :param num_timesteps: steps so far
    """
    number = max((number_of(path) for path in checkpoints_in(folder)), default=0) + 1
    return folder / f"checkpoint_{number:06d}_{num_timesteps}_steps"


def remove_older(folder: Path, run_id: str, keep: int) -> None:
    """Remove all checkpoints of a run but the newest ``keep``."""
    ours = [other for other in checkpoints_in(folder) if run_of(other) == run_id]
    for other in ours[:-keep]:
        remove_folder(other)


def check_files(place: Path, files: dict[str, dict[str, Any]]) -> None:
    """Refuse files that are missing, damaged, or of another checkpoint; the replay buffer is checked as it is read."""
    for name, facts in files.items():
        if not (place / name).is_file():
            raise DamagedFileError(f"{place / name} is missing; use another checkpoint")
        if name != BUFFER and file_facts(place / name) != facts:
            raise DamagedFileError(f"{place / name} is damaged or of another checkpoint; use another checkpoint")


def file_facts(path: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(2**20):
            digest.update(data)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _digest_of(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def number_of(checkpoint: Path) -> int:
    """Number of a checkpoint in its folder; 0 if its name has none."""
    found = NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else 0


def run_of(checkpoint: Path) -> str | None:
    """Run that a checkpoint belongs to; ``None`` if its manifest cannot be read."""
    try:
        return read_manifest(checkpoint)["run_id"]
    except ValueError:
        return None
