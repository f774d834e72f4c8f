"""Learning curves of stored runs, compared across algorithms, folders and seeds, with their uncertainty."""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sb3_ezv2.common.files import replacing
from sb3_ezv2.envs.atari import FRAME_SKIP, is_atari_id
from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_folder
from sb3_ezv2.zoo.curves import (
    X_AXES,
    Curve,
    confidence_band,
    draw,
    evaluation_curve,
    new_figure,
    steps_of,
    training_curve,
)
from sb3_ezv2.zoo.runs import lines_of_runs, read_record

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:olive")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; options that the zoo's plots have are called as there."""
    parser = argparse.ArgumentParser(prog="ezv2-plot", description=__doc__)
    parser.add_argument("-a", "--algos", nargs="+", help="algorithms, by default all that are found")
    parser.add_argument("-e", "--env", nargs="+", help="environments, by default all that are found")
    parser.add_argument("-f", "--exp-folders", nargs="+", default=["logs"], help="log folders")
    parser.add_argument("-l", "--labels", nargs="+", help="one label for each folder")
    parser.add_argument(
        "-y", "--y-axis", choices=["evaluation", "training"], default="evaluation", help="returns shown"
    )
    parser.add_argument("-x", "--x-axis", choices=list(X_AXES), default="steps", help="time needs training returns")
    parser.add_argument("-w", "--episode-window", type=int, default=20, help="training episodes that are averaged")
    parser.add_argument("-max", "--max-timesteps", type=float, help="end of the axis")
    parser.add_argument("-o", "--output", type=Path, default=Path("curves.png"), help="picture to write")
    options = parser.parse_args(arguments)
    if options.labels is not None and len(options.labels) != len(options.exp_folders):
        raise ValueError(
            f"-l/--labels: {len(options.labels)} labels for {len(options.exp_folders)} folders; give one for each"
        )
    if options.x_axis == "time" and options.y_axis == "evaluation":
        raise ValueError("-x/--x-axis: evaluations are stored by step; use -y training together with -x time")
    if options.max_timesteps is not None and not 0 < options.max_timesteps < math.inf:
        raise ValueError(f"-max/--max-timesteps {options.max_timesteps} must be a positive number")
    suffixes = Figure().canvas.get_supported_filetypes()
    if options.output.suffix.lower().removeprefix(".") not in suffixes:
        raise ValueError(f"-o/--output {str(options.output)!r} must end in one of .{', .'.join(suffixes)}")
    if options.output.is_dir():
        raise ValueError(f"-o/--output {str(options.output)!r} is a folder")
    return options


def find_runs(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Runs below a log folder: algorithm, environment and folder of each.

    The environment is the name of the run's inner folder, which is the id with ``-`` for ``/``.

    :raises FileNotFoundError: if there is no such folder
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"-f/--exp-folders: there is no folder {folder}")
    for args_file in sorted(folder.glob("*/*/*/args.yml")):
        run = args_file.parents[1]
        yield run.parent.name, args_file.parent.name, run


def collect(options: argparse.Namespace) -> dict[str, dict[str, list[Curve]]]:
    """All curves asked for, by environment and label; a run that others go on with is one curve with them.

    What is damaged is left out and named.

    :raises ValueError: if there are none
    """
    labels = options.labels or options.exp_folders
    wanted = {name.replace("/", "-") for name in options.env or []}
    found: dict[str, dict[str, list[Curve]]] = {}
    for folder, label in zip(options.exp_folders, labels, strict=True):
        runs: dict[tuple[str, str], list[Path]] = {}
        for algo, env, run in find_runs(Path(folder)):
            if (not wanted or env in wanted) and (not options.algos or algo in options.algos) and is_readable(run):
                runs.setdefault((env, algo), []).append(run)
        for (env, algo), of_env in runs.items():
            name = algo if len(options.exp_folders) == 1 else f"{algo}, {label}"
            frames = FRAME_SKIP if is_atari_id(env.replace("ALE-", "ALE/", 1)) else 1
            curves = [joined_curve(line, options, frames) for line in lines_of_runs(of_env)]
            if any(curve is not None for curve in curves):
                whole = found.setdefault(env, {}).setdefault(name, [])
                whole.extend(curve for curve in curves if curve is not None)
    if not found:
        asked = {"-f/--exp-folders": options.exp_folders, "-e/--env": options.env, "-a/--algos": options.algos}
        given = " ".join(f"{option} {' '.join(names)}" for option, names in asked.items() if names)
        raise ValueError(f"no runs with {options.y_axis} returns are found with {given}")
    return found


def is_readable(run: Path) -> bool:
    """Whether a run says who it is; if not, that is printed."""
    try:
        read_record(run)
    except ValueError as error:
        print(f"{run} is left out: {error}", file=sys.stderr)
        return False
    return True


def joined_curve(line: Sequence[tuple[Path, int]], options: argparse.Namespace, frames: int = 1) -> Curve | None:
    """Curve of a run and of those that went on with it, ``None`` if they have no returns.

    :param line: folders, each with its first step, in their order
    :param options: of the command line
    :param frames: that the monitor files count for one step
    """
    whole: Curve | None = None
    for run, first_step in line:
        curve = stored_curve(run, options)
        if curve is None:
            continue
        if options.y_axis == "training":  # counted from the beginning of each part
            hours = curve.x + (whole.x[-1] if whole else 0.0)
            curve = curve._replace(x=hours if options.x_axis == "time" else steps_of(curve.x, first_step, frames))
        if whole is not None:
            kept = whole.x < curve.x[0]  # a part may go on with an earlier checkpoint
            curve = Curve(
                whole.name,
                np.concatenate([whole.x[kept], curve.x]),
                np.concatenate([whole.returns[kept], curve.returns]),
            )
        whole = curve
    return whole


def files_of(run: Path, options: argparse.Namespace) -> str:
    """Files that a curve comes from."""
    pattern = "evaluations.npz" if options.y_axis == "evaluation" else "*.monitor.csv"
    return ", ".join(map(str, sorted(run.glob(pattern))))


def stored_curve(run: Path, options: argparse.Namespace) -> Curve | None:
    """Curve of one run, ``None`` if it has none; that of damaged files is left out and named."""
    try:
        if options.y_axis == "evaluation":
            curve = evaluation_curve(run)
        else:
            curve = training_curve(run, options.episode_window, options.x_axis)
        if curve is not None:
            curve = curve._replace(x=np.asarray(curve.x, dtype=float), returns=np.asarray(curve.returns, dtype=float))
    except Exception as error:  # whatever numpy, zipfile or pandas make of damaged files
        print(f"{files_of(run, options)} is left out as damaged: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    if curve is None or len(curve.x) == 0:
        return None
    shapes_fit = curve.x.shape == curve.returns.shape and curve.x.ndim == 1
    if not (shapes_fit and np.isfinite(curve.x).all() and np.isfinite(curve.returns).all()):
        print(f"{files_of(run, options)} is left out as damaged: it has no finite numbers", file=sys.stderr)
        return None
    return curve


def plot(arguments: Sequence[str]) -> None:
    """Draw one panel for each environment, and print what the curves end with.

    :param arguments: of the command line
    :raises ValueError: if there is nothing to draw, or options contradict each other
    :raises OSError: if a folder is missing or the picture cannot be written
    """
    options = parse(arguments)
    check_folder(options.output.parent)
    show(collect(options), options)


def show(found: dict[str, dict[str, list[Curve]]], options: argparse.Namespace) -> None:
    """Draw one panel for each environment, and print what the curves end with.

    :param found: curves by environment and label
    :param options: of the command line
    :raises OSError: if the picture cannot be written
    """
    names = sorted({name for curves in found.values() for name in curves}, key=lambda name: (ALGO not in name, name))
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    figure, axes = new_figure(len(found))
    for axis, (env, curves_by_name) in zip(axes, found.items(), strict=True):
        for name, curves in curves_by_name.items():
            draw(axis, name, curves, colors[name])
            print(summary(env, name, curves))
        axis.set(title=env, xlabel=X_AXES[options.x_axis], ylabel=f"{options.y_axis} return")
        axis.set_xlim(right=options.max_timesteps)
        axis.grid(alpha=0.3)
        axis.legend()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.output) as temporary:
        figure.savefig(temporary, dpi=110)
    print(f"Picture: {options.output}")


def summary(env: str, name: str, curves: Sequence[Curve]) -> str:
    """What the curves end with, in one line."""
    last = np.array([curve.returns[-1] for curve in curves])
    text = f"{env}, {name}: {last.mean():.1f} at the end, {len(curves)} runs"
    if len(curves) == 1:
        return text.replace("runs", "run")
    band = confidence_band([Curve(curve.name, np.zeros(1), curve.returns[-1:]) for curve in curves])
    return f"{text}, 95 % interval {band.low[0]:.1f} to {band.high[0]:.1f}"
