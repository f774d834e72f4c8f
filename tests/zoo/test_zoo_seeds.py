"""Several seeds by one command: side by side, with a table and a picture; what cannot be is refused."""

from __future__ import annotations

import signal
import time

import pytest

from sb3_ezv2.zoo import seeds
from tests.helpers.zoo import TINY, run, start

OPTIONS = ["--env", "CartPole-v1", "-n", "60", "--eval-episodes", "2", "--n-eval-envs", "2", "-params", *TINY]


def test_every_seed_is_a_run_of_its_own(tmp_path):
    output = run("train", "--n-seeds", "2", "--seed", "3", *OPTIONS, cwd=tmp_path)
    folder = tmp_path / "logs" / "ezv2"
    assert {path.name for path in folder.iterdir()} == {
        *("CartPole-v1_1", "CartPole-v1_2", "CartPole-v1_seed_3.txt", "CartPole-v1_seed_4.txt", "CartPole-v1_seeds.png")
    }
    assert output.index("seed 3: begins") < output.index("seed 3: ended")
    rows = [line.split("|") for line in output.splitlines() if line.startswith("|")]
    assert [row[1].strip() for row in rows] == ["seed", "---", "3", "4", "all"]
    assert all(float(row[2]) > 0 for row in rows[2:])
    assert "CartPole-v1, ezv2:" in output and "2 runs" in output
    alone = run("train", "--seed", "3", *OPTIONS, "-f", "alone", cwd=tmp_path)
    assert "Traceback" not in alone
    first = next(path for path in folder.iterdir() if path.is_dir() and seeds._seed_of(path) == 3)
    ours, theirs = (path.read_text().splitlines()[2:] for path in (first / "0.monitor.csv", *alone_monitor(tmp_path)))
    assert [line.rsplit(",", 1)[0] for line in ours] == [line.rsplit(",", 1)[0] for line in theirs]


def alone_monitor(folder):
    return list(folder.glob("alone/ezv2/CartPole-v1_1/0.monitor.csv"))


def test_a_run_that_fails_is_named_and_no_other_begins(tmp_path):
    process = start("train", "--n-seeds", "3", "--n-seeds-jobs", "1", *OPTIONS, "gamma:3", cwd=tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "Traceback" not in output
    assert "seed 0 ended with status 1" in output and "gamma" in output and "seed 1" not in output


def test_signals_reach_every_run(tmp_path):
    process = start(
        "train", "--n-seeds", "2", *[option if option != "60" else "100000" for option in OPTIONS], cwd=tmp_path
    )
    folder, end = tmp_path / "logs" / "ezv2", time.monotonic() + 120
    while time.monotonic() < end and len(list(folder.glob("*/journal.sqlite"))) < 2:
        time.sleep(0.2)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    assert len(list(folder.glob("*/checkpoints/checkpoint_*"))) == 2


def test_one_run_is_no_series():
    assert seeds.parse(["--env", "CartPole-v1"]) is None
    asked = seeds.parse(["--env", "A-v0", "--n-seeds", "3", "-n", "5", "--seed", "7", "-f", "here"])
    assert asked.seeds == [7, 8, 9] and asked.rest == ["-n", "5", "--env", "A-v0", "--algo", "ezv2", "-f", "here"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--n-seeds", "0"], "--n-seeds: 0 must be at least 1"),
        (["--n-seeds", "2", "--n-seeds-jobs", "-1"], "--n-seeds-jobs: -1 must be at least 1"),
        (["--n-seeds", "2", "--seed", "-1"], "--seed: -1 must be at least 0"),
        (["--n-seeds", "2", "--seed", str(2**32 - 1)], "the last of 2 seeds"),
        (["--n-seeds", "2", "-i", "logs"], "argument -i: it is of one run"),
        (["--n-seeds", "2", "-optimize"], "argument -optimize: it is of one run"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        seeds.parse(["--env", "CartPole-v1", *options])
