"""Where stored results come from, and the index of them."""

import json

import pytest

from benchmarks import index, records


def test_the_index_is_up_to_date():
    assert index.INDEX.read_text(encoding="utf-8") == index.index(), "run python -m benchmarks.index"


def test_pages_exist():
    root = records.RESULTS.parents[1]
    assert [page for page in index.PAGES.values() if not (root / page).is_file()] == []


def test_a_result_that_no_page_shows_is_noticed(tmp_path):
    record = {"command": "python -m x", "commit": "0123456789"}
    (tmp_path / "learning" / "A").mkdir(parents=True)
    for seed in range(2):
        (tmp_path / "learning" / "A" / f"seed-{seed}.json").write_text(json.dumps(record))
    assert "| [learning/A](learning/A), 2 files | docs/benchmarks.md | `python -m x` | 0123456 |" in index.index(
        tmp_path
    )
    (tmp_path / "forgotten.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"forgotten.json is shown by no page"):
        index.index(tmp_path)


def test_without_a_repository_the_commit_is_what_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv(records.COMMIT_VARIABLE, raising=False)
    assert records.current_commit(tmp_path) == "unknown"
    monkeypatch.setenv(records.COMMIT_VARIABLE, "abc")
    assert records.current_commit(tmp_path) == "abc"
    monkeypatch.setenv("PATH", "")
    assert records.current_commit(tmp_path) == "abc"
    assert records.versions("no-such-package") == {"no-such-package": "unknown"}


def test_a_record_is_replaced_at_once(tmp_path):
    path = tmp_path / "new" / "record.json"
    records.write_record(path, {"a": 1})
    records.write_record(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2} and [each.name for each in path.parent.iterdir()] == ["record.json"]
