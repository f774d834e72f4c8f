"""Random actions of the first steps."""

import numpy as np

from sb3_ezv2.common.actions import ActionKind

LONGEST = 50.0
"""Steps. The mean duration of a held action is drawn log-uniformly from 1 to this, and anew after as many steps."""
EXTREME = 0.5
"""Share of held actions at the bounds of their space, where it has bounds."""


class RandomActions:
    """Random actions that are held for some steps, in each of several environments.

    Independent actions cancel each other, and how long an action must be held to get anywhere is not known beforehand.
    So durations are geometric with a mean that is drawn log-uniformly: each order of magnitude gets as many steps. The
    idea of durations over all scales is that of temporally extended epsilon-greedy exploration (Dabney et al. 2020).

    :param action_kind: draws the actions
    :param n_envs: number of environments
    """

    def __init__(self, action_kind: ActionKind, n_envs: int) -> None:
        self.action_kind = action_kind
        self.actions = np.zeros((n_envs, *action_kind.shape), action_kind.dtype)
        self.remaining = np.zeros(n_envs, np.int64)  # steps for which the action is still held
        self.durations = np.ones(n_envs)  # their present mean
        self.until_redrawn = np.zeros(n_envs, np.int64)  # steps with that mean

    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept, by name."""
        return {name: getattr(self, name) for name in ("actions", "remaining", "durations", "until_redrawn")}

    def draw(self, rng: np.random.Generator, masks: np.ndarray | None = None) -> np.ndarray:
        """The actions of one step ``[n_envs, *shape]``; held ones that have become illegal end.

        :param rng: source of all randomness
        :param masks: of the legal choices ``[n_envs, mask_size]``; ``None`` for all
        """
        if masks is not None:
            self.remaining[~self.action_kind.are_legal(self.actions, masks)] = 0
        for env in np.flatnonzero(self.remaining == 0):
            legal = {} if masks is None else {"masks": masks[env]}
            if self.until_redrawn[env] <= 0:
                self.durations[env] = LONGEST ** rng.random()
                self.until_redrawn[env] = int(LONGEST)
            self.remaining[env] = rng.geometric(1.0 / self.durations[env])
            self.actions[env] = self.action_kind.random((), rng, extreme=rng.random() < EXTREME, **legal)
        self.remaining -= 1
        self.until_redrawn -= 1
        return self.actions.copy()
