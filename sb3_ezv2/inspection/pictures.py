"""Pictures of an inspection, one panel each, so that a page can stack them on a narrow screen."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_ezv2.inspection.findings import Findings
from sb3_ezv2.inspection.measures import Calibration, DepthErrors, Imagined, by_distance

SIZE = (4.6, 3.4)
"""Inches of a panel; with :data:`DPI` twice as many pixels as a phone shows, whose text is then 10 pixels high."""
DPI = 150
REAL, SEARCH, NETWORK, IMAGINED, OTHER = "#444444", "#1f77b4", "#ff7f0e", "#2ca02c", "#999999"
"""Colours of what happened, of searches, of the network's first answer and of what is imagined."""
WORST_ERROR = 2.0
"""Where the axis of errors ends; larger ones are drawn at its edge."""


def pictures(report: Findings) -> dict[str, Figure]:
    """All pictures but those of the decision, by name; what was not measured has none."""
    found = {}
    if report.calibration is not None:
        calibration = report.calibration
        found["calibration_root"] = draw_calibration("search", calibration, SEARCH)
        found["calibration_network"] = draw_calibration("network", calibration, NETWORK)
        if np.isfinite(calibration.distances).any():
            found["overestimation"] = draw_overestimation(calibration)
    found["model_error"] = draw_model_error(report.depth_errors)
    if report.image_rows:
        found["nearest_frames"] = draw_nearest_frames(report.image_rows)
    search = report.search
    found["search_entropy"] = draw_entropies(search.entropies, search.departs)
    found["search_gain"] = draw_gains(search.gains)
    found["search_depth"] = draw_depths(report.depths)
    found["search_visits"] = draw_visits(search.visits)
    found["episode_reward"] = draw_rewards(report.imagined)
    found["episode_value"] = draw_values(report.imagined)
    return found


def panel(title: str, xlabel: str, ylabel: str, size: tuple[float, float] = SIZE) -> tuple[Figure, Axes]:
    """A figure with one axis, apart from pyplot, which would keep it."""
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    return figure, axis


def _legend(axis: Axes) -> None:
    axis.legend(fontsize=8.5, framealpha=0.8)


def draw_calibration(whose: str, calibration: Calibration, color: str) -> Figure:
    """Returns over values, the diagonal, and the regression line.

    :param whose: ``"search"`` or ``"network"``
    :param calibration: with both
    :param color: of the points
    """
    returns = calibration.returns
    if whose == "search":
        values, line, summary = calibration.root_values, calibration.root_line, calibration.root
    else:
        values, line, summary = calibration.network_values, calibration.network_line, calibration.network
    title = f"Values of the {whose} against returns\nbias {summary.bias:+.3g}, {summary.n_known} states"
    figure, axis = panel(title, f"value of the {whose}", "return that followed")
    axis.scatter(values, returns, s=9, alpha=0.35, color=color, linewidths=0)
    ends = np.array(limits(values, returns))
    axis.plot(ends, ends, color=OTHER, linestyle="--", linewidth=1.2, label="value = return")
    if math.isfinite(line[0]):
        span = np.array([values.min(), values.max()])
        label = f"return = {line[0]:.2f} value {'+' if line[1] >= 0 else '−'} {abs(line[1]):.3g}"
        axis.plot(span, line[0] * span + line[1], color="#d62728", linewidth=1.6, label=label)
    axis.set(xlim=ends, ylim=ends)
    _legend(axis)
    return figure


def draw_overestimation(calibration: Calibration) -> Figure:
    """Mean of ``search value - return`` by the distance to the end, with the middle half of the states."""
    figure, axis = panel("Overestimation by distance to the end", "steps to the end of the episode", "value − return")
    groups = by_distance(calibration)
    middles = [(least + largest) / 2 for least, largest, _ in groups]
    quarters = np.array([np.quantile(excess, [0.25, 0.75]) for _, _, excess in groups])
    axis.axhline(0.0, color=OTHER, linestyle="--", linewidth=1.2)
    axis.fill_between(middles, *quarters.T, color=SEARCH, alpha=0.2, linewidth=0, label="middle half")
    axis.plot(middles, [excess.mean() for _, _, excess in groups], "o-", color=SEARCH, label="mean")
    _legend(axis)
    return figure


def draw_model_error(errors: DepthErrors) -> Figure:
    """Errors of reward, value and latent state over the number of imagined steps."""
    figure, axis = panel("Error of imagination by depth", "imagined steps", "error (1: predicting the mean)")
    axis.axhline(1.0, color=OTHER, linestyle="--", linewidth=1.2)
    curves = (
        ("reward", errors.rewards, "#d62728", "o"),
        ("value", errors.values, NETWORK, "s"),
        ("latent state", errors.latents, IMAGINED, "^"),
    )
    for name, curve, color, marker in curves:
        if np.isfinite(curve).any():
            label = f"{name} (beyond the axis)" if np.nanmax(curve) > WORST_ERROR else name
            shown = curve.clip(max=WORST_ERROR)
            axis.plot(errors.depths, shown, marker=marker, markersize=4, color=color, label=label)
    if np.isfinite(errors.nearest_rates).any():
        axis.plot(errors.depths, 1.0 - errors.nearest_rates, ":", color=REAL, label="nearest frame is another")
    axis.set_ylim(-0.05, WORST_ERROR + 0.75)
    axis.set_yticks(np.linspace(0.0, WORST_ERROR, 5))
    axis.set_xticks(errors.depths[:: 1 if len(errors.depths) < 8 else 2])
    axis.legend(fontsize=8.5, framealpha=0.8, ncols=2, loc="upper center")
    return figure


def picture_of(image: np.ndarray) -> np.ndarray:
    """The newest frame of an observation ``[height, width, 3]`` or grey ``[height, width]``, of any layout."""
    last = image if image.shape[0] > image.shape[2] else np.moveaxis(image, 0, -1)
    n_channels = last.shape[2]
    return last[..., -3:] if n_channels % 3 == 0 else last[..., -1]


def draw_nearest_frames(rows: list[tuple[int, np.ndarray, np.ndarray | None]]) -> Figure:
    """Real images above the stored ones that are nearest to the imagined states."""
    shown = [row for row in rows if row[0] in (0, 1, 2, 4, 6, 10, 15)] or rows[:1]
    figure = Figure(figsize=(SIZE[0], 2.4), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, max(len(shown), 2), squeeze=False)
    figure.suptitle("Imagined from the first state: nearest stored frames", fontsize=11)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (depth, real, nearest) in enumerate(shown):
        for axis, image in zip(axes[:, column], (real, nearest), strict=True):
            if image is not None:
                picture = picture_of(image)
                axis.imshow(picture, cmap="gray" if picture.ndim == 2 else None, interpolation="nearest")
        axes[0, column].set_title(f"real, +{depth}" if column == 0 else f"+{depth}", fontsize=9)
    axes[1, 0].text(0.5, 0.5, "nearest", ha="center", va="center", fontsize=9, transform=axes[1, 0].transAxes)
    return figure


def draw_entropies(entropies: np.ndarray, departs: np.ndarray) -> Figure:
    """Entropy of the improved policy over that of the prior; a search that decides lies below the diagonal.

    :param entropies: of prior and improved policy ``[n, 2]``
    :param departs: whether the search prefers another candidate than the policy ``[n]``
    """
    title = f"What searches decide\nanother best action in {departs.mean():.0%} of {len(departs)} states"
    figure, axis = panel(title, "entropy of the prior (nats)", "entropy after the search")
    for which, color, name in ((~departs, SEARCH, "same best action"), (departs, "#d62728", "another best action")):
        if which.any():
            axis.scatter(
                entropies[which, 0], entropies[which, 1], s=9, alpha=0.4, color=color, linewidths=0, label=name
            )
    top = 1.05 * max(float(entropies.max()), 0.1)
    axis.plot([0.0, top], [0.0, top], color=OTHER, linestyle="--", linewidth=1.2)
    axis.set(xlim=(-0.03 * top, top), ylim=(-0.03 * top, top))
    _legend(axis)
    return figure


def draw_gains(gains: np.ndarray) -> Figure:
    """Histogram of improved value minus network value."""
    title = f"Gain in value by searching\nmean {gains.mean():+.3g}"
    figure, axis = panel(title, "improved value − network value", "share of states")
    low, high = np.quantile(gains, [0.01, 0.99])
    middle, half = (low + high) / 2, max((high - low) / 2, 1e-3 * max(abs(low), abs(high)), 1e-6)
    bins = np.linspace(middle - half, middle + half, 31)
    axis.hist(
        gains.clip(bins[0], bins[-1]), bins=bins.tolist(), weights=np.full(len(gains), 1 / len(gains)), color=SEARCH
    )
    axis.axvline(0.0, color=OTHER, linestyle="--", linewidth=1.2)
    axis.axvline(float(gains.mean()), color="#d62728", linewidth=1.6, label="mean")
    _legend(axis)
    return figure


def draw_depths(depths: np.ndarray) -> Figure:
    """How deep trees reach, and where their nodes are.

    :param depths: of nodes ``[n_searches, n_simulations]``
    """
    deepest = depths.max(axis=1)
    title = f"Depth of {len(depths)} trees of {depths.shape[1]} nodes\ndeepest node {deepest.mean():.1f} on average"
    figure, axis = panel(title, "steps from the root", "share")
    steps = np.arange(1, int(depths.max()) + 1)
    axis.bar(steps, [(depths == step).mean() for step in steps], color=SEARCH, label="of the nodes")
    reached = [(deepest >= step).mean() for step in steps]
    axis.plot(steps, reached, "o-", color=REAL, markersize=4, label="of the trees that reach so far")
    axis.set_xticks(steps[:: -(-len(steps) // 12)])
    axis.set_ylim(0.0, 1.08)
    _legend(axis)
    return figure


def draw_visits(visits: np.ndarray) -> Figure:
    """Mean share of the visits of the candidates, the most visited one first."""
    title = f"Visits at the root\nthe most visited candidate has {visits[0]:.0%}"
    figure, axis = panel(title, "candidates, the most visited first", "mean share of visits")
    places = np.arange(1, len(visits) + 1)
    axis.bar(places, visits, color=SEARCH)
    axis.set_xticks(places[:: -(-len(places) // 12)])
    return figure


def draw_rewards(imagined: Imagined) -> Figure:
    """Rewards of the first episode, and those that the model imagines."""
    return _draw_along(
        imagined,
        "reward",
        (imagined.rewards, REAL, "real"),
        (imagined.next_rewards, NETWORK, "imagined one step ahead"),
        (imagined.imagined_rewards, IMAGINED, "imagined from the first state"),
    )


def draw_values(imagined: Imagined) -> Figure:
    """Values of the first episode, and those that the model imagines."""
    return _draw_along(
        imagined,
        "value",
        (imagined.returns, REAL, "return that followed"),
        (imagined.root_values, SEARCH, "search"),
        (imagined.values, NETWORK, "network"),
        (imagined.imagined_values, IMAGINED, "imagined from the first state"),
    )


def _draw_along(imagined: Imagined, what: str, *lines: tuple[np.ndarray, str, str]) -> Figure:
    """Lines along the first episode, each with its colour and its label; what is real is drawn thick."""
    figure, axis = panel(f"{what.capitalize()} along the first episode{_of(imagined)}", "step", what)
    for line, colour, label in lines:
        axis.plot(range(len(line)), line, color=colour, linewidth=2.2 if colour == REAL else 1.2, label=label)
    axis.set_ylim(limits(*(line for line, _, _ in lines)))
    _legend(axis)
    return figure


def _of(imagined: Imagined) -> str:
    n = len(imagined.rewards)
    return "" if n == imagined.total else f"\nthe first {n} of {imagined.total} steps"


def limits(*curves: np.ndarray) -> tuple[float, float]:
    """Ends of an axis; numbers that differ by less than a tenth of their size look alike on it."""
    numbers = np.concatenate(curves)
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    half = max(0.55 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-3)
    middle = (low + high) / 2
    return middle - half, middle + half
