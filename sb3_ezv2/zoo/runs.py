"""Folders of runs: each belongs to one run alone, and says which run it goes on with."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sb3_ezv2.common.files import write_text

RECORD = "run.yml"
SUMS = "sha256"
"""Entry of a record with the checksums of the run's settings."""


class Record(NamedTuple):
    """Who a run is."""

    id: str
    parent: str | None  # id of the run that it goes on with
    first_step: int  # environment steps before it


def create_folder(first: Path, number: int, suffix: str = "") -> Path:
    """Create a folder that was not there: ``<first>_<number><suffix>`` or with the next number that is free.

    :param first: beginning of its path
    :param number: to begin with
    :param suffix: after the number
    """
    first.parent.mkdir(parents=True, exist_ok=True)
    while True:
        folder = first.with_name(f"{first.name}_{number}{suffix}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def write_record(run: Path, before: Path | None, first_step: int) -> Record:
    """Note in a run's folder who it is, and what its settings are.

    :param run: its folder; in a folder within are the settings
    :param before: folder of the run that it goes on with
    :param first_step: environment steps before it
    """
    parent = read_record(before).id if before is not None else None
    record = Record(str(uuid.uuid4()), parent, first_step)
    sums = {path.relative_to(run).as_posix(): _sha256(path) for path in sorted(run.glob("*/*.yml"))}
    write_text(run / RECORD, yaml.safe_dump(record._asdict() | {SUMS: sums}))
    return record


def check_unchanged(run: Path) -> None:
    """Refuse settings that are not those that a run began with: one changed number would train something else.

    :param run: its folder; one without a record, or whose record is of an earlier version, has no checksums
    :raises ValueError: naming the file
    """
    if not (run / RECORD).is_file():
        return
    sums = _read(run / RECORD).get(SUMS) or {}
    if not isinstance(sums, Mapping):
        raise ValueError(f"{run / RECORD} is damaged: {SUMS} must hold checksums by file")
    for name, expected in sums.items():
        path = run / str(name)
        if path.is_file() and _sha256(path) != expected:
            raise ValueError(
                f"{path} is damaged: it is not what the run wrote. Other settings are given with -params or -c; if you "
                f"changed it yourself, remove its checksum from {run / RECORD}"
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> Mapping[str, Any]:
    """What a record holds.

    :raises ValueError: if it is damaged
    """
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(stored, Mapping):
        raise ValueError(f"{path} is damaged: it must hold who a run is")
    return stored


def read_record(run: Path) -> Record:
    """Who a run is; one without a record is named by its folder and goes on with none.

    :raises ValueError: if the record is damaged
    """
    path = run / RECORD
    if not path.is_file():
        return Record(str(run.resolve()), None, 0)
    stored = _read(path)
    try:
        return Record(str(stored["id"]), stored["parent"] and str(stored["parent"]), int(stored["first_step"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error


def lines_of_runs(runs: Sequence[Path]) -> list[list[tuple[Path, int]]]:
    """Runs with what went on with them, each line from its first run to its last: one seed is one line.

    Where several runs go on with the same one, the line takes the one that begins last, and of those the newest.

    :param runs: folders
    :return: for each line its folders, each with its first step
    :raises ValueError: if a record is damaged
    """
    records = {run: read_record(run) for run in runs}
    ids = {record.id for record in records.values()}
    children: dict[str | None, list[Path]] = {}
    for run, record in records.items():
        children.setdefault(record.parent if record.parent in ids - {record.id} else None, []).append(run)
    return [
        [(part, records[part].first_step) for part in _line(run, records, children)] for run in children.get(None, [])
    ]


def _line(first: Path, records: Mapping[Path, Record], children: Mapping[str | None, list[Path]]) -> list[Path]:
    line = [first]
    while following := [run for run in children.get(records[line[-1]].id, []) if run not in line]:
        line.append(max(following, key=_begins(records)))
    return line


def _begins(records: Mapping[Path, Record]) -> Any:
    return lambda run: (records[run].first_step, run.stat().st_mtime)
