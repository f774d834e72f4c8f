"""What every stored result says of where it comes from."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
RELEASE = (Path(__file__).parents[1] / "sb3_ezv2" / "version.txt").read_text(encoding="utf-8").strip()
COMMIT_VARIABLE = "EZV2_COMMIT"
"""Environment variable that names the commit where there is no repository, as on a machine with a copy of the tree."""


def current_commit(folder: Path | None = None) -> str:
    """Commit of the working tree, marked when there are changes to tracked files other than stored results.

    Without a repository it is what ``EZV2_COMMIT`` says, or ``"unknown"``.

    :param folder: anywhere in the working tree; ``None`` for the current folder
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)

    try:
        described = git("rev-parse", "--short=12", "HEAD")
    except FileNotFoundError:  # git is not installed
        described = None
    if described is None or described.returncode != 0:
        return os.environ.get(COMMIT_VARIABLE, "unknown")
    unchanged = git("diff", "--quiet", "HEAD", "--", ":(top)", ":(top,exclude)benchmarks/results").returncode == 0
    return described.stdout.strip() + ("" if unchanged else "-dirty")


def command_line() -> str:
    """The command that runs this process, without where the interpreter is and where the result is put."""
    arguments = sys.argv[1:]
    if "--out" in arguments:
        place = arguments.index("--out")
        del arguments[place : place + 2]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"-m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    return f"python {program} {' '.join(arguments)}".strip()


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package; a package that is only on the path has none."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def processor() -> str:
    """Name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def new_record(*packages: str) -> dict[str, Any]:
    """Command, commit, release, machine and versions of ``packages``, to which a benchmark adds what it measures."""
    return {
        "command": command_line(),
        "commit": current_commit(),
        "release": RELEASE,
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": versions(*packages),
    }


def write_text(path: Path, text: str) -> None:
    """Write a file at once, in a folder that need not exist: whoever reads it sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Store a record as JSON, see :func:`write_text`."""
    write_text(path, json.dumps(record, indent=1, default=str) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """A stored record, empty if there is none yet."""
    return json.loads(path.read_text()) if path.exists() else {}
