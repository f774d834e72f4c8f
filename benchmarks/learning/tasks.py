"""The one table of tasks that learning is measured on: environment, budget, interval of evaluations.

It has no settings of the algorithm: those are the constructor's defaults, or what a command says.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TransformObservation, TransformReward
from stable_baselines3.common.preprocessing import is_image_space

from benchmarks.learning import solvable
from benchmarks.learning.pixel_tasks import Catch, CatchContinuous, CatchDict
from sb3_ezv2.envs.atari import FRAME_SKIP, GAMES, SMALL_SCREEN_SIZE, AtariTraining, make_atari
from sb3_ezv2.envs.dmc import SMALL_SIZE, make_dmc
from sb3_ezv2.envs.dmc_vision import make_dmc_vision

MINATAR_STEPS = 2_500
Wrap = Callable[[gym.Env], gym.Env]


class Task(NamedTuple):
    """One benchmark task."""

    group: str
    make_env: Callable[[], gym.Env]
    n_steps: int  # environment steps, or decisions where actions are repeated
    eval_interval: int
    training_wrapper: Wrap | None = None  # of training only: evaluations count the task's own rewards
    normalised: bool = False  # whether VecNormalize stands around training
    published: str = ""  # its name in the tables of published scores, if it differs
    action_repeat: int = 1
    n_stack: int = 1  # observations that VecFrameStack stacks
    solved: float | None = None  # mean return at which it counts as solved
    asked: dict[int, float] = {}  # mean return to be reached, by step


def policy_for(observation_space: gym.Space) -> str:
    """Alias of the policy that a space needs."""
    if isinstance(observation_space, gym.spaces.Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if is_image_space(observation_space) else "MlpPolicy"


def _plain(group: str, n_steps: int, eval_interval: int, *names: str, **fields: object) -> dict[str, Task]:
    """Tasks that Gymnasium makes by their name."""
    return {name: Task(group, partial(gym.make, name), n_steps, eval_interval, **fields) for name in names}  # type: ignore[arg-type]


def _dmc(n_steps: int, asked: dict[str, dict[int, float]], *names: str) -> dict[str, Task]:
    """Tasks of dm_control with the action repeat of the paper; its tables count frames and write names differently."""
    return {
        name: Task(
            "dmc",
            partial(make_dmc, name),
            n_steps,
            2_500,
            published=name.replace("ball_in_cup", "cup").replace("-", "_"),
            action_repeat=2,
            asked=asked.get(name, {}),
        )
        for name in names
    }


def _minatar(name: str) -> gym.Env:
    """A MinAtar game as an image of bytes, one channel for each kind of thing, channels first.

    A game that a policy never ends is truncated after ``MINATAR_STEPS``.

    :raises ImportError: without the package
    """
    try:
        import minatar.gym  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("MinAtar is missing; pip install minatar") from error
    if f"MinAtar/{name}-v1" not in gym.registry:
        minatar.gym.register_envs()
    env = gym.make(f"MinAtar/{name}-v1", max_episode_steps=MINATAR_STEPS)
    height, width, n_channels = env.observation_space.shape  # type: ignore[misc]
    space = gym.spaces.Box(0, 255, (n_channels, height, width), np.uint8)
    return TransformObservation(env, _as_image, space)


def _as_image(grid: np.ndarray) -> np.ndarray:
    """A grid of bits ``[height, width, n_channels]`` as an image ``[n_channels, height, width]``."""
    return 255 * np.ascontiguousarray(grid.transpose(2, 0, 1)).astype(np.uint8)


def _minigrid(name: str) -> gym.Env:
    """A MiniGrid task with its partial view, an image of 7 x 7 cells that each hold a kind, a colour and a state.

    :raises ImportError: without the package
    """
    try:
        from minigrid.wrappers import ImgObsWrapper
    except ImportError as error:
        raise ImportError("MiniGrid is missing; pip install minigrid") from error
    return ImgObsWrapper(gym.make(f"MiniGrid-{name}-v0"))


def _atari(group: str, game: str, n_steps: int, eval_interval: int, **frames: int) -> Task:
    """A game of Atari 100k in stacks of four frames; a step is a decision, and evaluations count full games."""
    make_env = partial(make_atari, game, training=False, **frames)
    return Task(group, make_env, n_steps, eval_interval, AtariTraining, action_repeat=FRAME_SKIP, n_stack=4)


def _times(factor: float) -> Wrap:
    return lambda env: TransformReward(env, lambda reward: factor * float(reward))


_CARTPOLE = _plain("classic", 10_000, 500, "CartPole-v1", solved=475, asked={3_000: 475, 5_000: 475})
_LOCOMOTION = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Swimmer-v5", "Humanoid-v5")

TASKS: dict[str, Task] = {
    **_CARTPOLE,
    "CartPole-v1-rewards-1e-3": _CARTPOLE["CartPole-v1"]._replace(training_wrapper=_times(1e-3)),
    "CartPole-v1-rewards-1e4": _CARTPOLE["CartPole-v1"]._replace(training_wrapper=_times(1e4)),
    "CartPole-v1-normalised": _CARTPOLE["CartPole-v1"]._replace(normalised=True),
    **_plain("classic", 10_000, 1_000, "Acrobot-v1", solved=-100, asked={5_000: -100}),
    **_plain("classic", 10_000, 1_000, "MountainCar-v0", solved=-110, asked={10_000: -130}),
    **_plain("classic", 10_000, 500, "MountainCarContinuous-v0", solved=90, asked={5_000: 90}),
    **_plain("classic", 5_000, 1_000, "Pendulum-v1", solved=-200, asked={3_000: -200, 5_000: -160}),
    **_plain("box2d", 80_000, 5_000, "LunarLander-v3", published="LunarLander-v2", asked={50_000: 200}),
    **{
        "LunarLanderContinuous-v3": Task(
            "box2d",
            partial(gym.make, "LunarLander-v3", continuous=True),
            80_000,
            5_000,
            published="LunarLanderContinuous-v2",
        )
    },
    **_plain("box2d", 100_000, 5_000, "BipedalWalker-v3"),
    **_plain("mujoco", 20_000, 1_000, "InvertedPendulum-v5", "Reacher-v5"),
    **_plain("mujoco", 20_000, 1_000, "InvertedDoublePendulum-v5", asked={20_000: 9_000}),
    **{
        name: task._replace(published=name.replace("-v5", "-v4"))
        for name, task in _plain("mujoco", 100_000, 5_000, *_LOCOMOTION).items()
    },
    **_dmc(
        50_000,
        {"cartpole-swingup": {16_000: 780, 50_000: 850}, "walker-walk": {50_000: 940}},
        "ball_in_cup-catch",
        "cartpole-balance",
        "cartpole-balance_sparse",
        "cartpole-swingup",
        "finger-spin",
        "pendulum-swingup",
        "reacher-easy",
        "reacher-hard",
        "walker-stand",
        "walker-walk",
    ),
    **_dmc(
        100_000,
        {"finger-turn_easy": {100_000: 700}, "finger-turn_hard": {100_000: 700}},
        "acrobot-swingup",
        "cartpole-swingup_sparse",
        "cheetah-run",
        "finger-turn_easy",
        "finger-turn_hard",
        "hopper-hop",
        "hopper-stand",
        "quadruped-run",
        "quadruped-walk",
        "walker-run",
    ),
    **{
        f"MinAtar-{name}": Task("minatar", partial(_minatar, name), 100_000, 5_000)
        for name in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
    },
    **{
        env_id.removeprefix("solvable/"): Task("solvable", partial(gym.make, env_id), 10_000, 1_000)
        for env_id in solvable.IDS
    },
    **{game: _atari("atari", game, 100_000, 50_000) for game in GAMES},
    "Pong-48": _atari("small atari", "Pong", 10_000, 5_000, screen_size=48),
    **{
        f"{game}-64": _atari("small atari", game, 100_000, 10_000, screen_size=SMALL_SCREEN_SIZE, grey=True)._replace(
            published=game
        )
        for game in ("Pong", "Breakout")
    },
    "cartpole-swingup-vision-small": Task(
        "small vision",
        partial(make_dmc_vision, "cartpole-swingup", size=SMALL_SIZE, grey=True),
        50_000,
        2_500,
        published="cartpole_swingup",
        action_repeat=2,
        n_stack=4,
    ),
    "MiniGrid-Empty-8x8": Task(
        "minigrid", partial(_minigrid, "Empty-8x8"), 10_000, 1_000, solved=0.9, asked={10_000: 0.9}
    ),
    "MiniGrid-DoorKey-5x5": Task(
        "minigrid", partial(_minigrid, "DoorKey-5x5"), 50_000, 5_000, solved=0.8, asked={50_000: 0.8}
    ),
    "catch": Task("pixels", Catch, 5_000, 500, asked={5_000: 0.95}),
    "catch-continuous": Task("pixels", CatchContinuous, 5_000, 500, asked={5_000: 0.9}),
    "catch-dict": Task("pixels", CatchDict, 5_000, 500, asked={5_000: 0.95}),
}

GROUPS = tuple(dict.fromkeys(task.group for task in TASKS.values()))


def chosen(names: list[str]) -> dict[str, Task]:
    """Tasks by their names or by the names of their groups.

    :raises ValueError: for a name that is neither
    """
    found = {}
    for name in names:
        of_group = {each: task for each, task in TASKS.items() if task.group == name}
        if not of_group and name not in TASKS:
            raise ValueError(f"--tasks {name} is neither a task nor a group; `list` shows both")
        found.update(of_group or {name: TASKS[name]})
    return found
