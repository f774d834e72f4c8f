"""Models for the search tests: what they answer depends on the root's row and the path to the node, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sb3_ezv2.common.type_aliases import Expansion, RecurrentFn, SearchResult, SearchRoot, SearchSettings
from sb3_ezv2.search import search
from tests.helpers.reference_search import Evaluate, Path


def mix(states: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers (the finaliser of splitmix64)."""
    states = (states ^ (states >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    states = (states ^ (states >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return states ^ (states >> np.uint64(31))


class StubModel:
    """A random but fixed tree for every row; rows with equal seeds have equal trees.

    :param seeds: one integer per row
    :param n_candidates: actions at the root
    :param n_children: actions at the other nodes
    :param scale: rewards lie within ``offset +- scale``, values within ``3 (offset +- scale)``
    :param offset: centre of the rewards
    :param uniform_logits: all logits zero instead of random within +-2.5
    """

    def __init__(
        self,
        seeds: Sequence[int] | np.ndarray,
        n_candidates: int,
        n_children: int,
        scale: float = 1.0,
        offset: float = 0.0,
        uniform_logits: bool = False,
    ) -> None:
        self.roots = mix(np.asarray(seeds, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        self.n_candidates, self.n_children = n_candidates, n_children
        self.scale, self.offset, self.uniform_logits = scale, offset, uniform_logits

    def _numbers(self, states: np.ndarray, salt: int) -> np.ndarray:
        """24 random bits as a number in ``[-1, 1)``, exact in float32."""
        bits = mix(states ^ np.uint64((salt + 1) * 0xD1B54A32D192ED03 % 2**64)) >> np.uint64(40)
        return bits.astype(np.float64) / 2**23 - 1.0

    def outputs(self, states: np.ndarray, n_actions: int) -> Expansion:
        """Reward of the edge into the state, value and prior logits of the state."""
        rewards = self.offset + self.scale * self._numbers(states, 0)
        values = 3.0 * (self.offset + self.scale * self._numbers(states, 1))
        logits = np.stack([2.5 * self._numbers(states, 2 + action) for action in range(n_actions)], axis=1)
        if self.uniform_logits:
            logits[:] = 0.0
        return Expansion(rewards.astype(np.float32), values.astype(np.float32), logits.astype(np.float32))

    @staticmethod
    def step(states: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """States behind the edges."""
        return mix(states * np.uint64(3) + edges.astype(np.uint64) + np.uint64(0x632BE59BD9B4E019))

    def root(self) -> SearchRoot:
        """All rows as roots."""
        outputs = self.outputs(self.roots, self.n_candidates)
        return SearchRoot(outputs.values, outputs.prior_logits)

    def recurrent_fn(self, n_simulations: int) -> RecurrentFn:
        """A callback for one search of all rows."""
        rows = np.arange(len(self.roots))
        states = np.zeros((len(self.roots), n_simulations + 1), np.uint64)
        states[:, 0] = self.roots

        def evaluate(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
            states[:, node] = self.step(states[rows, parents], edges)
            return self.outputs(states[:, node], self.n_children)

        return evaluate

    def evaluate(self, row: int) -> Evaluate:
        """The same model of one row, asked by path."""

        def ask(path: Path) -> tuple[float, float, list[float]]:
            states = self.roots[row : row + 1]
            for edge in path:
                states = self.step(states, np.array([edge]))
            outputs = self.outputs(states, self.n_children if path else self.n_candidates)
            return float(outputs.rewards[0]), float(outputs.values[0]), outputs.prior_logits[0].tolist()

        return ask


def noise(n_roots: int, n_candidates: int, seed: int = 0) -> np.ndarray:
    """Gumbel noise, one row per root."""
    return np.random.default_rng(seed).gumbel(size=(n_roots, n_candidates)).astype(np.float32)


def recording(recurrent_fn: RecurrentFn, paths: list[list[Path]]) -> RecurrentFn:
    """Let the callback also append the path of every new node to ``paths[row]``, which must hold ``[()]``."""

    def evaluate(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        for row, (parent, edge) in enumerate(zip(parents, edges, strict=True)):
            assert len(paths[row]) == node
            paths[row].append((*paths[row][parent], int(edge)))
        return recurrent_fn(node, parents, edges)

    return evaluate


def search_one(
    evaluate: Callable[[Path], tuple[float, float, Sequence[float]]],
    settings: SearchSettings,
    gumbel: Sequence[float] | None = None,
    n_children: int = 2,
) -> tuple[SearchResult, list[Path]]:
    """Search a single root whose model is a function of the path; also the paths of the new nodes."""
    _, root_value, root_logits = evaluate(())
    paths: list[list[Path]] = [[()]]

    def expand(node: int, parents: np.ndarray, edges: np.ndarray) -> Expansion:
        reward, value, logits = evaluate(paths[0][node])
        return Expansion(*(np.array([part], np.float32) for part in (reward, value, logits)))

    noise = np.zeros(len(root_logits)) if gumbel is None else np.asarray(gumbel)
    root = SearchRoot(np.array([root_value], np.float32), np.array([root_logits], np.float32))
    result = search(root, recording(expand, paths), noise[None].astype(np.float32), n_children, settings)
    return result, paths[0][1:]
