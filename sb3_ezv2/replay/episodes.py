"""Episodes from elsewhere: arrays, a Minari dataset, a replay buffer of Stable-Baselines3.

Everything is checked before the first transition is stored.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecTransposeImage

from sb3_ezv2.common.actions import action_kind_of
from sb3_ezv2.common.arguments import shown
from sb3_ezv2.common.spaces import named_arrays, named_spaces
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.replay.frame_storage import FrameStorage

MOST_PIECES = 0.5
"""Of transitions in a row, at most this share may not go on where the one before ended."""


class Episode(NamedTuple):
    """A piece of a trajectory from its first observation to its last, as the environment gives it."""

    observations: np.ndarray | dict[str, np.ndarray]  # [n + 1, ...]
    actions: np.ndarray  # [n, *action_space.shape]
    rewards: np.ndarray  # [n], before VecNormalize
    terminated: bool  # whether the last observation is terminal; else the episode was only cut short there

    @staticmethod
    def split(
        observations: np.ndarray | dict[str, np.ndarray],
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray | dict[str, np.ndarray],
        terminations: np.ndarray,
        truncations: np.ndarray,
    ) -> list["Episode"]:
        """Cut transitions in their order of time into episodes.

        Where a transition does not begin where the one before it ended, an episode was cut short.

        :param observations: before each step ``[n, ...]``
        :param actions: ``[n, *action_shape]``, in the environment's own units
        :param rewards: ``[n]``
        :param next_observations: after each step ``[n, ...]``, of an ended episode its last one
        :param terminations: ``[n]``
        :param truncations: ``[n]``
        :raises ValueError: if there is no end at all, or if the transitions do not follow one another
        """
        episodes = _cut(observations, actions, rewards, next_observations, terminations, truncations)
        if len(episodes) == 1 and not (np.any(terminations) or np.any(truncations)):
            raise ValueError(
                f"the {len(rewards)} transitions have no episode end: terminations and truncations are never true. "
                "Mark the last one as truncated if they are one episode"
            )
        return episodes


class EpisodeBuffer(Protocol):
    """What episodes ask of a :class:`~sb3_ezv2.replay.buffer.TrajectoryReplayBuffer`."""

    observation_space: spaces.Space
    action_space: spaces.Space
    n_envs: int
    max_rows: int
    n_stack: int
    stacks: dict[str, FrameStorage]
    next_rows: np.ndarray

    def close_streams(self) -> None:
        """End all open episodes as truncated."""

    def write_episode(
        self, env: int, observations: ObservationArrays, actions: np.ndarray, rewards: np.ndarray, terminated: bool
    ) -> np.ndarray:
        """Store a whole episode in one environment's stream."""


class _Checked(NamedTuple):
    """An episode as the buffer stores it."""

    observations: ObservationArrays  # [n + 1, ...] by key
    actions: np.ndarray  # [n, ...], of the algorithm
    rewards: np.ndarray  # [n] float32
    terminated: bool


def add_episodes(buffer: EpisodeBuffer, source: Any) -> np.ndarray:
    """Store episodes; see ``TrajectoryReplayBuffer.add_episodes``.

    :return: slots of the new transitions
    """
    if isinstance(source, str):
        source = load_minari(source)
    episodes = [
        _checked(buffer, episode, f"episode {number}") for number, episode in enumerate(_episodes(buffer, source))
    ]
    if not episodes:
        raise ValueError(f"episodes={shown(source)} has no episode; pass at least one")
    # Each goes to the environment that has got least so far.
    lengths = np.zeros(buffer.n_envs, np.int64)
    places = []
    for episode in episodes:
        places.append(int(np.argmin(lengths)))
        lengths[places[-1]] += len(episode.rewards) + 1
    if lengths.max() > buffer.max_rows:
        raise ValueError(
            f"the episodes have {lengths.sum()} observations, buffer_size keeps {buffer.max_rows} for each of "
            f"n_envs={buffer.n_envs} environments; nothing was stored. Make the model with a buffer_size of at least "
            f"{lengths.max() * buffer.n_envs}, or pass fewer episodes"
        )
    buffer.close_streams()
    return np.concatenate([buffer.write_episode(env, *episode) for env, episode in zip(places, episodes, strict=True)])


def load_minari(name: str) -> Any:
    """A dataset of Minari by its id, as ``minari.load_dataset`` gives it.

    :raises ValueError: if Minari is not installed, or has no such dataset on this machine
    """
    try:
        import minari
    except ImportError as error:
        raise ValueError(
            f"{name!r} is a dataset of Minari, which is not installed: pip install 'sb3_ezv2[offline]'"
        ) from error
    try:
        return minari.load_dataset(name)
    except Exception as error:  # Minari raises different errors for what is missing or damaged
        raise ValueError(f"Minari cannot load the dataset {name!r}: {error}; try minari.download_dataset") from error


def _episodes(buffer: EpisodeBuffer, source: Any) -> Iterator[Episode]:
    """Episodes of any source."""
    if isinstance(source, ReplayBuffer):
        yield from episodes_of_sb3(source)
        return
    for name in ("observation_space", "action_space"):
        theirs, ours = getattr(source, name, None), getattr(buffer, name)
        if isinstance(theirs, spaces.Space) and not _fits(theirs, ours):
            raise ValueError(
                f"the dataset has {name}={theirs}, the replay buffer {ours}; load it into a model that was made for "
                "it, for example with EfficientZeroV2.from_data"
            )
    if hasattr(source, "iterate_episodes"):
        source = source.iterate_episodes()
    if isinstance(source, Mapping | Episode) or not isinstance(source, Iterable):
        raise ValueError(
            f"episodes={shown(source)} must be a list of Episode, a dataset of Minari or its id, or a ReplayBuffer of "
            "Stable-Baselines3"
        )
    for number, episode in enumerate(source):
        yield episode if isinstance(episode, Episode) else _from_minari(episode, f"episode {number}")


def _fits(theirs: spaces.Space, ours: spaces.Space) -> bool:
    """Whether two spaces are the same, bounds and precision of a ``Box`` and the place of its channels aside."""
    if isinstance(theirs, spaces.Dict) and isinstance(ours, spaces.Dict):
        return theirs.keys() == ours.keys() and all(_fits(theirs[key], ours[key]) for key in ours)
    if isinstance(theirs, spaces.Box) and isinstance(ours, spaces.Box):
        last = (*ours.shape[1:], ours.shape[0]) if len(ours.shape) == 3 else ours.shape
        return theirs.shape in (ours.shape, last)
    return theirs == ours


def _from_minari(data: Any, name: str) -> Episode:
    """An episode from what has the attributes or keys of Minari's ``EpisodeData``."""

    def part(key: str) -> Any:
        found = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
        if found is None:
            raise ValueError(
                f"{name} has no {key!r}; an episode is an Episode, or has observations [n + 1, ...], actions, rewards, "
                "terminations and truncations [n] as in Minari"
            )
        return found

    terminations, truncations = (np.asarray(part(key), bool) for key in ("terminations", "truncations"))
    ends = np.flatnonzero(terminations | truncations)
    if terminations.shape != truncations.shape or ends.tolist() != [len(terminations) - 1]:
        raise ValueError(
            f"{name} has its ends at the steps {ends.tolist()} of {len(terminations)}: terminations or truncations "
            "must be true at its last step and nowhere else. Cut the data with Episode.split, or mark the last step as "
            "truncated"
        )
    return Episode(part("observations"), part("actions"), part("rewards"), bool(terminations[-1]))


def _cut(
    observations: Any, actions: Any, rewards: Any, next_observations: Any, terminations: Any, truncations: Any
) -> list[Episode]:
    """As :meth:`Episode.split`; without an end there is one episode."""
    named, following = named_arrays(observations), named_arrays(next_observations)
    named, following = ({key: np.asarray(part) for key, part in parts.items()} for parts in (named, following))
    terminations, truncations = np.asarray(terminations, bool), np.asarray(truncations, bool)
    lengths = {
        len(part) for part in (*named.values(), *following.values(), actions, rewards, terminations, truncations)
    }
    if len(lengths) != 1 or lengths == {0} or named.keys() != following.keys():
        raise ValueError(
            f"the arrays have the lengths {sorted(lengths)}; pass observations, actions, rewards, next_observations, "
            "terminations and truncations of the same transitions"
        )
    ends = terminations | truncations
    goes_on = np.ones(len(ends) - 1, bool)
    for key, part in named.items():
        goes_on &= (part[1:] == following[key][:-1]).reshape(len(goes_on), -1).all(axis=1)
    broken = ~ends[:-1] & ~goes_on
    if broken.sum() > MOST_PIECES * len(ends):
        raise ValueError(
            f"{broken.sum()} of {len(ends)} transitions do not go on where the one before ended, without an end of an "
            "episode: whole episodes cannot be rebuilt. Pass the transitions in their order of time, one environment "
            "after the other"
        )
    cuts = np.flatnonzero(np.append(ends[:-1] | broken, True)) + 1
    single = not isinstance(observations, Mapping)
    episodes, begin = [], 0
    for end in cuts.tolist():
        whole = {key: np.concatenate([part[begin:end], following[key][end - 1 : end]]) for key, part in named.items()}
        seen = whole["observation"] if single else whole
        episodes.append(Episode(seen, actions[begin:end], rewards[begin:end], bool(terminations[end - 1])))
        begin = end
    return episodes


def episodes_of_sb3(buffer: ReplayBuffer) -> list[Episode]:
    """Pieces of trajectories from a replay buffer of Stable-Baselines3, whose order is that of time.

    :param buffer: of an off-policy algorithm; its scaled actions are brought back to the environment's units
    :raises ValueError: if it does not keep the last observations of episodes, or holds nothing
    """
    if buffer.optimize_memory_usage:
        raise ValueError(
            "optimize_memory_usage=True: that replay buffer does not keep the last observation of an episode, so whole "
            "episodes cannot be rebuilt; collect with optimize_memory_usage=False"
        )
    if not isinstance(buffer, DictReplayBuffer) and isinstance(buffer.observation_space, spaces.Dict):
        raise ValueError(f"{type(buffer).__name__} holds observations of {buffer.observation_space}, which it cannot")
    n, kind = buffer.size(), action_kind_of(buffer.action_space)
    if n == 0:
        raise ValueError("the replay buffer of Stable-Baselines3 is empty; collect with it first")
    order = np.roll(np.arange(n), -buffer.pos if buffer.full else 0)
    episodes = []
    for env in range(buffer.n_envs):
        parts = []
        for stored in (buffer.observations, buffer.next_observations):
            named = {key: part[order, env] for key, part in named_arrays(stored).items()}
            parts.append(named if isinstance(stored, dict) else named["observation"])
        actions = buffer.actions[order, env]
        if kind.scaled:
            actions = kind.to_env(actions.astype(np.float32))
        else:
            actions = actions.reshape(n, *(buffer.action_space.shape or ()))
        dones, timeouts = buffer.dones[order, env] > 0, buffer.timeouts[order, env] > 0
        episodes += _cut(parts[0], actions, buffer.rewards[order, env], parts[1], dones & ~timeouts, dones & timeouts)
    return episodes


def _checked(buffer: EpisodeBuffer, episode: Episode, name: str) -> _Checked:
    """An episode as the buffer stores it.

    :raises ValueError: naming what does not fit
    """
    rewards = np.asarray(episode.rewards)
    n = rewards.size
    if rewards.ndim != 1 or n == 0 or rewards.dtype.kind not in "fiub" or not np.isfinite(rewards).all():
        raise ValueError(f"{name} has rewards={shown(episode.rewards)}; they must be [n] finite numbers, n at least 1")
    if not isinstance(episode.terminated, bool | np.bool_):
        raise ValueError(f"{name} has terminated={shown(episode.terminated)}; it must be True, or False if cut short")
    try:
        actions = action_kind_of(buffer.action_space).from_env(np.asarray(episode.actions), n)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; nothing was stored") from error
    parts, given = named_spaces(buffer.observation_space), named_arrays(episode.observations)
    if given.keys() != parts.keys():
        raise ValueError(f"{name} has observations {sorted(given)}, the space has {sorted(parts)}; nothing was stored")
    observations = {key: _observations(np.asarray(given[key]), n + 1, parts[key], f"{name}: {key!r}") for key in parts}
    for key, stacks in buffer.stacks.items():
        for step in range(1, n + 1):
            if not stacks.follows(observations[key][step], observations[key][step - 1]):
                raise ValueError(
                    f"{name}: {key!r} of step {step} is not the stack before it, one frame later, as n_stack="
                    f"{buffer.n_stack} says; nothing was stored. Use a model with replay_buffer_kwargs={{'n_stack': 1}}"
                )
    return _Checked(observations, actions, rewards.astype(np.float32), bool(episode.terminated))


def _observations(values: np.ndarray, n: int, space: spaces.Space, name: str) -> np.ndarray:
    """Observations ``[n, *space.shape]`` in the dtype of their space, with the channels of images where they belong."""
    shape = (n, *(space.shape or ()))
    if values.shape != shape and values.ndim == 4 and np.moveaxis(values, -1, 1).shape == shape:
        values = VecTransposeImage.transpose_image(values)
    if values.shape != shape:
        raise ValueError(
            f"{name} has the shape {values.shape}, its space {space} asks for {shape}, one observation more than "
            "rewards; nothing was stored"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        cast = values.astype(space.dtype)
    if isinstance(space, spaces.Box):
        fits = np.isfinite(cast).all() if space.dtype.kind == "f" else np.array_equal(cast, values)
    elif isinstance(space, spaces.MultiBinary):
        fits = np.array_equal(cast, values) and np.isin(cast, (0, 1)).all()
    else:
        last = space.start + (space.n if isinstance(space, spaces.Discrete) else space.nvec)  # type: ignore[attr-defined]
        fits = np.array_equal(cast, values) and ((cast >= space.start) & (cast < last)).all()  # type: ignore[attr-defined]
    if not fits:
        raise ValueError(f"{name} has values that are not finite or not of its space {space}; nothing was stored")
    return cast
