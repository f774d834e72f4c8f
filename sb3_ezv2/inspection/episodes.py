"""Episodes played for an inspection, with every plan that was made on the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

from sb3_ezv2.common.spaces import check_finite, named_arrays
from sb3_ezv2.common.type_aliases import ObservationArrays, Plan
from sb3_ezv2.policies import PlanningPolicy

TERMINATED, TRUNCATED, CUT = "terminated", "truncated", "cut"
"""How an episode ends; the last one where the budget was spent."""


@dataclass(frozen=True)
class Episode:
    """One episode of ``n`` steps."""

    observations: ObservationArrays  # [n + 1, ...] as the model sees them; the last one lies behind the last step
    actions: np.ndarray  # [n, *action_shape]
    rewards: np.ndarray  # [n] float64, in the units of the values
    plans: Plan  # of the first n states
    end: str  # TERMINATED, TRUNCATED or CUT
    frames: dict[int, np.ndarray]  # rendered pictures [height, width, 3] by the number of the state

    def __len__(self) -> int:
        return len(self.rewards)


@dataclass
class _Stream:
    """What one environment has done since its episode began."""

    observations: list[ObservationArrays] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    frames: dict[int, np.ndarray] = field(default_factory=dict)

    def episode(self, end: str, last: ObservationArrays) -> Episode:
        """The steps so far, which lead to the observation ``last``."""
        every = [*self.observations, last]
        return Episode(
            {key: np.stack([part[key] for part in every]) for key in last},
            np.stack([plan.actions for plan in self.plans]),
            np.array(self.rewards),
            Plan(*(np.stack(parts) for parts in zip(*self.plans, strict=True))),
            end,
            self.frames,
        )


class Camera:
    """Keeps a few frames of the first episode: of states 0, 1, 2, 4, 8 and so on, of which one lies near its middle.

    :param env: environments, whose first one is watched
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.fault = ""
        """Why there are no frames."""
        if env.render_mode != "rgb_array":
            mode = "nothing" if env.render_mode is None else f"to {env.render_mode!r}"
            self.fault = f"the environment renders {mode}; make it with render_mode='rgb_array'"

    def take(self, step: int) -> np.ndarray | None:
        """Picture of a state, ``None`` if it is not wanted or there is none."""
        if self.fault or step & (step - 1):
            return None
        try:
            frame = self.env.get_images()[0]
            if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
                raise ValueError("a frame is no array [height, width, 3]")
        except Exception as error:  # of whatever draws
            self.fault = f"rendering failed: {type(error).__name__}: {' '.join(str(error).split())}"
            return None
        return frame.astype(np.uint8)


def play(
    policy: PlanningPolicy,
    env: VecEnv,
    n_episodes: int,
    max_steps: int,
    deterministic: bool,
    seed: int | None,
    camera: Camera,
) -> list[Episode]:
    """Play episodes, the first ``n_episodes`` of all environments together that do not favour short ones.

    :param policy: acts by its searches
    :param env: environments; they are seeded and reset
    :param n_episodes: how many
    :param max_steps: of all episodes together; what is open then is cut
    :param deterministic: greedy instead of exploring
    :param seed: of the environments and of exploration
    :param camera: takes pictures of the first episode
    :raises ValueError: if an observation or a reward is not finite
    """
    if seed is not None:
        env.seed(seed)
    with _statistics_stand_still(env):
        return _play(policy, env, n_episodes, max_steps, deterministic, np.random.default_rng(seed), camera)


def _play(
    policy: PlanningPolicy,
    env: VecEnv,
    n_episodes: int,
    max_steps: int,
    deterministic: bool,
    rng: np.random.Generator,
    camera: Camera,
) -> list[Episode]:
    left = [(n_episodes + env.num_envs - 1 - i) // env.num_envs for i in range(env.num_envs)]
    streams = [_Stream() for _ in left]
    found: list[tuple[int, Episode]] = []
    observations, n_steps = named_arrays(_checked(env.reset())), 0
    while any(left) and n_steps < max_steps:
        frame = camera.take(len(streams[0].rewards)) if not any(i == 0 for i, _ in found) else None
        if frame is not None:
            streams[0].frames[len(streams[0].rewards)] = frame
        tensors, _ = policy.obs_to_tensor(_unnamed(observations, policy))
        plan = policy.search(tensors, deterministic, rng)
        new, rewards, dones, infos = env.step(policy.to_env_actions(plan.actions))
        check_finite("reward", rewards)
        following = named_arrays(_checked(new))
        for i, stream in enumerate(streams):
            if not left[i]:
                continue
            n_steps += 1
            stream.observations.append({key: part[i] for key, part in observations.items()})
            stream.plans.append(Plan(*(part[i] for part in plan)))
            stream.rewards.append(float(rewards[i]))
            if dones[i]:
                end = TRUNCATED if infos[i].get("TimeLimit.truncated", False) else TERMINATED
                found.append((i, stream.episode(end, named_arrays(infos[i]["terminal_observation"]))))
                left[i] -= 1
                streams[i] = _Stream()
        observations = following
    for i, stream in enumerate(streams):
        if left[i] and stream.rewards:
            found.append((i, stream.episode(CUT, {key: part[i] for key, part in observations.items()})))
    # The first one is that with the pictures.
    return [episode for _, episode in sorted(found, key=lambda item: not item[1].frames)]


def _checked(observations: Any) -> Any:
    check_finite("observation", observations)
    return observations


def _unnamed(observations: ObservationArrays, policy: PlanningPolicy) -> np.ndarray | ObservationArrays:
    """As environments give them."""
    return observations if hasattr(policy.observation_space, "spaces") else observations["observation"]


@contextmanager
def _statistics_stand_still(env: VecEnv) -> Iterator[None]:
    """Keep a ``VecNormalize`` from learning what is played here."""
    wrapper: VecEnv = env
    while isinstance(wrapper, VecEnvWrapper) and not isinstance(wrapper, VecNormalize):
        wrapper = wrapper.venv
    if not isinstance(wrapper, VecNormalize):
        yield
        return
    before = wrapper.training
    wrapper.training = False
    try:
        yield
    finally:
        wrapper.training = before
