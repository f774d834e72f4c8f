"""Environments whose values are exact, policies of several ages, and value targets from their data."""

from typing import NamedTuple

import numpy as np

from experiments.known import Erring, Linear, Table, exact_q, plan, softmax

DISCOUNT, STEPS, N_POLICIES, LENGTH = 0.95, 5, 8, 40
TASKS = ("walk", "chain", "slippery", "linear")
SEARCHED = {"SVE mean": "root_values", "SVE improved": "improved_values", "SVE policy": "policy_values"}


class Errors(NamedTuple):
    """How wrong the model and its value network are, in standard deviations of what they predict."""

    values: float = 0.3
    rewards: float = 0.0
    states: float = 0.0  # of a table, the share of wrong transitions
    samples: int | None = None  # of a table: transitions that it was counted from, in place of the truth


class Case(NamedTuple):
    """A search model with errors, the newest policy's exact values, and what its bound needs."""

    model: Table | Erring
    truth: np.ndarray | None  # values of the newest policy by state, or None where states are vectors
    best: np.ndarray | None
    transitions: np.ndarray | None
    rewards: np.ndarray | None
    policies: list[np.ndarray]  # from the oldest to the newest: action probabilities, or gains
    spread: float


def tabular(task: str, n: int = 21) -> tuple[np.ndarray, np.ndarray]:
    """Transition probabilities and mean rewards ``[states, actions]`` of a small task; the last state is the end."""
    place = np.arange(n)
    if task == "chain":  # ahead, or back to the start; the last cell pays 1
        targets, end = np.stack([np.minimum(place + 1, n - 1), np.zeros(n, int)], axis=1), [n - 1]
        paid = np.where(targets == n - 1, 1.0, 0.0) + [-0.01, 0.0]
    else:  # a random walk: -1 at one end, 1 at the other
        targets, end = np.stack([np.maximum(place - 1, 0), np.minimum(place + 1, n - 1)], axis=1), [0, n - 1]
        paid = np.where(targets == n - 1, 1.0, np.where(targets == 0, -1.0, 0.0))
    slip = 0.3 if task == "slippery" else 0.0
    certain = np.eye(n + 1)[np.where(np.isin(targets, end), n, targets)]
    transitions = (1.0 - slip) * certain + slip * certain[:, ::-1]
    rewards = (1.0 - slip) * paid + slip * paid[:, ::-1]
    transitions, rewards = np.append(transitions, np.eye(n + 1)[[[n, n]]], axis=0), np.append(rewards, [[0, 0]], axis=0)
    transitions[end] = np.eye(n + 1)[n]
    rewards[end] = 0.0
    return transitions, rewards


def table_case(task: str, errors: Errors, rng: np.random.Generator) -> Case:
    """Policies that grow from random to nearly the best, and a table with errors as the model of the newest one."""
    transitions, rewards = tabular(task)
    q = exact_q(transitions, rewards, None, DISCOUNT)
    newest = softmax((q - q.mean(1, keepdims=True)) / (q - q.mean(1, keepdims=True))[:-1].std() * 2.0)
    policies = [(1.0 - share) / 2.0 + share * newest for share in np.linspace(0.0, 1.0, N_POLICIES + 1)]
    truth, best = (newest * exact_q(transitions, rewards, newest, DISCOUNT)).sum(1), q.max(1)
    spread, n = truth[:-1].std(), len(truth)
    following, paid = transitions.argmax(-1), rewards.copy()
    if errors.samples is not None:
        following, paid = counted(transitions, rewards, errors.samples, rng)
    wrong = rng.random(following.shape) < errors.states
    following = np.where(wrong, rng.integers(n, size=following.shape), following)
    paid = paid + errors.rewards * spread * (1.0 - DISCOUNT) * rng.normal(size=paid.shape)
    following[-1], paid[-1] = n - 1, 0.0
    known = truth + errors.values * spread * rng.normal(size=n)
    known[-1] = 0.0
    model = Table(following, paid, np.log(policies[-1] + 1e-6), known, DISCOUNT)
    return Case(model, truth, best, transitions, rewards, policies, float(spread))


def counted(
    transitions: np.ndarray, rewards: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent outcome of every state and action in random data; unseen ones stay and pay nothing."""
    n, n_actions = rewards.shape
    counts = np.zeros((n, n_actions, n))
    at = rng.integers(n, size=samples), rng.integers(n_actions, size=samples)
    ends = (transitions[at].cumsum(-1) > rng.random((samples, 1))).argmax(-1)
    np.add.at(counts, (*at, ends), 1.0)
    seen = counts.any(-1)
    return np.where(seen, counts.argmax(-1), np.arange(n)[:, None]), np.where(seen, rewards, 0.0)


class Targets(NamedTuple):
    """Value targets of states and what they should be."""

    found: dict[str, np.ndarray]
    truth: np.ndarray
    best: np.ndarray
    depths: np.ndarray


def table_targets(case: Case, age: int, n_simulations: int, n: int, rng: np.random.Generator) -> Targets:
    """Targets of ``n`` states that the policy of ``age`` policies ago visited."""
    assert case.transitions is not None and case.truth is not None and case.best is not None
    assert case.rewards is not None and isinstance(case.model, Table)
    policy, states = case.policies[-1 - age], rng.integers(len(case.truth) - 1, size=n)
    now, total, one = states, np.zeros(n), np.zeros(n)
    for step in range(STEPS):
        actions = (policy[now].cumsum(1) > rng.random((n, 1))).argmax(1)
        total += DISCOUNT**step * case.rewards[now, actions]
        now = (case.transitions[now, actions].cumsum(1) > rng.random((n, 1))).argmax(1)
        if step == 0:
            one = total + DISCOUNT * case.model.known[now]
    found = {"one-step": one, f"{STEPS}-step": total + DISCOUNT**STEPS * case.model.known[now]}
    result, _, depths = plan(case.model, states, n_simulations, rng, gumbel=True)
    found |= {name: getattr(result, field) for name, field in SEARCHED.items()}
    return Targets(found, case.truth[states], case.best[states], depths)


def linear_targets(errors: Errors, age: int, n_simulations: int, n: int, rng: np.random.Generator) -> Targets:
    """The same for a double integrator, whose policies go from doing nothing to nearly the best gain."""
    dynamics, effects = np.array([[0.98, 0.1], [0.0, 0.95]]), np.array([[0.0], [0.2]])
    gain = np.zeros((1, 2))
    for _ in range(30):
        gain = Linear(dynamics, effects, gain).greedy_gain()
    newest, old = (Linear(dynamics, effects, share * gain) for share in (1.0, 1.0 - age / N_POLICIES))
    states = rng.normal(size=(n, 2))
    truth = newest.values(states)
    model = Erring(newest, errors.values * truth.std(), rng)
    now, total, one = states, np.zeros(n), np.zeros(n)
    for step in range(STEPS):
        rewards, now = old.step(now, -now @ old.gain.T + old.std * rng.normal(size=(n, 1)))
        total = total + DISCOUNT**step * rewards
        if step == 0:
            one = total + DISCOUNT * model.values(now)
    found = {"one-step": one, f"{STEPS}-step": total + DISCOUNT**STEPS * model.values(now)}
    model.spoil(errors.rewards * truth.std() * (1.0 - DISCOUNT), errors.states)
    result, _, depths = plan(model, states, n_simulations, rng)
    found |= {name: getattr(result, field) for name, field in SEARCHED.items()}
    best = Linear(dynamics, effects, gain, std=1e-9).values(states)
    return Targets(found, truth, best, depths)


def target_errors(task: str, errors: Errors, age: int, n_simulations: int, n: int, seed: int) -> dict[str, float]:
    """Root mean square errors of all targets in standard deviations of the values, and the paper's bound.

    The mixed target is the multi-step return for data of the newest policy and the search's value for all other.
    """
    rng = np.random.default_rng(seed)
    if task == "linear":
        targets = linear_targets(errors, age, n_simulations, n, rng)
    else:
        targets = table_targets(table_case(task, errors, rng), age, n_simulations, n, rng)
    spread = targets.truth.std()
    found = {
        name: float(np.sqrt(np.mean((part - targets.truth) ** 2)) / spread) for name, part in targets.found.items()
    }
    found["mixed"] = found[f"{STEPS}-step" if age == 0 else "SVE improved"]
    found["SVE improved, bias"] = float(np.mean(targets.found["SVE improved"] - targets.truth) / spread)
    found["best values"] = float(np.sqrt(np.mean((targets.best - targets.truth) ** 2)) / spread)
    found["bound"] = bound(errors, targets.depths)
    return found


def bound(errors: Errors, depths: np.ndarray) -> float:
    """A line of the form of the paper's bound (corollary 4.3) as a root mean square, for errors of rewards and values.

    The constant in front is an assumption: it suits errors that are independent between trajectories.

    It is ``4 / N^2`` times the sum over imagined trajectories of ``sum_t gamma^2t e_r^2 + gamma^2H e_v^2``, where the
    root itself is a trajectory without a step.
    """
    reward = (errors.rewards * (1.0 - DISCOUNT)) ** 2
    along = (1.0 - DISCOUNT ** (2 * depths)) / (1.0 - DISCOUNT**2) * reward + DISCOUNT ** (
        2 * depths
    ) * errors.values**2
    return float(np.sqrt(np.mean(4.0 / depths.shape[1] ** 2 * (along.sum(1) + errors.values**2))))
