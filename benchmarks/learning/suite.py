"""Many runs over the table of tasks, and what they come to.

::

    python -m benchmarks.learning.suite list
    python -m benchmarks.learning.suite run --tasks classic walker-walk --seeds 0 1 2 --out runs --jobs 2
    python -m benchmarks.learning.suite pause
    python -m benchmarks.learning.suite resume
    python -m benchmarks.learning.suite table --out runs --against benchmarks/published/dmc_proprio.csv --rivals ezv2
    python -m benchmarks.learning.suite store logs --out runs
    python -m benchmarks.learning.suite solved --out runs

``run`` makes every run a process with one thread, see :mod:`benchmarks.learning.training`. What is complete in the
folder is not run again; what was interrupted begins anew, or goes on where there are ``--checkpoints``. ``pause`` and
``resume`` stop and continue all of them. ``table`` prints means and interquartile means over seeds with their bootstrap
intervals, beside published scores. ``store`` takes the runs of ``ezv2-train`` in a log folder over, with any algorithm,
and ``solved`` prints after how many steps tasks were solved, see :mod:`benchmarks.learning.solved`.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from benchmarks.learning.jobs import pause, resume, run_all
from benchmarks.learning.tasks import GROUPS, TASKS, chosen
from benchmarks.learning.training import add_options, is_complete, parse_settings, result_path
from benchmarks.records import write_text

NEEDS = {
    "box2d": ("Box2D", "pip install 'sb3_ezv2[box2d]'"),
    "mujoco": ("mujoco", "pip install 'sb3_ezv2[mujoco]'"),
    "dmc": ("dm_control", "pip install 'sb3_ezv2[dmc]'"),
    "atari": ("ale_py", "pip install 'sb3_ezv2[atari]'"),
    "small atari": ("ale_py", "pip install 'sb3_ezv2[atari]'"),
    "small vision": ("dm_control", "pip install 'sb3_ezv2[dmc]'"),
    "minatar": ("minatar", "pip install 'sb3_ezv2[benchmarks]'"),
    "minigrid": ("minigrid", "pip install 'sb3_ezv2[benchmarks]'"),
}
"""Module that a group of tasks needs beyond the package itself, and how to get it."""
LOG_LINES = 5


def missing(group: str) -> str:
    """One line that says what a group lacks, empty if nothing."""
    module, remedy = NEEDS.get(group, ("", ""))
    return f"{group}: {module} is not installed; {remedy}" if module and find_spec(module) is None else ""


def list_tasks() -> str:
    """The table of tasks as text."""
    lines = [f"{'task':<28} {'group':<9} {'steps':>8} {'evaluated every':>16}"]
    for name, task in TASKS.items():
        lines.append(f"{name:<28} {task.group:<9} {task.n_steps:>8,} {task.eval_interval:>16,}")
    return "\n".join([*lines, *filter(None, map(missing, GROUPS))])


def words(options: argparse.Namespace) -> list[str]:
    """What every run of a suite is called with."""
    found = ["--out", str(options.out.resolve()), "--algo", options.algo, "--device", options.device]
    found += ["--episodes", str(options.episodes), "--last-episodes", str(options.last_episodes)]
    found += [] if options.steps is None else ["--steps", str(options.steps)]
    found += [] if options.eval_interval is None else ["--eval-interval", str(options.eval_interval)]
    found += [] if options.agents is None else ["--agents", str(options.agents.resolve())]
    found += [] if options.checkpoints is None else ["--checkpoints", str(options.checkpoints.resolve())]
    found += [] if options.leg_seconds is None else ["--leg-seconds", str(options.leg_seconds)]
    found += ["--entry", options.entry] if options.entry else []
    return found + (["--set", *options.set] if options.set else [])


def launcher(n_ranks: int) -> list[str]:
    """What starts one run as several processes; empty for one."""
    if n_ranks == 1:
        return []
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)]


def run(options: argparse.Namespace) -> int:
    """Make all runs that are not complete; the number of those that failed."""
    tasks = chosen(options.tasks)
    for group in dict.fromkeys(task.group for task in tasks.values()):
        if fault := missing(group):
            raise ValueError(fault)
    settings = parse_settings(options.set)
    commands: dict[Path, Sequence[str]] = {}
    for seed in options.seeds:
        for name, task in tasks.items():
            path = result_path(options.out, name, seed)
            if is_complete(path, options, settings, options.steps or task.n_steps):
                print(f"{path} is complete")
                continue
            command = ["-m", "benchmarks.learning.training", name, "--seed", str(seed), *words(options)]
            commands[path.with_suffix(".log")] = [*launcher(options.ranks), *command]
    n_failed = 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that the runs are ended, too
    for log, code in run_all(commands, options.jobs):
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES if code else -1 :]
        print(f"{log}: " + ("done" if code == 0 else f"failed ({code})"), *last, sep="\n  ", flush=True)
        n_failed += code != 0
    return n_failed


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="show the tasks, their groups and budgets")
    running = actions.add_parser("run", help="train on tasks with seeds")
    running.add_argument("--tasks", nargs="+", required=True, help="tasks and groups of tasks")
    running.add_argument("--seeds", nargs="+", type=int, default=[0])
    running.add_argument("--jobs", type=int, default=1, help="runs at a time, each with one thread")
    running.add_argument("--ranks", type=int, default=1, help="processes of every run, under torchrun")
    add_options(running)
    actions.add_parser("pause", help="stop all runs of this user on this machine")
    actions.add_parser("resume", help="continue them")
    tables = actions.add_parser("table", help="print what stored runs come to")
    tables.add_argument("--out", type=Path, required=True, help="folder of stored runs")
    tables.add_argument("--against", nargs="+", type=Path, default=[], help="CSV files of published scores")
    tables.add_argument("--rivals", nargs="+", default=["ezv2"], help="algorithms in these files")
    tables.add_argument("--source", default="", help="only figures whose source contains this text")
    tables.add_argument("--pictures", type=Path, help="folder for one picture a task")
    storing = actions.add_parser("store", help="take over finished runs of ezv2-train")
    storing.add_argument("logs", type=Path, help="log folder")
    storing.add_argument("--out", type=Path, required=True, help="folder to store them in")
    solving = actions.add_parser("solved", help="print after how many steps tasks were solved")
    solving.add_argument("--out", type=Path, required=True, help="folder of stored runs")
    solving.add_argument("--page", type=Path, help="file to write the table to as well")
    options = parser.parse_args(arguments)
    for name in ("jobs", "ranks") if options.action == "run" else ():
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)} must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    options = parse(arguments)
    try:
        if options.action == "list":
            print(list_tasks())
        elif options.action == "run":
            sys.exit(1 if run(options) else 0)
        elif options.action == "table":
            # With the zoo's curves; a machine that only runs needs no zoo.
            from benchmarks.learning.tables import draw_tasks, read_published, table

            published = [row for row in read_published(options.against) if options.source in row.source]
            print(table(options.out, published, options.rivals), end="")
            if options.pictures:
                draw_tasks(options.out, options.pictures, published, options.rivals)
        elif options.action == "store":
            from benchmarks.learning.zoo_runs import store

            print("\n".join(map(str, store(options.logs, options.out))))
        elif options.action == "solved":
            from benchmarks.learning.solved import table as table_of_solved

            text = table_of_solved(options.out)
            if options.page:
                write_text(options.page, text)
            print(text, end="")
        else:
            act, done = (pause, "stopped") if options.action == "pause" else (resume, "continued")
            print(f"{act()} processes {done}")
    except (ValueError, OSError) as error:
        sys.exit(f"suite: {error}")


if __name__ == "__main__":
    main()
