"""One HTML page with all pictures in it."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

SECTIONS = {
    "Values": (
        ("calibration_root", "calibration_network", "overestimation"),
        "Points on the dashed line are right. A line that is flat, or far from the dashed one, says that values do not "
        "tell good states from bad ones, or are too large or too small everywhere. Near the end of an episode little "
        "is left to be predicted: an overestimation there means that the model does not see ends.",
    ),
    "Model": (
        ("model_error", "nearest_frames"),
        "States are imagined along the actions that were really taken. 0 is exact, 1 no better than predicting the "
        "mean. A search trusts imagination for as many steps as its trees are deep.",
    ),
    "Search": (
        ("search_entropy", "search_gain", "search_depth", "search_visits"),
        "A search that decides makes the entropy smaller, prefers another action now and then, and finds a little more "
        "value than the network promised. Where nothing changes, plans are worth no more than the policy.",
    ),
    "One decision": (
        ("decision_frame", "decision_candidates", "decision_box", "decision_tree"),
        "The candidates with their probability before and after the search, and the tree of imagined states: for each "
        "the action that leads there, its visits, q = reward + discounted value as found by the search, the reward of "
        "the step, and the network's first value. The arrow and the cross mark what was chosen.",
    ),
    "Imagined against real": (
        ("episode_reward", "episode_value"),
        "The first episode as it was and as the model imagines it. From the first state on, errors add up; one step "
        "ahead they should be small throughout.",
    ),
}
"""Pictures of every part of the page, with what to look at."""
MEANINGS = {
    "episodes": "whole episodes",
    "steps": "steps played",
    "return": "mean return of the whole episodes, not discounted",
    "length": "mean length of the whole episodes",
    "known_returns": "states whose discounted return is known to 1 %",
    "return_mean": "mean of these returns",
    "root_mean": "mean value of the searches there",
    "root_bias": "mean of search value − return; above 0, too much is expected",
    "root_error": "mean squared error / variance of the returns; 1 is no better than their mean",
    "root_slope": "slope of the regression line; 1 is right, 0 knows nothing",
    "network_bias": "mean of network value − return",
    "network_error": "as root_error, of the network's values",
    "reward_error_*": "error of the reward after so many imagined steps; 0 is exact, 1 predicts the mean",
    "value_error_*": "the same of the value",
    "latent_error_*": "the same of the latent state",
    "policy_entropy": "mean entropy of the prior over the candidates, in nats",
    "improved_policy_entropy": "the same after the search",
    "departure_rate": "share of states where the search prefers another candidate than the policy",
    "value_gain": "mean of improved value − network value",
    "search_depth": "mean depth of the deepest node of a tree",
}
STYLE = """
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 0 12px 40px; max-width: 1180px; color: #222 }
h1 { font-size: 1.35rem } h2 { font-size: 1.15rem; margin: 2rem 0 .3rem }
p { max-width: 46rem; margin: .4rem 0 .8rem }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 12px;
  align-items: start }
.pictures img { width: 100%; max-width: 560px; height: auto; border: 1px solid #ddd; border-radius: 4px }
table { border-collapse: collapse; font-size: .9rem } td { padding: 2px 10px 2px 0; border-bottom: 1px solid #eee;
  vertical-align: top } td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
code { font-size: .95em } .left-out { background: #fff6e0; border-left: 4px solid #e0a800; padding: .2rem .8rem }
"""


def page(title: str, numbers: Mapping[str, float], figures: Mapping[str, Figure], left_out: Sequence[str]) -> str:
    """The page as text, which refers to nothing outside.

    :param title: its heading
    :param numbers: by name; NaN is shown as a dash
    :param figures: by name; those of no section are left out
    :param left_out: what is missing and why
    """
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    if left_out:
        lines = "".join(f"<li>{escape(line)}</li>" for line in left_out)
        parts.append(f'<div class="left-out"><p>Left out:</p><ul>{lines}</ul></div>')
    parts += [section(name, *SECTIONS[name], figures) for name in SECTIONS]
    rows = "".join(
        f'<tr><td><code>{name}</code><br>{escape(meaning(name))}</td><td class="number">{number_text(number)}</td></tr>'
        for name, number in numbers.items()
    )
    parts.append(f"<h2>Numbers</h2>\n<table>{rows}</table>\n</body></html>\n")
    return "\n".join(parts)


def section(name: str, wanted: Sequence[str], text: str, figures: Mapping[str, Figure]) -> str:
    """One part of the page; empty if none of its pictures is there."""
    images = [
        f'<img alt="{escape(each.replace("_", " "))}" src="data:image/png;base64,{encoded(figures[each])}">'
        for each in wanted
        if each in figures
    ]
    if not images:
        return ""
    inside = "\n".join(images)
    return f'<h2>{escape(name)}</h2>\n<p>{escape(text)}</p>\n<div class="pictures">{inside}</div>'


def encoded(figure: Figure) -> str:
    """A picture as text."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def number_text(number: float) -> str:
    """Four digits, or a dash."""
    return f"{number:.4g}" if math.isfinite(number) else "–"


def meaning(name: str) -> str:
    """What a number means."""
    stem, _, depth = name.rpartition("_")
    return MEANINGS[f"{stem}_*" if depth.isdigit() else name]
