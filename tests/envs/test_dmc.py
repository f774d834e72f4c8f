"""dm_control tasks under plain ids: protocol, seeds, limits, and nothing imported before it is needed."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import yaml

from sb3_ezv2.envs.dmc import TASKS, ActionRepeat, env_id, make_dmc, register_dmc
from sb3_ezv2.envs.dmc_vision import make_dmc_vision
from sb3_ezv2.zoo.settings import hyperparameter_file
from tests.helpers.zoo import environment

pytest.importorskip("dm_control")


@pytest.fixture(autouse=True)
def registered():
    register_dmc()


def episode(env: gym.Env, seed: int) -> tuple[np.ndarray, list[float], bool, bool]:
    """Observations, rewards and the end of an episode of random actions."""
    env.action_space.seed(0)
    observations, rewards = [env.reset(seed=seed)[0]], []
    terminated = truncated = False
    while not (terminated or truncated):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        observations.append(observation)
        rewards.append(float(reward))
    return np.stack(observations), rewards, terminated, truncated


def test_protocol():
    env = gym.make("dm_control/walker-walk-v0")
    assert isinstance(env.observation_space, gym.spaces.Box) and env.observation_space.shape == (24,)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (6,), env.action_space.dtype)
    observations, rewards, terminated, truncated = episode(env, seed=0)
    assert len(rewards) == 500  # 1,000 frames
    assert (terminated, truncated) == (False, True)
    assert observations.shape == (501, 24) and np.isfinite(observations).all()
    assert all(0 <= reward <= 2 for reward in rewards)  # at most 1 for each frame


def test_seeds():
    def first_steps(seed: int) -> np.ndarray:
        return episode(gym.make("dm_control/cartpole-swingup-v0", action_repeat=50), seed)[0]

    np.testing.assert_array_equal(first_steps(1), first_steps(1))
    assert not np.array_equal(first_steps(1), first_steps(2))


@pytest.mark.parametrize("repeat, n_steps", [(1, 1000), (3, 334), (4, 250)])
def test_action_repeat_can_be_chosen(repeat, n_steps):
    _, rewards, terminated, truncated = episode(gym.make("dm_control/pendulum-swingup-v0", action_repeat=repeat), 0)
    assert (len(rewards), terminated, truncated) == (n_steps, False, True)


def test_repeated_rewards_add_up():
    one, two = make_dmc("cartpole-balance", action_repeat=1), make_dmc("cartpole-balance")
    one.reset(seed=0), two.reset(seed=0)
    action = np.array([0.3], dtype=np.float32)
    for _ in range(5):
        rewards = [one.step(action)[1] for _ in range(2)]
        assert two.step(action)[1] == pytest.approx(sum(rewards))


def test_a_failure_terminates():
    """The linear-quadratic regulator ends when it has come to rest, with a discount of zero: that is no time limit."""
    env = make_dmc("lqr-lqr_2_1")
    env.reset(seed=0)
    inner = env.unwrapped._env
    with inner.physics.reset_context():
        inner.physics.data.qpos[:] = 0
        inner.physics.data.qvel[:] = 0
    action = np.zeros(env.action_space.shape, dtype=env.action_space.dtype)
    *_, terminated, truncated, _ = env.step(action)
    assert (terminated, truncated) == (True, False)


def test_nothing_is_imported_before_it_is_needed(tmp_path):
    code = (
        "import sys, gymnasium as gym, sb3_ezv2.zoo\n"
        "assert 'dm_control/walker-walk-v0' in gym.registry\n"
        "assert not {'mujoco', 'dm_control'} & set(sys.modules)\n"
        "env = gym.make('dm_control/cartpole-balance-v0')\n"
        "assert 'dm_control' in sys.modules\n"
        "import shimmy\n"  # registers its own environments of the same names
        "assert gym.make('dm_control/cartpole-balance-v0').observation_space.shape == (5,)\n"
        "assert 'dm_control/compatibility-env-v0' in gym.registry\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_triton_is_loaded_before_what_draws(tmp_path):
    """After it, it would crash. PyTorch's builds for a CPU come without it: something else has its name here."""
    (tmp_path / "triton.py").write_text("import sys\nprint('dm_control' in sys.modules, 'mujoco' in sys.modules)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from sb3_ezv2.envs.dmc import make_dmc; "
    code += "make_dmc('walker-walk'); print('dm_control' in sys.modules, 'mujoco' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True"]


def test_all_tasks_of_the_paper_have_an_id_and_settings():
    entries = [name for name in yaml.safe_load(hyperparameter_file().read_text()) if name.startswith("dm_control/")]
    assert len(entries) == 41  # one of them small
    tasks = {name.replace("-vision", "").replace("-small", "") for name in entries}
    assert tasks <= {env_id(task) for task in TASKS}
    assert sum("-vision-v0" in name for name in entries) == 20
    assert set(entries) <= set(gym.registry)


def test_all_tasks_exist():
    from dm_control import suite

    for task in TASKS:
        assert tuple(task.split("-", 1)) in suite.ALL_TASKS


def test_unknown_tasks_are_refused():
    with pytest.raises(ValueError, match="walker-fly"):
        make_dmc("walker-fly")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(ImportError, match=r"sb3_ezv2\[dmc\]"):
        gym.make("dm_control/walker-walk-v0")


class Counter(gym.Env):
    """Rewards count the frames; the episode ends at the fifth."""

    observation_space = gym.spaces.Box(0, 10)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.frame = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.frame += 1
        return np.full(1, self.frame, dtype=np.float32), float(self.frame), self.frame == 5, False, {}


def test_a_repeated_action_stops_at_the_end_of_the_episode():
    env = ActionRepeat(Counter(), 3)
    env.reset()
    assert env.step(0)[1:4] == (6.0, False, False)
    observation, reward, terminated, _, _ = env.step(0)
    assert (observation[0], reward, terminated) == (5.0, 9.0, True)
    with pytest.raises(ValueError, match="n_repeats=0"):
        ActionRepeat(Counter(), 0)


# -- pictures ----------------------------------------------------------------------------------------------------------


def make_picture(task: str, **kwargs) -> gym.Env:
    """The task from pixels, or a skipped test where nothing can draw."""
    try:
        return make_dmc_vision(task, **kwargs)
    except OSError as error:
        pytest.skip(str(error))


def test_pictures_are_what_the_camera_sees():
    env = make_picture("walker-walk")
    assert env.observation_space == gym.spaces.Box(0, 255, (96, 96, 3), np.uint8)
    first, _ = env.reset(seed=0)
    physics = env.unwrapped._env.physics
    np.testing.assert_array_equal(first, physics.render(height=96, width=96, camera_id=0))
    time = physics.data.time
    second, *_ = env.step(env.action_space.sample())
    assert (first != second).any()
    assert physics.data.time - time == pytest.approx(2 * env.unwrapped._env.control_timestep())
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(first, again)


def test_the_quadruped_is_seen_by_the_camera_that_follows_it():
    env = make_picture("quadruped-walk")
    first, _ = env.reset(seed=0)
    physics = env.unwrapped._env.physics
    np.testing.assert_array_equal(first, physics.render(height=96, width=96, camera_id=2))
    assert (first != physics.render(height=96, width=96, camera_id=0)).any()


def test_bad_cameras_and_modes_are_refused():
    with pytest.raises(ValueError, match="camera_id=7 is not a camera of walker-walk, which has 2"):
        make_dmc_vision("walker-walk", camera_id=7)
    with pytest.raises(ValueError, match="render_mode='human' must be 'rgb_array'"):
        make_dmc_vision("walker-walk", render_mode="human")


def test_without_anything_that_draws_the_packages_are_named():
    program = "from sb3_ezv2.envs.dmc_vision import make_dmc_vision; make_dmc_vision('cartpole-swingup')"
    variables = {name: value for name, value in environment().items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    variables["MUJOCO_GL"] = "disabled"
    command = [sys.executable, "-W", "ignore", "-c", program]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "OSError: MuJoCo cannot draw pictures" in result.stderr
    assert "libegl1" in result.stderr and "libosmesa6" in result.stderr
