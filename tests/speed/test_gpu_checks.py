"""The checks on a GPU, run without one: parts that end well, fail or hang, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch as th

from benchmarks.speed import gpu_checks
from benchmarks.speed.gpu_checks import GROUPS, LIMITS, chosen_parts, limit_of, main, run_part
from benchmarks.speed.gpu_parts import PARTS, Findings
from benchmarks.speed.gpu_variants import IMAGE_VARIANTS, USUAL, VARIANTS, best_of, computed_by, differences
from sb3_ezv2.learning import updates
from sb3_ezv2.learning.losses import unroll_loss
from sb3_ezv2.networks.model import ImageModel

ROOT = Path(__file__).parents[2]
NOTE = 'import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(\'{"lines": ["half"]}\')\n'


def run_code(code: str, tmp_path: Path, record: dict | None = None, limit: float = 60.0) -> dict:
    """What the checks keep of a part that runs this code, with the place for its findings as its only argument."""
    record, found = record if record is not None else {"parts": {}}, tmp_path / "found.json"
    run_part("part", [sys.executable, "-c", code, str(found)], limit, found, record, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == record
    return record["parts"]["part"]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_part_that_ends_well(tmp_path):
    entry = run_code(NOTE + "print('said')", tmp_path)
    assert entry["status"] == "ok" and entry["lines"] == ["half"]
    assert "said" in (tmp_path / "output.txt").read_text()


@pytest.mark.parametrize("end", ["raise OSError('no such thing')", "import os; os.abort()"])
def test_a_part_that_fails_keeps_what_it_had(end, tmp_path):
    entry = run_code(NOTE + end, tmp_path)
    assert entry["status"] == "failed" and entry["returncode"] != 0 and entry["lines"] == ["half"]
    if "OSError" in end:
        assert "no such thing" in (tmp_path / "output.txt").read_text()


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    code = NOTE + (
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path(sys.argv[1]).write_text('{\"pid\": %d}' % child.pid)\n"
        "time.sleep(600)"
    )
    began = time.perf_counter()
    entry = run_code(code, tmp_path, limit=4.0)
    assert entry["status"] == "out of time" and time.perf_counter() - began < 30.0
    for _ in range(100):
        if not is_alive(entry["pid"]):
            break
        time.sleep(0.1)
    assert not is_alive(entry["pid"])


def test_results_are_written_as_they_come(tmp_path):
    """The part waits until its first finding can be read in the results."""
    go_on = tmp_path / "go_on"
    code = NOTE + f"import time\nwhile not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.05)\n"
    worker = threading.Thread(target=run_code, args=(code, tmp_path))
    worker.start()
    results = tmp_path / "results.json"
    try:
        for _ in range(400):
            if results.exists() and json.loads(results.read_text())["parts"]["part"].get("lines") == ["half"]:
                break
            time.sleep(0.05)
        else:
            pytest.fail("nothing was written while the part ran")
        assert json.loads(results.read_text())["parts"]["part"]["status"] == "running"
    finally:
        go_on.touch()
        worker.join()
    assert json.loads(results.read_text())["parts"]["part"]["status"] == "ok"


def test_one_failed_check_does_not_end_the_others(tmp_path):
    findings, after = Findings(tmp_path / "found.json"), []
    findings.attempt("first", lambda: {}["nothing"], lambda: after.append(1))
    findings.attempt("second", lambda: {"ok": False, "number": 1.5})
    findings.attempt("third", lambda: {"number": 2.5})
    stored = json.loads((tmp_path / "found.json").read_text())
    assert "KeyError" in stored["checks"]["first"]["error"] and "Traceback" in stored["checks"]["first"]["error"]
    assert stored["checks"]["third"]["number"] == 2.5
    assert findings.n_failed == 2 and after == [1]
    assert [line.split(":")[0] for line in stored["lines"]] == ["first", "second", "third"]


def test_parts_are_chosen_by_name_and_by_group():
    assert list(PARTS) == list(LIMITS)
    assert [part for parts in GROUPS.values() for part in parts] == list(LIMITS)
    assert chosen_parts(["d", "a"]) == ["correctness", "tests", "breakout"]
    assert chosen_parts(["walker", "correctness"]) == ["correctness", "walker"]
    with pytest.raises(ValueError, match="--parts e is not one of a, b"):
        chosen_parts(["e"])


def test_parts_share_the_time_that_is_left():
    parts = ["correctness", "proprio", "breakout"]
    assert limit_of("correctness", parts, 1000.0) == LIMITS["correctness"]
    total = sum(LIMITS[part] for part in parts)
    assert limit_of("correctness", parts, 60.0) == pytest.approx(60.0 * LIMITS["correctness"] / total)
    assert limit_of("breakout", parts, 300.0) == 300.0


def test_a_failing_part_does_not_end_the_next_one(tmp_path, monkeypatch, capsys):
    """The whole script, with parts that are other programs."""
    commands = iter(["raise SystemExit(3)", NOTE])
    original = gpu_checks.run_part

    def run(name, command, limit, found, record, out):
        original(name, [sys.executable, "-c", next(commands), str(found)], limit, found, record, out)

    monkeypatch.setattr(gpu_checks, "run_part", run)
    n_bad = main(["--device", "cpu", "--parts", "walker", "correctness", "--out", str(tmp_path)])
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert {name: entry["status"] for name, entry in parts.items()} == {"correctness": "failed", "walker": "ok"}
    assert n_bad == 1 and "half" in capsys.readouterr().out


def test_without_time_parts_are_left_out(tmp_path):
    assert main(["--device", "cpu", "--parts", "c", "d", "--budget", "1", "--out", str(tmp_path)]) == 2
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert parts == {"walker": {"status": "left out"}, "breakout": {"status": "left out"}}


def test_a_whole_part_on_the_cpu(tmp_path):
    arguments = ["--device", "cpu", "--quick", "--seconds", "0.05", "--parts", "proprio", "--out", str(tmp_path)]
    assert main(arguments) == 0, (tmp_path / "output.txt").read_text()
    checks = json.loads((tmp_path / "results.json").read_text())["parts"]["proprio"]["checks"]
    assert checks["vectors, whole steps, full precision"]["steps a second"] > 0
    assert checks["vectors, variants"]["mixed, ms"] > 0
    assert checks["vectors, few states"]["2: cores, ms"] > 0
    assert 0 < checks["vectors, searches"]["4: network's share"] < 2


def test_the_fastest_way_is_taken_if_it_is_much_faster():
    times = {USUAL: 10.0, "TF32 products": 9.8, "mixed": 5.0}
    assert best_of(times, mixed=False) == USUAL and best_of(times, mixed=True) == "mixed"
    assert best_of(times | {"compiled": 6.0}, mixed=False) == "compiled"


@pytest.mark.parametrize("variants", [VARIANTS, IMAGE_VARIANTS])
def test_ways_to_compute_differ_and_leave_no_trace(variants):
    def state():
        cudnn = th.backends.cudnn
        return (cudnn.allow_tf32, cudnn.benchmark, th.get_float32_matmul_precision(), ImageModel.channels_last_on_gpu)

    before, seen = state(), set()
    for variant in variants.values():
        with computed_by(variant, th.device("cpu")):
            seen.add((*state(), updates.unroll_loss is unroll_loss, variant.mixed_precision))
        assert state() == before and updates.unroll_loss is unroll_loss
    assert len(seen) == len(variants) and not differences(variants[USUAL])


@pytest.mark.skipif(th.cuda.is_available(), reason="there is a CUDA device")
def test_the_checks_say_that_there_is_no_gpu():
    command = [sys.executable, "-m", "benchmarks.speed.gpu_checks"]
    result = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1 and "there is no CUDA device" in result.stderr
