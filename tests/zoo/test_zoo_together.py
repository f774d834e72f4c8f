"""``ezv2-train`` under torchrun: one run of all ranks, in one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.checkpoint_files import checkpoints_in, read_manifest
from sb3_ezv2.common.ranks import Ranks
from sb3_ezv2.zoo import together
from sb3_ezv2.zoo.runs import read_record
from tests.helpers.zoo import TINY, environment

N_STEPS = 400


class TwoRanks(Ranks):
    """The first of two ranks; the other one says the same, or something else."""

    size = 2

    def __init__(self, others: object = None) -> None:
        self.others = others

    def gathered(self, item):
        return [item, item if self.others is None else self.others]


def rank_process(parent: int, rank: int) -> int | None:
    """Number of the process of a rank that torchrun has started, ``None`` if there is none."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if int((place / "stat").read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            variables = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"RANK={rank}".encode() in variables:
            return int(place.name)
    return None


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the process of a rank in /proc")
def test_a_killed_rank_is_started_again_and_the_run_goes_on(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["-m", "sb3_ezv2.train", "--env", "CartPole-v1", "-n", str(N_STEPS), "--save-freq", "40", "--seed", "0"]
    options = ["--eval-episodes", "1", "--n-eval-envs", "1", "--eval-freq", "200", "-params", *TINY, "n_envs:4"]
    with open(tmp_path / "output.txt", "w") as output:
        process = subprocess.Popen(
            [*launch, "--max-restarts", "1", *train, *options], cwd=tmp_path, env=environment(), stdout=output,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        first, second = (tmp_path / "logs" / "ezv2" / f"CartPole-v1_{number}" for number in (1, 2))
        deadline = time.monotonic() + 100
        while not checkpoints_in(first / "checkpoints") and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        victim = rank_process(process.pid, 1)
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
        try:
            process.wait(timeout=150)
        finally:
            process.terminate()  # torchrun ends its ranks
            process.wait(timeout=60)
    said = (tmp_path / "output.txt").read_text()
    assert process.returncode == 0 and victim is not None, said
    assert read_record(second).parent == read_record(first).id and read_record(second).first_step >= 40
    assert EfficientZeroV2.load(second / "CartPole-v1.zip", device="cpu").num_timesteps == N_STEPS
    (*_, newest) = checkpoints_in(second / "checkpoints")
    assert read_manifest(newest)["n_envs"] == 2 and len(read_manifest(newest)["other_ranks"]) == 1
    assert not list(tmp_path.rglob("journal.sqlite"))
    assert len(list(second.glob("*.monitor.csv"))) == len(list(second.glob("rank_1/*.monitor.csv"))) == 2
    with np.load(second / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [read_record(second).first_step + 200]  # counted anew
    assert said.count("Going on from step") == 1  # one rank speaks


def test_the_seed_is_drawn_once_for_all():
    given = together.arguments_of_rank(["--env", "CartPole-v1"], TwoRanks())
    assert given[:3] == ["--env", "CartPole-v1", "--seed"] and 0 <= int(given[3]) < 2**32
    assert together.arguments_of_rank(["--seed", "3"], TwoRanks()) == ["--seed", "3"]


@pytest.mark.parametrize(
    "arguments, others, message",
    [
        (["-optimize"], None, "argument -optimize: not under torchrun"),
        (["--n-seeds=3"], None, "argument --n-seeds=3: not under torchrun"),
        (["--algo", "sac"], None, "argument --algo: sac learns in one process"),
        (["--seed", "1"], ["--seed", "2"], "rank 1 was started with '--seed 2', rank 0 with '--seed 1'"),
    ],
)
def test_what_ranks_cannot_do_together_is_refused(arguments, others, message):
    with pytest.raises(ValueError, match=message):
        together.arguments_of_rank(arguments, TwoRanks(others))


@pytest.mark.parametrize(
    "n_envs, message", [(1, "fewer environments than ranks; .*n_envs:2"), (3, "not a multiple .*n_envs:4")]
)
def test_environments_that_cannot_be_divided_are_refused(n_envs, message):
    experiment = object.__new__(together.RankedExperiment)
    experiment.ranks = TwoRanks()
    with pytest.raises(ValueError, match=f"n_envs={n_envs} counts the environments of all 2 ranks and is {message}"):
        experiment._preprocess_hyperparams({"n_envs": n_envs})


def test_a_restart_finds_the_run_that_was_begun(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for name, launch in (("A_1", "mine"), ("A_2", "other"), ("A_3", "mine")):
        (tmp_path / "ezv2" / name).mkdir(parents=True)
        (tmp_path / "ezv2" / name / "torchrun.txt").write_text(launch + "\n")
        os.utime(tmp_path / "ezv2" / name / "torchrun.txt", (0, int(name[-1])))
    checkpoint = tmp_path / "ezv2" / "A_1" / "checkpoints" / "checkpoint_000001_40_steps"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()  # A_3 was ended before its first checkpoint
    given = together.arguments_of_rank(["--seed", "0", "-f", str(tmp_path)], TwoRanks())
    assert given[-2:] == ["-i", str(tmp_path / "ezv2" / "A_1")]
