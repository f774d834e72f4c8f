"""Formulas as SVG inside the page: no script, no font and no network, and the colour of the text around them."""

import html
import re
from typing import Any

import ziamath
from docutils import nodes
from sphinx.application import Sphinx

ziamath.config.svg2 = False  # every glyph where it is used: names of shared ones would meet on a page
POINTS_PER_EM = 16.0
"""Formulas are drawn at this size of the font and scaled with the text."""


def in_em(points: float) -> str:
    """A length that follows the size of the text."""
    return f"{points / POINTS_PER_EM:.3f}em"


def as_svg(latex: str, inline: bool) -> str:
    """A formula as SVG, read aloud as its source.

    :param latex: without dollars
    :param inline: whether it stands in a line of text
    """
    formula = ziamath.Latex(latex, size=POINTS_PER_EM, color="currentColor", inline=inline)
    svg = formula.svg()
    width, height = (float(re.search(rf'<svg[^>]* {name}="([\d.]+)', svg)[1]) for name in ("width", "height"))  # type: ignore[index]
    style = f"width:{in_em(width)};height:{in_em(height)};vertical-align:{in_em(formula.getyofst())}"
    svg = re.sub(r' (width|height)="[\d.]+(px)?"', "", svg, count=2)
    label = html.escape(" ".join(latex.split()), quote=True)
    return svg.replace("<svg", f'<svg class="formula" role="img" aria-label="{label}" style="{style}"', 1)


def inline_formula(translator: Any, node: nodes.math) -> None:
    """Write a formula of a line of text."""
    translator.body.append(as_svg(node.astext(), inline=True))
    raise nodes.SkipNode


def displayed_formula(translator: Any, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    translator.body.append(f'<div class="formula-block">{as_svg(node.astext(), inline=False)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer."""
    app.add_html_math_renderer("svg", (inline_formula, None), (displayed_formula, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
