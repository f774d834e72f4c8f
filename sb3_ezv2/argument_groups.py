"""The arguments of :class:`~sb3_ezv2.ezv2.EfficientZeroV2` in groups that check themselves."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Annotated, Any

import torch as th
from stable_baselines3.common.type_aliases import Schedule, TrainFreq, TrainFrequencyUnit

from sb3_ezv2.common.actions import ActionKind
from sb3_ezv2.common.arguments import FIXED, ArgumentGroup, OneOf, Real, Whole, keywords, kinds_of, shown, switch
from sb3_ezv2.learning.losses import LossCoefficients
from sb3_ezv2.learning.reanalyze import SEARCH_VALUES, MixedValueRule
from sb3_ezv2.learning.updates import UpdateSettings
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.search_arguments import SearchArguments

MOST_THREADS = 1024
LEAST_REFRESH, DRAWS_PER_SEARCH = 50, 4
"""Updates between two refreshes of the target network at least, and how often a state is drawn on average between
them, so that about a quarter of a batch is searched however many states are stored."""
VALUE_TARGETS = ("mixed", "search", "multi_step")
DEVICES = ("cpu", "cuda", "mps")
NOT_A_SHARE = "and no share of the run: what a run does must not depend on how long it is planned to be"


def learning_rate_kind(name: str, value: Any) -> float | Schedule:
    """A rate, or a function of the remaining progress that gives one."""
    if not callable(value) or isinstance(value, type):
        return Real(0.0, 1e3)(name, value)
    try:
        Real(0.0, 1e3)(name, float(value(1.0)))
    except Exception as error:  # whatever the function does wrong
        raise ValueError(
            f"{name}={shown(value)} must be a number or a function of the remaining progress (from 1 to 0) that gives "
            f"one, but for 1.0 it does not: {error}"
        ) from error
    return value


def train_freq_kind(name: str, value: Any) -> int | tuple[int, str]:
    """A number of steps, or how many of which unit; files of JSON have a list in place of the pair."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, "step")
    try:
        frequency, unit = Whole(1)(name, pair[0]), OneOf(("step", "episode"))(name, pair[1])
        if len(pair) != 2:
            raise ValueError(f"it has {len(pair)} parts")
    except (ValueError, IndexError) as error:
        raise ValueError(
            f'{name}={shown(value)} must be an integer of at least 1, or a pair (integer, "step" or "episode")'
        ) from error
    return (frequency, unit) if isinstance(value, list | tuple) else frequency


def buffer_class_kind(name: str, value: Any) -> type[TrajectoryReplayBuffer]:
    """A class of replay buffers that hold trajectories."""
    if not (isinstance(value, type) and issubclass(value, TrajectoryReplayBuffer)):
        raise ValueError(
            f"{name}={shown(value)} must be TrajectoryReplayBuffer or a subclass of it: this algorithm samples pieces "
            "of trajectories, which buffers of single transitions do not have"
        )
    return value


def path_kind(name: str, value: Any) -> str:
    """A path."""
    if not (isinstance(value, str | os.PathLike) and os.fspath(value)):
        raise ValueError(f"{name}={shown(value)} must be the path of a folder, or None")
    return os.fspath(value)


def device_kind(name: str, value: Any) -> th.device | str:
    """A device of torch, or ``"auto"``."""
    try:
        known = isinstance(value, str | th.device) and (value == "auto" or th.device(value).type in DEVICES)
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(
            f"{name}={shown(value)} must be 'auto' or a device of torch of the type {' or '.join(DEVICES)}"
        )
    return value


def verbosity_kind(name: str, value: Any) -> int:
    """0, 1 or 2; a bool counts as 0 or 1."""
    return Whole(0, 2)(name, int(value) if isinstance(value, bool) else value)


@dataclass(frozen=True)
class ReplayArguments(ArgumentGroup):
    """What is kept and how it is drawn."""

    buffer_size: Annotated[int, Whole(1), FIXED]
    batch_size: Annotated[int, Whole(1)]
    priority_beta: Annotated[float, Real(0.0, 10.0)]
    replay_buffer_class: Annotated[type[TrajectoryReplayBuffer] | None, buffer_class_kind, FIXED]
    replay_buffer_kwargs: Annotated[dict[str, Any] | None, keywords, FIXED]


@dataclass(frozen=True)
class TargetArguments(ArgumentGroup):
    """What the model is trained towards."""

    unroll_steps: Annotated[int, Whole(1, 1_000)]
    td_steps: Annotated[int | None, Whole(1, 10_000)]
    td_phase: Annotated[int, Whole(0, meaning=f"a number of updates {NOT_A_SHARE}")]
    td_fresh: Annotated[int, Whole(0, meaning=f"a number of observations {NOT_A_SHARE}")]
    target_update_interval: Annotated[int | None, Whole(1)]
    value_target: Annotated[str, OneOf(VALUE_TARGETS)]
    search_value: Annotated[str | None, OneOf(tuple(SEARCH_VALUES))]
    use_target_cache: Annotated[bool, switch]

    def n_step(self, action_kind: ActionKind) -> int:
        """``td_steps``, or what suits the kind of action if it is ``None``."""
        return action_kind.td_steps if self.td_steps is None else self.td_steps

    def updates_until_refresh(self, n_stored: int, batch_size: int) -> int:
        """``target_update_interval``; if it is ``None``, as many updates as draw every stored state a few times.

        :param n_stored: states in the replay buffer
        :param batch_size: positions per update, each of them with the states of its unroll
        """
        if self.target_update_interval is not None:
            return self.target_update_interval
        return max(LEAST_REFRESH, DRAWS_PER_SEARCH * n_stored // (batch_size * (self.unroll_steps + 1)))

    def rule(self, n_updates: int, n_ranks: int = 1) -> MixedValueRule:
        """T1 and T2 as they stand after ``n_updates`` for one of ``n_ranks`` parts of the data."""
        if self.value_target == "search":
            return MixedValueRule(td_phase=False, fresh=-math.inf)
        td_phase = self.value_target == "multi_step" or n_updates < self.td_phase
        return MixedValueRule(td_phase, self.td_fresh / n_ranks)


@dataclass(frozen=True)
class LossArguments(ArgumentGroup):
    """How the parameters follow the losses."""

    learning_rate: Annotated[float | Schedule, learning_rate_kind]
    tau: Annotated[float, Real(0.0, 1.0)]
    reward_coef: Annotated[float, Real()]
    value_coef: Annotated[float, Real()]
    policy_coef: Annotated[float, Real()]
    consistency_coef: Annotated[float, Real()]
    ent_coef: Annotated[float, Real()]
    max_grad_norm: Annotated[float, Real(0.0, 1e12, above_low=True)]
    mixed_precision: Annotated[bool, switch]

    def update_settings(self) -> UpdateSettings:
        """The numbers of one update."""
        coefficients = LossCoefficients(
            self.reward_coef, self.value_coef, self.policy_coef, self.consistency_coef, self.ent_coef
        )
        return UpdateSettings(coefficients, self.max_grad_norm, self.tau, self.mixed_precision)


@dataclass(frozen=True)
class ExplorationArguments(ArgumentGroup):
    """How much is collected, at first with random actions, and how many updates it gets."""

    learning_starts: Annotated[int, Whole(0)]
    novelty_coef: Annotated[float, Real()]
    act_with: Annotated[str, OneOf(("search", "policy"))]
    train_freq: Annotated[int | tuple[int, str], train_freq_kind]
    gradient_steps: Annotated[int, Whole(-1)]

    def sb3_train_freq(self) -> TrainFreq:
        """``train_freq`` as Stable-Baselines3 reads it."""
        frequency, unit = self.train_freq if isinstance(self.train_freq, tuple) else (self.train_freq, "step")
        return TrainFreq(frequency, TrainFrequencyUnit(unit))


@dataclass(frozen=True)
class EngineArguments(ArgumentGroup):
    """Where it runs, what it writes, and what it is made of."""

    n_threads: Annotated[int | None, Whole(1, MOST_THREADS)]
    stats_window_size: Annotated[int, Whole(1), FIXED]
    tensorboard_log: Annotated[str | None, path_kind]
    policy_kwargs: Annotated[dict[str, Any] | None, keywords, FIXED]
    verbose: Annotated[int, verbosity_kind]
    seed: Annotated[int | None, Whole(0, 2**32 - 1), FIXED]
    device: Annotated[th.device | str, device_kind, FIXED]


@dataclass(frozen=True)
class Arguments:
    """All arguments of the algorithm except its policy and its environment."""

    search: SearchArguments
    replay: ReplayArguments
    targets: TargetArguments
    losses: LossArguments
    exploration: ExplorationArguments
    engine: EngineArguments

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Arguments":
        """The groups from all arguments by name.

        :raises ValueError: naming the argument, its value and what it must be
        """
        found: dict[str, Any] = {name: group.of(given) for name, group in groups().items()}
        return cls(**found)

    def search_of_policy(self) -> SearchArguments:
        """How the policy searches: by default no deeper than the model is unrolled in training."""
        return replace(self.search, max_depth=self.search.max_depth or self.targets.unroll_steps)

    def flat(self) -> dict[str, Any]:
        """All arguments by name."""
        return {name: value for group in fields(self) for name, value in vars(getattr(self, group.name)).items()}

    def changed(self, argument: str, value: Any) -> "Arguments":
        """The same with one argument changed.

        :raises ValueError: if the argument cannot change any more, or if the value is none for it
        """
        (name, group) = next((name, group) for name, group in groups().items() if argument in group.names())
        if kinds_of(group)[argument][2]:
            instead = "call set_random_seed(seed)" if argument == "seed" else f"load the model with {argument}=..."
            raise ValueError(
                f"{argument}={shown(value)} cannot be assigned: the model was built with {argument}="
                f"{shown(getattr(getattr(self, name), argument))}; {instead} or build a new one"
            )
        return replace(self, **{name: replace(getattr(self, name), **{argument: value})})


@lru_cache
def groups() -> dict[str, type[ArgumentGroup]]:
    """The groups by the names that they have in :class:`Arguments`."""
    return {field.name: field.type for field in fields(Arguments)}  # type: ignore[misc]


@lru_cache
def all_names() -> frozenset[str]:
    """Names of all grouped arguments."""
    return frozenset(name for group in groups().values() for name in group.names())


def check_argument(name: str, value: Any) -> None:
    """Refuse what the argument of this name cannot be.

    :raises ValueError: naming the argument, its value and what it must be
    """
    for group in groups().values():
        if name in group.names():
            kind, optional, _ = kinds_of(group)[name]
            if not (optional and value is None):
                kind(name, value)


class ExactValues:
    """Arguments that JSON would change, such as a tuple inside a dictionary.

    Stable-Baselines3 writes as JSON what JSON can hold, and pickles everything else, among it this record.

    :param arguments: all of them by name
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.values = {name: value for name, value in arguments.items() if as_json(value) != value}

    def restored(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values that were read back as JSON left them, by name."""
        return {name: value for name, value in self.values.items() if arguments.get(name) == as_json(value)}


def as_json(value: Any) -> Any:
    """What is read back after a value was written as JSON; the value itself if it cannot be."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return value
