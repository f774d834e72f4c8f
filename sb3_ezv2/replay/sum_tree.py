"""A binary tree of partial sums: sampling in proportion to priorities (Schaul et al. 2016, appendix B.2.1).

The tree is one array: node ``i`` has the children ``2 i`` and ``2 i + 1``, node 1 is the total and the leaves fill
the second half.
"""

import numpy as np

from sb3_ezv2.common.compilation import entry_point


def new_sum_tree(n_leaves: int) -> np.ndarray:
    """All-zero tree with room for ``n_leaves`` priorities."""
    size = 1
    while size < n_leaves:
        size *= 2
    return np.zeros(2 * size, np.float64)


@entry_point
def set_priorities(tree: np.ndarray, leaves: np.ndarray, priorities: np.ndarray) -> None:
    """Write ``priorities`` to ``leaves``, one after the other, and refresh the sums above."""
    first_leaf = tree.shape[0] // 2
    for i in range(leaves.shape[0]):
        node = first_leaf + leaves[i]
        tree[node] = priorities[i]
        node //= 2
        while node >= 1:
            tree[node] = tree[2 * node] + tree[2 * node + 1]
            node //= 2


@entry_point
def find_leaves(tree: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Leaf below which a given share of the total lies, for every entry of ``shares`` in [0, 1).

    Never returns a leaf of priority zero as long as the total is positive.
    """
    first_leaf = tree.shape[0] // 2
    leaves = np.empty(shares.shape[0], np.int64)
    for i in range(shares.shape[0]):
        remaining = shares[i] * tree[1]
        node = 1
        while node < first_leaf:
            left = 2 * node
            # Rounding may leave a remainder at an empty right branch.
            if remaining < tree[left] or tree[left + 1] <= 0.0:
                node = left
            else:
                remaining -= tree[left]
                node = left + 1
        leaves[i] = node - first_leaf
    return leaves


def resized(tree: np.ndarray, n_leaves: int) -> np.ndarray:
    """Copy of ``tree`` with room for at least ``n_leaves`` priorities."""
    larger = new_sum_tree(n_leaves)
    old = tree[tree.shape[0] // 2 :]
    kept = min(len(old), len(larger) // 2)
    set_priorities(larger, np.arange(kept), old[:kept])
    return larger
