"""Workers of one study that are killed, with a journal file and with PostgreSQL: how many trials are lost.

    python -m benchmarks.reliability.sweeps --storage journal
    python -m benchmarks.reliability.sweeps --storage postgresql

Two workers (``ezv2-train -optimize``) work on one study. Ten times one of them is killed with SIGKILL while it runs a
trial, and a new one takes its place; with ``--elsewhere`` the killed ones count as workers of another machine, which
nobody can look after but the database. A trial is lost if its parameters were never tried to the end.

PostgreSQL is Debian's package ``postgresql``, started here in a folder of its own, and ``psycopg``; where one of them
is missing, the script says so and ends. Written to ``benchmarks/results/reliability/sweeps_<storage>.json``.
"""

import argparse
import contextlib
import glob
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from benchmarks.records import RESULTS, new_record, write_record
from sb3_ezv2.zoo import tuning

ROOT = Path(__file__).parents[2]
STUDY = "sweep"
OPTIONS = [
    "--env",
    "CartPole-v1",
    "-n",
    "150",
    "--eval-episodes",
    "1",
    "--n-eval-envs",
    "1",
    "--n-startup-trials",
    "99",
]
LATEST = 600.0
"""Seconds within which something must happen."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def postgres_program(name: str) -> str | None:
    """Path of one of PostgreSQL's programs, where Debian puts them or on the path."""
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return found[-1] if found else shutil.which(name)


def missing() -> str:
    """What PostgreSQL needs and is not there; empty if all is."""
    if postgres_program("initdb") is None or postgres_program("pg_ctl") is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'psycopg[binary]'"
    return ""


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Address of a database that runs while the block does.

    :param folder: of the database
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.name == "posix" and os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    data, options = folder / "data", f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    quiet: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    subprocess.run([*as_user, postgres_program("initdb"), "-D", data, "-U", "sweep", "-A", "trust"], **quiet)
    control = [*as_user, postgres_program("pg_ctl"), "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], **quiet)
    try:
        yield f"postgresql+psycopg://sweep@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **quiet)


def start_worker(folder: Path, storage: str, n_trials: int, elsewhere: bool) -> subprocess.Popen[bytes]:
    """Start a worker, whose output goes to a file of its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    arguments = [
        *OPTIONS,
        "-optimize",
        "--storage",
        storage,
        "--study-name",
        STUDY,
        "--max-total-trials",
        str(n_trials),
    ]
    program = "from sb3_ezv2.train import main; main()"
    if elsewhere:
        program = (
            f"import os, socket; name = f'elsewhere-{{os.getpid()}}'; socket.gethostname = lambda: name; {program}"
        )
    with open(folder / f"worker_{time.monotonic_ns()}.txt", "wb") as output:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )


def trials_of(storage: str) -> list[FrozenTrial]:
    """All trials so far; none before the first worker has made the study."""
    with contextlib.suppress(KeyError, FileNotFoundError):
        study = optuna.load_study(study_name=STUDY, storage=tuning.open_storage(storage))
        return study.get_trials(deepcopy=False)
    return []


def kill_one(storage: str, workers: list[subprocess.Popen[bytes]], rng: random.Random) -> FrozenTrial:
    """Kill a worker inside a trial; the trial."""
    began = time.monotonic()
    while time.monotonic() - began < LATEST:
        for trial in trials_of(storage):
            number = trial.user_attrs.get(tuning.WORKER, ":0").rpartition(":")[2]
            victims = [worker for worker in workers if worker.pid == int(number) and worker.poll() is None]
            if trial.state == TrialState.RUNNING and trial.params and victims:
                time.sleep(rng.uniform(0.0, 0.5))
                os.kill(victims[0].pid, signal.SIGKILL)
                victims[0].wait()
                workers.remove(victims[0])
                return next(found for found in trials_of(storage) if found.number == trial.number)
        time.sleep(0.1)
    raise RuntimeError("no worker was inside a trial")


def sweep(folder: Path, storage: str, n_kills: int, elsewhere: bool, seed: int) -> dict[str, Any]:
    """Kill workers, let the others finish, and count."""
    rng, n_trials, killed = random.Random(seed), n_kills + 4, []
    workers = [start_worker(folder, storage, n_trials, elsewhere) for _ in range(2)]
    try:
        while len(killed) < n_kills:
            trial = kill_one(storage, workers, rng)
            if trial.state == TrialState.RUNNING:  # it may have ended in the same moment
                killed.append(trial.number)
            workers.append(start_worker(folder, storage, n_trials, elsewhere))
            print(f"{len(killed)} killed, the last one in trial {trial.number}", flush=True)
        began = time.monotonic()
        while time.monotonic() - began < LATEST:
            for worker in [worker for worker in workers if worker.poll() is not None]:
                workers.remove(worker)
            trials = trials_of(storage)
            if not workers and not any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials):
                break
            if not workers:  # what is left over is for one that starts later
                workers.append(start_worker(folder, storage, len(trials) + 1, elsewhere))
            time.sleep(1.0)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return count(trials_of(storage), killed)


def count(trials: list[FrozenTrial], killed: list[int]) -> dict[str, Any]:
    """What became of every trial.

    :param trials: all of them
    :param killed: numbers of those whose worker was killed
    """
    lost = []
    for number in killed:
        line = [number]
        while retries := [trial.number for trial in trials if trial.user_attrs.get("retry_of") == line[-1]]:
            line.append(retries[-1])
        last = trials[line[-1]]
        if last.state not in ENDED or last.params != trials[number].params:
            lost.append(number)
    states = [trial.state.name for trial in trials]
    return {"killed": killed, "lost": lost, "states": {name: states.count(name) for name in sorted(set(states))}}


def main() -> None:
    """Run, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", choices=("journal", "postgresql"), required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--elsewhere", action="store_true", help="count the killed workers as those of other machines")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.storage == "postgresql" and missing():
        print(f"Nothing was tried. {missing()}")
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as database:
        opened = (
            postgres(Path(database))
            if arguments.storage == "postgresql"
            else contextlib.nullcontext(f"{database}/study.log")
        )
        with opened as storage:
            found = sweep(Path(place), storage, arguments.kills, arguments.elsewhere, arguments.seed)
    print(found)
    name = f"sweeps_{arguments.storage}{'_elsewhere' if arguments.elsewhere else ''}.json"
    write_record(RESULTS / "reliability" / name, {**new_record("optuna", "sqlalchemy", "psycopg"), **found})
    raise SystemExit(bool(found["lost"]))


if __name__ == "__main__":
    main()
