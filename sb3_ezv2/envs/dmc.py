"""dm_control tasks with the paper's protocol: flat observations, action repeat 2, 1,000 frames an episode."""

import contextlib
import ctypes.util
import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import FlattenObservation, RescaleAction

NAMESPACE = "dm_control"
SMALL_SIZE = 64
"""Pixels per side of ``-vision-small-v0``."""

TASKS = (
    "acrobot-swingup",
    "ball_in_cup-catch",
    "cartpole-balance",
    "cartpole-balance_sparse",
    "cartpole-swingup",
    "cartpole-swingup_sparse",
    "cheetah-run",
    "finger-spin",
    "finger-turn_easy",
    "finger-turn_hard",
    "fish-swim",
    "fish-upright",
    "hopper-hop",
    "hopper-stand",
    "humanoid-run",
    "humanoid-stand",
    "humanoid-walk",
    "pendulum-swingup",
    "point_mass-easy",
    "quadruped-run",
    "quadruped-walk",
    "reacher-easy",
    "reacher-hard",
    "swimmer-swimmer6",
    "swimmer-swimmer15",
    "walker-run",
    "walker-stand",
    "walker-walk",
)
"""Tasks that have an id, among them the paper's twenty."""


class ActionRepeat(gym.Wrapper):
    """Apply every action several times and add up the rewards.

    :param env: to be wrapped
    :param n_repeats: frames per decision, at least 1; an episode that ends in between ends at once
    :raises ValueError: if ``n_repeats`` is less than 1
    """

    def __init__(self, env: gym.Env, n_repeats: int) -> None:
        super().__init__(env)
        if n_repeats < 1:
            raise ValueError(f"n_repeats={n_repeats} must be at least 1")
        self.n_repeats = n_repeats

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step ``n_repeats`` frames."""
        total = 0.0
        for _ in range(self.n_repeats):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def env_id(task: str) -> str:
    """Id of a task, for example ``dm_control/walker-walk-v0``."""
    return f"{NAMESPACE}/{task}-v0"


def register_dmc() -> None:
    """Give every task of :data:`TASKS` its id in Gymnasium, without importing MuJoCo.

    The ids are those of shimmy, whose environments have one frame per decision and a dictionary of observations. Ours
    take their place for this process, so that an id means the same wherever it is used. Ids that end in
    ``-vision-v0`` are the same tasks seen as images, see :mod:`sb3_ezv2.envs.dmc_vision`, and those that end in
    ``-vision-small-v0`` as 64 x 64 grey pixels, for a CPU.
    """
    vision, small = f"{__name__}_vision:make_dmc_vision", {"size": SMALL_SIZE, "grey": True}
    makers: dict[str, tuple[str, dict[str, Any]]] = {
        "": (f"{__name__}:make_dmc", {}),
        "-vision": (vision, {}),
        "-vision-small": (vision, small),
    }
    for task in TASKS:
        for suffix, (maker, kwargs) in makers.items():
            name = env_id(f"{task}{suffix}")
            gym.registry.pop(name, None)
            gym.register(name, entry_point=maker, kwargs={"task": task, **kwargs}, disable_env_checker=True)


def make_dmc(
    task: str, action_repeat: int = 2, render_mode: str | None = None, render_kwargs: dict[str, Any] | None = None
) -> gym.Env:
    """A dm_control task as the paper uses it, with flat observations.

    An episode lasts 1,000 frames and is then truncated; the few tasks that can fail terminate. Actions lie in [-1, 1].

    :param task: domain and task, for example ``"walker-walk"``
    :param action_repeat: frames per decision
    :param render_mode: ``"rgb_array"`` or ``"human"``
    :param render_kwargs: of dm_control's ``render``, for example ``{"camera_id": 0, "height": 480, "width": 480}``
    :raises ImportError: naming the extra to install if dm_control is missing
    :raises ValueError: if there is no such task
    """
    return FlattenObservation(make_task(task, action_repeat, render_mode, render_kwargs))


def make_task(task: str, action_repeat: int, render_mode: str | None, render_kwargs: dict[str, Any] | None) -> gym.Env:
    """:func:`make_dmc` with the task's own dictionary of observations; parameters and errors as there."""
    suite, compatibility = _import_suite()
    domain, _, name = task.partition("-")
    if (domain, name) not in suite.ALL_TASKS:
        raise ValueError(f"task={task!r} is not in the DeepMind Control Suite; name it like 'walker-walk'")
    env: gym.Env = compatibility.DmControlCompatibilityV0(suite.load(domain, name), render_mode, render_kwargs)
    env = ActionRepeat(env, action_repeat)
    if np.isfinite(env.action_space.low).all() and np.isfinite(env.action_space.high).all():  # type: ignore[attr-defined]
        env = RescaleAction(env, np.float32(-1.0), np.float32(1.0))
    return env


def _import_suite() -> tuple[ModuleType, ModuleType]:
    """``dm_control.suite`` and shimmy's adapter.

    Importing shimmy registers all its environments; what had an id before keeps it.
    """
    before = dict(gym.registry)
    _choose_renderer()
    # PyTorch's builds for CUDA load Triton with the first optimiser. After Mesa, which draws without a display and
    # brings another LLVM, that ends the process with a segmentation fault; the other way round both work.
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Overriding environment")
            from dm_control import suite
            from shimmy import dm_control_compatibility
    except ImportError as error:
        raise ImportError(f"{error}; dm_control tasks need the extra: pip install 'sb3_ezv2[dmc]'") from error
    finally:
        gym.registry.update(before)
    return suite, dm_control_compatibility


def _choose_renderer() -> None:
    """Let MuJoCo draw without a display, if there is none: it would look for a window system and fail."""
    if sys.platform != "linux" or any(name in os.environ for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
