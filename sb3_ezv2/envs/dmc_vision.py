"""dm_control tasks from pixels with the paper's protocol: 96 x 96 RGB, action repeat 2, 1,000 frames an episode.

Pictures are drawn by MuJoCo off screen, with EGL or OSMesa where there is no display. Frames are stacked by
``VecFrameStack(env, 4)``.
"""

import gymnasium as gym
from gymnasium.wrappers import AddRenderObservation, GrayscaleObservation

from sb3_ezv2.envs.dmc import make_task

SCREEN_SIZE = 96
CAMERAS = {"quadruped": 2}
"""Camera that follows the body, by domain; 0 elsewhere."""


def make_dmc_vision(
    task: str,
    action_repeat: int = 2,
    size: int = SCREEN_SIZE,
    camera_id: int | None = None,
    grey: bool = False,
    render_mode: str = "rgb_array",
) -> gym.Env:
    """A dm_control task whose observations are pictures.

    Everything else is as :func:`sb3_ezv2.envs.dmc.make_dmc` makes it.

    :param task: domain and task, for example ``"walker-walk"``
    :param action_repeat: frames per decision
    :param size: pixels per side
    :param camera_id: camera of the task; ``None`` for 2 with the quadruped and 0 with everything else
    :param grey: whether pictures have one channel, their brightness
    :param render_mode: only ``"rgb_array"``, which is also what the observations are
    :raises ImportError: naming the extra to install if dm_control is missing
    :raises OSError: naming the Debian package to install if nothing can draw pictures
    :raises ValueError: if there is no such task or camera
    """
    if render_mode != "rgb_array":
        raise ValueError(f"render_mode={render_mode!r} must be 'rgb_array': the observations are drawn with it")
    camera = CAMERAS.get(task.partition("-")[0], 0) if camera_id is None else camera_id
    env = make_task(task, action_repeat, render_mode, {"height": size, "width": size, "camera_id": camera})
    n_cameras = env.unwrapped._env.physics.model.ncam  # type: ignore[attr-defined]
    if not -1 <= camera < n_cameras:
        raise ValueError(f"camera_id={camera} is not a camera of {task}, which has {n_cameras}; -1 is the free one")
    try:
        env = AddRenderObservation(env)
    except Exception as error:  # every backend fails in a way of its own
        raise OSError(
            f"MuJoCo cannot draw pictures ({type(error).__name__}: {error}); install EGL (Debian: libegl1) and set "
            "MUJOCO_GL=egl, or OSMesa (Debian: libosmesa6) and set MUJOCO_GL=osmesa"
        ) from error
    return GrayscaleObservation(env, keep_dim=True) if grey else env
