"""A slow oracle: the sampled Gumbel search of one root in plain Python, sharing no code with the package.

Nodes are objects, edge values are means over lists, sequential halving keeps a list of survivors, and returns are
summed forwards along the path instead of backwards. Only the order of visits inside a round is a choice of this form:
in every round the waiting action with the largest score goes first, scores being computed anew each time, and the
first round of a phase is where the better half is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Path = tuple[int, ...]
Evaluate = Callable[[Path], tuple[float, float, Sequence[float]]]
"""``path of edges from the root -> (reward of the last edge, network value, prior logits of the node's actions)``;
the root is the empty path, its reward is ignored."""


@dataclass
class Node:
    """One state of the tree."""

    path: Path
    reward: float
    network_value: float
    logits: list[float]
    estimates: list[float] = field(default_factory=list)
    children: dict[int, Node] = field(default_factory=dict)


@dataclass
class Outcome:
    """What the search found."""

    selected: int
    policy: list[float]
    root_value: float
    improved_value: float
    policy_value: float
    visit_counts: list[int]
    expanded: list[Path]
    """Paths of the new nodes, in the order of the simulations."""


def mean(numbers: Sequence[float]) -> float:
    """Arithmetic mean."""
    return math.fsum(numbers) / len(numbers)


def softmax(logits: Sequence[float]) -> list[float]:
    """Probabilities of the logits."""
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def argmax(scores: Sequence[float], among: Sequence[int] | None = None) -> int:
    """Index of the largest score, the smallest such index if there are several."""
    indices = range(len(scores)) if among is None else sorted(among)
    best = next(iter(indices))
    for index in indices:
        if scores[index] > scores[best]:
            best = index
    return best


class ReferenceSearch:
    """One search of one root; call :meth:`run` once."""

    def __init__(
        self,
        evaluate: Evaluate,
        gumbel: Sequence[float],
        n_simulations: int,
        n_considered: int,
        discount: float,
        c_visit: float = 50.0,
        c_scale: float = 0.1,
        min_value_range: float = 0.01,
        min_value_share: float = 0.0,
        value_bounds: tuple[float, float] = (math.inf, -math.inf),
        max_depth: int = 2**30,
    ) -> None:
        self.evaluate = evaluate
        self.gumbel = [float(noise) for noise in gumbel]
        self.n_simulations = n_simulations
        self.n_considered = n_considered
        self.discount = discount
        self.c_visit = c_visit
        self.c_scale = c_scale
        self.min_value_range = min_value_range
        self.min_value_share = min_value_share
        self.smallest, self.largest = value_bounds
        self.max_depth = max_depth
        self.expanded: list[Path] = []
        self.root = self.new_node(())
        self.root.estimates.append(self.root.network_value)

    def new_node(self, path: Path) -> Node:
        reward, value, logits = self.evaluate(path)
        return Node(path, float(reward), float(value), [float(logit) for logit in logits])

    # Values of one node's actions

    def q(self, child: Node) -> float:
        return child.reward + self.discount * mean(child.estimates)

    def mixed_value(self, node: Node) -> float:
        """``(v_net + sum N * sum_visited pi q / sum_visited pi) / (1 + sum N)``."""
        if not node.children:
            return node.network_value
        prior = softmax(node.logits)
        share = math.fsum(prior[action] for action in node.children)
        weighted = math.fsum(prior[action] * self.q(child) for action, child in node.children.items()) / share
        n = sum(len(child.estimates) for child in node.children.values())
        return (node.network_value + n * weighted) / (1 + n)

    def normalised(self, q: float) -> float:
        if self.smallest > self.largest:
            return 0.0  # nothing has been seen yet, and every action has the same q
        share = self.min_value_share * max(abs(self.smallest), abs(self.largest))
        spread = max(self.largest - self.smallest, self.min_value_range, share)
        return min(1.0, max(0.0, (q - self.smallest) / spread))

    def scores(self, node: Node) -> list[float]:
        """``logits + sigma(completed q)``."""
        mixed = self.mixed_value(node)
        most = max((len(child.estimates) for child in node.children.values()), default=0)
        result = []
        for action, logit in enumerate(node.logits):
            q = self.q(node.children[action]) if action in node.children else mixed
            result.append(logit + (self.c_visit + most) * self.c_scale * self.normalised(q))
        return result

    def root_scores(self) -> list[float]:
        return [noise + score for noise, score in zip(self.gumbel, self.scores(self.root), strict=True)]

    def improved_value(self) -> float:
        """Network value and all returns of the simulations, each candidate counting as the improved policy says."""
        policy = softmax(self.scores(self.root))
        n = len(self.root.estimates) - 1
        share = math.fsum(policy[action] for action in self.root.children)
        total = math.fsum(policy[action] / share * n * self.q(child) for action, child in self.root.children.items())
        return (self.root.network_value + total) / (1 + n)

    # One simulation

    def interior_action(self, node: Node) -> int:
        visits = [len(node.children[a].estimates) if a in node.children else 0 for a in range(len(node.logits))]
        improved = softmax(self.scores(node))
        return argmax([p - n / (1 + sum(visits)) for p, n in zip(improved, visits, strict=True)])

    def simulate(self, action: int) -> None:
        """Follow ``action`` at the root, add one node and give every node of the path its new estimate."""
        trajectory = [self.root]
        while action in trajectory[-1].children and len(trajectory) < self.max_depth:
            trajectory.append(trajectory[-1].children[action])
            action = self.interior_action(trajectory[-1])
        leaf = trajectory[-1].children.get(action)  # one at the largest depth counts again
        if leaf is None:
            leaf = trajectory[-1].children[action] = self.new_node((*trajectory[-1].path, action))
        trajectory.append(leaf)
        self.expanded.append(leaf.path)

        for depth, node in enumerate(trajectory):
            later = trajectory[depth + 1 :]
            discounted = [self.discount**i * step.reward for i, step in enumerate(later)]
            node.estimates.append(math.fsum(discounted) + self.discount ** len(later) * leaf.network_value)
        for node in trajectory[1:]:
            self.smallest = min(self.smallest, self.q(node))
            self.largest = max(self.largest, self.q(node))

    # The root's plan

    def run(self) -> Outcome:
        prior_scores = [noise + logit for noise, logit in zip(self.gumbel, self.root.logits, strict=True)]
        contenders = sorted(range(len(prior_scores)), key=lambda a: (-prior_scores[a], a))[: self.n_considered]
        n_phases = (self.n_considered - 1).bit_length()  # ceil(log2)
        size, budget = self.n_considered, self.n_simulations
        while budget > 0:
            rounds = budget if n_phases == 0 else max(1, self.n_simulations // (n_phases * size))
            survivors: list[int] = []
            for round_ in range(rounds):
                waiting = list(contenders if round_ == 0 else survivors)
                for _ in range(min(size, budget)):
                    action = argmax(self.root_scores(), waiting)
                    waiting.remove(action)
                    if round_ == 0:
                        survivors.append(action)
                    self.simulate(action)
                    budget -= 1
            contenders, size = survivors, max(2, size // 2)

        n_actions = len(self.root.logits)
        children = self.root.children
        visits = [len(children[action].estimates) if action in children else 0 for action in range(n_actions)]
        finalists = [action for action in range(n_actions) if visits[action] == max(visits)]
        return Outcome(
            selected=argmax(self.root_scores(), finalists),
            policy=softmax(self.scores(self.root)),
            root_value=mean(self.root.estimates),
            improved_value=self.improved_value(),
            policy_value=self.mixed_value(self.root),
            visit_counts=visits,
            expanded=self.expanded,
        )
