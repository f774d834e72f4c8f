"""Learning curves of stored runs, compared across algorithms, folders and seeds, with their uncertainty."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_folder
from sb3_ezv2.zoo.curves import X_AXES, Curve, confidence_band, draw, evaluation_curve, new_figure, training_curve

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
        raise ValueError(f"{len(options.labels)} labels for {len(options.exp_folders)} folders; give one for each")
    if options.x_axis == "time" and options.y_axis == "evaluation":
        raise ValueError("evaluations are stored by step; use -y training together with -x time")
    if options.episode_window < 1:
        raise ValueError(f"--episode-window {options.episode_window} must be at least 1")
    return options


def find_runs(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Runs below a log folder: algorithm, environment and folder of each.

    The environment is the name of the run's inner folder, which is the id with ``-`` for ``/``.

    :raises FileNotFoundError: if there is no such folder
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    for args_file in sorted(folder.glob("*/*/*/args.yml")):
        run = args_file.parents[1]
        yield run.parent.name, args_file.parent.name, run


def collect(options: argparse.Namespace) -> dict[str, dict[str, list[Curve]]]:
    """All curves asked for, by environment and label.

    :raises ValueError: if there are none
    """
    labels = options.labels or options.exp_folders
    wanted = {name.replace("/", "-") for name in options.env or []}
    found: dict[str, dict[str, list[Curve]]] = {}
    for folder, label in zip(options.exp_folders, labels, strict=True):
        for algo, env, run in find_runs(Path(folder)):
            if (wanted and env not in wanted) or (options.algos and algo not in options.algos):
                continue
            if options.y_axis == "evaluation":
                curve = evaluation_curve(run)
            else:
                curve = training_curve(run, options.episode_window, options.x_axis)
            if curve is not None:
                name = algo if len(options.exp_folders) == 1 else f"{algo}, {label}"
                found.setdefault(env, {}).setdefault(name, []).append(curve)
    if not found:
        raise ValueError(f"no runs with {options.y_axis} returns are found in {', '.join(options.exp_folders)}")
    return found


def plot(arguments: Sequence[str]) -> None:
    """Draw one panel for each environment, and print what the curves end with.

    :param arguments: of the command line
    :raises ValueError: if there is nothing to draw, or options contradict each other
    :raises OSError: if a folder is missing or the picture cannot be written
    """
    options = parse(arguments)
    check_folder(options.output.parent)
    found = collect(options)
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
    figure.savefig(options.output, dpi=110)
    print(f"Picture: {options.output}")


def summary(env: str, name: str, curves: Sequence[Curve]) -> str:
    """What the curves end with, in one line."""
    last = np.array([curve.returns[-1] for curve in curves])
    text = f"{env}, {name}: {last.mean():.1f} at the end, {len(curves)} runs"
    if len(curves) == 1:
        return text.replace("runs", "run")
    band = confidence_band([Curve(curve.name, np.zeros(1), curve.returns[-1:]) for curve in curves])
    return f"{text}, 95 % interval {band.low[0]:.1f} to {band.high[0]:.1f}"
