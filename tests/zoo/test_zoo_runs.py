"""Folders of runs, and runs that go on with others in pictures."""

import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from sb3_ezv2.zoo import curves as drawing
from sb3_ezv2.zoo import plots
from sb3_ezv2.zoo.runs import create_folder, lines_of_runs, read_record, write_record
from sb3_ezv2.zoo.settings_files import read_run
from tests.zoo.test_zoo_plots import store_run


def test_a_folder_belongs_to_one_run(tmp_path):
    (tmp_path / "logs" / "A-v0_3").mkdir(parents=True)
    assert create_folder(tmp_path / "logs" / "A-v0", 3) == tmp_path / "logs" / "A-v0_4"
    assert create_folder(tmp_path / "logs" / "A-v0", 3, "_x") == tmp_path / "logs" / "A-v0_3_x"
    assert create_folder(tmp_path / "new" / "A-v0", 1) == tmp_path / "new" / "A-v0_1"


def test_runs_that_start_in_the_same_moment_have_folders_of_their_own(tmp_path):
    start, found = threading.Barrier(16), []

    def run() -> None:
        start.wait()
        found.append(create_folder(tmp_path / "logs" / "A-v0", 1))

    threads = [threading.Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(tmp_path / "logs" / f"A-v0_{n}" for n in range(1, 17))


def test_a_record_names_the_parent(tmp_path):
    for name in ("first", "second", "old"):
        (tmp_path / name).mkdir()
    first = write_record(tmp_path / "first", None, 0)
    second = write_record(tmp_path / "second", tmp_path / "first", 40)
    assert (first.parent, second.parent, second.first_step) == (None, first.id, 40)
    assert read_record(tmp_path / "second") == second
    assert read_record(tmp_path / "old") == (str((tmp_path / "old").resolve()), None, 0)
    assert write_record(tmp_path / "first", tmp_path / "old", 1).parent == read_record(tmp_path / "old").id


@pytest.mark.parametrize("content", ["", "[1]", "id: 1", "a: [1", "id: x\nparent: null\nfirst_step: many"])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "run.yml").write_text(content)
    with pytest.raises(ValueError, match="run.yml is damaged"):
        read_record(tmp_path)


def test_changed_settings_are_refused(tmp_path):
    """One digit of a number would train something else without a word."""
    (tmp_path / "A-v0").mkdir()
    config = tmp_path / "A-v0" / "config.yml"
    config.write_text("gamma: 0.99\n")
    assert read_run(config.parent) == ({"gamma": 0.99}, {})  # without a record nothing is known
    write_record(tmp_path, None, 0)
    assert read_run(config.parent) == ({"gamma": 0.99}, {})
    config.write_text("gamma: 0.89\n")
    with pytest.raises(ValueError, match="config.yml is damaged: .* -params or -c"):
        read_run(config.parent)
    record = yaml.safe_load((tmp_path / "run.yml").read_text())
    for sums in ({}, None):
        (tmp_path / "run.yml").write_text(yaml.safe_dump(record | {"sha256": sums}))
        assert read_run(config.parent) == ({"gamma": 0.89}, {})
    (tmp_path / "run.yml").write_text(yaml.safe_dump(record | {"sha256": [1]}))
    with pytest.raises(ValueError, match="run.yml is damaged"):
        read_run(config.parent)


def test_lines_of_runs(tmp_path):
    """Three generations of one seed, a second continuation of its first run, and another seed."""
    runs = [tmp_path / str(n) for n in range(5)]
    for run, parent, first_step in zip(runs, [None, 0, 1, 0, None], [0, 40, 80, 20, 0], strict=True):
        run.mkdir()
        write_record(run, None if parent is None else runs[parent], first_step)
    assert lines_of_runs(runs) == [[(runs[0], 0), (runs[1], 40), (runs[2], 80)], [(runs[4], 0)]]
    assert lines_of_runs([runs[2], runs[1]]) == [[(runs[1], 40), (runs[2], 80)]]  # its first run is not among them
    assert lines_of_runs([]) == []


def curves(tmp_path: Path, *arguments: str) -> list:
    options = plots.parse(["-f", str(tmp_path), *arguments])
    return plots.collect(options)["A-v0"]["ezv2"]


@pytest.fixture
def resumed(tmp_path) -> list[Path]:
    """Two seeds; the first was stopped after 300 steps, and goes on from step 200."""
    runs = [
        store_run(tmp_path, "A-v0", returns, seed=i) for i, returns in enumerate([[1, 2, 3], [5, 6, 7], [4, 4, 4, 4]])
    ]
    np.savez(runs[1] / "evaluations.npz", timesteps=[300, 400], results=[[5.0], [6.0]])
    write_record(runs[0], None, 0)
    write_record(runs[1], runs[0], 200)
    write_record(runs[2], None, 0)
    return runs


def test_a_resumed_run_is_no_seed_of_its_own(tmp_path, resumed, capsys):
    first, second = curves(tmp_path)
    np.testing.assert_array_equal(first.x, [100, 200, 300, 400])
    np.testing.assert_array_equal(first.returns, [1, 2, 5, 6])  # what was learned after step 200 is not part of it
    np.testing.assert_array_equal(second.returns, [4, 4, 4, 4])
    plots.plot(["-f", str(tmp_path), "-o", str(tmp_path / "picture.png")])
    assert "A-v0, ezv2: 5.0 at the end, 2 runs" in capsys.readouterr().out


def test_training_returns_of_a_resumed_run(tmp_path, resumed):
    first, _ = curves(tmp_path, "-y", "training", "-w", "1")
    np.testing.assert_array_equal(first.x, [10, 20, 30, 210, 220, 230])
    hours, _ = curves(tmp_path, "-y", "training", "-w", "1", "-x", "time")
    np.testing.assert_allclose(hours.x, [0.01, 0.02, 0.03, 0.04, 0.05, 0.06])


def test_the_picture_of_a_resumed_run_has_the_same_steps(tmp_path, resumed, monkeypatch):
    drawn = []
    draw = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda *arguments: drawn.extend(arguments[2]) or draw(*arguments))
    drawing.draw_run(resumed[1], "A", window=1)
    np.testing.assert_array_equal(drawn[0].x, [210, 220, 230])
    drawn.clear()
    drawing.draw_run(resumed[1], "a game", frame_skip=4, window=1)
    options = plots.parse(["-y", "training", "-w", "1"])
    np.testing.assert_array_equal(drawn[0].x, plots.joined_curve([(resumed[1], 200)], options, frames=4).x)


@pytest.mark.parametrize(
    "file, content",
    [
        ("evaluations.npz", b""),
        ("evaluations.npz", b"PK\x03\x04 nothing"),
        ("evaluations.npz", None),
        ("run.yml", b"a: [1"),
    ],
)
def test_a_damaged_run_does_not_stop_the_others(tmp_path, resumed, capsys, file, content):
    if content is None:
        content = resumed[2].joinpath(file).read_bytes()[:-40]
    (resumed[2] / file).write_bytes(content)
    (curve,) = curves(tmp_path)
    assert curve.name == "A-v0_1"
    said = capsys.readouterr().err
    assert str(resumed[2] / file) in said and "is left out" in said and said.count("\n") == 1


def test_returns_that_are_no_numbers(tmp_path, resumed, capsys):
    np.savez(resumed[2] / "evaluations.npz", timesteps=[100], results=[[np.nan]])
    assert len(curves(tmp_path)) == 1 and "is left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [b"", b"#{\n", b"\xff\xff", b'#{"t_start": 0.0}\nr,l,t\n1,x,2\n', b"r,l,t\n1,2,3\n"]
)
def test_damaged_monitor_files(tmp_path, resumed, capsys, content):
    (resumed[2] / "0.monitor.csv").write_bytes(content)
    assert len(curves(tmp_path, "-y", "training")) == 1
    assert "is left out" in capsys.readouterr().err
