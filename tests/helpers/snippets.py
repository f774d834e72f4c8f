"""The Python code and the links of the documentation, and small budgets for what the code trains."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sb3_ezv2 import EfficientZeroV2

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / "README.md", ROOT / "CHANGELOG.md"),
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts),
]
N_STEPS = 60
SMALL: dict[str, Any] = {"learning_starts": 40, "n_simulations": 4, "batch_size": 8}
"""Settings that a documented model gets where its code does not say otherwise."""


class Snippet(NamedTuple):
    """A block of Python code on a page."""

    line: int
    code: str


def python_snippets(text: str) -> list[Snippet]:
    """All ```` ```python ```` blocks of a page, with the number of their first line of code."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Snippet(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def run_snippets(page: Path, snippets: list[Snippet]) -> None:
    """Run the blocks of a page one after the other, as a reader does who types them into one session.

    :param page: shown in tracebacks
    :param snippets: of the page
    """
    session: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets:
        # Blank lines in front let tracebacks name the line of the page.
        exec(compile("\n" * (snippet.line - 1) + snippet.code, str(page), "exec"), session)


def with_small_budgets(function: Callable[..., Any]) -> Callable[..., Any]:
    """``EfficientZeroV2.learn`` for a few steps only; parameters as there."""

    def learn(self: EfficientZeroV2, total_timesteps: int, *arguments: Any, **kwargs: Any) -> EfficientZeroV2:
        return function(self, min(total_timesteps, N_STEPS), *arguments, **kwargs)

    return learn


def with_small_searches(function: Callable[..., Any]) -> Callable[..., Any]:
    """``EfficientZeroV2.__init__`` with :data:`SMALL` as defaults; parameters as there."""

    def create(self: EfficientZeroV2, *arguments: Any, **kwargs: Any) -> None:
        function(self, *arguments, **{**SMALL, **kwargs})

    return create


def links(text: str) -> Iterator[str]:
    """Targets of all links and pictures outside code that lead to files or headings."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(text: str) -> set[str]:
    """What links to headings of a page are called, as GitHub and MyST name them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> list[str]:
    """Links of a page to files or headings that do not exist."""
    dead = []
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if name and not target.exists():
            dead.append(link)
        elif anchor and anchor not in anchors(text if target == page else target.read_text(encoding="utf-8")):
            dead.append(link)
    return dead


def missing_modules(text: str) -> list[str]:
    """Modules of this project that a page calls with ``python -m`` and that do not exist."""
    called = re.findall(r"python -m ((?:sb3_ezv2|benchmarks|examples)[\w.]*\w)", text)
    paths = [(name, ROOT / name.replace(".", "/")) for name in called]
    return [name for name, path in paths if not (path.with_suffix(".py").is_file() or (path / "__main__.py").is_file())]
