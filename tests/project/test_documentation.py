"""What users import is in the reference, everything has docstrings, and every logged key is documented.

Each check is shown to fail.
"""

import ast
import re
import runpy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

import sb3_ezv2
from sb3_ezv2.inspection import InspectionCallback

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sb3_ezv2"
API_PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ALGORITHM_PAGE = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
LOGGING_PAGE = (ROOT / "docs" / "logging.md").read_text(encoding="utf-8")

# Written by SB3 itself (episode statistics, clock, evaluation callback), so not found in our code.
SB3_KEYS = {
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "rollout/success_rate",
    "time/episodes",
    "time/fps",
    "time/time_elapsed",
    "time/total_timesteps",
    "eval/mean_reward",
    "eval/mean_ep_length",
    "eval/success_rate",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
PUBLIC_SOURCES = {name: text for name, text in SOURCES.items() if not re.search(r"\._", name)}


# -- public names ------------------------------------------------------------------------------------------------------


def public_definitions(source: str) -> dict[str, str | None]:
    """Docstrings of the public classes and functions that a module defines, and of the classes' public methods."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            found[node.name] = ast.get_docstring(node)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
                    found[f"{node.name}.{member.name}"] = ast.get_docstring(member)
    return found


def without_docstring(source: str) -> list[str]:
    """Public names that lack a docstring."""
    return [name for name, docstring in public_definitions(source).items() if not docstring]


def automodules(page: str) -> dict[str, set[str]]:
    """Modules whose members a page documents, with the names that it leaves out."""
    found = {}
    for block in re.split(r"(?=\.\. auto|```)", page):
        named = re.match(r"\.\. automodule:: (\S+)", block)
        if named and ":members:" in block:
            left_out = re.search(r":exclude-members:(.*)", block)
            found[named[1]] = set(re.findall(r"\w+", left_out[1])) if left_out else set()
    return found


def undocumented(module: str, names: Iterable[str], page: str) -> list[str]:
    """Names that ``page`` shows neither through their module nor by name."""
    covered = automodules(page)
    left_out = covered.get(module)
    return [
        name
        for name in names
        if (left_out is None or name in left_out) and not re.search(rf"(?<![\w]){re.escape(name)}(?!\w)", prose(page))
    ]


def prose(page: str) -> str:
    """The page without the lists of names that automodule leaves out."""
    return re.sub(r":exclude-members:.*", "", page)


def test_package_offers_public_names():
    assert "EfficientZeroV2" in sb3_ezv2.__all__
    for name in sb3_ezv2.__all__:
        assert hasattr(sb3_ezv2, name), name


def entry_points() -> list[str]:
    """Commands of the zoo: the modules at the top of the package with a ``main``."""
    at_the_top = [name for name in PUBLIC_SOURCES if name.count(".") == 1]
    return [name.partition(".")[2] for name in at_the_top if "main" in public_definitions(SOURCES[name])]


def test_offered_names_are_documented():
    objects = {name: getattr(sb3_ezv2, name) for name in sb3_ezv2.__all__ if not name.startswith("__")}
    assert [name for name, thing in objects.items() if callable(thing) and not thing.__doc__] == []
    assert undocumented("sb3_ezv2", objects, API_PAGE) == []
    described = set(re.findall(r"\.\. autoclass:: sb3_ezv2\.(\w+)$", API_PAGE + ALGORITHM_PAGE, flags=re.MULTILINE))
    assert {name for name, thing in objects.items() if thing.__name__ not in described} == set()


@pytest.mark.parametrize("module", PUBLIC_SOURCES)
def test_module_has_docstrings(module):
    assert ast.get_docstring(ast.parse(SOURCES[module])), f"{module} has no docstring"
    assert without_docstring(SOURCES[module]) == []


@pytest.mark.parametrize("module", [name for name in PUBLIC_SOURCES if name.startswith("sb3_ezv2.envs")])
def test_environments_are_in_the_reference(module):
    names = [name for name in public_definitions(SOURCES[module]) if "." not in name]
    assert module in automodules(API_PAGE) and undocumented(module, names, API_PAGE) == []


def test_the_zoo_is_in_the_reference():
    assert "train" in entry_points() and undocumented("sb3_ezv2", entry_points(), API_PAGE) == []
    assert "sb3_ezv2.zoo" in automodules(API_PAGE)


def test_the_reference_has_no_internals():
    for_users = {"sb3_ezv2.zoo", *(name for name in SOURCES if name.startswith("sb3_ezv2.envs"))}
    assert set(automodules(API_PAGE)) == for_users


def test_automodules_exist():
    assert set(automodules(API_PAGE)) <= set(SOURCES)


def test_a_missing_docstring_is_noticed():
    source = 'def f():\n    pass\n\ndef _g():\n    pass\n\nclass C:\n    """Doc."""\n    def m(self):\n        pass\n'
    assert without_docstring(source) == ["f", "C.m"]


def test_an_undocumented_name_is_noticed():
    page = "```{eval-rst}\n.. automodule:: package.shown\n   :members:\n   :exclude-members: hidden\n```\n`named`\n"
    assert undocumented("package.shown", ["anything"], page) == []
    assert undocumented("package.shown", ["hidden"], page) == ["hidden"]
    assert undocumented("package.other", ["named", "name", "other"], page) == ["name", "other"]
    assert automodules("```{eval-rst}\n.. automodule:: package.empty\n```\n:members:") == {}


# -- the page Contributing ---------------------------------------------------------------------------------------------


def test_the_picture_of_the_data_flow_is_the_one_that_the_script_draws():
    drawing = runpy.run_path(str(ROOT / "docs" / "data_flow.py"))
    picture = (ROOT / "docs" / "data_flow.svg").read_text(encoding="utf-8")
    assert picture == drawing["draw"](), "run python docs/data_flow.py"
    assert [file for file in drawing["files"]() if not (PACKAGE / file).is_file()] == []


def test_files_that_changes_go_to_exist():
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_0-9/]+\.(?:py|md))`", page))
    assert len(named) > 20
    assert [file for file in named if not (PACKAGE / file).is_file() and not (ROOT / file).is_file()] == []


# -- logged keys -------------------------------------------------------------------------------------------------------


def recorded_keys(source: str) -> tuple[set[str], set[str], list[str]]:
    """What the code passes to ``logger.record`` and ``logger.record_mean``.

    :return: literal keys; literal beginnings of f-strings such as ``train/``; lines whose key cannot be told
    """
    literal, beginnings, unknown = set(), set(), []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in ("record", "record_mean"):
            continue
        key = node.args[0] if node.args else next((word.value for word in node.keywords if word.arg == "key"), None)
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            literal.add(key.value)
        elif (
            isinstance(key, ast.JoinedStr)
            and isinstance(key.values[0], ast.Constant)
            and str(key.values[0].value).endswith("/")
        ):
            beginnings.add(str(key.values[0].value))
        else:
            unknown.append(f"line {node.lineno}: {ast.unparse(node)}")
    return literal, beginnings, unknown


def documented_keys(page: str) -> set[str]:
    """Keys in the first column of the page's tables."""
    return set(re.findall(r"^\| `(\w+/\w+)` \|", page, flags=re.MULTILINE))


def key_faults(logged: set[str], documented: set[str]) -> list[str]:
    """Keys that are logged and not documented, or documented and not logged."""
    missing = [f"logged, not documented: {key}" for key in sorted(logged - documented)]
    return missing + [f"documented, not logged: {key}" for key in sorted(documented - logged - SB3_KEYS)]


class RecordingLogger(Logger):
    """Remembers every key that it is given."""

    def __init__(self):
        super().__init__(folder=None, output_formats=[])
        self.keys: set[str] = set()

    def record(self, key, value, exclude=None):
        self.keys.add(key)
        super().record(key, value, exclude)

    def record_mean(self, key, value, exclude=None):
        self.keys.add(key)
        super().record_mean(key, value, exclude)


@pytest.fixture(scope="module")
def keys_of_short_runs(tmp_path_factory) -> set[str]:
    """Keys recorded by a few updates with each kind of action."""
    keys: set[str] = set()
    for env_id in ("CartPole-v1", "Pendulum-v1"):
        model = sb3_ezv2.EfficientZeroV2("MlpPolicy", env_id, learning_starts=190, batch_size=16, seed=0)
        logger = RecordingLogger()
        model.set_logger(logger)
        # Random steps for nearly an episode of Pendulum (200 steps), then updates until its statistics have appeared.
        folder = tmp_path_factory.mktemp("pages")
        inspection = InspectionCallback(env_id, every=200, folder=folder, n_episodes=1, max_steps=200)
        model.learn(205, log_interval=1, callback=inspection)
        assert all(np.isfinite(value) for value in logger.name_to_value.values())
        keys |= logger.keys
    return keys


def test_keys_can_be_told_from_the_code():
    assert [f"{module}, {line}" for module, source in SOURCES.items() for line in recorded_keys(source)[2]] == []


def test_logged_keys_are_documented(keys_of_short_runs):
    found = [recorded_keys(source) for source in SOURCES.values()]
    literal = {key for keys, _, _ in found for key in keys}
    beginnings = {beginning for _, them, _ in found for beginning in them}
    for beginning in beginnings:
        assert any(key.startswith(beginning) for key in keys_of_short_runs), f"no run logs a key of {beginning}"
    assert literal | keys_of_short_runs, "nothing is logged"
    assert key_faults(literal | keys_of_short_runs, documented_keys(LOGGING_PAGE)) == []


def test_keys_are_read_from_code():
    source = """
self.logger.record("train/loss", 1.0)
logger.record_mean(key="train/depth", value=2.0)
logger.record(f"train/{name}_loss", 3.0)
logger.record(f"{group}/loss", 4.0)
logger.record(key, 5.0)
other.add("train/nothing", 6.0)
"""
    literal, beginnings, unknown = recorded_keys(source)
    assert literal == {"train/loss", "train/depth"}
    assert beginnings == {"train/"}
    assert len(unknown) == 2


def test_an_undocumented_key_is_noticed():
    page = "| key | meaning |\n|---|---|\n| `train/loss` | all |\n| `rollout/ep_rew_mean` | mean |\nand `train/other`\n"
    assert documented_keys(page) == {"train/loss", "rollout/ep_rew_mean"}
    assert key_faults({"train/loss", "rollout/ep_rew_mean"}, documented_keys(page)) == []
    assert key_faults({"train/loss", "train/new"}, documented_keys(page)) == ["logged, not documented: train/new"]
    assert key_faults({"rollout/ep_rew_mean"}, documented_keys(page)) == ["documented, not logged: train/loss"]
