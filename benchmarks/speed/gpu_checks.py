"""What a machine with a GPU must show: equal searches and updates, and the speed of both and of whole runs.

``python -m benchmarks.speed.gpu_checks --out FOLDER`` runs its parts one after the other, each in a process of its own
with a limit of its own, so that one that fails, hangs or crashes ends no other:

- ``correctness``: searches and updates on the GPU against those on the CPU, recorded ones against the others;
- ``tests``: ``tests/planning/test_cuda.py``;
- ``proprio``, ``atari``: milliseconds of searches, of their network alone, of updates and of whole training steps, in
  full and in mixed precision, and how busy the GPU is;
- ``modes``: the same search one operation after the other, as a CUDA graph, and with every mode of ``torch.compile``;
- ``walker``: a run on walker walk at the paper's setting, and the minutes that 100,000 decisions would take;
- ``breakout``: one leg of the suite's game for the time that is left.

``--parts`` chooses some of them, or ``a`` (the first two), ``b`` (the next three), ``c`` and ``d``. The folder gets
``results.json``, rewritten whenever a part has found something, and ``output.txt`` with all that the parts print.
``--device cpu --quick`` runs the same code anywhere.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch as th

from benchmarks.records import RESULTS, new_record, read_record, write_record

RESULT = RESULTS / "gpu_checks"
ROOT = Path(__file__).parents[2]
LIMITS = {
    "correctness": 75.0,
    "tests": 60.0,
    "proprio": 80.0,
    "atari": 80.0,
    "modes": 60.0,
    "walker": 85.0,
    "breakout": 60.0,
}
"""Seconds that a part may take, if the budget suffices; the last one gets what the others leave."""
GROUPS = {"a": ("correctness", "tests"), "b": ("proprio", "atari", "modes"), "c": ("walker",), "d": ("breakout",)}
BUDGET = 470.0
LEAST = 8.0
"""A part is left out when less time than this is left."""
POLL = 0.2


def run_part(name: str, command: list[str], limit: float, found: Path, record: dict[str, Any], out: Path) -> None:
    """Run one part and merge what it finds into the record, again and again.

    :param name: of the part
    :param command: that runs it; it writes a JSON object to ``found`` as it goes
    :param limit: seconds after which it is killed, with all its processes
    :param found: file of the part
    :param record: of all parts; gets an entry in ``parts``
    :param out: folder of ``results.json`` and ``output.txt``
    """
    entry: dict[str, Any] = {"status": "running", "limit": limit}
    record["parts"][name] = entry
    began, seen = time.perf_counter(), None

    def merge(status: str, returncode: int | None = None) -> None:
        entry.update(read_record(found))
        entry.update(status=status, seconds=round(time.perf_counter() - began, 1))
        if returncode is not None:
            entry["returncode"] = returncode
        write_record(out / "results.json", record)

    merge("running")
    with (out / "output.txt").open("a") as log:
        log.write(f"\n==== {name}: {' '.join(command)}\n")
        log.flush()
        part = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            while part.poll() is None and time.perf_counter() - began < limit:
                time.sleep(POLL)
                changed = found.stat().st_mtime_ns if found.exists() else None
                if changed != seen:
                    seen = changed
                    merge("running")
        finally:
            timed_out = part.poll() is None
            _kill(part)
    status = "out of time" if timed_out else "ok" if part.returncode == 0 else "failed"
    merge(status, part.returncode)


def _kill(part: subprocess.Popen) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(part.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # nothing of it is left
        pass
    part.wait()


def chosen_parts(names: list[str]) -> list[str]:
    """Names of parts and groups as parts in their order.

    :raises ValueError: if a name is neither
    """
    unknown = [name for name in names if name not in LIMITS and name not in GROUPS]
    if unknown:
        raise ValueError(f"--parts {unknown[0]} is not one of {', '.join([*GROUPS, *LIMITS])}")
    wanted = {part for name in names for part in GROUPS.get(name, (name,))}
    return [part for part in LIMITS if part in wanted]


def limit_of(name: str, parts: list[str], left: float) -> float:
    """Seconds for one of the parts: its share of what is left, at most its own limit, and all for the last part."""
    to_come = parts[parts.index(name) :]
    share = left * LIMITS[name] / sum(LIMITS[part] for part in to_come)
    return share if name == list(LIMITS)[-1] else min(LIMITS[name], share)


def describe(device: str) -> dict[str, Any]:
    """Name of the device and what PyTorch was built for."""
    on_gpu = device.startswith("cuda")
    return {
        "device": th.cuda.get_device_name(device) if on_gpu else "cpu",
        "cuda": th.version.cuda if on_gpu else None,
        "python": sys.version.split()[0],
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, print a few lines of each, and return how many did not end well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=list(LIMITS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every single measurement")
    parser.add_argument("--quick", action="store_true", help="small networks and batches, for a machine without a GPU")
    parser.add_argument("--out", type=Path, default=RESULT, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        parts = chosen_parts(options.parts)
    except ValueError as error:
        parser.error(str(error))
    if options.device.startswith("cuda") and not th.cuda.is_available():
        sys.exit("there is no CUDA device; --device cpu --quick runs the same code on the CPU")
    ends = time.perf_counter() + options.budget
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "output.txt").unlink(missing_ok=True)
    record = {**new_record("torch", "numpy", "numba"), **describe(options.device), "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in parts:
            left = ends - time.perf_counter()
            if left < LEAST:
                record["parts"][name] = {"status": "left out"}
                write_record(options.out / "results.json", record)
                continue
            limit, found = limit_of(name, parts, left), Path(folder) / f"{name}.json"
            command = [sys.executable, "-u", "-m", "benchmarks.speed.gpu_parts", name]
            command += ["--device", options.device, "--seconds", str(options.seconds), "--limit", str(limit)]
            command += ["--found", str(found), "--out", str(options.out.resolve()), *["--quick"] * options.quick]
            run_part(name, command, limit, found, record, options.out)
            entry = record["parts"][name]
            print(
                f"{name}: {entry['status']} after {entry['seconds']} s", *entry.get("lines", ()), sep="\n  ", flush=True
            )
    return sum(entry["status"] != "ok" for entry in record["parts"].values())


if __name__ == "__main__":
    sys.exit(main())
