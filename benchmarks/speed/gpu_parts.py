"""One part of the checks on a GPU, in a process of its own; see :mod:`benchmarks.speed.gpu_checks`."""

import argparse
import faulthandler
import os
import re
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th

from benchmarks.records import read_record, write_record

ROOT = Path(__file__).parents[2]
LAST_WORDS_S = 6.0
"""This long before its limit a part prints where it is."""


class Findings:
    """What a part has found, stored after every check.

    :param path: file to write to
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_failed = 0
        self.content: dict[str, Any] = {"checks": {}, "lines": []}

    def attempt(self, name: str, check: Callable[[], dict[str, Any]], also: Callable[[], None] | None = None) -> None:
        """Make one check and keep what it finds, or how it failed.

        :param name: of the check
        :param check: numbers by name; a false ``"ok"`` among them says that it failed
        :param also: called afterwards, whatever happened
        """
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                found = check()
            except Exception:  # one check must not end the others
                found = {"ok": False, "error": traceback.format_exc()}
        found["seconds"] = time.perf_counter() - began
        said = sorted({str(each.message)[:600] for each in caught if "slower" in str(each.message)})
        if said:
            found["warnings"] = said
        self.keep(name, found)
        if also is not None:
            also()

    def keep(self, name: str, found: dict[str, Any]) -> None:
        """Store and print what a check has found."""
        failed = found.get("ok") is False
        self.n_failed += failed
        self.content["checks"][name] = found
        self.content["lines"].append(f"{name}: {'FAILED  ' if failed else ''}{_in_short(found)}")
        print(self.content["lines"][-1], found.get("error", ""), *found.get("warnings", ()), sep="\n", flush=True)
        write_record(self.path, self.content)


def _in_short(found: dict[str, Any]) -> str:
    if "error" in found:
        return found["error"].strip().splitlines()[-1][:200]
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float | str) and name != "ok"}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )


class Circumstances(NamedTuple):
    """What a part is told."""

    device: th.device
    seconds: float  # of one measurement
    limit: float  # seconds for the whole part
    quick: bool  # small networks and batches
    out: Path  # folder for files of its own


@contextmanager
def utilisation(device: th.device) -> Iterator[dict[str, float]]:
    """Mean of what ``nvidia-smi`` says of the GPU four times a second during the block; empty where there is none."""
    found: dict[str, float] = {}
    fields = {"utilisation_percent": "utilization.gpu", "memory_mib": "memory.used", "power_w": "power.draw"}
    command = ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader,nounits", "-lms", "250"]
    try:
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        yield found
        return
    try:
        yield found
    finally:
        watcher.terminate()
        said, _ = watcher.communicate()
        rows = [[float(number) for number in re.findall(r"[\d.]+", line)] for line in said.splitlines()]
        rows = [row for row in rows if len(row) == len(fields)]
        if rows and device.type == "cuda":
            found.update(zip(fields, np.mean(rows, axis=0).tolist(), strict=True))


def tests(findings: Findings, given: Circumstances) -> None:
    """``tests/planning/test_cuda.py``, several at a time, because most of their time is spent compiling."""

    def run() -> dict[str, Any]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/planning/test_cuda.py"]
        if not given.quick:
            command += ["-n", "6"]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(result.stdout[-20_000:], result.stderr[-5_000:], flush=True)
        return {
            "ok": result.returncode == 0,
            "summary": result.stdout.strip().splitlines()[-1] if result.stdout.strip() else result.stderr[-500:],
            "failures": [line for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))],
        }

    findings.attempt("test_cuda", run)


def walker(findings: Findings, given: Circumstances) -> None:
    """Walker walk at the paper's setting."""
    os.environ["MUJOCO_GL"] = "disabled"  # its observations are vectors
    from benchmarks.speed.gpu_speed import walker_run

    findings.attempt("walker walk", lambda: walker_run(given))


def breakout(findings: Findings, given: Circumstances) -> None:
    """One leg of a game of the suite; the rest of the time is for starting, compiling and saving."""
    from benchmarks.learning.training import main

    def run() -> dict[str, Any]:
        folder = Path("/tmp") / f"gpu-checks-breakout-{os.getpid()}"
        arguments = ["Breakout", "--device", str(given.device), "--checkpoints", str(folder)]
        arguments += ["--leg-seconds", str(max(given.limit - 30.0, 1.0)), "--out", str(given.out)]
        arguments += ["--episodes", "1"]
        if given.quick:
            arguments += ["--steps", "30", "--eval-interval", "30"]
        main([*arguments, "--set", *ATARI, *(QUICK_ATARI if given.quick else ())])
        record = read_record(given.out / "Breakout" / "seed-0.json")
        returns = record.get("training_returns", [])
        steps = record["legs"][-1]["to"] - record["legs"][-1]["from"]
        found = {"curve": f"{given.out}/Breakout/seed-0.json", "steps": steps, "episodes": len(returns)}
        return found | {"steps a second": steps / record["legs"][-1]["seconds"]}

    findings.attempt("breakout", run)


ATARI = (
    *("policy_kwargs.net_size=paper", "policy_kwargs.value_prefix=True", "learning_starts=2000", "batch_size=256"),
    *("gamma=0.988", "td_steps=5", "td_phase=30000", "td_fresh=5000", "target_update_interval=200"),
    "consistency_coef=5.0",
)
"""The ``atari`` entry of the hyperparameters, which only the zoo could read."""
QUICK_ATARI = ("learning_starts=20", "batch_size=4")


def correctness(findings: Findings, given: Circumstances) -> None:
    """Searches and updates against those on the CPU."""
    from benchmarks.speed.gpu_correctness import check_everything

    check_everything(findings, given)


def proprio(findings: Findings, given: Circumstances) -> None:
    """Speed for vectors."""
    from benchmarks.speed.gpu_speed import measure_vectors

    measure_vectors(findings, given)


def atari(findings: Findings, given: Circumstances) -> None:
    """Speed for images."""
    from benchmarks.speed.gpu_speed import measure_images

    measure_images(findings, given)


def modes(findings: Findings, given: Circumstances) -> None:
    """Ways to run the same search."""
    from benchmarks.speed.gpu_speed import measure_modes

    measure_modes(findings, given)


PARTS = {part.__name__: part for part in (correctness, tests, proprio, atari, modes, walker, breakout)}


def main() -> None:
    """Run one part; the exit status says whether all its checks ended well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--found", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(max(options.limit - LAST_WORDS_S, 1.0))
    given = Circumstances(th.device(options.device), options.seconds, options.limit, options.quick, options.out)
    findings = Findings(options.found)
    try:
        PARTS[options.part](findings, given)
    except Exception:  # outside of a check, an import for example
        findings.keep(options.part, {"ok": False, "error": traceback.format_exc()})
    sys.exit(min(findings.n_failed, 1))


if __name__ == "__main__":
    main()
