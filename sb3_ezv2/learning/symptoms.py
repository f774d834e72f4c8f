"""Warnings, each once, when a run shows that it will not learn, or not soon."""

import time
import warnings

import numpy as np

PAGE = 'read the page "It does not learn" of the documentation (docs/it_does_not_learn.md)'
PATIENCE, LEAST_TRANSITIONS = 10, 2_000
"""Rewards are missed after this many times ``learning_starts``, and no fewer transitions. By then nine tenths of the
data were collected by planning: if that has found nothing, more of the same seldom will."""
EXCESS, PERSISTENCE = 3.0, 3
"""Values are too large at this many times the largest return, in this many inspections in a row. Bootstrapping
overshoots for a while in many runs that end well."""
MEASURED_INSPECTIONS = 4
"""Inspections that speed is measured over, after the first, which compiles."""
LONG_RUN_HOURS = 2.0
"""Longer runs are announced."""


class Symptoms:
    """Watches a run and warns; what it has seen is not saved, and learning never reads it.

    :param warns: whether to say what is seen; of several ranks one does
    """

    def __init__(self, warns: bool = True) -> None:
        self.warns = warns
        self.warned: set[str] = set()
        self.is_intrinsic = False  # whether an intrinsic reward is part of what values predict
        self.n_too_large = 0
        self.n_inspections = 0
        self.began = (0.0, 0)  # seconds and steps at the first inspection

    def begin_run(self) -> None:
        """Measure the speed anew, because ``learn`` was called."""
        self.n_inspections = 0

    def see_rewards(self, rewards: np.ndarray, any_terminal: bool, learning_starts: int) -> None:
        """Look for something to learn from.

        :param rewards: of all stored transitions ``[n]``
        :param any_terminal: whether an episode terminated; where rewards are alike, such ends still tell good from bad
        :param learning_starts: transitions collected with random actions
        """
        n = len(rewards)
        if n < max(PATIENCE * learning_starts, LEAST_TRANSITIONS) or rewards.min() != rewards.max():
            return
        if rewards[0] == 0.0:
            meanwhile = (
                "until there is one the agent looks for what is new" if self.is_intrinsic else "nothing to learn from"
            )
            self._warn("reward", f"no reward in {n} transitions: {meanwhile}; {PAGE}, part 'No reward'")
        elif not any_terminal:
            self._warn(
                "reward",
                f"all rewards in {n} transitions are {rewards[0]:g} and no episode has terminated: nothing says which "
                f"action is better; {PAGE}, part 'No reward'",
            )

    def see_values(self, mean_value: float, largest_return: float) -> None:
        """Look for values that grow without bound.

        :param mean_value: of the network on fresh states
        :param largest_return: absolute discounted return that was seen; 0 for none yet
        """
        too_large = abs(mean_value) > EXCESS * largest_return > 0.0 and not self.is_intrinsic
        self.n_too_large = self.n_too_large + 1 if too_large else 0
        if self.n_too_large >= PERSISTENCE:
            self._warn(
                "values",
                f"the mean value of fresh states is {mean_value:g}, but no return was larger than {largest_return:g}: "
                f"values grow without bound; {PAGE}, part 'Wrong values'",
            )

    def see_progress(self, n_steps: int, total_steps: int, now: float | None = None) -> None:
        """Estimate once how long the run will take; to be called at every inspection.

        :param n_steps: of the environments so far
        :param total_steps: planned
        :param now: seconds of a clock; ``None`` for the system's
        """
        now = time.monotonic() if now is None else now
        self.n_inspections += 1
        if self.n_inspections == 1:
            self.began = (now, n_steps)
        if self.n_inspections != 1 + MEASURED_INSPECTIONS or n_steps <= self.began[1]:
            return
        speed = (n_steps - self.began[1]) / max(now - self.began[0], 1e-9)
        remaining = total_steps - n_steps
        hours = remaining / speed / 3600.0
        if hours > LONG_RUN_HOURS:
            self._warn(
                "duration",
                f"at {speed:.3g} steps per second the remaining {remaining} steps will take about {hours:.1f} hours; "
                f"{PAGE}, part 'Costly'",
            )

    def _warn(self, symptom: str, text: str) -> None:
        if self.warns and symptom not in self.warned:
            self.warned.add(symptom)
            warnings.warn(text, stacklevel=2)
