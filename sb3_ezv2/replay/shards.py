"""Replay buffers of one number of ranks poured into those of another."""

import copy
from typing import NamedTuple

import numpy as np

from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.replay.buffer import TrajectoryReplayBuffer
from sb3_ezv2.replay.slots import EMPTY, TERMINATED, TRANSITION
from sb3_ezv2.replay.sum_tree import set_priorities


class Piece(NamedTuple):
    """An unbroken piece of a trajectory in a buffer."""

    newest: int  # running number of its last observation
    slots: np.ndarray  # [n + 1], of a transition each but for the last
    buffer: TrajectoryReplayBuffer


def empty_shard(like: TrajectoryReplayBuffer, n_envs: int) -> TrajectoryReplayBuffer:
    """An empty buffer for another number of environments, otherwise the same.

    :param like: not changed
    :param n_envs: number of environments
    """
    shard = copy.copy(like)
    shard.n_envs, shard.max_rows = n_envs, max(3, like.buffer_size // n_envs)
    shard.n_observations = 0
    shard.reset()
    return shard


def pieces_of(buffer: TrajectoryReplayBuffer) -> list[Piece]:
    """All pieces of trajectories in a buffer that have a transition; one that is still open ends at its frontier."""
    found = []
    for env in range(buffer.n_envs):
        rows = np.flatnonzero(buffer.kinds[:, env] != EMPTY)
        rows = rows[np.argsort(buffer.observation_ids[rows, env])]
        ends = np.flatnonzero(buffer.kinds[rows, env] != TRANSITION)
        for piece in np.split(rows, ends + 1):
            if len(piece) > 1:
                slots = piece * buffer.n_envs + env
                found.append(Piece(int(buffer.observation_ids[piece[-1], env]), slots, buffer))
    return found


def divide(shards: list[TrajectoryReplayBuffer], buffer: TrajectoryReplayBuffer, rank: int, size: int) -> None:
    """Fill an empty buffer with a rank's part of all pieces of trajectories, the oldest first.

    Priorities stay; where an episode was open it ends as truncated. What does not fit any more are the oldest ones.

    :param shards: all buffers there were
    :param buffer: of this rank, empty
    :param rank: from 0
    :param size: number of ranks now
    """
    pieces = sorted((piece for shard in shards for piece in pieces_of(shard)), key=lambda piece: piece.newest)
    filled = np.zeros(buffer.n_envs, np.int64)
    unseen = []
    for piece in pieces[rank::size]:
        env = int(np.argmin(filled))
        filled[env] += len(piece.slots)
        slots, priorities = _pour(piece, buffer, env)
        alive = np.isin(slots, np.flatnonzero(buffer.kinds.reshape(-1) == TRANSITION))
        known = alive & (priorities > 0.0)
        set_priorities(buffer.sum_tree, slots[known], priorities[known])
        unseen.append(slots[alive & ~known])
    buffer.take_new_slots()
    buffer._new_slots = [part for part in unseen if len(part)]


def _pour(piece: Piece, buffer: TrajectoryReplayBuffer, env: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a piece to one environment's stream; the slots of its transitions and their priorities."""
    shard, starts = piece.buffer, piece.slots[:-1]
    observations: ObservationArrays = shard.parts_at(piece.slots, shard.parts())
    actions = shard.actions.reshape(-1, *shard.actions.shape[2:])[starts]
    terminated = shard.kinds.reshape(-1)[piece.slots[-1]] == TERMINATED
    slots = buffer.write_episode(env, observations, actions, shard.rewards.reshape(-1)[starts], bool(terminated))
    return slots, shard.sum_tree[len(shard.sum_tree) // 2 + starts]
