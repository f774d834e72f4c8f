"""Each extra, alone in a new environment, runs what its documentation promises: ``make extras``.

Every test installs the package, PyTorch included, so ``make test`` leaves them out; ``.ci/run`` runs both.
"""

import os
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.helpers.environments import ROOT, build, call, copy_sources, new_environment, pip_settings, uv_options

TINY = ["learning_starts:40", "n_simulations:4", "batch_size:8", "policy_kwargs:dict(latent_dim=16,hidden_dim=16)"]
LEARN = """
import sys, gymnasium as gym
from sb3_ezv2 import EfficientZeroV2
{before}
for env_id in sys.argv[1:]:
    env = gym.make(env_id)
    model = EfficientZeroV2("MlpPolicy", env, learning_starts=40, n_simulations=4, batch_size=8, seed=0)
    model.learn(60, progress_bar=True)
    assert model.num_timesteps == 60 and model._n_updates > 0
    model.predict(env.reset(seed=0)[0])
"""
ATARI = """
from sb3_ezv2 import EfficientZeroV2
from sb3_ezv2.envs.atari import make_atari
env = make_atari("Pong", training=True)
model = EfficientZeroV2("CnnPolicy", env, learning_starts=30, n_simulations=4, batch_size=4, seed=0)
model.learn(32)
assert model._n_updates > 0
"""
DMC = "from sb3_ezv2.envs.dmc import register_dmc; register_dmc()"
NOT_IN_BASE = ["rl_zoo3", "ale_py", "Box2D", "mujoco", "dm_control", "tensorboard", "pytest", "sphinx", "jax"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build("wheel", copy_sources(folder), folder)


@pytest.fixture(scope="session")
def wheel_metadata(wheel) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        return message_from_bytes(archive.read(name))


class Installed:
    """What an environment can run.

    :param commands: folder of its commands
    :param cwd: folder in which they run
    :param numba_cache: folder of compiled code
    """

    def __init__(self, commands: Path, cwd: Path, numba_cache: Path):
        self.commands, self.cwd = commands, cwd
        # Pictures are drawn without a display, and nothing is fetched from the hub.
        self.variables = {
            "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy", "HF_HUB_OFFLINE": "1",
            "PATH": os.pathsep.join([str(commands), os.defpath]), "COLUMNS": "200",
            "NUMBA_CACHE_DIR": str(numba_cache),
        }  # fmt: skip

    def run(self, command: str, *arguments: str, status: int = 0) -> str:
        return call(self.commands / command, *arguments, cwd=self.cwd, status=status, **self.variables)

    def learn(self, *env_ids: str, before: str = "") -> None:
        self.run("python", "-c", LEARN.format(before=before), *env_ids)


def run_base(new: Installed) -> None:
    new.learn("CartPole-v1", "Pendulum-v1")
    found = f"import importlib.util as u; print([name for name in {NOT_IN_BASE} if u.find_spec(name)])"
    assert new.run("python", "-c", found).splitlines()[-1] == "[]"
    (line,) = new.run("ezv2-train", "--env", "CartPole-v1", status=1).splitlines()
    assert "pip install 'sb3_ezv2[zoo]'" in line


def run_atari(new: Installed) -> None:
    new.run("python", "-c", ATARI)


def run_dmc(new: Installed) -> None:
    new.learn("dm_control/cartpole-swingup-v0", before=DMC)


def run_box2d(new: Installed) -> None:
    new.learn("LunarLander-v3", "BipedalWalker-v3")


def run_mujoco(new: Installed) -> None:
    new.learn("Hopper-v5")


def run_zoo(new: Installed) -> None:
    run = Path(new.cwd) / "logs" / "ezv2" / "CartPole-v1_1"
    new.run(
        "ezv2-train", "--env", "CartPole-v1", "-n", "150", "--eval-episodes", "2", "-tb", "tensorboard", "-P",
        "-params", *TINY,
    )  # fmt: skip
    assert {"CartPole-v1.zip", "best_model.zip", "learning_curve.png"} <= {path.name for path in run.iterdir()}
    assert list((new.cwd / "tensorboard").rglob("events.out.tfevents*"))
    new.run("ezv2-plot", "-e", "CartPole-v1")
    assert (new.cwd / "curves.png").is_file()
    new.run("ezv2-enjoy", "--env", "CartPole-v1", "--no-render", "-n", "20")
    new.run("ezv2-record-video", "--env", "CartPole-v1", "-n", "20")
    assert list(run.rglob("*.mp4"))
    new.run("ezv2-inspect", "--env", "CartPole-v1", "-n", "1")
    assert (run / "inspection.html").is_file()
    new.run("ezv2-push-to-hub", "--env", "CartPole-v1", "-orga", "us", "-n", "30", "--dry-run")
    assert (new.cwd / "hub" / "ezv2-CartPole-v1" / "replay.mp4").stat().st_size > 0
    new.run("ezv2-load-from-hub", "--env", "CartPole-v1", "-orga", "us", "--local", "hub", "-f", "fetched")
    new.run("python", "-m", "rl_zoo3.plots.plot_train", "-a", "ezv2", "-e", "CartPole-v1", "-f", "logs")
    new.run("python", "-m", "rl_zoo3.plots.all_plots", "-a", "ezv2", "-e", "CartPole-v1", "-f", "logs")
    tune = ["-optimize", "--n-trials", "1", "--n-evaluations", "1", "--eval-episodes", "1"]
    new.run("ezv2-train", "--env", "CartPole-v1", "-n", "60", *tune)
    assert list((new.cwd / "logs" / "ezv2").glob("report_CartPole-v1_*.csv"))


def run_everything(new: Installed) -> None:
    for run in (run_atari, run_dmc, run_box2d, run_mujoco):
        run(new)
    for env_id in ("PongNoFrameskip-v4", "dm_control/cartpole-swingup-v0", "LunarLander-v3", "Hopper-v5"):
        # Random actions only: what is trained above need not be trained again.
        new.run("ezv2-train", "--env", env_id, "-n", "20", "--eval-freq", "-1", "-params", "learning_starts:100")


def run_docs(new: Installed) -> None:
    sources = copy_sources(new.cwd)
    new.run("python", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(sources / "docs"), "html")
    assert (new.cwd / "html" / "index.html").is_file()


def run_tests(new: Installed) -> None:
    new.cwd = copy_sources(new.cwd)
    new.run("ruff", "check", ".")
    new.run("mypy", "--version")
    new.run("python", "-m", "pytest", "-q", "--collect-only")
    new.run("python", "-m", "pytest", "-q", "-n", "1", "--cov", "--cov-fail-under=0", "tests/replay/test_sum_tree.py")


def run_benchmarks(new: Installed) -> None:
    new.cwd = copy_sources(new.cwd)
    (module,) = (new.cwd / "benchmarks").rglob("mctx_search.py")
    name = ".".join(module.relative_to(new.cwd).with_suffix("").parts)
    new.run("python", "-c", f"import {name}")


PROMISED = {
    "": run_base, "atari": run_atari, "box2d": run_box2d, "dmc": run_dmc, "mujoco": run_mujoco, "zoo": run_zoo,
    "all": run_everything, "docs": run_docs, "tests": run_tests, "benchmarks": run_benchmarks,
}  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Where environments are made, one after the other at the same path: only the first one compiles."""
    return tmp_path_factory.mktemp("new")


@pytest.mark.extras
@pytest.mark.parametrize("extra", PROMISED, ids=[extra or "base" for extra in PROMISED])
def test_an_extra_alone_runs_what_is_promised(extra, wheel, folder, tmp_path):
    with new_environment(f"sb3_ezv2[{extra}] @ {wheel.as_uri()}", folder) as commands:
        PROMISED[extra](Installed(commands, tmp_path, numba_cache=folder / "numba"))


def test_every_extra_has_a_promise(wheel_metadata):
    assert {""} | set(wheel_metadata.get_all("Provides-Extra")) == set(PROMISED)
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [extra for extra in PROMISED if extra and f"| `{extra}` |" not in page] == []


def test_users_extras_are_all_and_no_developers(wheel_metadata):
    def requirements(extra: str) -> set[str]:
        lines = wheel_metadata.get_all("Requires-Dist")
        return {line.partition(";")[0] for line in lines if f'extra == "{extra}"' in line}

    users = [requirements(extra) for extra in ("atari", "box2d", "dmc", "mujoco", "zoo")]
    assert requirements("all") == set().union(*users)
    assert requirements("all") < requirements("tests")
    assert not {name for name in requirements("all") if name.startswith(("pytest", "sphinx", "ruff", "jax", "mctx"))}


def test_uv_looks_where_pip_looks(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path}/a {tmp_path}/b")
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://example.org/more")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_CONSTRAINT", "c.txt")
    options = uv_options(pip_settings())
    for expected in (
        ["--find-links", f"{tmp_path}/a", "--find-links", f"{tmp_path}/b"],
        ["--index-url", "https://example.org/simple"],
        ["--extra-index-url", "https://example.org/more"],
        ["--constraint", "c.txt"],
    ):
        places = range(len(options))
        assert any(options[place : place + len(expected)] == expected for place in places), (expected, options)
    assert "--no-index" not in options
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "--no-index" in uv_options(pip_settings())
