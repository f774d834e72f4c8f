"""Small trees worked out on paper, each with an answer that a known mistake would change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from sb3_ezv2.common.type_aliases import Expansion, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.search import search
from tests.helpers.reference_search import Evaluate, Path, softmax
from tests.helpers.stub_models import StubModel, search_one

NEVER = -100.0  # noise that keeps an action from being considered


def model_from(
    table: dict[Path, tuple[float, float]], logits: Sequence[float] = (0.0, 0.0), below: Sequence[float] = (0.0, 0.0)
) -> Evaluate:
    """``path -> (reward, value)``, with the same logits at all nodes below the root."""

    def evaluate(path: Path) -> tuple[float, float, Sequence[float]]:
        reward, value = table[path]
        return reward, value, below if path else logits

    return evaluate


def constant(reward: float, value: float, logits: Sequence[float]) -> Evaluate:
    """The same reward, value and logits everywhere."""
    return lambda path: (reward, value, logits)


def assert_policy(result: SearchResult, scores: Sequence[float]) -> None:
    """The improved policy is the softmax of these scores."""
    np.testing.assert_allclose(result.improved_policy[0], softmax(scores), rtol=0, atol=2e-6)


# The mixed value


def test_mixed_value_of_an_unvisited_action() -> None:
    """Visits of the children, not of the node; the network's value, not the mean; weights from the prior.

    Root value 1, prior (.5, .4, .1), discount 1/2; actions 1 and 2 are considered, action 0 stays unvisited.
    Simulation 1: action 1, reward 1, value 2: q = 1 + 2/2 = 2.
    Simulation 2: action 2, reward 2, value 4: q = 2 + 4/2 = 4.
    Simulation 3: the better one, action 2, and below it edge 0 with reward 0 and value 6, a return of 3 there:
    mean of that node (4 + 3)/2 = 3.5, so q(2) = 2 + 3.5/2 = 3.75.
    Mean of q under the prior of the visited: (.4 * 2 + .1 * 3.75)/.5 = 2.35; three visits:
    mixed value = (1 + 3 * 2.35)/(1 + 3) = 2.0125.
    (With the node's own four visits it would be 2.08; with the root's mean (1 + 2 + 4 + 3.5)/4 = 2.625 in the place
    of the network's value 2.41875; weighted by visits 2.625; by nothing 2.40625.)
    """
    table = {(): (0.0, 1.0), (1,): (1.0, 2.0), (2,): (2.0, 4.0), (2, 0): (0.0, 6.0)}
    logits = np.log([0.5, 0.4, 0.1]).tolist()
    # The bounds hold every q, and (8 + 2 visits) * 1 * q / 10 = q, so the transform is the identity.
    settings = SearchSettings(3, 2, 0.5, c_visit=8.0, c_scale=1.0, value_bounds=(0.0, 10.0))
    result, paths = search_one(model_from(table, logits), settings, gumbel=[NEVER, 0.0, 1.5])
    assert sorted(paths) == [(1,), (2,), (2, 0)]
    assert result.visit_counts.tolist() == [[0, 1, 2]]
    assert_policy(result, [logits[0] + 2.0125, logits[1] + 2.0, logits[2] + 3.75])
    assert result.root_values[0] == pytest.approx(2.625)  # the mean over the root and three simulated returns
    assert result.policy_values[0] == pytest.approx(2.0125)


def test_mixed_value_without_prior_on_what_was_visited() -> None:
    """A visited action whose prior vanishes in floating point leaves the mixed value a number: (0 + 1 * 1/2)/2 = 1/4.

    With sigma(q) = 4000 q: scores 0 + 1000 for the unvisited action, -1000 + 2000 for the visited one.
    """
    table = {(): (0.0, 0.0), (1,): (0.5, 0.0)}
    settings = SearchSettings(1, 1, 1.0, c_visit=0.0, c_scale=4000.0, value_bounds=(0.0, 1.0))
    result, _ = search_one(model_from(table, [0.0, -1000.0]), settings, gumbel=[0.0, 2000.0])
    np.testing.assert_allclose(result.improved_policy, [[0.5, 0.5]], atol=1e-6)


def test_mixed_value_below_the_root() -> None:
    """At its second visit a node weighs the child it knows against the mixed value of the other.

    Discount 1, one candidate; node (0,) has value 8 and logits (4.5, 0). Its child (0, 0) returns 0, so edge 1 counts
    (8 + 1 * 0)/2 = 4. With sigma(q) = q: pi' = softmax(4.5, 4) = (.62, .38), and .62 - 1/2 < .38: edge 1 is next.
    (With the node's own two visits edge 1 would count 8/3, with the node's mean value 2; then pi'(0) is .86 or .92
    and edge 0 would be next.)
    """
    table = {(): (0.0, 8.0), (0,): (0.0, 8.0), (0, 0): (0.0, 0.0), (0, 1): (0.0, 4.0)}
    settings = SearchSettings(3, 1, 1.0, c_visit=9.0, c_scale=1.0, value_bounds=(0.0, 10.0))
    result, paths = search_one(model_from(table, [0.0], [4.5, 0.0]), settings)
    assert paths == [(0,), (0, 0), (0, 1)]
    assert result.root_values[0] == (8 + 8 + 0 + 4) / 4


# Normalisation and the transform


def test_normalisation_sees_the_whole_tree() -> None:
    """With discount 0 an edge's q is its reward: 0 and 1 at the root, 4 below; so 1 counts as a quarter.

    The best has two visits: sigma = (50 + 2) * 0.1 * 1/4 = 1.3. (By the root's own edges alone it would be 5.2.)
    """
    table = {(): (0.0, 0.0), (0,): (0.0, 0.0), (1,): (1.0, 0.0), (1, 0): (4.0, 0.0)}
    result, paths = search_one(model_from(table), SearchSettings(3, 2, 0.0))
    assert paths == [(0,), (1,), (1, 0)]
    assert_policy(result, [0.0, 1.3])


def test_normalisation_remembers_what_an_edge_was_worth() -> None:
    """An edge was worth 1 before its mean fell to 1/2: the range seen is [0, 1], not [0, 1/2].

    Candidate 0 leads to value 1, then on to value 0, so q = 1/2; candidate 1 has (0 + 2 * 1/2)/3 = 1/3.
    sigma = (50 + 2) * 0.1 * q.
    """
    table = {(): (0.0, 0.0), (0,): (0.0, 1.0), (0, 0): (0.0, 0.0)}
    result, _ = search_one(model_from(table), SearchSettings(2, 1, 1.0))
    assert_policy(result, [5.2 / 2, 5.2 / 3])


def test_normalisation_has_a_smallest_range() -> None:
    """Values 1/512 apart (in a range of at least 1/64) differ by an eighth: sigma = 5.1/8."""
    table = {(): (0.0, 0.5), (0,): (0.0, 0.5), (1,): (0.0, 0.5 + 1 / 512)}
    result, _ = search_one(model_from(table), SearchSettings(2, 2, 1.0, min_value_range=1 / 64))
    assert_policy(result, [0.0, 5.1 / 8])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_smallest_range_may_be_a_share_of_the_values(sign: float) -> None:
    """Values of 64 and 63 differ by 1, in a range of at least 64/8 by an eighth: sigma = 5.1/8, whatever their sign."""
    better, worse = sorted([sign * 64.0, sign * 63.0], reverse=True)
    table = {(): (0.0, better), (0,): (0.0, worse), (1,): (0.0, better)}
    result, _ = search_one(model_from(table), SearchSettings(2, 2, 1.0, min_value_share=1 / 8))
    assert_policy(result, [0.0, 5.1 / 8])


@pytest.mark.parametrize("network_value, end", [(1000.0, 1.0), (-1000.0, 0.0)])
def test_mixed_value_is_clipped_into_the_range(network_value: float, end: float) -> None:
    """A network value far outside of what the tree has seen cannot do more than the largest or smallest q."""
    table = {(): (0.0, network_value), (0,): (0.0, 0.5)}
    result, _ = search_one(model_from(table), SearchSettings(1, 1, 1.0, value_bounds=(0.0, 1.0)))
    assert_policy(result, [5.1 * 0.5, 5.1 * end])


def test_logits_are_logits() -> None:
    """Without differences in value the improved policy is the prior, and a constant added to the logits is nothing."""
    logits = [0.5, -1.25, 2.0]
    settings = SearchSettings(12, 3, 1.0)
    result, paths = search_one(constant(0.0, 1.0, logits), settings, n_children=3)
    assert_policy(result, logits)
    shifted, shifted_paths = search_one(constant(0.0, 1.0, [x + 8.0 for x in logits]), settings, n_children=3)
    assert shifted_paths == paths
    assert_policy(shifted, logits)


def test_the_scale_of_rewards_is_irrelevant() -> None:
    """Everything times 1024, the smallest range included, gives the same trees and policies."""
    gumbel = np.random.default_rng(0).gumbel(size=(30, 5)).astype(np.float32)
    results = []
    for factor in (1.0, 1024.0):
        model = StubModel(np.arange(30), 5, 5, scale=factor)
        settings = SearchSettings(24, 5, 0.9, min_value_range=0.01 * factor, min_value_share=0.3)
        results.append(search(model.root(), model.recurrent_fn(24), gumbel, 5, settings))
    np.testing.assert_array_equal(results[0].visit_counts, results[1].visit_counts)
    np.testing.assert_allclose(results[0].improved_policy, results[1].improved_policy, atol=1e-6)
    np.testing.assert_allclose(results[0].root_values * 1024, results[1].root_values, rtol=1e-6)


# The choice below the root


def test_interior_visits_follow_the_policy() -> None:
    """``argmax pi'(a) - N(a) / (1 + sum N)`` with pi' = (.62, .38), the transform being switched off.

    N = (0, 0): .62, .38: edge 0.     N = (1, 0): .62 - 1/2, .38: edge 1.
    N = (1, 1): .62 - 1/3, .38 - 1/3: edge 0.     N = (2, 1): .62 - 2/4 = .12, .38 - 1/4 = .13: edge 1.
    (2 + sum N would take edge 0 there: .62 - 2/5 = .22 against .38 - 1/5 = .18.)
    N = (2, 2): .62 - 2/5 = .22, .38 - 2/5: edge 0.
    """
    logits = np.log([0.62, 0.38]).tolist()
    settings = SearchSettings(6, 1, 1.0, c_scale=0.0)
    _, paths = search_one(constant(0.0, 0.0, logits), settings, gumbel=[0.0, NEVER])
    assert [path[1] for path in paths[1:]] == [0, 1, 0, 1, 0]


def test_interior_visits_approach_the_policy() -> None:
    """After many visits the frequencies are the policy's, within one visit."""
    policy = np.array([0.45, 0.05, 0.3, 0.2])
    evaluate = constant(0.0, 0.0, np.log(policy).tolist())
    settings = SearchSettings(201, 1, 1.0, c_scale=0.0)
    _, paths = search_one(evaluate, settings, gumbel=[0.0, NEVER, NEVER, NEVER], n_children=4)
    visits = np.bincount([path[1] for path in paths[1:]], minlength=4)
    assert np.abs(visits - 200 * policy).max() <= 1.0


# Sequential halving


def test_six_candidates_and_sixteen_simulations() -> None:
    """Halving goes 6, 3, 2, 2 and not 6, 3, 1, 0: sixteen visits, two finalists, the best one chosen."""
    rewards = [0.25, 1.0, 0.5, 2.0, 0.0, 1.5]

    def evaluate(path: Path) -> tuple[float, float, Sequence[float]]:
        return (rewards[path[0]] if len(path) == 1 else 0.0), 0.0, [0.0] * 6

    result, _ = search_one(evaluate, SearchSettings(16, 6, 1.0), n_children=6)
    assert result.visit_counts.tolist() == [[1, 2, 1, 6, 1, 5]]
    assert result.selected[0] == 3


def test_fewer_simulations_than_candidates_still_use_q() -> None:
    """Four visits among sixteen equal candidates: the best of the four is chosen, not the first."""
    rewards = [0.5, 0.25, 0.75, 0.0]

    def evaluate(path: Path) -> tuple[float, float, Sequence[float]]:
        return (rewards[path[0]] if path else 0.0), 0.0, [0.0] * 16

    result, _ = search_one(evaluate, SearchSettings(4, 16, 1.0), n_children=16)
    assert result.visit_counts[0, :4].tolist() == [1] * 4 and result.visit_counts.sum() == 4
    assert result.selected[0] == 2
    assert result.improved_policy[0].argmax() == 2


def test_every_root_has_its_own_noise() -> None:
    """Equal roots under different noise consider different candidates, in the order of ``noise + logits``."""
    n_roots, n_candidates, m = 40, 10, 3
    gumbel = np.random.default_rng(1).gumbel(size=(n_roots, n_candidates)).astype(np.float32)
    model = StubModel(np.zeros(n_roots, int), n_candidates, n_candidates)
    result = search(model.root(), model.recurrent_fn(m), gumbel, n_candidates, SearchSettings(m, m, 0.9))
    for row in range(n_roots):
        best = np.argsort(-(gumbel[row] + model.root().prior_logits[row]))[:m]
        assert set(np.flatnonzero(result.visit_counts[row])) == set(best)
    assert len({tuple(counts) for counts in result.visit_counts.tolist()}) > 10


# Root values


@pytest.mark.parametrize("n_simulations", [1, 4, 16, 61])
def test_root_value_has_no_bias(n_simulations: int) -> None:
    """All values 1, no reward, no discounting: exactly 1, whatever the budget; 5 and -3 likewise."""
    for value in (1.0, 5.0, -3.0):
        evaluate = constant(0.0, value, [0.0, 0.5, 1.0])
        result, _ = search_one(evaluate, SearchSettings(n_simulations, 3, 1.0), n_children=3)
        assert result.root_values[0] == value


def test_root_value_of_a_single_line() -> None:
    """One action everywhere: the mean over ``n`` of ``sum_{i<n} gamma^i r + gamma^n v``, n = 0..N."""
    gamma, reward, value, n = 0.9, 1.0, -2.0, 50
    result, paths = search_one(constant(reward, value, [0.0]), SearchSettings(n, 1, gamma), n_children=1)
    assert paths == [(0,) * depth for depth in range(1, n + 1)]
    returns = [reward * (1 - gamma**i) / (1 - gamma) + gamma**i * value for i in range(n + 1)]
    assert result.root_values[0] == pytest.approx(np.mean(returns), rel=1e-6)
    assert (result.selected[0], result.visit_counts[0, 0], result.improved_policy[0, 0]) == (0, n, 1.0)


@pytest.mark.parametrize("n_considered", [1, 2, 3])
def test_one_simulation_is_one_step_lookahead(n_considered: int) -> None:
    """``V = (v_root + r + gamma v)/2`` with the action of the largest ``noise + logits``."""
    table = {(): (7.0, 3.0), (0,): (10.0, 10.0), (1,): (0.5, 4.0), (2,): (-10.0, 10.0)}
    settings = SearchSettings(1, n_considered, 0.75)
    result, paths = search_one(model_from(table, [0.0, 1.0, 2.0]), settings, gumbel=[0.5, 2.0, 0.0])
    assert paths == [(1,)]
    assert result.root_values[0] == (3.0 + 0.5 + 0.75 * 4.0) / 2
    assert result.selected[0] == 1
    assert result.visit_counts.tolist() == [[0, 1, 0]]


def test_one_candidate_and_one_simulation() -> None:
    """The smallest search there is."""
    table = {(): (0.0, 3.0), (0,): (0.5, -4.0)}
    result, _ = search_one(model_from(table, [0.0], [0.0]), SearchSettings(1, 1, 0.5), n_children=1)
    assert result.root_values[0] == (3.0 + 0.5 - 2.0) / 2
    assert (result.selected[0], result.visit_counts[0, 0], result.improved_policy[0, 0]) == (0, 1, 1.0)


# Policy improvement, with a model whose q is exact


def exact_search(
    q: np.ndarray, logits: np.ndarray, gumbel: np.ndarray, settings: SearchSettings, n_children: int = 3
) -> SearchResult:
    """Search roots whose candidates are worth exactly ``q``: reward q/2 now and for ever after, discount 1/2."""
    n_roots = len(q)
    values = np.zeros((n_roots, settings.n_simulations + 1), np.float32)
    rows = np.arange(n_roots)

    def evaluate(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        of_candidate = q[rows, np.where(parents == 0, edges, 0)]
        values[:, node] = np.where(parents == 0, of_candidate, values[rows, parents])
        return Expansion(values[:, node] / 2, values[:, node].copy(), np.zeros((n_roots, n_children), np.float32))

    root = SearchRoot(np.zeros(n_roots, np.float32), logits.astype(np.float32))
    return search(root, evaluate, gumbel.astype(np.float32), n_children, settings)


@pytest.mark.parametrize(
    "n_candidates, n_simulations, n_considered", [(16, 32, 16), (16, 16, 16), (6, 16, 6), (5, 9, 3)]
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_the_best_considered_action_is_chosen(
    n_candidates: int, n_simulations: int, n_considered: int, scale: float
) -> None:
    """Equal logits, no noise, exact q, every considered action visited: the largest q wins (paper, equation 6)."""
    q = scale * np.random.default_rng(2).normal(size=(50, n_candidates)).astype(np.float32)
    zeros = np.zeros_like(q)
    result = exact_search(q, zeros, zeros, SearchSettings(n_simulations, n_considered, 0.5))
    assert (result.visit_counts[:, :n_considered] > 0).all() and (result.visit_counts[:, n_considered:] == 0).all()
    np.testing.assert_array_equal(result.selected, q[:, :n_considered].argmax(1))


@pytest.mark.parametrize("n_simulations, n_considered", [(1, 4), (3, 8), (16, 8), (16, 4), (50, 7)])
def test_search_improves_on_the_prior(n_simulations: int, n_considered: int) -> None:
    """With exact q no draw of the noise makes the search worse than sampling from the prior with that noise.

    ``argmax(noise + logits)`` is a sample of the prior; the search leaves it only for an action of larger q, so the
    mean over the noise is at least the prior's mean (Gumbel MuZero, section 3.1; paper, equation 7).
    """
    rng = np.random.default_rng(4)
    q, logits, gumbel = rng.normal(size=(400, 8)), rng.normal(size=(400, 8)), rng.gumbel(size=(400, 8))
    q, logits, gumbel = (array.astype(np.float32) for array in (q, logits, gumbel))
    result = exact_search(q, logits, gumbel, SearchSettings(n_simulations, n_considered, 0.5))
    rows = np.arange(400)
    chosen, sampled = q[rows, result.selected], q[rows, (gumbel + logits).argmax(1)]
    assert (chosen >= sampled).all()
    if n_simulations > 1:
        assert chosen.mean() > sampled.mean() + 0.3
    else:
        np.testing.assert_array_equal(chosen, sampled)


def test_improved_policy_is_better_than_the_prior() -> None:
    """Mean q under the improved policy is never below that under the prior, every action being visited."""
    rng = np.random.default_rng(5)
    q, logits = rng.normal(size=(200, 6)).astype(np.float32), rng.normal(size=(200, 6)).astype(np.float32)
    gumbel = rng.gumbel(size=(200, 6))
    result = exact_search(q, logits, gumbel, SearchSettings(16, 6, 0.5))
    prior = np.array([softmax(row) for row in logits.tolist()])
    assert ((result.improved_policy * q).sum(1) >= (prior * q).sum(1)).all()
    assert math.isclose(result.improved_policy.sum(), 200, rel_tol=1e-6)
