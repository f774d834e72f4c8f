"""Inspecting a model: plays, measures, and keeps everything in one record."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.common.arguments import shown
from sb3_ezv2.common.files import write_text
from sb3_ezv2.common.tensors import to_tensors, torch_threads
from sb3_ezv2.common.type_aliases import ObservationArrays
from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.inspection import measures
from sb3_ezv2.inspection.decision import Decision, decide, node_depths
from sb3_ezv2.inspection.decision_pictures import decision_pictures
from sb3_ezv2.inspection.episodes import CUT, Camera, Episode, play
from sb3_ezv2.inspection.findings import Findings
from sb3_ezv2.inspection.page import page
from sb3_ezv2.inspection.pictures import pictures
from sb3_ezv2.learning.calibration import steps_until_known

N_TREES = 64
"""Searches whose depth is measured."""


@dataclass(frozen=True)
class InspectionReport(Findings):
    """What an inspection found; :meth:`numbers`, :meth:`figures` and :meth:`write` show it."""

    def figures(self) -> dict[str, Figure]:
        """All pictures by name, one panel each."""
        return {**pictures(self), **decision_pictures(self)}

    def write(self, path: str | os.PathLike[str], figures: dict[str, Figure] | None = None) -> Path:
        """Write one HTML page with all pictures in it, which needs no other file.

        :param path: of the page; missing folders are made
        :param figures: of :meth:`figures`, where they are drawn already
        :return: the same
        :raises OSError: if it cannot be written
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page(self.title, self.numbers(), figures or self.figures(), self.left_out))
        return target


def inspect_model(
    model: Any,
    env: gym.Env | VecEnv | str,
    n_episodes: int = 5,
    max_steps: int = 2_000,
    deterministic: bool = True,
    seed: int | None = 0,
) -> InspectionReport:
    """Play episodes and look at values, imagination and searches on the way; the model stays as it is.

    :param model: an ``EfficientZeroV2``
    :param env: environments of the model's spaces, or the id of a registered one. They are seeded, reset and stepped,
        so they must not be those of a training run that goes on; ``render_mode="rgb_array"`` gives the pictures a
        frame. A model that was trained in ``VecNormalize`` needs one with the same statistics
    :param n_episodes: episodes to play
    :param max_steps: of all episodes together; what is longer is cut, which the report says
    :param deterministic: play greedily instead of exploring
    :param seed: of the environments and of exploration; ``None`` leaves the environments' random numbers alone
    :raises ValueError: if the model is another algorithm's, a number cannot be, the spaces differ, or the model's
        values are not finite
    """
    if not isinstance(model, EfficientZeroV2):
        raise ValueError(
            f"model={shown(model)} is a {type(model).__name__}; only models of EfficientZeroV2, which plan, can be "
            "inspected"
        )
    for name, value in (("n_episodes", n_episodes), ("max_steps", max_steps)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={shown(value)} must be a whole number of at least 1")
    environments = _environments(model, env)
    camera = Camera(environments)
    with torch_threads(model.n_threads if model.device.type == "cpu" else None):
        try:
            episodes = play(model.policy, environments, n_episodes, max_steps, deterministic, seed, camera)
        finally:
            if isinstance(env, str):
                environments.close()
        name = env if isinstance(env, str) else _name_of(environments)
        return _measure(model, episodes, name, n_episodes, camera.fault)


def _environments(model: EfficientZeroV2, env: gym.Env | VecEnv | str) -> VecEnv:
    """What was given as SB3 uses it, with pictures where an id makes them possible."""
    made: Any = env
    if isinstance(env, str):
        try:
            made = gym.make(env)
            if "rgb_array" in made.metadata.get("render_modes", []):
                made.close()
                made = gym.make(env, render_mode="rgb_array")
        except gym.error.Error as error:
            raise ValueError(f"env={env!r} cannot be made: {error}") from error
    elif not isinstance(env, gym.Env | VecEnv):
        raise ValueError(f"env={shown(env)} must be a Gymnasium environment, a VecEnv, or the id of a registered one")
    environments = model._wrap_env(made, verbose=0, monitor_wrapper=False)
    check_for_correct_spaces(environments, model.observation_space, model.action_space)
    return environments


def _name_of(environments: VecEnv) -> str:
    """Id of the environments, or the name of their class."""
    spec = environments.get_attr("spec", 0)[0]
    classes = re.findall(r"<(\w+)", environments.env_method("__str__", indices=0)[0])
    return spec.id if spec is not None else classes[-1]


def _measure(
    model: EfficientZeroV2, episodes: list[Episode], name: str, n_episodes: int, render_fault: str
) -> InspectionReport:
    policy, average = model.policy, model.policy.average_model
    states = measures.evaluate(average, episodes)
    calibration = measures.calibrate(episodes, states, model.gamma)
    errors = measures.depth_errors(average, episodes, states)
    first = episodes[0]
    step = _decision_step(first)
    device = average.reward_scale.device
    here = to_tensors({key: part[step : step + 1] for key, part in first.observations.items()}, device)
    spread = to_tensors(_spread(episodes), device)
    rows = _image_rows(model, episodes, states, errors)
    decision = decide(policy, here)
    return InspectionReport(
        title=f"{type(model).__name__} on {name}, {model.num_timesteps:,} steps and {model._n_updates:,} updates",
        episodes=episodes,
        calibration=calibration,
        depth_errors=errors,
        search=measures.search_numbers(average, episodes, states),
        depths=node_depths(policy, spread),
        decision=decision,
        decision_step=step,
        imagined=measures.imagine(average, first, states, model.gamma),
        image_rows=rows,
        left_out=[
            *_left_out_of_play(model, episodes, calibration, n_episodes, render_fault),
            *_left_out_of_pictures(model, errors, decision),
        ],
    )


def _decision_step(episode: Episode) -> int:
    """The state with a frame that is nearest to the middle of the episode, or the middle itself."""
    middle = len(episode) // 2
    with_frame = [step for step in episode.frames if step < len(episode)]
    return min(with_frame, key=lambda step: abs(step - middle)) if with_frame else middle


def _spread(episodes: list[Episode]) -> ObservationArrays:
    """Observations of up to :data:`N_TREES` states, spread over all episodes."""
    of_step = [(episode, t) for episode in episodes for t in range(len(episode))]
    chosen = np.unique(np.linspace(0, len(of_step) - 1, N_TREES).round().astype(np.int64))
    keys = episodes[0].observations
    return {key: np.stack([of_step[i][0].observations[key][of_step[i][1]] for i in chosen]) for key in keys}


def _image_rows(
    model: EfficientZeroV2, episodes: list[Episode], states: measures.States, errors: measures.DepthErrors
) -> list[tuple[int, np.ndarray, np.ndarray | None]]:
    images: dict[str, gym.spaces.Box] = getattr(model.policy.average_model, "images", {})
    if not images:
        return []
    key = next(iter(images))
    rows: list[tuple[int, np.ndarray, np.ndarray | None]] = [(0, episodes[0].observations[key][0], None)]
    for depth, number in zip(errors.depths.tolist(), errors.nearest.tolist(), strict=True):
        if number >= 0:
            found = measures.observation_at(episodes, states, number)[key]
            rows.append((depth, episodes[0].observations[key][depth], found))
    return rows


def _left_out_of_play(
    model: EfficientZeroV2,
    episodes: list[Episode],
    calibration: measures.Calibration | None,
    n_episodes: int,
    render_fault: str,
) -> list[str]:
    """What the report lacks, and why."""
    found = []
    if model._n_updates == 0 and float(model.policy.average_model.observation_count) == 0.0:
        found.append("what a trained model would show: this one has made no update, so all values and plans are chance")
    missing, n_steps = n_episodes - sum(episode.end != CUT for episode in episodes), sum(map(len, episodes))
    if missing:
        found.append(
            f"the end of {missing} of {n_episodes} episodes: the budget of {n_steps} steps was spent (max_steps); "
            "their states count where the return is known all the same"
        )
    if calibration is None:
        needed = steps_until_known(model.gamma)
        so_long = "" if needed is None else f" and none is longer than {needed - 1} steps"
        found.append(f"calibration: no return is known to 1 %, because no episode terminated{so_long}")
    if render_fault:
        found.append(f"the rendered frame: {render_fault}")
    return found


def _left_out_of_pictures(model: EfficientZeroV2, errors: measures.DepthErrors, decision: Decision) -> list[str]:
    """What cannot be drawn, and why."""
    curves = {"rewards": errors.rewards, "values": errors.values, "latent states": errors.latents}
    found = [
        f"the error of {name} by depth: the real ones are all alike, so there is nothing to compare an error with"
        for name, curve in curves.items()
        if np.isnan(curve).all()
    ]
    kind = model.policy.action_kind
    if kind.sampled and not decision.box:
        found.append(f"the policy's density: actions have {math.prod(kind.shape)} dimensions, and one or two are drawn")
    return found
