"""Pictures of one decision: its candidates, its tree, the frame that it was made for."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from sb3_ezv2.inspection.decision import Decision, Node
from sb3_ezv2.inspection.findings import Findings
from sb3_ezv2.inspection.pictures import DPI, OTHER, REAL, SEARCH, SIZE, _legend, panel, picture_of

FEW_CANDIDATES, MOST_CANDIDATES, MOST_NODES = 8, 16, 40
"""That are drawn: few are drawn all, of more those that were visited, and no more than so many."""
ROW = 0.22
"""Inches of a line of a list."""
DIGITS = 3


def decision_pictures(report: Findings) -> dict[str, Figure]:
    """Pictures of the decision by name."""
    decision = report.decision
    found = {}
    frame = frame_of(report)
    if frame is not None:
        found["decision_frame"] = draw_frame(frame, report.decision_step)
    found["decision_candidates"] = draw_candidates(decision)
    if decision.box:
        found["decision_box"] = draw_box(decision)
    found["decision_tree"] = draw_tree(decision)
    return found


def frame_of(report: Findings) -> np.ndarray | None:
    """The rendered frame, else the image that the model saw, else nothing."""
    rendered = report.episodes[0].frames.get(report.decision_step)
    if rendered is not None or not report.image_rows:
        return rendered
    arrays = report.episodes[0].observations.values()
    images = [array for array in arrays if array.shape[1:] == report.image_rows[0][1].shape]
    return picture_of(images[0][report.decision_step])


def action_label(action: np.ndarray) -> str:
    """An action in a few letters."""
    numbers = np.atleast_1d(action).tolist()
    texts = [str(number) if isinstance(number, int) else f"{number:.2f}" for number in numbers[:DIGITS]]
    return f"{' '.join(texts)}{' …' if len(numbers) > DIGITS else ''}"


def decimals_of(numbers: np.ndarray) -> int:
    """Digits behind the point that tell numbers from each other."""
    known = numbers[np.isfinite(numbers)]
    span = float(known.max() - known.min()) if len(known) else 0.0
    size = float(np.abs(known).max()) if len(known) else 0.0
    least = 1e-3 * size  # smaller differences are rounding
    return int(np.clip(1 - np.floor(np.log10(max(span, least))), 0, 6)) if size > 0.0 else 0


def draw_frame(frame: np.ndarray, step: int) -> Figure:
    """What was to be seen at the step."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.imshow(frame, cmap="gray" if frame.ndim == 2 else None)
    axis.set_title(f"Step {step} of the first episode", fontsize=11)
    axis.set_axis_off()
    return figure


def order_of(decision: Decision) -> list[int]:
    """Candidates that are drawn: the chosen one, then by visits and improved policy."""
    others = np.lexsort((-decision.improved_policy, -decision.visits)).tolist()
    ordered = [decision.chosen, *(i for i in others if i != decision.chosen)]
    n_visited = int((decision.visits > 0).sum())
    return ordered[: max(min(n_visited, MOST_CANDIDATES), FEW_CANDIDATES)]


def draw_candidates(decision: Decision) -> Figure:
    """Bars of prior and improved policy for each candidate, with its visits and q in its label."""
    order = order_of(decision)
    hidden = len(decision.candidates) - len(order)
    title = f"Candidates\nvalue of the search {decision.root_value:.4g}, of the network {decision.network_value:.4g}"
    decimals = decimals_of(decision.q)
    labels = []
    for i in order:
        visits = decision.visits[i]
        found = (
            f"{visits} visit{'s' if visits > 1 else ''}, q {decision.q[i]:.{decimals}f}" if visits else "not visited"
        )
        chosen = "→ " if i == decision.chosen else ""
        labels.append(f"{chosen}{action_label(decision.candidates[i])}\n{found}")
    height = max(2.4, 1.1 + 0.42 * len(order))
    xlabel = f"probability ({hidden} more candidates)" if hidden else "probability"
    figure, axis = panel("", xlabel, "", (SIZE[0], height))
    figure.suptitle(title, fontsize=11)
    places = np.arange(len(order))
    axis.barh(places - 0.19, decision.prior[order], 0.36, color=OTHER, label="prior")
    axis.barh(places + 0.19, decision.improved_policy[order], 0.36, color=SEARCH, label="after the search")
    axis.set_yticks(places, labels, fontsize=8.5)
    axis.invert_yaxis()
    axis.set_xlim(0.0, min(1.0, 1.6 * float(max(decision.prior[order].max(), decision.improved_policy[order].max()))))
    _legend(axis)
    return figure


def draw_box(decision: Decision) -> Figure:
    """Candidates in their box, with the density of the policy."""
    candidates = decision.candidates.reshape(len(decision.candidates), -1)
    sizes = 14.0 + 160.0 * decision.visits / max(int(decision.visits.max()), 1)
    visited = decision.visits > 0
    figure, axis = panel("Candidates in the box of actions", "action", "q")
    if len(decision.box) == 1:
        axis.grid(False)
        density = axis.twinx()
        density.fill_between(decision.box[0], decision.density, color=OTHER, alpha=0.3, linewidth=0)
        density.set(ylim=(0.0, 1.05), yticks=[])
        density.set_ylabel("density of the policy", color=OTHER)
        axis.set_zorder(density.get_zorder() + 1)
        axis.patch.set_visible(False)
        points = axis.scatter(
            candidates[visited, 0], decision.q[visited], s=sizes[visited], color=SEARCH, alpha=0.7, label="visited"
        )
        if not visited.all():
            low = axis.get_ylim()[0]
            axis.plot(candidates[~visited, 0], np.full((~visited).sum(), low), "|", color=REAL, label="not visited")
        axis.plot(
            *(candidates[decision.chosen, 0], decision.q[decision.chosen], "x"),
            color="#d62728", markersize=9, markeredgewidth=2, label="chosen",
        )  # fmt: skip
    else:
        axis.set_xlabel("first action")
        axis.set_ylabel("second action")
        axis.contourf(*decision.box, decision.density, levels=8, cmap="Greys", alpha=0.6)
        axis.plot(*candidates[~visited].T, ".", color=REAL, markersize=4, label="not visited")
        points = axis.scatter(
            candidates[visited, 0], candidates[visited, 1], s=sizes[visited], c=decision.q[visited], cmap="viridis"
        )
        axis.plot(*candidates[decision.chosen], "x", color="#d62728", markersize=9, markeredgewidth=2, label="chosen")
        figure.colorbar(points, ax=axis, label="q")
    _legend(axis)
    return figure


def tree_rows(decision: Decision) -> list[Node]:
    """Nodes in the order of a list of contents: each below its parent, the most visited first.

    Where there are more than :data:`MOST_NODES`, those with fewer visits are left out with all below them.
    """
    kept = sorted(decision.nodes, key=lambda node: (-node.visits, node.number))[:MOST_NODES]
    children: dict[int, list[Node]] = {}
    for node in kept:
        children.setdefault(node.parent, []).append(node)

    def below(number: int) -> list[Node]:
        return [each for node in children.get(number, []) for each in (node, *below(node.number))]

    return below(0)


def draw_tree(decision: Decision) -> Figure:
    """The tree as a list: one line for each node, indented by its depth, its circle as large as its visits."""
    rows = tree_rows(decision)
    hidden = len(decision.nodes) - len(rows)
    depth = max(node.depth for node in rows)
    height = 0.75 + ROW * (len(rows) + 2)
    figure = Figure(figsize=(SIZE[0], height), dpi=DPI, layout="constrained")
    axis = figure.subplots()
    axis.set_title(f"Tree of the search{f' (without {hidden} seldom visited nodes)' if hidden else ''}", fontsize=11)
    axis.set_axis_off()
    q, rewards, values = np.array([(node.q, node.reward, node.network_value) for node in rows]).T
    decimals = decimals_of(np.concatenate([q, values]))
    of_rewards = decimals_of(rewards)
    span = float(q.max() - q.min()) or 1.0
    colors = colormaps["viridis"]((q - q.min()) / span)
    places = {0: 1} | {node.number: line for line, node in enumerate(rows, start=2)}
    columns = (("visits", 0.60), ("q", 0.73), ("reward", 0.86), ("value", 1.0))
    indent = 0.34 / max(depth, 1)
    most = sum(node.visits for node in rows if node.parent == 0)
    for node, color in zip(rows, colors, strict=True):
        x, y = indent * node.depth, places[node.number]
        stem = indent * (node.depth - 1)
        axis.plot([stem, stem, x], [places[node.parent], y, y], color=OTHER, linewidth=0.8, zorder=1)
        axis.scatter([x], [y], s=12 + 70 * node.visits / most, color=[color], edgecolors=REAL, linewidths=0.5, zorder=2)
        axis.text(x + 0.03, y, action_label(node.action), va="center", fontsize=8.5)
        texts = (
            *(str(node.visits), f"{node.q:.{decimals}f}", f"{node.reward:.{of_rewards}f}"),
            f"{node.network_value:.{decimals}f}",
        )
        for (_, column), text in zip(columns, texts, strict=True):
            axis.text(column, y, text, va="center", ha="right", fontsize=8.5)
    axis.scatter([0.0], [1], s=82, color="white", edgecolors=REAL, linewidths=0.8, zorder=2)
    axis.text(0.03, 1, "root", va="center", fontsize=8.5)
    axis.text(columns[-1][1], 1, f"{decision.network_value:.{decimals}f}", va="center", ha="right", fontsize=8.5)
    axis.text(0.0, 0, "action", va="center", fontsize=8.5, fontweight="bold")
    for name, column in columns:
        axis.text(column, 0, name, va="center", ha="right", fontsize=8.5, fontweight="bold")
    axis.set(xlim=(-0.02, 1.02), ylim=(len(rows) + 1.6, -0.6))
    return figure
