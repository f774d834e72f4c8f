"""Two ranks under torchrun are one run: one gradient, one set of numbers, one checkpoint, one error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.checkpoint_files import find_checkpoint, read_manifest
from tests.helpers.rank_programs import TOTAL, new_env

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "helpers" / "rank_programs.py"


def torchrun(part: str, folder: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a part of the program with two ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(
        [*command, str(PROGRAM), part, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its ranks, which would outlive a kill
        raise AssertionError(process.communicate(timeout=60)) from None
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def results(part: str, folder: Path) -> list[dict]:
    """What both ranks wrote."""
    return [json.loads((folder / f"{part}_{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun("everything", folder)
    assert done.returncode == 0, done.stderr
    return folder, results("everything", folder)


def test_ranks_have_the_same_weights_and_numbers(everything):
    first, second = (found["whole"] for found in everything[1])
    for name in ("fingerprint", "n_updates", "episodes", "logged", "run_id", "normalised"):
        assert first[name] == second[name], name
    assert first["num_timesteps"] == second["num_timesteps"] == TOTAL  # of all four environments
    assert first["stored"] == second["stored"] == TOTAL // 2
    assert first["n_updates"] == TOTAL - 28  # of every step with more than 30 transitions before or in it
    assert first["first"] != second["first"] and first["batch"] != second["batch"]


def test_a_callback_that_stops_stops_all(everything):
    first, second = (found["stopped"] for found in everything[1])
    assert first["num_timesteps"] == second["num_timesteps"] == 72
    assert first["fingerprint"] == second["fingerprint"]
    assert [found["calls"] for found in everything[1]] == [18, 0]


def test_a_resumed_run_is_the_run_that_was_not_stopped(everything):
    for found in everything[1]:
        whole, resumed = found["whole"], found["resumed"]
        assert {**resumed, "run_id": None} == {**whole, "run_id": None}


def test_only_the_first_rank_writes_models(everything):
    assert [path.name for path in everything[0].glob("model_of_*")] == ["model_of_0.zip"]


def test_halves_of_a_batch_have_the_gradient_of_the_batch(everything):
    for found in everything[1]:
        for name in ("discrete", "continuous"):
            assert found["gradients"][name] < 1e-6 < 1e-3 < found["gradients"][f"{name} norm"]


@pytest.mark.parametrize(
    "case, message",
    [
        ("argument", "gamma: rank 1 has '0.9', rank 0 has '0.97'; start all ranks with the same arguments"),
        ("seed", "seed: rank 1 has '1', rank 0 has '0'"),
        ("space", "action_space: rank 1 has 'Discrete(4)', rank 0 has 'Discrete(3)'"),
        ("environments", "environments: rank 1 has '2', rank 0 has '1'"),
        ("version", "version of sb3_ezv2: rank 1 has '0.0.1', rank 0 has "),
        ("batch", "batch_size=7 is that of all ranks together and must be a multiple of their number, 2"),
        ("steps", "planned steps: rank 1 has '50', rank 0 has '40'"),
    ],
)
def test_one_rank_says_what_differs_and_all_end(everything, case, message):
    first, second = (found["refusals"][case] for found in everything[1])
    assert first.startswith(f"ValueError: {message}")
    assert second == "SystemExit: 1"


def test_another_number_of_ranks_divides_the_shards_anew(everything, capsys):
    checkpoint = find_checkpoint(everything[0] / "checkpoints")
    assert len(read_manifest(checkpoint)["other_ranks"]) == 1
    model = EfficientZeroV2.load_checkpoint(checkpoint, new_env(), device="cpu")
    assert "was saved by 2 ranks and goes on with 1" in capsys.readouterr().out
    stopped = [found["stopped"] for found in everything[1]]
    assert len(model.replay_buffer) == sum(found["stored"] for found in stopped)
    assert model.replay_buffer.sum_tree[1] == pytest.approx(sum(found["batch"] for found in stopped))
    model.learn(20, reset_num_timesteps=False, log_interval=None)
    assert model.num_timesteps == 92 and model._n_updates > stopped[0]["n_updates"]


def test_a_rank_that_is_killed_costs_nothing(everything, tmp_path):
    done = torchrun("restarted", tmp_path, "--max-restarts", "1")
    assert done.returncode == 0, done.stderr
    for found, whole in zip(results("restarted", tmp_path), everything[1], strict=True):
        assert found["begin"] == 60
        assert found["fingerprint"] == whole["never killed"]["fingerprint"]


def test_a_rank_that_hangs_is_named(tmp_path):
    done = torchrun("hung", tmp_path, EZV2_RANK_TIMEOUT="3")
    assert done.returncode != 0
    assert "rank 0 has waited for 3 seconds: rank 1 has been stepping the environments for" in done.stderr
