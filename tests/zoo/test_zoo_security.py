"""What lies beside a model runs nothing."""

import os
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import yaml

from sb3_ezv2 import EfficientZeroV2, command_line
from sb3_ezv2.zoo import hub
from sb3_ezv2.zoo.hub import checked_file
from sb3_ezv2.zoo.settings_files import check_wrappers, keyword_values, read_settings, saved_hyperparams
from tests.helpers.tiny import TINY_NETWORK

ATTACKS = [
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [ran]]",
    "!!python/object/apply:os.system ['touch ran']",
    "!!python/object/new:os.system ['touch ran']",
    "!!python/object:builtins.list {}",
    "!!python/module:antigravity ''",
    "!!python/object/apply:builtins.exec [\"open('ran', 'w')\"]",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(command_line.DEBUG_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "CartPole-v1.zip"
    EfficientZeroV2("MlpPolicy", "CartPole-v1", policy_kwargs=TINY_NETWORK, device="cpu").save(path)
    return path


@pytest.fixture
def settings(tmp_path, model_file) -> Path:
    """Folder of the settings of a run with a model."""
    folder = tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "CartPole-v1"
    folder.mkdir(parents=True)
    shutil.copy(model_file, folder.parent)
    (folder / "args.yml").write_text("env: CartPole-v1\nenv_kwargs: null\n")
    (folder / "config.yml").write_text("policy: MlpPolicy\n")
    return folder


def refused(capsys, command: str, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        command_line.run(command, [*arguments, "--env", "CartPole-v1", "-n", "5"])
    assert left.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ezv2-")]
    assert not Path("ran").exists()
    return line


@pytest.mark.parametrize("file", ["args.yml", "config.yml"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_tag_is_run(capsys, settings, attack, file):
    with open(settings / file, "a") as stored:
        stored.write(f"surprise: {attack}\n")
    for command in (["enjoy", "--no-render"], ["record_video"], ["push_to_hub", "-orga", "us", "--dry-run"]):
        assert f"CartPole-v1/{file} is refused" in refused(capsys, *command)


@pytest.mark.parametrize(
    "text", ["__import__('os').system('touch ran')", "dict(a=open('ran', 'w'))", "[open][0]('ran')"]
)
def test_normalize_is_not_run(capsys, settings, text):
    (settings / "config.yml").write_text(yaml.safe_dump({"policy": "MlpPolicy", "normalize": text}))
    assert "config.yml is refused: normalize" in refused(capsys, "enjoy", "--no-render")


def test_a_wrapper_that_came_with_the_model_is_not_run(capsys, settings):
    code = settings.parent / "evil.py"
    code.write_text("open('ran', 'w')\nimport gymnasium\nclass Wrapper(gymnasium.Wrapper): pass\n")
    (settings / "config.yml").write_text("env_wrapper: logs.ezv2.CartPole-v1_1.evil.Wrapper\n")
    assert "env_wrapper" in refused(capsys, "enjoy", "--no-render")


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.exec", "no.such.Wrapper", "", 5, "plain"])
def test_what_is_no_wrapper(name):
    with pytest.raises(ValueError, match="env_wrapper=.* is refused"):
        check_wrappers({"env_wrapper": [{name: {}}]}, "env_wrapper")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "gymnasium.wrappers.FlattenObservation",
        [{"gymnasium.wrappers.TimeLimit": {"max_episode_steps": 5}}, "rl_zoo3.utils.flatten_dict_observations"],
        ["sb3_ezv2.envs.atari.AtariFrames"],
    ],
)
def test_wrappers(entry):
    check_wrappers({"env_wrapper": entry}, "env_wrapper")


def test_what_the_zoo_writes_is_read(tmp_path):
    """Ordered dictionaries, tuples, and classes by their names."""
    stored = OrderedDict(a=1, b=(1, (2.5, None)), c={"x": [True]}, d=yaml.YAMLError, e=len, f={1, 2})
    (tmp_path / "args.yml").write_text(yaml.dump(stored))
    read = read_settings(tmp_path / "args.yml")
    assert read == {**stored, "d": "yaml.error.YAMLError", "e": "builtins.len"}


def test_normalisation(tmp_path):
    assert keyword_values("dict(norm_obs=True, gamma=0.9)") == {"norm_obs": True, "gamma": 0.9}
    assert keyword_values("{'norm_obs': False}") == {"norm_obs": False}
    for normalize, expected in [
        ("dict(norm_obs=True, norm_reward=True)", {"norm_obs": True, "norm_reward": False}),
        (True, {"norm_obs": True, "norm_reward": False}),
    ]:
        (tmp_path / "config.yml").write_text(yaml.safe_dump({"normalize": normalize}))
        read, folder = saved_hyperparams(str(tmp_path), test_mode=True)
        assert read == {"normalize": True, "normalize_kwargs": expected} and folder == str(tmp_path)
    (tmp_path / "config.yml").write_text("normalize: false\n")
    assert saved_hyperparams(str(tmp_path)) == ({"normalize": False}, str(tmp_path))
    assert saved_hyperparams(str(tmp_path / "none")) == ({}, None)


@pytest.mark.parametrize("file", ["args.yml", "config.yml"])
@pytest.mark.parametrize("content", [b"- a list\n", b"a: [1\n", b"\xff\xfe\x00", b"", b"1: 2\n", b"env_kwargs: 5\n"])
def test_damaged_settings_are_named(capsys, settings, file, content):
    (settings / file).write_bytes(content)
    assert f"CartPole-v1/{file} is damaged" in refused(capsys, "enjoy", "--no-render")


def test_files_of_the_hub_are_looked_at(tmp_path):
    def load(repo_id: str, filename: str) -> str:
        return str(tmp_path / filename)

    (tmp_path / "args.yml").write_text(f"a: {ATTACKS[0]}\n")
    with pytest.raises(ValueError, match="args.yml is refused"):
        checked_file(load)("us/model", "args.yml")
    for name, is_right in [("0.monitor.csv", True), ("evaluations.npz", True), ("evil.py", False), ("../x.csv", False)]:
        with zipfile.ZipFile(tmp_path / "train_eval_metrics.zip", "w") as archive:
            archive.writestr(name, "x")
        if is_right:
            assert checked_file(load)("us/model", "train_eval_metrics.zip").endswith(".zip")
        else:
            with pytest.raises(ValueError, match="is refused"):
                checked_file(load)("us/model", "train_eval_metrics.zip")
    (tmp_path / "train_eval_metrics.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="is damaged"):
        checked_file(load)("us/model", "train_eval_metrics.zip")
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", ["__import__('os').system('touch ran')", "dict(x=open('ran', 'w'))"])
@pytest.mark.parametrize("name", ["policy_kwargs", "replay_buffer_kwargs", "normalize"])
def test_going_on_with_a_model_runs_no_settings(capsys, settings, name, text):
    (settings / "config.yml").write_text(yaml.safe_dump({name: text, "policy": "MlpPolicy", "n_timesteps": 10}))
    with pytest.raises(SystemExit):
        command_line.run("train", ["--env", "CartPole-v1", "-i", str(settings.parent)])
    assert f"config.yml is refused: {name}" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_only_what_may_execute_needs_trust(tmp_path, model_file, monkeypatch):
    EfficientZeroV2.load(model_file, device="cpu").save_policy(tmp_path / "policy.zip")
    shutil.copy(model_file, tmp_path / "model.zip")
    for name in ("vec_normalize.pkl", "args.yml"):
        (tmp_path / name).touch()
    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", lambda repo, name, **_: str(tmp_path / name))
    monkeypatch.delenv(hub.TRUST, raising=False)
    for name in ("policy.zip", "args.yml"):
        assert hub.fetch("us/model", name) == str(tmp_path / name)
    for name in ("model.zip", "vec_normalize.pkl"):
        with pytest.raises(ValueError, match=f"loading {name} of us/model may execute .* set TRUST_REMOTE_CODE=True"):
            hub.fetch("us/model", name)
    monkeypatch.setenv(hub.TRUST, "True")
    assert hub.fetch("us/model", "model.zip") == str(tmp_path / "model.zip")


def test_what_the_hub_does_not_have(monkeypatch):
    def missing(*_, **__):
        raise hub.EntryNotFoundError("vec_normalize.pkl")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", missing)
    with pytest.raises(hub.HTTPError):
        hub.fetch("us/model", "vec_normalize.pkl")


def test_a_folder_that_another_process_makes_first_is_not_shared(monkeypatch, model_file):
    """The next number is taken."""
    repository = Path("hub/ezv2-CartPole-v1")
    repository.mkdir(parents=True)
    shutil.copy(model_file, repository / "ezv2-CartPole-v1.zip")
    for name in ("args.yml", "config.yml", "env_kwargs.yml"):
        (repository / name).write_text("{}\n")
    with zipfile.ZipFile(repository / "train_eval_metrics.zip", "w"):
        pass
    theirs = Path("logs/ezv2/CartPole-v1_1")
    makedirs = os.makedirs

    def late(name, mode=0o777, exist_ok=False):
        if Path(name) == theirs and not theirs.exists():
            theirs.mkdir(parents=True)
        makedirs(name, mode, exist_ok)

    monkeypatch.setattr(os, "makedirs", late)
    command_line.run("load_from_hub", ["--env", "CartPole-v1", "-orga", "us", "--local", "hub"])
    assert list(theirs.iterdir()) == []
    assert (theirs.with_name("CartPole-v1_2") / "CartPole-v1.zip").is_file()
