"""The package as its users get it: a wheel, installed into a new environment, and what a package index shows."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.environments import ROOT, build, call, copy_sources

COMMANDS = ("train", "estimate", "enjoy", "record-video", "plot", "push-to-hub", "load-from-hub")
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
SETTINGS = ["learning_starts:40", "n_simulations:4", "batch_size:8"]
REPOSITORY = "https://example.org/us/sb3_ezv2"
LINK = re.compile(r"(!?)\[[^]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    """A wheel as a release builds it."""
    return build("wheel", sources, tmp_path_factory.mktemp("wheel"), SB3_EZV2_REPOSITORY=REPOSITORY)


@pytest.fixture(scope="module")
def unpacked(sources, tmp_path_factory) -> Path:
    """The contents of a source distribution that was built without knowing the repository's address."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", sources, folder)) as archive:
        archive.extractall(folder, filter="data")
    (contents,) = [path for path in folder.iterdir() if path.is_dir()]
    return contents


@pytest.fixture(scope="module")
def new_environment(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; the packages that it needs are borrowed from this one."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    call(sys.executable, *PIP, "install", "--no-deps", "--no-index", "--target", site, wheel, cwd=folder)
    borrowed = [path for path in sys.path if Path(path).is_dir() and Path(path).resolve() != ROOT]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


def shown(metadata: str) -> str:
    """The description of a package index, which follows the headers."""
    return metadata.partition("\n\n")[2]


def test_the_wheel_holds_code_types_and_hyperparameters(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"sb3_ezv2/hyperparams/ezv2.yml", "sb3_ezv2/py.typed", "sb3_ezv2/version.txt"} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "sb3_ezv2").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("sb3_ezv2/hyperparams/ezv2.yml") == (ROOT / "hyperparams" / "ezv2.yml").read_bytes()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        commands = archive.read(entry_points).decode()
    for command in COMMANDS:
        assert f"ezv2-{command} = sb3_ezv2.{command.replace('-', '_')}:main" in commands
    assert "ezv2-inspect = sb3_ezv2.inspect_run:main" in commands


def test_the_installed_command_trains(new_environment, tmp_path):
    python = new_environment / "bin" / "python"
    where = call(python, "-c", "import sb3_ezv2.zoo.settings as s; print(s.hyperparameter_file())", cwd=tmp_path)
    assert Path(where.splitlines()[-1]).is_relative_to(new_environment)
    # pip wrote the commands for the interpreter that it runs in; the new environment's interpreter runs them here.
    (script,) = new_environment.rglob("bin/ezv2-train")
    output = call(
        python, script, "--env", "CartPole-v1", "-n", "50", "--eval-freq", "-1", "-params", *SETTINGS, cwd=tmp_path
    )
    assert f"Loading hyperparameters from: {new_environment}" in output
    assert (tmp_path / "logs" / "ezv2" / "CartPole-v1_1" / "CartPole-v1.zip").is_file()


def test_an_editable_installation_finds_the_hyperparameters(sources, tmp_path):
    """Built as pip builds it, without installing it anywhere."""
    site = tmp_path / "site"
    with zipfile.ZipFile(build("editable", sources, tmp_path)) as archive:
        archive.extractall(site)
    check = (
        "import site, sys; site.addsitedir(sys.argv[1])\n"
        "from sb3_ezv2.zoo.settings import hyperparameter_file; print(hyperparameter_file())"
    )
    borrowed = [path for path in sys.path if Path(path).is_dir() and Path(path).resolve() != ROOT]
    # In front: this environment may hold an editable installation too, whose import hook has the same name.
    check = f"import sys; sys.path[:] = [sys.argv[1], *{borrowed!r}]\n" + check
    found = call(sys.executable, "-S", "-c", check, site, cwd=tmp_path).splitlines()[-1]
    assert Path(found) == sources / "hyperparams" / "ezv2.yml"


def test_the_source_distribution_holds_what_belongs_to_the_project(unpacked):
    """Everything that git would keep, but what serves the repository itself."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if listed.returncode:
        pytest.skip("no repository to compare with")
    expected = {name for name in listed.stdout.splitlines() if not name.startswith(".") and (ROOT / name).exists()}
    contents = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert expected - contents == set()
    made = {"PKG-INFO", "setup.cfg"}
    assert {name for name in contents - expected - made if ".egg-info" not in name} == set()


def test_a_wheel_of_the_source_distribution_is_the_same(unpacked, wheel, tmp_path):
    again = build("wheel", unpacked, tmp_path)
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_links_of_a_release_lead_to_the_repository(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = archive.read(name).decode()
    assert f"Project-URL: Source, {REPOSITORY}" in metadata
    links = LINK.findall(shown(metadata))
    assert all(re.match(r"https?://|#", target) for _, target in links), links
    version = (ROOT / "sb3_ezv2" / "version.txt").read_text().strip()
    ours = {target.removeprefix(REPOSITORY): picture for picture, target in links if target.startswith(REPOSITORY)}
    in_readme = {
        target: picture
        for picture, target in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:|#", target)
    }
    expected = {f"/{'raw' if picture else 'blob'}/v{version}/{path}": picture for path, picture in in_readme.items()}
    assert ours == expected and {"!", ""} == set(ours.values())
    assert [path for path in in_readme if not (ROOT / path).is_file()] == []


def test_without_a_repository_no_link_leads_nowhere(unpacked):
    metadata = (unpacked / "PKG-INFO").read_text(encoding="utf-8")
    assert "Project-URL: Source" not in metadata
    text = shown(metadata)
    assert all(re.match(r"https?://|#", target) for _, target in LINK.findall(text))
    named = re.findall(r"`([\w/.-]+)` in the source distribution", text)
    assert named and all((unpacked / path).is_file() for path in named)
