"""Numbers of an inspection: values against returns, imagination against what happened, what searches add.

The formulas are those of the log, see :mod:`sb3_ezv2.learning`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch as th
import torch.nn.functional as F

from sb3_ezv2.common.tensors import on_device, to_tensors
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.inspection.episodes import CUT, TERMINATED, Episode
from sb3_ezv2.learning.calibration import CalibrationSummary, discounted_returns, steps_until_known, summarise
from sb3_ezv2.learning.model_errors import relative_error
from sb3_ezv2.learning.search_statistics import candidate_prior, entropy
from sb3_ezv2.networks.model import EfficientZeroModel

CHUNK = 128
"""States that the network evaluates together."""
N_STARTS, MAX_DEPTH = 128, 15
"""States that imagination begins with, and steps that it goes on for."""
N_DISTANCES = 8
"""Groups of states by their distance to the end."""
LONGEST_IMAGINED = 200
"""Steps of an episode that are imagined from its first state."""


class States(NamedTuple):
    """What the network says of all ``N`` states of all episodes, one episode behind the other."""

    latents: th.Tensor  # [N, *latent]
    values: th.Tensor  # [N]
    policies: th.Tensor  # [N, output_dim]
    directions: th.Tensor  # [N, projection_dim], of length 1
    first: np.ndarray  # [n_episodes] int64, number of each episode's first state


class Calibration(NamedTuple):
    """Values of states against the discounted returns that followed, where these are known to 1 %."""

    root: CalibrationSummary  # of search values
    network: CalibrationSummary  # of network values
    root_line: tuple[float, float]  # slope and intercept of ``return = slope * value + intercept``, see :func:`line`
    network_line: tuple[float, float]
    root_values: np.ndarray  # [n]
    network_values: np.ndarray  # [n]
    returns: np.ndarray  # [n]
    distances: np.ndarray  # [n] steps to the end of the episode; NaN where the end was not reached


class DepthErrors(NamedTuple):
    """Errors of the state imagined ``k`` steps ahead along real actions: 0 is exact, 1 no better than the mean."""

    depths: np.ndarray  # [n] int64, from 1
    rewards: np.ndarray  # [n], of the k-th reward; NaN where the real ones are all alike
    values: np.ndarray  # [n], against the network's values of the real states
    latents: np.ndarray  # [n], as directions of their projections
    nearest_rates: np.ndarray  # [n] share of states whose nearest stored frame is the real one; NaN without images
    nearest: np.ndarray  # [n] int64, state that is nearest to the one imagined from the first state; -1 behind the end


class SearchNumbers(NamedTuple):
    """What searches add to the network that they begin with, over all states where an action was chosen."""

    policy_entropy: float
    improved_policy_entropy: float
    departure_rate: float
    value_gain: float  # mean
    entropies: np.ndarray  # [n, 2], of prior and improved policy
    gains: np.ndarray  # [n]
    departs: np.ndarray  # [n] bool
    visits: np.ndarray  # [n_candidates] mean share of the visits of the most visited candidate, the second and so on


class Imagined(NamedTuple):
    """An episode as it was, and as the model imagines it from its first state along the same actions."""

    rewards: np.ndarray  # [n]
    next_rewards: np.ndarray  # [n], imagined from the state before
    imagined_rewards: np.ndarray  # [n], imagined from the first state
    values: np.ndarray  # [n + 1] of the network
    imagined_values: np.ndarray  # [n + 1]
    root_values: np.ndarray  # [n]
    returns: np.ndarray  # [n], NaN where unknown
    total: int  # steps of the episode, which may be more


@th.no_grad()
def evaluate(model: EfficientZeroModel, episodes: Sequence[Episode]) -> States:
    """The network's answers for all states.

    :param model: in evaluation mode
    :param episodes: at least one
    """
    device = model.reward_scale.device
    parts = []
    for episode in episodes:
        for begin in range(0, len(episode) + 1, CHUNK):
            chunk = {key: part[begin : begin + CHUNK] for key, part in episode.observations.items()}
            output = model.initial_inference(to_tensors(chunk, device))
            directions = F.normalize(model.projection(output.latents), dim=1)
            parts.append((output.latents, output.values, output.policies, directions))
    latents, values, policies, directions = (th.cat(each) for each in zip(*parts, strict=True))
    lengths = [len(episode) + 1 for episode in episodes]
    return States(latents, values, policies, directions, np.cumsum([0, *lengths[:-1]]))


def known_returns(episode: Episode, discount: float) -> np.ndarray:
    """Returns ``[n]`` that followed the states of an episode, NaN where they are not known to 1 %."""
    returns = discounted_returns(episode.rewards.tolist(), discount)
    if episode.end != TERMINATED:
        needed = steps_until_known(discount)
        n_known = 0 if needed is None else max(len(episode) - needed + 1, 0)
        returns[n_known:] = math.nan
    return returns


def calibrate(episodes: Sequence[Episode], states: States, discount: float) -> Calibration | None:
    """Hold values against the returns that followed.

    :param episodes: that were played
    :param states: of them
    :param discount: of one step
    :return: ``None`` if no return is known
    """
    values = states.values.double().cpu().numpy()
    columns = []
    for episode, first in zip(episodes, states.first, strict=True):
        n = len(episode)
        distances = np.full(n, math.nan) if episode.end == CUT else np.arange(n, 0, -1.0)
        columns.append(
            np.stack(
                [
                    episode.plans.root_values.astype(np.float64),
                    values[first : first + n],
                    known_returns(episode, discount),
                    distances,
                ]
            )
        )
    table = np.concatenate(columns, axis=1)
    root, network, returns, distances = table[:, np.isfinite(table[2])]
    if len(returns) == 0:
        return None
    return Calibration(
        *(summarise(root, returns), summarise(network, returns), line(root, returns), line(network, returns)),
        *(root, network, returns, distances),
    )


def line(values: np.ndarray, returns: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least squares line ``return = slope * value + intercept``; NaN if values are alike."""
    centred = values - values.mean()
    spread = float((centred**2).sum())
    if spread <= 1e-12 * float((values**2).sum()):
        return math.nan, math.nan
    slope = float((centred * returns).sum()) / spread
    return slope, float(returns.mean() - slope * values.mean())


def by_distance(calibration: Calibration) -> list[tuple[float, float, np.ndarray]]:
    """Overestimation ``root value - return`` by the distance to the end of the episode.

    :return: least and largest distance of each group of about as many states, and their overestimations
    """
    known = np.isfinite(calibration.distances)
    distances = calibration.distances[known]
    excess = (calibration.root_values - calibration.returns)[known]
    if len(distances) == 0:
        return []
    edges = np.unique(np.quantile(distances, np.linspace(0.0, 1.0, N_DISTANCES + 1)).round())
    groups = np.searchsorted(edges[1:-1], distances, side="left")
    chosen = [groups == group for group in np.unique(groups)]
    return [(float(distances[which].min()), float(distances[which].max()), excess[which]) for which in chosen]


@th.no_grad()
def depth_errors(model: EfficientZeroModel, episodes: Sequence[Episode], states: States) -> DepthErrors:
    """Imagine up to :data:`MAX_DEPTH` steps along the actions that were taken, from states spread over all episodes.

    :param model: in evaluation mode
    :param episodes: that were played
    :param states: of them
    """
    device = model.reward_scale.device
    of_step = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode))]
    chosen = np.unique(np.linspace(0, len(of_step) - 1, N_STARTS).round().astype(np.int64))
    starts = [of_step[i] for i in chosen]
    n_ahead = np.array([len(episodes[e]) - t for e, t in starts])
    terminated = np.array([episodes[e].end == TERMINATED for e, _ in starts])
    rows = np.array([states.first[e] + t for e, t in starts])
    pictures = picture_numbers(model, episodes)
    depths = np.arange(1, min(MAX_DEPTH, max(map(len, episodes))) + 1)
    latents, memories = states.latents[on_device(rows, device)], None
    found: list[list[float]] = []
    nearest = []
    for k in depths.tolist():
        last = np.array([min(t + k - 1, len(episodes[e]) - 1) for e, t in starts])
        actions = np.stack([episodes[e].actions[t] for (e, _), t in zip(starts, last, strict=True)])
        real_rewards = np.array([episodes[e].rewards[t] for (e, _), t in zip(starts, last, strict=True)], np.float32)
        output = model.recurrent_inference(latents, on_device(actions, device), memories)
        latents, memories = output.latents, output.memories
        directions = F.normalize(model.projection(latents), dim=1)
        following = on_device(np.minimum(rows + k, rows + n_ahead), device)
        has_reward = on_device(n_ahead >= k, device)
        goes_on = on_device(n_ahead - terminated >= k, device)
        errors = (
            relative_error(output.rewards, on_device(real_rewards, device), has_reward),
            relative_error(output.values, states.values[following], goes_on),
            relative_error(directions, states.directions[following], goes_on),
        )
        closest = (directions @ states.directions.T).argmax(1)
        rate = math.nan
        if pictures is not None and bool(goes_on.any()):
            hits = pictures[closest.cpu().numpy()] == pictures[following.cpu().numpy()]
            rate = float(hits[goes_on.cpu().numpy()].mean())
        found.append([*(float(error) for error in errors), rate])
        nearest.append(int(closest[0]) if n_ahead[0] >= k else -1)
    rewards, values, directions_, rates = np.array(found).T
    return DepthErrors(depths, rewards, values, directions_, rates, np.array(nearest))


def picture_numbers(model: EfficientZeroModel, episodes: Sequence[Episode]) -> np.ndarray | None:
    """A number for every state ``[N]`` that equal images share; ``None`` without images."""
    keys = list(getattr(model, "images", {}))
    if not keys:
        return None
    numbers: dict[tuple[bytes, ...], int] = {}
    found = [
        numbers.setdefault(tuple(episode.observations[key][t].tobytes() for key in keys), len(numbers))
        for episode in episodes
        for t in range(len(episode) + 1)
    ]
    return np.array(found)


@th.no_grad()
def search_numbers(model: EfficientZeroModel, episodes: Sequence[Episode], states: States) -> SearchNumbers:
    """Compare plans with the network's policy and value of the same states.

    :param model: that was searched with
    :param episodes: with their plans
    :param states: of them
    """
    device = model.reward_scale.device
    parts = []
    for episode, first in zip(episodes, states.first.tolist(), strict=True):
        plans, here = episode.plans, slice(first, first + len(episode))
        improved = on_device(np.ascontiguousarray(plans.improved_policy), device)
        prior, preference = candidate_prior(model.action_kind, states.policies[here], plans.candidates)
        entropies = th.stack([th.special.entr(part).sum(1) for part in (prior, improved)], dim=1)
        gains = on_device(plans.improved_values, device) - states.values[here]
        parts.append((prior, improved, entropies, gains, improved.argmax(1) != preference.argmax(1)))
    prior, improved, entropies, gains, departs = (th.cat(each) for each in zip(*parts, strict=True))
    visits = np.concatenate([episode.plans.visit_counts for episode in episodes]).astype(np.float64)
    shares = np.sort(visits / visits.sum(axis=1, keepdims=True), axis=1)[:, ::-1]
    return SearchNumbers(
        policy_entropy=float(entropy(prior)),
        improved_policy_entropy=float(entropy(improved)),
        departure_rate=float(departs.float().mean()),
        value_gain=float(gains.mean()),
        entropies=entropies.cpu().numpy(),
        gains=gains.cpu().numpy(),
        departs=departs.cpu().numpy(),
        visits=shares.mean(axis=0),
    )


@th.no_grad()
def imagine(model: EfficientZeroModel, episode: Episode, states: States, discount: float) -> Imagined:
    """Imagine the first episode from its first state, along the actions that were taken.

    :param model: in evaluation mode
    :param episode: the first one
    :param states: of all episodes
    :param discount: of one step
    """
    device = model.reward_scale.device
    n = min(len(episode), LONGEST_IMAGINED)
    actions = on_device(episode.actions[:n], device)
    ahead = model.recurrent_inference(states.latents[:n], actions, None)
    rewards, values = [], [states.values[:1]]
    latents, memories = states.latents[:1], None
    for k in range(n):
        output = model.recurrent_inference(latents, actions[k : k + 1], memories)
        latents, memories = output.latents, output.memories
        rewards.append(output.rewards)
        values.append(output.values)
    return Imagined(
        rewards=episode.rewards[:n],
        next_rewards=ahead.rewards.double().cpu().numpy(),
        imagined_rewards=th.cat(rewards).double().cpu().numpy(),
        values=states.values[: n + 1].double().cpu().numpy(),
        imagined_values=th.cat(values).double().cpu().numpy(),
        root_values=episode.plans.root_values[:n].astype(np.float64),
        returns=known_returns(episode, discount)[:n],
        total=len(episode),
    )


def observation_at(episodes: Sequence[Episode], states: States, number: int) -> ObservationArrays:
    """Observation of one of all states."""
    e = int(np.searchsorted(states.first, number, side="right")) - 1
    return {key: part[number - states.first[e]] for key, part in episodes[e].observations.items()}
