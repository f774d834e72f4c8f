"""The code of the documentation runs and its links lead somewhere; each check is shown to fail."""

import traceback
from pathlib import Path

import pytest

from sb3_ezv2 import EfficientZeroV2
from tests.helpers.snippets import (
    N_STEPS,
    PAGES,
    ROOT,
    dead_links,
    missing_modules,
    python_snippets,
    run_snippets,
    with_small_budgets,
    with_small_searches,
)

TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
WITH_CODE = [name for name, text in TEXTS.items() if python_snippets(text)]


@pytest.fixture
def small(monkeypatch, tmp_path) -> None:
    """Train for a few steps, in a folder of its own and without windows."""
    monkeypatch.setattr(EfficientZeroV2, "learn", with_small_budgets(EfficientZeroV2.learn))
    monkeypatch.setattr(EfficientZeroV2, "learn_offline", with_small_budgets(EfficientZeroV2.learn_offline))
    monkeypatch.setattr(EfficientZeroV2, "__init__", with_small_searches(EfficientZeroV2.__init__))
    monkeypatch.setattr("sb3_ezv2.run_time.SECONDS", 0.0)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)


def test_pages_have_code():
    assert {"README.md", "docs/quickstart.md", "docs/index.md", "docs/algorithm.md", "docs/zoo.md"} <= set(WITH_CODE)


@pytest.mark.parametrize("name", WITH_CODE)
def test_the_code_of_a_page_runs(name, small, monkeypatch):
    monkeypatch.setattr("sys.argv", ["python"])
    run_snippets(ROOT / name, python_snippets(TEXTS[name]))


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    assert dead_links(ROOT / name, TEXTS[name]) == []


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])  # that tells what once was
def test_called_modules_exist(name):
    assert missing_modules(TEXTS[name]) == []


def test_a_snippet_that_raises_is_noticed_with_its_line(small):
    text = "# Page\n\n```python\na = 1\n```\n\nand\n\n```python\na += 1\nprint(b)\n```\n```bash\nnot python\n```\n"
    assert [snippet.line for snippet in python_snippets(text)] == [4, 10]
    with pytest.raises(NameError) as raised:
        run_snippets(Path("page.md"), python_snippets(text))
    last = traceback.extract_tb(raised.tb)[-1]
    assert (last.filename, last.lineno) == ("page.md", 11)


def test_documented_models_learn_a_little(small):
    session = (
        "from sb3_ezv2 import EfficientZeroV2\nmodel = EfficientZeroV2('MlpPolicy', 'CartPole-v1', batch_size=4)\n"
    )
    check = f"assert model.learn(5_000).num_timesteps == {N_STEPS} and model._n_updates > 0 and model.batch_size == 4\n"
    run_snippets(Path("page.md"), python_snippets(f"```python\n{session}{check}```\n"))


def test_a_dead_link_is_noticed():
    page = ROOT / "docs" / "page.md"
    text = "# One thing: `two`\n\n[a](index.md) [b](no.md) ![c](no.png) [d](#one-thing-two) [e](#three) `[f](g.md)`\n"
    text += "[h](https://example.org) [i](install.md#extras) [j](install.md#nothing)\n\n```\n[k](l.md)\n```\n"
    assert dead_links(page, text) == ["no.md", "no.png", "#three", "install.md#nothing"]


def test_a_missing_module_is_noticed():
    text = "`python -m sb3_ezv2.train`, `python -m benchmarks.nothing` and `python -m rl_zoo3.train`."
    assert missing_modules(text) == ["benchmarks.nothing"]
