"""Draws the way of one transition and of one batch: ``python docs/data_flow.py`` writes ``docs/data_flow.svg``.

Boxes name files of the package, arrows the records that are handed over. Only the standard library is needed.
"""

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 1120, 500
BOX_WIDTH, BOX_HEIGHT = 168, 92
COLORS = {"algorithm": "#dbe9f6", "room": "#e8f3e4", "outside": "#f1f1f1", "replay": "#fdeccf"}


class Box(NamedTuple):
    """One station: what happens there and in which files."""

    x: int
    y: int
    color: str
    title: str
    files: tuple[str, ...]


class Arrow(NamedTuple):
    """A hand-over between two points, with the name of the record."""

    points: tuple[tuple[int, int], ...]
    label: str
    at: tuple[int, int]  # middle of the label


TOP, BOTTOM = 70, 340
COLUMNS = (20, 236, 452, 668)
RIGHT = 932

BOXES = (
    Box(COLUMNS[0], TOP, COLORS["algorithm"], "collect_rollouts", ("ezv2.py",)),
    Box(COLUMNS[1], TOP, COLORS["algorithm"], "search before acting", ("policies.py", "planning/planner.py")),
    Box(COLUMNS[2], TOP, COLORS["outside"], "env.step", ("your environment",)),
    Box(COLUMNS[3], TOP, COLORS["algorithm"], "whole streams", ("replay_algorithm.py",)),
    Box(RIGHT, 205, COLORS["replay"], "replay buffer", ("replay/buffer.py", "replay/sum_tree.py")),
    Box(COLUMNS[3], BOTTOM, COLORS["room"], "targets", ("learning/reanalyze.py", "learning/targets.py")),
    Box(COLUMNS[2], BOTTOM, COLORS["room"], "losses", ("learning/losses.py",)),
    Box(COLUMNS[1], BOTTOM, COLORS["room"], "update", ("learning/updates.py",)),
    Box(COLUMNS[0], BOTTOM, COLORS["room"], "copies of the model", ("networks/copies.py", "networks/model.py")),
    Box(344, 205, COLORS["room"], "network and tree", ("networks/model.py", "search/search.py")),
)  # fmt: skip


def _right(column: int) -> int:
    return COLUMNS[column] + BOX_WIDTH


_UP, _DOWN = TOP + BOX_HEIGHT // 2, BOTTOM + BOX_HEIGHT // 2
_BUFFER = RIGHT + BOX_WIDTH // 2
ARROWS = (
    Arrow(((_right(0), _UP), (COLUMNS[1], _UP)), "observations", (212, _UP - 54)),
    Arrow(((_right(1), _UP), (COLUMNS[2], _UP)), "Plan", (428, _UP - 8)),
    Arrow(((_right(2), _UP), (COLUMNS[3], _UP)), "step", (644, _UP - 8)),
    Arrow(((_right(3), _UP), (_BUFFER, _UP), (_BUFFER, 205)), "transition", (926, _UP - 8)),
    Arrow(((_BUFFER, 205 + BOX_HEIGHT), (_BUFFER, _DOWN), (_right(3), _DOWN)), "TrajectoryBatch", (926, _DOWN - 8)),
    Arrow(((COLUMNS[3], _DOWN), (_right(2), _DOWN)), "TrainingTargets", (644, _DOWN - 54)),
    Arrow(((COLUMNS[2], _DOWN), (_right(1), _DOWN)), "LossOutput", (428, _DOWN - 54)),
    Arrow(((COLUMNS[1], _DOWN), (_right(0), _DOWN)), "step", (212, _DOWN - 8)),
    Arrow(((320, BOTTOM + BOX_HEIGHT), (320, 470), (1076, 470), (1076, 297)), "priorities", (640, 463)),
    Arrow(((COLUMNS[0] + 84, BOTTOM), (COLUMNS[0] + 84, 251), (344, 251)), "weights", (230, 243)),
    Arrow(((390, 205), (390, 180), (320, 180), (320, TOP + BOX_HEIGHT)), "SearchResult", (460, 186)),
    Arrow(((512, 251), (752, 251), (752, BOTTOM)), "Plan of stored states", (650, 243)),
)  # fmt: skip


def files() -> list[str]:
    """Files of the package that the picture names."""
    return sorted({file for box in BOXES for file in box.files if file.endswith(".py")})


def _text(x: int, y: int, text: str, style: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="middle" {style}>{escape(text)}</text>'


def draw() -> str:
    """The picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        "<title>The way of one transition and of one batch</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        '<text x="20" y="34" font-size="17" font-weight="bold">One transition, from left to right</text>',
        f'<text x="20" y="{HEIGHT - 12}" font-size="17" font-weight="bold">One batch, from right to left</text>',
    ]
    for arrow in ARROWS:
        path = "L".join(f"{x} {y}" for x, y in arrow.points)
        parts.append(f'<path d="M{path}" fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#tip)"/>')
        parts.append(_text(*arrow.at, arrow.label, 'font-size="12" fill="#333" font-style="italic"'))
    for box in BOXES:
        parts.append(
            f'<rect x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{box.color}" '
            'stroke="#777"/>'
        )
        middle = box.x + BOX_WIDTH // 2
        parts.append(_text(middle, box.y + 24, box.title, 'font-weight="bold"'))
        for line, file in enumerate(box.files):
            parts.append(_text(middle, box.y + 46 + 17 * line, file, 'font-family="monospace" font-size="12"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
