"""The tree that is shown is the tree of the search, and adds up."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_ezv2.inspection.decision import GRID, decide, node_depths, policy_density
from sb3_ezv2.inspection.decision_pictures import MOST_NODES, decimals_of, order_of, tree_rows
from sb3_ezv2.inspection.plan_frames import LEAST_HEIGHT, WIDTH, PlanPanel, shown_candidates
from sb3_ezv2.policies import EZV2Policy
from tests.helpers.plans import observations_of
from tests.helpers.tiny import CONTINUOUS, DISCRETE, ONE_DIMENSION, TINY_NETWORK, tiny_network

KINDS = pytest.mark.parametrize("space", [DISCRETE, CONTINUOUS, ONE_DIMENSION], ids=["discrete", "box", "box1"])


def policy_of(space, n_simulations: int = 12) -> EZV2Policy:
    network = tiny_network(space)
    policy = EZV2Policy(
        spaces.Box(-1.0, 1.0, (3,)), space, lambda _: 1e-3, gamma=0.97, n_candidates=6, n_policy_candidates=3,
        n_simulations=n_simulations, **TINY_NETWORK,
    )  # fmt: skip
    policy.average_model.load_state_dict(network.state_dict())
    return policy


@KINDS
def test_a_decision_is_what_the_policy_plans(space):
    policy = policy_of(space)
    observations = observations_of(1)
    plan = policy.plan(observations["observation"].numpy(), deterministic=True)
    decision = decide(policy, observations)
    np.testing.assert_allclose(decision.candidates, plan.candidates[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decision.improved_policy, plan.improved_policy[0], rtol=1e-3, atol=1e-4)
    assert decision.visits.tolist() == plan.visit_counts[0].tolist()
    assert decision.root_value == pytest.approx(float(plan.root_values[0]), rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(decision.candidates[decision.chosen], plan.actions[0], rtol=1e-5, atol=1e-5)
    assert decision.prior.sum() == pytest.approx(1.0)


@KINDS
def test_the_tree_adds_up(space):
    decision = decide(policy_of(space), observations_of(1))
    nodes = decision.nodes
    assert [node.number for node in nodes] == list(range(1, 13))
    for node in nodes:
        children = [child for child in nodes if child.parent == node.number]
        assert all(child.depth == node.depth + 1 and child.number > node.number for child in children)
        assert node.visits == 1 + sum(child.visits for child in children)
        # Of all visits the first one has the network's value, the others what was found below.
        below = node.network_value + sum(child.visits * child.q for child in children)
        assert node.q == pytest.approx(node.reward + 0.97 * below / node.visits, rel=1e-4, abs=1e-5)
        if node.parent == 0:
            (place,) = np.flatnonzero(
                np.all(np.isclose(decision.candidates.reshape(len(decision.candidates), -1), node.action), axis=1)
            )
            assert decision.visits[place] == node.visits
            assert decision.q[place] == pytest.approx(node.q)
    first = [node for node in nodes if node.parent == 0]
    assert sum(node.visits for node in first) == 12
    mean = (decision.network_value + sum(node.visits * node.q for node in first)) / 13
    assert decision.root_value == pytest.approx(mean, rel=1e-4)
    assert np.isnan(decision.q).sum() == (decision.visits == 0).sum()


@KINDS
def test_depths_of_several_trees(space):
    policy, observations = policy_of(space), observations_of(5)
    depths = node_depths(policy, observations)
    assert depths.shape == (5, 12) and depths[:, 0].tolist() == [1] * 5
    alone = decide(policy, {"observation": observations["observation"][2:3]})
    assert sorted(node.depth for node in alone.nodes) == sorted(depths[2].tolist())


def test_the_density_of_a_policy_over_its_box():
    for space in (ONE_DIMENSION, CONTINUOUS):
        kind = policy_of(space).action_kind
        output = th.tensor([0.3, -0.2, 0.1, 0.4][: 2 * space.shape[0]])
        axes, density = policy_density(kind, output)
        assert len(axes) == space.shape[0] and density.shape == (GRID,) * space.shape[0]
        assert density.max() == 1.0 and np.all(density >= 0.0)
        assert axes[0][0] > -1.0 and axes[0][-1] < 1.0
        places = [(3, 40), (20, 7)] if density.ndim == 2 else [(3,), (40,)]
        # The first axis of the box runs along the last one of the array.
        points = [th.tensor([[axes[d][place[::-1][d]] for d in range(len(place))]]).float() for place in places]
        logs = [float(kind.log_prob(output, point)[0]) for point in points]
        found = [density[place] for place in places]
        assert np.log(found[0] / found[1]) == pytest.approx(logs[0] - logs[1], abs=1e-3)
    assert policy_density(policy_of(DISCRETE).action_kind, output)[0] == []


def test_rows_of_the_picture_follow_their_parents():
    decision = decide(policy_of(DISCRETE, 100), observations_of(1))
    rows = tree_rows(decision)
    assert len(rows) == MOST_NODES < len(decision.nodes)
    seen = {0}
    for node in rows:
        assert node.parent in seen  # whoever is shown has its parent above it
        seen.add(node.number)
    assert min(node.visits for node in rows) >= max(n.visits for n in decision.nodes if n.number not in seen) - 1
    assert order_of(decision)[0] == decision.chosen


@pytest.mark.parametrize(
    "numbers, decimals",
    [([100.12, 100.15], 2), ([0.12, 0.15], 3), ([0.0, 50.0], 0), ([1.0, 1.0], 4), ([0.0], 0), ([np.nan, 2.5, 3.0], 2)],
)
def test_numbers_are_told_apart(numbers, decimals):
    assert decimals_of(np.array(numbers)) == decimals


@KINDS
def test_a_plan_beside_a_frame(space):
    policy, panel = policy_of(space), PlanPanel()
    observations = observations_of(2)["observation"].numpy()
    frame = np.full((101, 51, 3), 200, np.uint8)
    pictures = []
    for observation in observations:
        plan = policy.plan(observation[None], deterministic=True)
        pictures.append(panel.beside(frame, plan, plan.candidates[0]))
    assert all(picture.dtype == np.uint8 and picture.shape == (404, 204 + WIDTH, 3) for picture in pictures)
    assert 404 >= LEAST_HEIGHT and (pictures[0][:, :204] == 200).all()
    assert pictures[0][:, 204:].std() > 10 and not np.array_equal(*pictures)
    assert len(panel.values) == 2
    assert shown_candidates(plan).tolist() == list(range(plan.visit_counts.shape[1]))
