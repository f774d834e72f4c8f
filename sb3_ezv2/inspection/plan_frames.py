"""Frames of a video with the plan that was made for them at their side."""

from collections import deque

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sb3_ezv2.common.type_aliases import Plan
from sb3_ezv2.inspection.decision_pictures import action_label
from sb3_ezv2.inspection.pictures import NETWORK, SEARCH, limits

WIDTH, LEAST_HEIGHT, DPI = 360, 360, 100
"""Pixels of the panel; smaller frames are enlarged."""
MOST_CANDIDATES = 8
"""That are shown, those with the most visits."""
N_VALUES = 100
"""Newest values that the curve shows."""


class PlanPanel:
    """Draws candidates and value of one plan after the other, for frames of one size."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=N_VALUES)
        self.figure: Figure | None = None

    def beside(self, frame: np.ndarray, plan: Plan, candidates: np.ndarray) -> np.ndarray:
        """The frame with a panel at its right.

        :param frame: ``[height, width, 3]`` bytes
        :param plan: of one state, ``[1, ...]``
        :param candidates: of the plan in the environment's units ``[n_candidates, *action_shape]``
        :return: ``[height, width, 3]`` bytes, with even sides, which videos need
        """
        times = -(-LEAST_HEIGHT // frame.shape[0])
        enlarged = frame.repeat(times, axis=0).repeat(times, axis=1)
        even = enlarged[: enlarged.shape[0] // 2 * 2, : enlarged.shape[1] // 2 * 2]
        return np.concatenate([even, self.draw(plan, candidates, even.shape[0])], axis=1)

    def draw(self, plan: Plan, candidates: np.ndarray, height: int) -> np.ndarray:
        """The panel alone ``[height, WIDTH, 3]`` bytes.

        :param plan: of one state, ``[1, ...]``
        :param candidates: of the plan in the environment's units ``[n_candidates, *action_shape]``
        :param height: in pixels
        """
        if self.figure is None:
            self.figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, layout="constrained")
            FigureCanvasAgg(self.figure)
        figure, value = self.figure, float(plan.root_values[0])
        self.values.append(value)
        figure.clear()
        bars, curve = figure.subplots(2, 1, height_ratios=(3, 1.3))
        shares = plan.visit_counts[0] / max(int(plan.visit_counts[0].sum()), 1)
        chosen = shown_candidates(plan)
        places = np.arange(len(chosen))
        bars.barh(places - 0.2, plan.improved_policy[0][chosen], 0.38, color=SEARCH, label="policy after search")
        bars.barh(places + 0.2, shares[chosen], 0.38, color=NETWORK, label="share of visits")
        taken = np.all(candidates.reshape(len(candidates), -1) == candidates[_taken(plan)].reshape(1, -1), axis=1)
        labels = [f"{'→ ' if taken[i] else ''}{action_label(candidates[i])}" for i in chosen]
        bars.set_yticks(places, labels, fontsize=8)
        bars.set(xlim=(0.0, 1.0), ylim=(len(chosen) - 0.4, -0.6))
        bars.set_title(f"value {value:.4g}", fontsize=11)
        bars.legend(fontsize=7, loc="lower right")
        bars.tick_params(axis="x", labelsize=8)
        curve.plot(range(1 - len(self.values), 1), self.values, color=SEARCH)
        curve.set_xlim(1 - N_VALUES, 0)
        curve.set_ylim(limits(np.array(self.values)))
        curve.ticklabel_format(axis="y", useOffset=False)
        curve.set_xlabel("value of the last steps", fontsize=8)
        curve.tick_params(labelsize=8)
        assert isinstance(figure.canvas, FigureCanvasAgg)
        figure.canvas.draw()
        return np.asarray(figure.canvas.buffer_rgba())[:height, :WIDTH, :3].copy()


def shown_candidates(plan: Plan) -> np.ndarray:
    """Indices of the candidates that are shown: all in their order, or those with the most visits."""
    visits = plan.visit_counts[0]
    if len(visits) <= MOST_CANDIDATES:
        return np.arange(len(visits))
    return np.lexsort((-plan.improved_policy[0], -visits))[:MOST_CANDIDATES]


def _taken(plan: Plan) -> int:
    """Index of the candidate that was chosen."""
    same = plan.candidates[0] == plan.actions[0]
    return int(np.flatnonzero(same.reshape(len(same), -1).all(axis=1))[0])
