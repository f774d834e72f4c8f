"""Runs of ``ezv2-train`` that signals end: how many are lost.

    python -m benchmarks.reliability.signals --runs 40

Each run is a process of its own. At a random moment after its first episodes it gets SIGTERM, SIGHUP or Ctrl-C,
every fourth one a second Ctrl-C soon after the first. A run is lost if it ends with status 0, does not say where it was
saved, takes longer than 20 s, holds fewer steps than its episodes had before the signal, or if ``ezv2-train -i`` does
not go on with it.
"""

import argparse
import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stable_baselines3.common.env_util import make_vec_env

from benchmarks.records import RESULTS, new_record, write_record
from benchmarks.reliability.small_trainings import SETTINGS
from sb3_ezv2 import EfficientZeroV2, command_line

ROOT = Path(__file__).parents[2]
ENDS = (
    (signal.SIGTERM,),
    (signal.SIGHUP,),
    (signal.SIGINT,),
    (signal.SIGINT, signal.SIGINT),
)
PATIENCE = 20.0


def steps_of(monitor: Path) -> int:
    """Steps of the episodes that a monitor file holds."""
    lines = monitor.read_text().splitlines()[2:] if monitor.is_file() else []
    return sum(int(line.split(",")[1]) for line in lines if line.count(",") >= 2)


def start(folder: Path, seed: int) -> subprocess.Popen[str]:
    """Start a run that would not end by itself."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "sb3_ezv2.train",
                "--env",
                "CartPole-v1",
                "--seed",
                str(seed),
                "--eval-freq",
                "400",
            ),
            *("--n-eval-envs", "1", "--eval-episodes", "1", "--verbose", "0"),
            *("-params", *SETTINGS, "n_timesteps:1000000"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What starts this may ignore the signals, as a shell does for what runs in the background.
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for (number, *_) in ENDS],
    )


def faults(folder: Path, ends: tuple[signal.Signals, ...], seed: int, generator: random.Random) -> list[str]:
    """What is lost of one run; nothing, if all is well."""
    process = start(folder, seed)
    run = folder / "logs" / "ezv2" / "CartPole-v1_1"
    while steps_of(run / "0.monitor.csv") < 80:
        if process.poll() is not None:
            return [f"it ended by itself: {process.communicate()[1]}"]
        time.sleep(0.05)
    time.sleep(generator.uniform(0, 4))
    before, begun = steps_of(run / "0.monitor.csv"), time.monotonic()
    process.send_signal(ends[0])
    for number in ends[1:]:
        time.sleep(generator.uniform(0, 0.5))
        process.send_signal(number)
    try:
        said = process.communicate(timeout=120)[1].strip()
    except subprocess.TimeoutExpired:
        process.kill()
        return ["it does not end"]
    seconds = time.monotonic() - begun
    found = [] if process.returncode == 128 + ends[0] else [f"status {process.returncode}"]
    if seconds > PATIENCE:
        found.append(f"{seconds:.1f} s")
    if not said or "it was saved to" not in said.splitlines()[-1]:
        return [*found, f"it says: {said[-500:]}"]
    return found + faults_of_saved(folder, run, before)


def faults_of_saved(folder: Path, run: Path, before: int) -> list[str]:
    """What is wrong with the files of a run that had ``before`` steps at least."""
    try:
        EfficientZeroV2.load(run / "CartPole-v1.zip", device="cpu")
        model = EfficientZeroV2.load_checkpoint(run / "checkpoints", make_vec_env("CartPole-v1"), device="cpu")
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    steps = model.num_timesteps
    if not steps == len(model.replay_buffer) >= before:
        return [f"{steps} steps, {len(model.replay_buffer)} in the buffer, {before} before the signal"]
    arguments = ["--env", "CartPole-v1", "-i", str(run / "CartPole-v1.zip"), "-n", "20", "--verbose", "0"]
    said = io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said):
            command_line.run("train", [*arguments, "--eval-freq", "-1", "-params", *SETTINGS])
    except SystemExit as left:
        return [f"-i ends with status {left.code}"]
    finally:
        os.chdir(ROOT)
    went_on = f"Going on from step {steps} to step {steps + 20}"
    return [] if went_on in said.getvalue() else [f"-i does not say {went_on!r}"]


def main() -> None:
    """Run, count and store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "reliability" / "signals.json", help="file to write")
    options = parser.parse_args()
    record = new_record("numpy", "stable-baselines3", "torch")
    generator, n_lost = random.Random(options.seed), 0
    for number in range(options.runs):
        ends = ENDS[number % len(ENDS)]
        with tempfile.TemporaryDirectory() as folder:
            found = faults(Path(folder), ends, number, generator)
        n_lost += bool(found)
        print(f"{number + 1}. {' and '.join(end.name for end in ends)}: {'; '.join(found) or 'saved'}", flush=True)
    print(f"{options.runs} runs ended by signals: {n_lost} lost")
    write_record(options.out, record | {"runs": options.runs, "lost": n_lost})
    raise SystemExit(n_lost > 0)


if __name__ == "__main__":
    main()
