"""Value targets and masks of a sampled batch: pure functions of numpy arrays.

Index ``j`` runs over the ``unroll + 1`` states of a sample, index 0 being the sampled position.
"""

from typing import NamedTuple

import numpy as np

from sb3_ezv2.common.type_aliases import Masks


class MultiStepReturns(NamedTuple):
    """``target_j = sums_j + discounts_j * v(state bootstrap_j)``, each ``[batch, unroll + 1]``."""

    sums: np.ndarray  # float32
    bootstrap: np.ndarray  # int64, index in the chain
    discounts: np.ndarray  # float32, 0 where the sum is all there is


def n_step_returns(
    rewards: np.ndarray, n_ahead: np.ndarray, terminated: np.ndarray, discount: float, td_steps: int
) -> MultiStepReturns:
    """Discounted sums of up to ``td_steps`` rewards and where to bootstrap (EfficientZero V2, section 4.2).

    ``target_j = sums_j + discounts_j * v(state_{j + steps_j})``, with fewer steps at the end of an episode and a
    discount of zero if that end is terminal.

    :param rewards: ``[batch, unroll + td_steps]``, zero past the end
    :param n_ahead: transitions that follow position 0 ``[batch]``
    :param terminated: whether the state after ``n_ahead`` transitions is terminal ``[batch]``
    :param discount: of one step
    :param td_steps: at least 1
    :return: of every state
    """
    unroll = rewards.shape[1] - td_steps
    positions = np.arange(unroll + 1)
    steps = np.clip(n_ahead[:, None] - positions, 0, td_steps)
    windows = np.lib.stride_tricks.sliding_window_view(rewards, td_steps, axis=1)
    powers = discount ** np.arange(td_steps)
    sums = (windows * powers).sum(axis=-1)
    bootstrap = np.minimum(positions + steps, n_ahead[:, None])
    at_the_end = bootstrap == n_ahead[:, None]
    discounts = np.where(at_the_end & terminated[:, None], 0.0, discount**steps)
    return MultiStepReturns(sums.astype(np.float32), bootstrap, discounts.astype(np.float32))


def uses_td(ages: np.ndarray, n_ahead: np.ndarray, td_phase: bool, fresh: float) -> np.ndarray:
    """Which states take the multi-step return in the mixed value target (EfficientZero V2, section 4.3).

    The others take the value of the search. The last observation of a trajectory takes it always: it is never searched,
    and its multi-step return is the network's value of it, which is what the returns before it bootstrap from.

    :param ages: observations stored since each state ``[batch, unroll + 1]``
    :param n_ahead: transitions that follow position 0 ``[batch]``
    :param td_phase: whether fewer than T1 updates have been made; then all states do
    :param fresh: T2, the age up to which a state does at any time
    :return: ``[batch, unroll + 1]`` bool
    """
    last = np.arange(ages.shape[1]) >= n_ahead[:, None]
    return (ages <= fresh) | last | td_phase


def value_prefixes(rewards: np.ndarray, horizon: int) -> np.ndarray:
    """Undiscounted sums of the rewards since the unroll began, which begin again after every ``horizon`` steps.

    :param rewards: ``[batch, unroll]``, zero past the end; transition k -> k + 1 at index k
    :param horizon: at least 1; with 1 these are the rewards themselves
    :return: ``[batch, unroll]`` (EfficientZero, arXiv 2111.00210, section 4.2)
    """
    sums = np.empty_like(rewards)
    for first in range(0, rewards.shape[1], horizon):
        sums[:, first : first + horizon] = rewards[:, first : first + horizon].cumsum(axis=1)
    return sums


def loss_masks(n_ahead: np.ndarray, unroll: int) -> Masks:
    """Which terms count around the end of an episode: policy and consistency as far as there are observations.

    Reward and value always do. Past a terminal state the model is absorbing: reward 0 and value 0 are trained there.
    Past any other last observation (of a truncated episode, or the newest one of a stream) it goes on as it does from
    the observation itself.

    :param n_ahead: transitions that follow the sampled position ``[batch]``
    :param unroll: dynamics steps of the loss
    """
    has_successor = np.arange(unroll + 1) < n_ahead[:, None]
    return Masks(
        policies=has_successor.astype(np.float32),
        consistency=has_successor[:, :-1].astype(np.float32),
    )
