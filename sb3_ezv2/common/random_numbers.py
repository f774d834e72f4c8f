"""Random numbers that Stable-Baselines3's global seed governs."""

import numpy as np


class GloballySeeded:
    """A generator of its own that begins anew whenever numpy's global one has been seeded or used elsewhere.

    Stable-Baselines3's ``set_random_seed`` seeds the global one. What draws from here depends on that seed and on
    nothing that learning does, and leaves learning alone.
    """

    def __init__(self) -> None:
        self._seen: tuple[bytes, int] | None = None
        self._generator = np.random.default_rng(0)

    def restart(self) -> None:
        """Begin anew from the global generator."""
        self._generator = np.random.default_rng(np.random.randint(2**32, size=4, dtype=np.uint32))  # noqa: NPY002
        self._seen = _global_state()

    def generator(self) -> np.random.Generator:
        """The generator to draw from now."""
        if self._seen != _global_state():
            self.restart()
        return self._generator


def _global_state() -> tuple[bytes, int]:
    """Where numpy's global generator stands."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return state["key"].tobytes(), state["pos"]
