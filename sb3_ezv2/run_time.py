"""How long a run will take: a few parts of it are timed, and added up over the run."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.common.arguments import Whole, shown
from sb3_ezv2.common.tensors import torch_threads
from sb3_ezv2.ezv2 import EfficientZeroV2

LEAST_RANDOM, LEAST_REPEATS, MOST_REPEATS = 200, 3, 200
SECONDS = 5.0
"""For each part; a slow one is repeated ``LEAST_REPEATS`` times."""
N_POINTS = 1_000
"""Of the run, at which the searched fraction is evaluated."""


class RunTime(NamedTuple):
    """Seconds of the parts of a run, evaluations left out."""

    n_steps: int
    n_updates: float
    environment: float  # for a transition
    acting: float  # for a transition
    update: float  # for an update, without searching
    search: float  # for a state that reanalysis searches
    n_states: int  # whose targets an update needs
    searched_fraction: float  # of these, on average over the run
    start: float  # compilation, once
    device: str

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the whole run, by part."""
        reanalysis = self.n_states * self.searched_fraction * self.search
        return {
            "environment": self.n_steps * self.environment,
            "acting": self.n_steps * self.acting,
            "updates": self.n_updates * self.update,
            "reanalysis": self.n_updates * reanalysis,
            "start": self.start,
        }

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        run = f"{self.n_steps:,} steps with {self.n_updates:,.0f} updates on {self.device}"
        shares = ", ".join(f"{name} {part / self.total:.0%}" for name, part in self.seconds.items())
        return (
            f"environment  {1e3 * self.environment:8.2f} ms a step\n"
            f"acting       {1e3 * self.acting:8.2f} ms a step\n"
            f"update       {1e3 * self.update:8.2f} ms an update\n"
            f"reanalysis   {1e3 * self.search:8.3f} ms a state, {self.searched_fraction:.0%} of {self.n_states} states "
            "an update\n"
            f"{run}: about {duration(self.total)}\n"
            f"({shares}; evaluations come on top)"
        )


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def searched_fraction(n_stored: np.ndarray, n_draws: np.ndarray) -> np.ndarray:
    """Share of the drawn states that the target network has not searched yet, ``n / D (1 - exp(-D / n))``.

    :param n_stored: states in the replay buffer, ``n``
    :param n_draws: states drawn between two refreshes of the target network, ``D``
    """
    return n_stored / n_draws * -np.expm1(-n_draws / n_stored)


def updates_per_step(model: EfficientZeroV2) -> float:
    """The update-to-data ratio of a model.

    :raises ValueError: if it depends on the length of episodes
    """
    frequency = model.arguments.exploration.sb3_train_freq()
    if model.gradient_steps < 0:
        return 1.0
    if frequency.unit.value == "episode":
        raise ValueError(
            f"train_freq={shown(model.train_freq)} with gradient_steps={model.gradient_steps}: how many updates a step "
            "gets depends on the length of episodes; give train_freq in steps, or gradient_steps=-1"
        )
    return model.gradient_steps / (frequency.frequency * model.n_envs)


def timed(function: Callable[[], object], seconds: float = SECONDS) -> list[float]:
    """Seconds of each of several calls."""
    found: list[float] = []
    while len(found) < LEAST_REPEATS or (sum(found) < seconds and len(found) < MOST_REPEATS):
        began = time.perf_counter()
        function()
        found.append(time.perf_counter() - began)
    return found


def estimate_run_time(model: EfficientZeroV2, total_timesteps: int) -> RunTime:
    """Time the parts of a run on this machine, and add them up.

    :param model: with its environment, before it has learned. It takes random steps (at least 200, and a batch) and
        makes some updates, so build another one to train
    :param total_timesteps: of the run
    :raises ValueError: without an environment, after learning has begun, or if the number of updates cannot be told
    """
    total_timesteps = Whole(1)("total_timesteps", total_timesteps)
    if model.env is None:
        raise ValueError("env=None: the time of a run is measured with its environment; build the model with one")
    if model.num_timesteps > 0:
        raise ValueError(
            f"the model has made {model.num_timesteps} steps; the time is measured with a new one, which is not trained"
        )
    ratio, first = updates_per_step(model), model.learning_starts
    n_random = max(LEAST_RANDOM, model.batch_size + model.n_envs)
    model.learning_starts = n_random + model.n_envs  # so that no step of these is followed by an update
    began = time.perf_counter()
    model.learn(n_random)
    environment = (time.perf_counter() - began) / model.num_timesteps
    with torch_threads(model.n_threads if model.device.type == "cpu" else None):
        acting, start = _acting(model, model.env)
        update, search, first_update = _update(model)
    n_learning = max(total_timesteps - first, 0)
    stored = np.linspace(min(first, total_timesteps) + 1.0, total_timesteps + 1.0, N_POINTS).clip(max=model.buffer_size)
    n_states = model.batch_size * (model.unroll_steps + 1)
    until_refresh = [model.arguments.targets.updates_until_refresh(int(n), model.batch_size) for n in stored]
    fractions = searched_fraction(stored, n_states * np.array(until_refresh))
    return RunTime(
        n_steps=total_timesteps,
        n_updates=ratio * n_learning,
        environment=environment,
        acting=acting * n_learning / total_timesteps,
        update=update,
        search=search,
        n_states=n_states,
        searched_fraction=float(fractions.mean()) if model.use_target_cache else 1.0,
        start=max(start - acting, 0.0) + max(first_update - update - n_states * search, 0.0),
        device=str(model.device),
    )


def _acting(model: EfficientZeroV2, env: VecEnv) -> tuple[float, float]:
    """Seconds of a decision per transition, and of the first one."""

    def act() -> None:
        model._choose_actions(env.num_envs, 0)

    (first,) = timed(act, 0.0)[:1]
    return float(np.median(timed(act))) / env.num_envs, first


def _update(model: EfficientZeroV2) -> tuple[float, float, float]:
    """Seconds of an update without searching, of each state searched, and of the first update.

    Updates that search everything take turns with updates that find most of it in the cache.
    """

    def update(is_cold: bool) -> tuple[float, float]:
        model.target_version += is_cold  # whatever has been searched is stale
        began = time.perf_counter()
        model.train(1)
        seconds = time.perf_counter() - began
        return seconds, model.reanalyzer.searched_fraction * model.batch_size * (model.unroll_steps + 1)

    first, _ = update(True)
    update(True)
    cold: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    while len(cold) < LEAST_REPEATS or (
        sum(seconds for seconds, _ in cold + warm) < SECONDS and len(cold) < MOST_REPEATS
    ):
        cold.append(update(True))
        warm += [update(False) for _ in range(3)][1:]
    (cold_seconds, n_cold), (warm_seconds, n_warm) = np.median(cold, axis=0), np.median(warm, axis=0)
    if not model.use_target_cache:  # both search everything
        return 0.0, float(warm_seconds / n_warm), first
    search = max(cold_seconds - warm_seconds, 0.0) / max(n_cold - n_warm, 1.0)
    return max(float(warm_seconds - search * n_warm), 0.0), float(search), first
