"""What every stored result says of where it comes from."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def current_commit(folder: Path | None = None) -> str:
    """Commit of the working tree, marked when there are changes to tracked files other than stored results.

    :param folder: anywhere in the working tree; ``None`` for the current folder
    :return: ``"unknown"`` for a copy of the files without git
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)

    try:
        described = git("rev-parse", "--short=12", "HEAD")
    except FileNotFoundError:  # there is no git
        return "unknown"
    if described.returncode != 0:
        return "unknown"
    unchanged = git("diff", "--quiet", "HEAD", "--", ":(top)", ":(top,exclude)benchmarks/results").returncode == 0
    return described.stdout.strip() + ("" if unchanged else "-dirty")


def command_line(name: str) -> str:
    """The command that runs ``benchmarks.<name>`` as this process was called, without where the result is put."""
    arguments = sys.argv[1:]
    if "--out" in arguments:
        place = arguments.index("--out")
        del arguments[place : place + 2]
    return f"python -m benchmarks.{name} {' '.join(arguments)}".strip()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package."""
    return {package: version(package) for package in packages}


def processor() -> str:
    """Name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def new_record(name: str, *packages: str) -> dict[str, Any]:
    """Command, commit, machine and versions of ``packages``, to which ``benchmarks.<name>`` adds what it measures."""
    return {
        "command": command_line(name),
        "commit": current_commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": versions(*packages),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Store a record as JSON, in a folder that need not exist; who reads it meanwhile finds the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(record, indent=1) + "\n")
    beside.replace(path)


def read_record(path: Path) -> dict[str, Any]:
    """A stored record, empty if there is none yet."""
    return json.loads(path.read_text()) if path.exists() else {}
