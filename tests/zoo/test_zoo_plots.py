"""Learning curves of stored runs, their uncertainty, and the comparison table, from runs made up here."""

from pathlib import Path

import numpy as np
import yaml
from matplotlib.image import imread
from stable_baselines3.common.monitor import ResultsWriter

from sb3_ezv2.zoo import plots
from sb3_ezv2.zoo.curves import Curve, confidence_band, draw_run, evaluation_curve, training_curve


def store_run(
    folder: Path, env: str, returns: list[float], algo: str = "ezv2", seed: int = 0, every: int = 100
) -> Path:
    """A run as ``train`` leaves it: one training episode of 10 steps and 36 seconds before every evaluation."""
    inner = folder / algo / f"{env}_{seed + 1}" / env
    inner.mkdir(parents=True)
    run = inner.parent
    (inner / "args.yml").write_text(yaml.safe_dump({"algo": algo, "env": env, "seed": seed}))
    (inner / "command.txt").write_text("/somewhere/bin/python -W ignore -m a.command")
    steps = every * np.arange(1, len(returns) + 1)
    np.savez(run / "evaluations.npz", timesteps=steps, results=np.array(returns)[:, None] + [-1.0, 1.0])
    writer = ResultsWriter(str(run / "0.monitor.csv"), header={"t_start": 0.0})
    for i, value in enumerate(returns):
        writer.write_row({"r": value / 2, "l": 10, "t": 36.0 * (i + 1)})
    writer.close()
    return run


def test_curves_of_a_run(tmp_path):
    run = store_run(tmp_path, "A-v0", [1.0, 3.0, 8.0])
    evaluation = evaluation_curve(run)
    np.testing.assert_array_equal(evaluation.x, [100, 200, 300])
    np.testing.assert_array_equal(evaluation.returns, [1, 3, 8])
    training = training_curve(run, window=2)
    np.testing.assert_array_equal(training.x, [20, 30])
    np.testing.assert_allclose(training.returns, [1.0, 2.75])
    np.testing.assert_allclose(training_curve(run, 1, "time").x, [0.01, 0.02, 0.03])
    assert len(training_curve(run, 100).x) == 1  # fewer episodes than the window
    assert evaluation_curve(tmp_path) is None and training_curve(tmp_path, 1) is None


def test_a_band_covers_the_mean_and_shrinks_with_more_runs():
    rng = np.random.default_rng(0)
    x = np.arange(5)

    def curves(n: int) -> list[Curve]:
        return [Curve(str(i), x, 10 * x + rng.normal(size=5)) for i in range(n)]

    few, many = confidence_band(curves(4)), confidence_band(curves(64))
    for band in (few, many):
        assert (band.low <= band.mean).all() and (band.mean <= band.high).all()
    assert (many.high - many.low).mean() < 0.5 * (few.high - few.low).mean()
    assert np.abs(many.mean - 10 * x).max() < 0.6


def test_a_band_covers_only_what_all_runs_cover():
    short, long = Curve("s", np.array([1.0, 2.0]), np.zeros(2)), Curve("l", np.array([0.0, 4.0]), np.array([0.0, 4.0]))
    band = confidence_band([short, long], n_points=3)
    np.testing.assert_allclose(band.x, [1, 1.5, 2])
    np.testing.assert_allclose(band.mean, [0.5, 0.75, 1.0])


def test_one_run_has_no_uncertainty():
    only = Curve("one", np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    band = confidence_band([only])
    np.testing.assert_array_equal(band.low, band.high)


def test_the_picture_of_a_run(tmp_path):
    run = store_run(tmp_path, "A-v0", [1.0, 3.0])
    path = draw_run(run, "A")
    assert path == run / "learning_curve.png" and imread(path).std() > 0.01
    assert draw_run(tmp_path, "nothing") is None


def test_runs_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        store_run(Path("logs"), "A-v0", [0.0, 10.0 + seed], seed=seed)
        store_run(Path("logs"), "A-v0", [0.0, 5.0], algo="sac", seed=seed)
    store_run(Path("logs"), "B-v0", [1.0, 2.0])
    store_run(Path("logs"), "name-task-v0", [1.0, 2.0])
    plots.plot([])
    said = capsys.readouterr().out.splitlines()
    assert "A-v0, ezv2: 11.0 at the end, 3 runs, 95 % interval 10.0 to 12.0" in said
    assert "A-v0, sac: 5.0 at the end, 3 runs, 95 % interval 5.0 to 5.0" in said
    assert "B-v0, ezv2: 2.0 at the end, 1 run" in said
    all_of_them = imread("curves.png").shape
    plots.plot(["-e", "name/task-v0", "-o", "one/picture.png"])
    assert capsys.readouterr().out.startswith("name-task-v0, ezv2")
    assert imread("one/picture.png").shape[1] < all_of_them[1]
    plots.plot(["-a", "sac", "-y", "training", "-x", "time", "-w", "1"])
    assert "A-v0, sac: 2.5 at the end" in capsys.readouterr().out
    plots.plot(["-f", "logs", "logs", "-l", "old", "new", "-e", "B-v0"])
    assert "B-v0, ezv2, new: 2.0" in capsys.readouterr().out
