"""Every experiment runs, what it calls exact is exact, and each has its page, its numbers and its picture."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.common import interval, run, verdict
from experiments.environments import Grid, Narrow
from experiments.known import Linear, Table, exact_q, plan
from experiments.truths import Errors, bound, tabular, target_errors

ROOT = Path(__file__).parents[2]
HELPERS = {"__init__", "common", "environments", "known", "training", "truths"}
NAMES = sorted({path.stem for path in (ROOT / "experiments").glob("*.py")} - HELPERS)
GALLERY = ROOT / "docs" / "experiments" / "index.md"


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_runs(name, tmp_path):
    module = importlib.import_module(f"experiments.{name}")
    run(name, module.measure, module.draw, ["--tiny", "--out", str(tmp_path)])
    record = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert record["quick"] and record["versions"]
    assert (tmp_path / f"{name}.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_is_short_and_has_a_page(name):
    source = (ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 150 and f"python -m experiments.{name}" in source
    page = (GALLERY.parent / f"{name}.md").read_text(encoding="utf-8")
    assert re.search(r"\*\*(Held|Contradicted|Not decided|Partly held)", page), "the page says no verdict"
    assert name in GALLERY.read_text(encoding="utf-8")


def test_runs_that_are_stored_are_not_made_again(tmp_path, monkeypatch):
    from experiments import training

    made = []
    monkeypatch.setattr(training, "train", lambda *given, **settings: made.append(given) or {"returns": [1.0]})
    for settings in ({}, {}, {"td_phase": 1}, {"td_phase": 1}):
        training.stored(tmp_path, "run", "CartPole-v1", 10, 1, 0, **settings)
    assert len(made) == 2


def test_intervals_and_verdicts():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 2.484, 2.0 + 2.484), abs=1e-3)
    assert interval([5.0])[1:] == (-np.inf, np.inf)
    assert verdict([1.0, 1.1, 0.9]).startswith("held")
    assert verdict([-1.0, -1.1, -0.9]).startswith("contradicted")
    assert verdict([1.0, -1.0]).startswith("not decided") and verdict([1.0]).startswith("not decided")


def test_exact_values_of_a_table():
    """Two states: the first pays 1 and leads to the second or back, the second is the end."""
    transitions = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    rewards = np.array([[1.0, 1.0], [0.0, 0.0]])
    q = exact_q(transitions, rewards, np.full((2, 2), 0.5), 0.5)
    assert q[0] == pytest.approx([1.0, 1.0 + 0.5 * 4 / 3])  # v = 1 + 0.25 v
    assert exact_q(transitions, rewards, None, 0.5)[0] == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("task", ["walk", "chain", "slippery"])
def test_tables_are_probabilities_and_end(task):
    transitions, rewards = tabular(task)
    np.testing.assert_allclose(transitions.sum(-1), 1.0)
    assert (transitions[-1, :, -1] == 1).all() and not rewards[-1].any()


def test_exact_values_of_a_linear_system():
    """Against the mean of many rollouts."""
    rng = np.random.default_rng(0)
    system = Linear(np.array([[0.9, 0.2], [0.0, 0.8]]), np.array([[0.1], [0.3]]), np.array([[0.4, 0.2]]), discount=0.8)
    state, total = np.tile([1.0, -1.0], (20_000, 1)), np.zeros(20_000)
    for step in range(60):
        rewards, state = system.step(state, -state @ system.gain.T + system.std * rng.normal(size=(20_000, 1)))
        total += 0.8**step * rewards
    assert total.mean() == pytest.approx(system.values(np.array([[1.0, -1.0]]))[0], rel=0.01)
    start = np.array([[1.0, -1.0]])
    best = -start @ system.greedy_gain().T
    for other in (best + 0.1, best - 0.1):
        assert system.exact_q(start, best)[0] > system.exact_q(start, other)[0]


def test_a_search_with_an_exact_model_finds_the_best_actions():
    """Beside the pit it may not: what is visited below an action lowers its mean."""
    following, rewards = Grid.tables()
    q = exact_q(np.eye(26)[following], rewards, None, 0.9)
    model = Table(following, rewards, np.zeros((26, 4)), q.max(1), 0.9)
    result, actions, depths = plan(model, Grid.starts, 16, np.random.default_rng(0))
    chosen = actions[np.arange(len(Grid.starts)), result.selected]
    assert np.isclose(q[Grid.starts, chosen], q[Grid.starts].max(1)).mean() > 0.8
    assert depths.min() == 1 and depths.max() > 1


def test_without_errors_the_values_of_a_search_are_those_of_the_policy():
    """In a linear system, up to the flattened candidates and the greedy choice below the root."""
    found = target_errors("linear", Errors(values=0.0), 0, 16, 100, 0)
    assert found["bound"] == 0.0 and found["SVE policy"] < 0.1 and found["one-step"] < 0.1


def test_the_bound_by_hand():
    """Four trajectories of one step each and the root: 4/16 * (4 * 0.95^2 + 1) * 0.09."""
    assert bound(Errors(values=0.3), np.ones((3, 4), int)) ** 2 == pytest.approx(0.25 * (4 * 0.95**2 + 1) * 0.09)


def test_the_grid_slips_as_its_table_says():
    env = Grid(slip=0.3)
    env.reset(seed=0)
    counts = np.zeros(26)
    for _ in range(3_000):
        env.cell = 12
        *_, terminated, _, _ = env.step(0)
        counts[25 if terminated else env.cell] += 1
    np.testing.assert_allclose(counts / 3_000, Grid.chances(0.3)[0][12, 0], atol=0.03)


def test_the_narrow_hill():
    env = Narrow()
    assert env.step(np.array([0.8, 0.8]))[1] == pytest.approx(1.0)
    assert env.step(np.zeros(2))[1] == pytest.approx(0.3)
