"""What an inspection found, as one record."""

import math
from dataclasses import dataclass

import numpy as np

from sb3_ezv2.inspection import measures
from sb3_ezv2.inspection.decision import Decision
from sb3_ezv2.inspection.episodes import CUT, Episode

SHOWN_DEPTHS = (1, 5, 15)
"""Depths of imagination whose errors are among the numbers."""


@dataclass(frozen=True)
class Findings:
    """Everything that pictures are drawn from."""

    title: str
    """Of the page: algorithm, environment and how far the model was trained."""
    episodes: list[Episode]
    """That were played; the first one has the rendered frames."""
    calibration: measures.Calibration | None
    """Values against returns; ``None`` where no return is known."""
    depth_errors: measures.DepthErrors
    """Imagination against what happened."""
    search: measures.SearchNumbers
    """What searches add."""
    depths: np.ndarray
    """Depths of the nodes ``[n_searches, n_simulations]`` of searches of states spread over all episodes."""
    decision: Decision
    """One search in full."""
    decision_step: int
    """Step of the first episode where it was made."""
    imagined: measures.Imagined
    """The first episode, imagined from its first state."""
    image_rows: list[tuple[int, np.ndarray, np.ndarray | None]]
    """Steps ahead of the first state, the real image there and the stored one that is nearest to the imagined state;
    empty without images."""
    left_out: list[str]
    """What the report lacks, each with the reason in one line."""

    def numbers(self) -> dict[str, float]:
        """The numbers by name; NaN where there was nothing to measure."""
        ends = [episode.end for episode in self.episodes]
        found = {
            "episodes": float(sum(end != CUT for end in ends)),
            "steps": float(sum(map(len, self.episodes))),
            "return": _mean([float(e.rewards.sum()) for e in self.episodes if e.end != CUT]),
            "length": _mean([float(len(e)) for e in self.episodes if e.end != CUT]),
        }
        nothing = dict.fromkeys(("return_mean", "root_mean", "root_bias", "root_error", "root_slope"), math.nan)
        found |= {"known_returns": 0.0, **nothing, "network_bias": math.nan, "network_error": math.nan}
        if self.calibration is not None:
            root, network = self.calibration.root, self.calibration.network
            found |= {
                "known_returns": float(root.n_known),
                "return_mean": root.mean_return,
                "root_mean": root.mean_value,
                "root_bias": root.bias,
                "root_error": root.error,
                "root_slope": self.calibration.root_line[0],
                "network_bias": network.bias,
                "network_error": network.error,
            }
        errors = self.depth_errors
        for depth in SHOWN_DEPTHS:
            for name in ("reward", "value", "latent"):
                of_depth = getattr(errors, f"{name}s")[errors.depths == depth]
                found[f"{name}_error_{depth}"] = float(of_depth[0]) if len(of_depth) else math.nan
        found |= {
            name: getattr(self.search, name)
            for name in ("policy_entropy", "improved_policy_entropy", "departure_rate", "value_gain")
        }
        return found | {"search_depth": float(self.depths.max(axis=1).mean())}


def _mean(numbers: list[float]) -> float:
    return float(np.mean(numbers)) if numbers else math.nan
