"""Learning curves of stored runs: reading them, their mean with its bootstrap interval, and drawing.

The zoo's own plots open windows; these are written to files, so that they work on a server and in a run's folder.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from stable_baselines3.common.monitor import LoadMonitorResultsError, load_results

from sb3_ezv2.common.files import replacing
from sb3_ezv2.zoo.runs import read_record

X_AXES = {"steps": "environment steps", "time": "hours"}
LEVEL = 0.95
N_RESAMPLES = 2_000


class Curve(NamedTuple):
    """Returns of one run over its course."""

    name: str
    x: np.ndarray  # [n] increasing
    returns: np.ndarray  # [n]


class Band(NamedTuple):
    """Mean of several curves, and where the mean of many more would lie with 95 % confidence."""

    x: np.ndarray  # [n]
    mean: np.ndarray  # [n]
    low: np.ndarray  # [n]
    high: np.ndarray  # [n]


def evaluation_curve(run: Path) -> Curve | None:
    """Mean return of every evaluation of a run, ``None`` if it has none.

    :param run: folder with an ``evaluations.npz``
    """
    path = run / "evaluations.npz"
    if not path.is_file():
        return None
    with np.load(path) as stored:
        return Curve(run.name, stored["timesteps"], stored["results"].mean(axis=1))


def training_curve(run: Path, window: int, x_axis: str = "steps") -> Curve | None:
    """Mean return of the latest training episodes, ``None`` if there are too few episodes.

    :param run: folder with monitor files
    :param window: episodes that are averaged
    :param x_axis: ``"steps"`` or ``"time"``
    """
    try:
        episodes = load_results(str(run))
    except LoadMonitorResultsError:
        return None
    returns = episodes["r"].to_numpy(dtype=float)
    x = episodes["l"].to_numpy().cumsum() if x_axis == "steps" else episodes["t"].to_numpy(dtype=float) / 3600
    window = min(window, len(returns))
    if window == 0:
        return None
    sums = np.cumsum(np.insert(returns, 0, 0.0))
    return Curve(run.name, x[window - 1 :], (sums[window:] - sums[:-window]) / window)


def steps_of(counted: np.ndarray, first_step: int, frame_skip: int) -> np.ndarray:
    """Environment steps of a run, those before it included.

    :param counted: steps in the monitor files, from the run's beginning
    :param first_step: of the run
    :param frame_skip: steps that the monitor files count for one of the agent's
    """
    return first_step + counted / frame_skip


def bootstrap_interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], n_resamples: int = N_RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 95 % percentile interval of a statistic, by stratified bootstrap over runs.

    Every resample draws from each sample as many runs as it has, with repetition; see
    :func:`scipy.stats.bootstrap`. Where there is no sample with two runs or more, both bounds are the statistic.

    :param samples: scores ``[n_runs, ...]`` of each task, the number of runs may differ
    :param statistic: called with all samples, whose runs lie along ``axis``, and ``axis``
    :param n_resamples: random selections of runs that the interval is taken from
    """
    several = [len(sample) > 1 for sample in samples]
    if not any(several):
        found = np.asarray(statistic(*samples, axis=0))
        return found, found

    def with_single_runs(*drawn: np.ndarray, axis: int) -> np.ndarray:
        """Scipy resamples two runs or more; a single one stays what it is, beside every resample."""
        rest, before = iter(drawn), drawn[0].shape[:-1]
        assert axis == -1
        every = [
            next(rest) if resampled else np.broadcast_to(np.moveaxis(sample, 0, -1), (*before, 1))
            for resampled, sample in zip(several, samples, strict=True)
        ]
        return statistic(*every, axis=-1)

    result = scipy.stats.bootstrap(
        [sample for resampled, sample in zip(several, samples, strict=True) if resampled],
        with_single_runs,
        axis=0,
        vectorized=True,
        method="percentile",
        confidence_level=LEVEL,
        n_resamples=n_resamples,
        random_state=np.random.default_rng(0),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def confidence_band(curves: Sequence[Curve], n_points: int = 200, n_resamples: int = N_RESAMPLES) -> Band:
    """Mean over runs with a 95 % bootstrap interval, over the part of the axis that all runs cover.

    :param curves: of runs that differ in their seeds only, at least one
    :param n_points: points of the axis, unless all curves share theirs
    :param n_resamples: random selections of runs that the interval is taken from
    """
    first = curves[0].x
    if all(np.array_equal(curve.x, first) for curve in curves):
        x = first
    else:
        start, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
        x = np.linspace(start, max(start, end), n_points)
    values = np.stack([np.interp(x, curve.x, curve.returns) for curve in curves])  # [n_runs, n]
    low, high = bootstrap_interval([values], np.mean, n_resamples)
    return Band(x, values.mean(axis=0), low, high)


def draw(axis: Axes, label: str, curves: Sequence[Curve], color: str) -> None:
    """Draw every run thinly, and their mean with its interval if there are several.

    :param axis: to draw on
    :param label: for the legend
    :param curves: of runs that differ in their seeds only, at least one
    :param color: of all of them
    """
    marker = "o" if all(len(curve.x) == 1 for curve in curves) else None
    if len(curves) == 1:
        axis.plot(curves[0].x, curves[0].returns, color=color, marker=marker, label=label)
        return
    for curve in curves:
        axis.plot(curve.x, curve.returns, color=color, linewidth=0.7, alpha=0.35)
    band = confidence_band(curves)
    axis.plot(band.x, band.mean, color=color, linewidth=2, marker=marker, label=f"{label} ({len(curves)} runs)")
    axis.fill_between(band.x, band.low, band.high, color=color, alpha=0.2, linewidth=0)


def new_figure(n_panels: int = 1, n_columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, at most ``n_columns`` in a row."""
    n_columns = min(n_panels, n_columns)
    n_rows = -(-n_panels // n_columns)
    figure = Figure(figsize=(5.0 * n_columns, 3.6 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).flatten()
    for unused in axes[n_panels:]:
        unused.set_visible(False)
    return figure, list(axes[:n_panels])


def draw_run(run: Path, title: str, frame_skip: int = 1, window: int = 20) -> Path | None:
    """Draw one run's training and evaluation returns as ``learning_curve.png`` in its folder.

    :param run: the run's folder
    :param title: of the picture
    :param frame_skip: steps that the monitor files count for one of the agent's
    :param window: training episodes that are averaged
    :return: the picture, ``None`` if nothing is stored yet
    """
    training, evaluation = training_curve(run, window), evaluation_curve(run)
    if training is None and evaluation is None:
        return None
    figure, (axis,) = new_figure()
    if training is not None:
        training = training._replace(x=steps_of(training.x, read_record(run).first_step, frame_skip))
        draw(axis, f"training, mean of {window} episodes", [training], "tab:gray")
    if evaluation is not None:
        draw(axis, "evaluation", [evaluation], "tab:blue")
    axis.set(title=title, xlabel=X_AXES["steps"], ylabel="return")
    axis.grid(alpha=0.3)
    axis.legend()
    path = run / "learning_curve.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path


def try_to_draw_run(run: Path, title: str, frame_skip: int) -> None:
    """Draw as :func:`draw_run` and say where, or why not: a run is worth more than its picture."""
    try:
        picture = draw_run(run, title, frame_skip)
    except Exception as error:
        print(f"No picture of the learning curve: {type(error).__name__}: {error}", file=sys.stderr)
    else:
        if picture:
            print(f"Learning curve: {picture}")
