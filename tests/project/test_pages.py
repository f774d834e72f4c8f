"""How the pages read: no network, no history of development in the prose, one spelling; each check is shown to fail."""

import re
import runpy
from collections.abc import Callable

import pytest

from tests.helpers.snippets import PAGES, ROOT

TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
NOT_OURS = {"CHANGELOG.md"}  # names what once was
AMERICAN = re.compile(
    r"\b(behavior|color|center|favor|(?:normal|priorit|regular|discret)iz\w+|optimiz(?!er_)\w+|analyz\w+)\b", re.I
)
HASH = r"(?<![\w/-])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,12}(?![\w.-])"
STORY = re.compile(rf"\b(?:was|were) asked for\b|{HASH}")


def prose(text: str) -> str:
    """A page without code, formulas and targets of links."""
    code = r"^```.*?^```$|`[^`\n]*`|\$[^$]*\$|\]\([^)]*\)|https?://\S+"
    return re.sub(code, " ", text, flags=re.MULTILINE | re.DOTALL)


def without_fences(text: str) -> str:
    """A page without blocks of code."""
    return re.sub(r"^```.*?^```$", " ", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", sorted(set(TEXTS) - NOT_OURS))
def test_pages_tell_no_story(name):
    assert STORY.findall(without_fences(TEXTS[name])) == []


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_pages_have_one_spelling(name):
    assert AMERICAN.findall(prose(TEXTS[name])) == []


def test_a_story_and_another_spelling_are_noticed():
    assert STORY.findall("10.3 were asked for (`2254d88`)") == ["were asked for", "2254d88"]
    assert STORY.findall("7.2e10 of 1000000 in 2403.00564, seed 1234567") == []
    assert AMERICAN.findall(prose("The behavior of `normalize` and the optimizer.")) == ["behavior", "optimizer"]


@pytest.fixture(scope="module")
def as_svg() -> Callable[..., str]:
    """Draws a formula as the pages have it, with what the extra ``docs`` installs."""
    pytest.importorskip("ziamath")
    return runpy.run_path(str(ROOT / "docs" / "formulas.py"))["as_svg"]


@pytest.mark.parametrize("inline", [True, False])
def test_formulas_need_no_network(inline, as_svg):
    svg = as_svg(r"V_S(s) = \frac{1}{N + 1} \sum_{n=0}^{N} \hat V_n(s)", inline)
    names = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # which nobody fetches
    assert set(re.findall(r"https?://[^\"]+", svg)) <= names
    assert "currentColor" in svg and 'aria-label="V_S(s) = \\frac{1}{N + 1}' in svg and "<script" not in svg
    assert not re.search(r'<svg[^>]* (width|height)="', svg)  # they follow the size of the text


def test_all_formulas_can_be_drawn(as_svg):
    found = [
        formula[0] or formula[1]
        for text in TEXTS.values()
        for formula in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", without_fences(text), flags=re.DOTALL)
    ]
    assert len(found) > 50
    for formula in found:
        svg = as_svg(formula, inline=False)
        height = re.search(r"height:([\d.]+)em", svg)
        assert height is not None and float(height[1]) < 12.0, formula  # a bracket once grew over the whole page
