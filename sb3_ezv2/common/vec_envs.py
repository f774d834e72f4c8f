"""Vectorised environments that others use too."""

from typing import Any

from stable_baselines3.common.vec_env import VecEnv

CALLS = "_ezv2_calls"
COUNTED = ("reset", "step_wait")
ATTRIBUTES = {CALLS, *COUNTED}
"""What a counter adds to the environments; no part of their state."""


class CallCounter:
    """Counts the steps and resets of a vectorised environment, whoever makes them and through whatever wrapper.

    An algorithm that finds more calls than its own knows that its last observation is no longer that of the
    environments, for example after ``evaluate_policy(model, model.get_env())``. What happens to a Gymnasium environment
    inside, around the vectorised one, is not seen.

    :param env: with any wrappers; the innermost one is watched
    """

    def __init__(self, env: VecEnv) -> None:
        inner = env.unwrapped
        first = CALLS not in vars(inner)
        self._calls: list[int] = vars(inner).setdefault(CALLS, [0])  # one list for all who watch
        if first:
            for name in COUNTED:
                self._count(inner, name)

    @property
    def n_calls(self) -> int:
        """Steps and resets so far."""
        return self._calls[0]

    def _count(self, inner: VecEnv, name: str) -> None:
        method, calls = getattr(inner, name), self._calls

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            return method(*args, **kwargs)

        setattr(inner, name, counted)
