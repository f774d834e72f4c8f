"""Kinds of actions, one class each behind one interface.

In comes an action space. Out goes an :class:`~sb3_ezv2.common.actions.kind.ActionKind`, which knows everything that
depends on the kind of action: how actions are stored, encoded and searched, the policy over them, its targets, the
defaults. Nothing else looks at the action space. A new kind of action is a new class and a row in :data:`KINDS`.
"""

from collections.abc import Callable

from gymnasium import spaces

from sb3_ezv2.common.actions.box import BoxActions
from sb3_ezv2.common.actions.discrete import DiscreteActions
from sb3_ezv2.common.actions.factorised import FactorisedActions
from sb3_ezv2.common.actions.kind import ActionKind, Sampling

MANY_ACTIONS = 2_000
"""From so many actions on those of ``Discrete`` are sampled: looking at all of them at every node costs more."""


def _discrete(space: spaces.Space, sampling: Sampling) -> ActionKind:
    assert isinstance(space, spaces.Discrete)
    return (DiscreteActions if space.n < MANY_ACTIONS else FactorisedActions)(space, sampling)


KINDS: dict[type[spaces.Space], Callable[[spaces.Space, Sampling], ActionKind]] = {
    spaces.Discrete: _discrete,
    spaces.Box: BoxActions,
    spaces.MultiDiscrete: FactorisedActions,
    spaces.MultiBinary: FactorisedActions,
}
"""The kind of action of every action space that is supported."""

NO_SEARCH = Sampling(n_candidates=1, n_policy_candidates=0, flatten_factor=1.0)
"""For those who only store actions, such as a replay buffer."""


def action_kind_of(space: spaces.Space, sampling: Sampling = NO_SEARCH) -> ActionKind:
    """Kind of the actions in ``space``.

    :param space: of the environment's actions
    :param sampling: how a search samples candidates
    :raises ValueError: if there is no kind for the space, or its bounds or its dtype cannot be searched
    """
    for space_class, kind in KINDS.items():
        if isinstance(space, space_class):
            return kind(space, sampling)
    supported = ", ".join(space_class.__name__ for space_class in KINDS)
    raise ValueError(
        f"action space {space} is not supported; use one of {supported}. Flatten a Dict or Tuple into one of them with "
        "gymnasium.wrappers.TransformAction(env, func, action_space)"
    )


__all__ = [
    "KINDS",
    "NO_SEARCH",
    "ActionKind",
    "BoxActions",
    "DiscreteActions",
    "FactorisedActions",
    "Sampling",
    "action_kind_of",
]
