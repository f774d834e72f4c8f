"""The package's search with models that are known: tables, and linear systems with quadratic costs."""

from typing import Protocol

import numpy as np

from sb3_ezv2.common.type_aliases import Expansion, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.search import search

CHILDREN = 2
"""Sampled actions at every node below the root, as in the package."""


class KnownModel(Protocol):
    """What a search asks of a model; states are rows."""

    discount: float

    def candidates(self, states: np.ndarray, rng: np.random.Generator, root: bool) -> tuple[np.ndarray, np.ndarray]:
        """Actions ``[n, n_actions, ...]`` and their prior logits ``[n, n_actions]``, of roots or of other nodes."""

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rewards ``[n]`` and the states that follow."""

    def values(self, states: np.ndarray) -> np.ndarray:
        """What the value network would say ``[n]``."""


def plan(
    model: KnownModel, states: np.ndarray, n_simulations: int, rng: np.random.Generator, gumbel: bool = False
) -> tuple[SearchResult, np.ndarray, np.ndarray]:
    """Search from all ``states`` with the package's defaults.

    :return: the result, the candidates of the roots, and the depths ``[n, n_simulations]`` of all imagined states
    """
    n, rows = len(states), np.arange(len(states))
    actions, logits = model.candidates(states, rng, root=True)
    width = max(actions.shape[1], CHILDREN)
    known_states = np.empty((n, n_simulations + 1, *states.shape[1:]), states.dtype)
    known_actions = np.zeros((n, n_simulations + 1, width, *actions.shape[2:]), actions.dtype)
    known_states[:, 0], known_actions[:, 0, : actions.shape[1]] = states, actions
    depths = np.zeros((n, n_simulations + 1), int)

    def expand(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        rewards, following = model.step(known_states[rows, parents], known_actions[rows, parents, edges])
        own, priors = model.candidates(following, rng, root=False)
        known_states[:, node], known_actions[:, node, : own.shape[1]] = following, own
        depths[:, node] = depths[rows, parents] + 1
        return Expansion(_float(rewards), _float(model.values(following)), _float(priors))

    n_children = model.candidates(states[:1], rng, root=False)[0].shape[1]
    considered = max(1, min(n_simulations // 2, actions.shape[1]))
    noise = rng.gumbel(size=logits.shape) if gumbel else np.zeros(logits.shape)
    found = search(
        SearchRoot(_float(model.values(states)), _float(logits)),
        expand,
        _float(noise),
        n_children,
        SearchSettings(n_simulations, considered, model.discount),
    )
    return found, actions, depths[:, 1:]


def _float(numbers: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(numbers, np.float32)


class Table:
    """A table of states and actions; the model is deterministic, as the algorithm's is.

    :param following: state after every action ``[states, actions]``
    :param rewards: of every action ``[states, actions]``
    :param logits: of the policy ``[states, actions]``
    :param known: what the value network says ``[states]``
    :param discount: of one step
    """

    def __init__(
        self, following: np.ndarray, rewards: np.ndarray, logits: np.ndarray, known: np.ndarray, discount: float
    ) -> None:
        self.following, self.rewards, self.logits, self.known = following, rewards, logits, known
        self.discount = discount

    def candidates(self, states: np.ndarray, rng: np.random.Generator, root: bool) -> tuple[np.ndarray, np.ndarray]:
        """All actions."""
        n_actions = self.logits.shape[1]
        return np.broadcast_to(np.arange(n_actions), (len(states), n_actions)), self.logits[states]

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Look both up."""
        return self.rewards[states, actions], self.following[states, actions]

    def values(self, states: np.ndarray) -> np.ndarray:
        """Look them up."""
        return self.known[states]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def exact_q(transitions: np.ndarray, rewards: np.ndarray, policy: np.ndarray | None, discount: float) -> np.ndarray:
    """Exact q ``[states, actions]`` of a policy ``[states, actions]``, or of the best one.

    :param transitions: probabilities ``[states, actions, states]``
    :param rewards: means ``[states, actions]``
    """
    if policy is not None:
        mean = np.einsum("sa,sat->st", policy, transitions)
        values = np.linalg.solve(np.eye(len(rewards)) - discount * mean, (policy * rewards).sum(1))
        return rewards + discount * transitions @ values
    best, before = np.zeros(len(rewards), int), None
    while not np.array_equal(best, before):  # policy iteration
        before = best
        q = exact_q(transitions, rewards, np.eye(rewards.shape[1])[best], discount)
        best = np.where(q.max(1) > q[np.arange(len(q)), best] + 1e-12, q.argmax(1), best)
    return q


class Linear:
    """A linear system with quadratic costs and a Gaussian policy ``a = -gain s + std noise``; actions are not bounded.

    :param dynamics: ``[states, states]``
    :param effects: of actions ``[states, actions]``
    :param gain: ``[actions, states]``
    :param std: of the policy
    :param n_candidates: at the root, a quarter of them from the policy and the others with three times its deviation
    :param discount: of one step
    :raises ValueError: if the policy lets the states grow faster than the discount falls
    """

    def __init__(
        self,
        dynamics: np.ndarray,
        effects: np.ndarray,
        gain: np.ndarray,
        std: float = 0.3,
        n_candidates: int = 16,
        discount: float = 0.95,
    ) -> None:
        self.dynamics, self.effects, self.gain, self.std = dynamics, effects, gain, std
        self.n_candidates, self.discount = n_candidates, discount
        closed, cost = dynamics - effects @ gain, np.eye(len(dynamics)) + 0.1 * gain.T @ gain
        n = len(dynamics)
        if discount * np.abs(np.linalg.eigvals(closed)).max() ** 2 >= 1.0:
            raise ValueError(f"gain={gain.tolist()}: the costs of this policy have no finite sum")
        flat = np.linalg.solve(np.eye(n * n) - discount * np.kron(closed.T, closed.T), cost.reshape(-1))
        self.matrix = flat.reshape(n, n)
        noise = std**2 * (0.1 * effects.shape[1] + discount * np.trace(effects.T @ self.matrix @ effects))
        self.constant = noise / (1.0 - discount)

    def candidates(self, states: np.ndarray, rng: np.random.Generator, root: bool) -> tuple[np.ndarray, np.ndarray]:
        """Sampled actions with a uniform prior."""
        n_actions = self.n_candidates if root else CHILDREN
        noise = self.std * rng.normal(size=(len(states), n_actions, len(self.gain)))
        if root:
            noise[:, n_actions // 4 :] *= 3.0
        actions = -(states @ self.gain.T)[:, None] + noise
        return actions, np.zeros(actions.shape[:2])

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Costs as negative rewards."""
        rewards = -(states**2).sum(-1) - 0.1 * (actions**2).sum(-1)
        return rewards, states @ self.dynamics.T + actions @ self.effects.T

    def values(self, states: np.ndarray) -> np.ndarray:
        """Exact values of the policy."""
        return -np.einsum("...i,ij,...j", states, self.matrix, states) - self.constant

    def exact_q(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Exact q of the policy."""
        rewards, following = self.step(states, actions)
        return rewards + self.discount * self.values(following)

    def greedy_gain(self) -> np.ndarray:
        """Gain of the actions with the largest q."""
        curvature = 0.1 * np.eye(len(self.gain)) + self.discount * self.effects.T @ self.matrix @ self.effects
        return np.linalg.solve(curvature, self.discount * self.effects.T @ self.matrix @ self.dynamics)


class Erring:
    """A linear system whose value network errs by independent Gaussian noise.

    :param truth: the system
    :param deviation: of the errors
    :param rng: source of the errors
    """

    def __init__(self, truth: Linear, deviation: float, rng: np.random.Generator) -> None:
        self.truth, self.deviation, self.rng, self.discount = truth, deviation, rng, truth.discount
        self.candidates = truth.candidates
        self.spoilt = 0.0, 0.0

    def spoil(self, rewards: float, states: float) -> None:
        """Let the model err, too: by Gaussian noise on its rewards and on the states that it predicts."""
        self.spoilt = rewards, states

    def step(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As the system, with the errors."""
        rewards, following = self.truth.step(states, actions)
        rewards = rewards + self.spoilt[0] * self.rng.normal(size=rewards.shape)
        return rewards, following + self.spoilt[1] * self.rng.normal(size=following.shape)

    def values(self, states: np.ndarray) -> np.ndarray:
        """Of the policy, with errors."""
        return self.truth.values(states) + self.deviation * self.rng.normal(size=len(states))
