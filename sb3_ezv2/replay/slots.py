"""The slots of a replay buffer and how they follow each other.

Every environment is a stream of its own in a ring of slots. A slot holds one observation and what was done there;
the last state of an episode has a slot too, so each observation is stored once and a terminal state is never the
start of a sample:

``TRANSITION, TRANSITION, ..., TERMINATED, TRANSITION, ..., TRUNCATED, TRANSITION, ..., FRONTIER``

The frontier is the newest observation, whose action is not known yet. Following slots from any transition ends at an
episode's last slot or at the frontier, hence never in another episode and never across the ring's head.
"""

import numpy as np

from sb3_ezv2.common.compilation import entry_point

EMPTY, TRANSITION, FRONTIER, TERMINATED, TRUNCATED = range(5)
"""What a slot holds."""
NO_FRONTIER = -1
"""In place of a frontier's row, where an environment has no open stream."""


@entry_point
def follow_slots(kinds: np.ndarray, starts: np.ndarray, length: int, n_envs: int) -> tuple[np.ndarray, np.ndarray]:
    """Chains of ``length + 1`` slots from ``starts``, repeating the last state, and how many transitions are real."""
    n_slots = kinds.shape[0]
    chains = np.empty((starts.shape[0], length + 1), np.int64)
    n_ahead = np.zeros(starts.shape[0], np.int64)
    for i in range(starts.shape[0]):
        slot = starts[i]
        chains[i, 0] = slot
        for k in range(length):
            if kinds[slot] == TRANSITION:
                slot = (slot + n_envs) % n_slots
                n_ahead[i] += 1
            chains[i, k + 1] = slot
    return chains, n_ahead
