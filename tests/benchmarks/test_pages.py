"""The tables of the README and of the page "Benchmarks" are those of the stored runs; each check is shown to fail."""

import pytest

from benchmarks import pages
from benchmarks.learning.tables import Published


def run(task: str, returns: list[float], algo: str = "ezv2", seed: int = 0, **fields) -> dict:
    """A stored run that is evaluated every 1,000 steps."""
    evaluations = [{"step": 1_000 * (i + 1), "mean_return": each} for i, each in enumerate(returns)]
    base = {
        "task": task,
        "algo": algo,
        "seed": seed,
        "evaluations": evaluations,
        "seconds": 90.0,
        "command": "a command",
    }
    return base | fields


def test_the_pages_are_those_of_the_stored_runs():
    pages.main(["--check"])


def test_a_page_that_is_not_is_noticed(tmp_path, monkeypatch):
    changed = tmp_path / "benchmarks.md"
    changed.write_text(pages.PAGES[1].read_text(encoding="utf-8").replace("| CartPole-v1", "| CartPole-v2", 1))
    monkeypatch.setattr(pages, "PAGES", (changed,))
    with pytest.raises(SystemExit, match="benchmarks.md is not that of the stored runs"):
        pages.main(["--check"])


def test_parts_are_filled_between_their_marks():
    text = "before\n<!-- made by python -m benchmarks.pages: a -->\nold\n<!-- end -->\nafter\n"
    assert pages.filled(text, {"a": "new"}) == text.replace("old", "new")


@pytest.mark.parametrize(
    ("text", "named"),
    [("<!-- made by python -m benchmarks.pages: b -->\n<!-- end -->", r"\['b'\]"), ("no marks", r"\[\]")],
)
def test_a_part_that_nothing_makes_is_refused(text, named):
    with pytest.raises(ValueError, match=named):
        pages.filled(text, {"a": "new"})


def test_steps_until_solved_stand_beside_each_other():
    by_algo = {
        "ezv2": [run("CartPole-v1", [500.0])],
        "dqn": [run("CartPole-v1", [9.0, 480.0], "dqn")],
        "ppo": [run("CartPole-v1", [9.0, 100.0], "ppo")],
    }
    assert pages.beside_text("CartPole-v1", by_algo) == "475 reached after 1,000 steps; DQN 2,000, PPO never"


def test_published_scores_are_those_of_the_nearest_number_of_frames():
    scores = [Published("walker_walk", "sac", frames, score, "") for frames, score in ((1e5, 813.2), (2e5, 900.0))]
    assert pages.published_text("walker-walk", 50_000, scores) == "published: SAC 813.2"
    assert pages.published_text("catch", 50_000, scores) == ""


def test_published_scores_stand_in_columns():
    scores = [Published("walker_walk", algo, 1e5, score, "") for algo, score in (("ezv2", 944.0), ("sac", 813.2))]
    runs = {"walker-walk": [run("walker-walk", [940.0])], "catch": [run("catch", [1.0])]}
    lines = pages.beside_published(runs, scores).splitlines()
    assert lines[0].startswith("| task | frames | here | EZ-V2, published | SAC, published |")
    assert lines[2:] == ["| walker-walk | 2,000 | 940.0 | 944.0 | 813.2 | - |"]


def test_the_table_of_results_marks_old_runs():
    new = [run("CartPole-v1", [500.0, value], seed=i, release="0.2.0") for i, value in enumerate((400.0, 480.0))]
    rows = [pages.Row("CartPole-v1", new, "beside"), pages.Row("catch", [run("catch", [1.0])], "")]
    table = pages.results(rows)
    assert "| CartPole-v1 | 2,000 | 440.0 (400.0 to 480.0) | 2 | 1.5 | beside |" in table
    assert "| catch * | 1,000 | 1.00 | 1 | 1.5 | - |" in table and "before release 0.2" in table
    assert "before release 0.2" not in pages.results(rows[:1])


def test_what_was_missed_is_said():
    runs = [run("CartPole-v1", [500.0, 500.0, value], seed=i) for i, value in enumerate((470.0, 500.0))]
    assert pages.missed({"CartPole-v1": runs}) == "- CartPole-v1 after 3,000 steps, aim 475: 470.0 (1 of 2 seeds)."
    assert pages.missed({"CartPole-v1": runs[1:]}) == "Every aim was reached."


def test_settings_are_named():
    assert pages.settings_text({"settings": {"td_steps": 3}}) == "`td_steps=3`"
    assert pages.settings_text({"settings": {}}) == "the constructor's defaults"
    assert "hyperparams/ezv2.yml" in pages.settings_text({})
