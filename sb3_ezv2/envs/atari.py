"""Atari games with the protocol of the Atari 100k benchmark (Kaiser et al. 2020; EfficientZero V2, appendix).

The emulator, frame skip, no-op starts and resizing are those of ale-py and Gymnasium, lives and reward signs those of
Stable-Baselines3; here they are put together. Frames are stacked by ``VecFrameStack(env, 4)``.
"""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import AtariPreprocessing
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, EpisodicLifeEnv

FRAME_SKIP = 4
"""Frames of the emulator per decision; the observation is the maximum of the last two of them."""
NOOP_MAX = 30
SCREEN_SIZE, SMALL_SCREEN_SIZE = 96, 64
MAX_FRAMES = 27_000
"""Frames of the emulator after which an episode is truncated."""
STICKY_PROBABILITY = 0.25
"""Probability with which sticky actions repeat the previous one (Machado et al. 2018)."""

GAMES = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)  # fmt: skip
"""The 26 games of the benchmark."""


class AtariFrames(AtariPreprocessing):
    """What a player sees of a game: every fourth frame, by default as 96 x 96 RGB, after up to 30 random no-ops.

    :param env: a game that shows every frame of the emulator (``frameskip=1``)
    :param noop_max: no-ops at the start at most
    :param screen_size: pixels per side
    :param grey: whether frames have one channel, their brightness
    :raises ValueError: if the game skips frames itself
    """

    def __init__(
        self, env: gym.Env, noop_max: int = NOOP_MAX, screen_size: int = SCREEN_SIZE, grey: bool = False
    ) -> None:
        if getattr(env.unwrapped, "_frameskip", 1) != 1:
            raise ValueError(
                f"{env} skips frames itself; make the game with frameskip=1, or take its id '...NoFrameskip-v4'"
            )
        super().__init__(env, noop_max, FRAME_SKIP, screen_size, grayscale_obs=grey, grayscale_newaxis=grey)


class AtariTraining(ClipRewardEnv):
    """What training sees besides: the sign of every reward, and an episode that ends with every life.

    The game goes on after a lost life. Evaluation does without this wrapper, so that its returns are those of full
    games.

    :param env: the game
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(EpisodicLifeEnv(env))


def make_atari(
    game: str, training: bool, sticky_actions: bool = False, render_mode: str | None = None, **kwargs: Any
) -> gym.Env:
    """A game with the protocol of Atari 100k, one observation being one frame of 96 x 96 RGB.

    :param game: one of :data:`GAMES` or another game of ale-py, for example ``"Pong"``
    :param training: whether rewards are clipped to their signs and lost lives end episodes
    :param sticky_actions: whether actions are repeated at random, which the benchmark does not do
    :param render_mode: ``"rgb_array"`` or ``"human"``
    :param kwargs: further arguments of :class:`AtariFrames`
    :raises ImportError: naming the extra to install if ale-py is missing
    :raises ValueError: if there is no such game
    """
    register_atari()
    if f"ALE/{game}-v5" not in gym.registry:
        raise ValueError(f"game={game!r} is not a game of ale-py; name it like 'Pong' or 'MsPacman'")
    env = gym.make(
        f"ALE/{game}-v5",
        frameskip=1,
        repeat_action_probability=STICKY_PROBABILITY if sticky_actions else 0.0,
        max_num_frames_per_episode=MAX_FRAMES,
        render_mode=render_mode,
    )
    env = AtariFrames(env, **kwargs)
    return AtariTraining(env) if training else env


def make_small_atari(game: str, render_mode: str | None = None) -> gym.Env:
    """A game as :func:`make_atari` makes it for evaluation, but seen as 64 x 64 grey pixels, for a CPU.

    :param game: for example ``"Pong"``
    :param render_mode: ``"rgb_array"`` or ``"human"``
    """
    return make_atari(game, training=False, render_mode=render_mode, screen_size=SMALL_SCREEN_SIZE, grey=True)


def register_small_atari() -> None:
    """Give :func:`make_small_atari` an id for every game, ``small_atari/Pong-v0``, without importing ale-py."""
    for game in GAMES:
        name = f"small_atari/{game}-v0"
        if name not in gym.registry:
            gym.register(name, entry_point=f"{__name__}:make_small_atari", kwargs={"game": game})


def register_atari() -> None:
    """Give the games of ale-py their ids in Gymnasium.

    :raises ImportError: naming the extra to install if ale-py or OpenCV, which resizes frames, is missing
    """
    try:
        import ale_py
        import cv2  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is missing; Atari needs the extra: pip install 'sb3_ezv2[atari]'") from error
    gym.register_envs(ale_py)


def is_atari_id(env_id: str) -> bool:
    """Whether an id is that of a game, whether ale-py is installed or not."""
    return env_id.startswith("ALE/") or env_id.endswith("NoFrameskip-v4")
