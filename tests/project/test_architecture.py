"""The rooms of the package, the size of its parts, and nothing left unfinished; each check is shown to fail."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sb3_ezv2"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# From the bottom to the top: the rooms that each room may import from besides itself. ``AT_THE_TOP`` names the room of
# every module that lies at the top of the package.
BELOW = {
    "common": set(),
    "envs": set(),
    "search": {"common"},
    "networks": {"common"},
    "replay": {"common"},
    "planning": {"networks", "search", "common"},
    "learning": {"planning", "replay", "networks", "common"},
    "algorithm": {"learning", "planning", "replay", "networks", "search", "common"},
}
BELOW["inspection"] = {"algorithm", "envs", *BELOW["algorithm"]}
BELOW["zoo"] = {"inspection", *BELOW["inspection"]}
BELOW["commands"] = {"zoo", *BELOW["zoo"]}
AT_THE_TOP = {
    "checkpoints": "algorithm",
    "checkpoint_files": "algorithm",
    "ezv2": "algorithm",
    "ranked_algorithm": "algorithm",
    "replay_algorithm": "algorithm",
    "configured_algorithm": "algorithm",
    "argument_groups": "algorithm",
    "policies": "algorithm",
    "search_arguments": "algorithm",
    "policy_files": "algorithm",
    "model_files": "algorithm",
    "export": "algorithm",
    "presets": "algorithm",
    "offline": "algorithm",
    "run_time": "algorithm",
    "callbacks": "algorithm",
    "background_evaluation": "algorithm",
    "compatibility": "algorithm",
    "command_line": "commands",
    "train": "commands",
    "enjoy": "commands",
    "estimate": "commands",
    "record_video": "commands",
    "plot": "commands",
    "inspect_run": "commands",
    "push_to_hub": "commands",
    "load_from_hub": "commands",
    "": "commands",  # sb3_ezv2/__init__.py, which offers the public names
}
SEARCH_MAY_IMPORT = {"numpy", "numba", "sb3_ezv2", *sys.stdlib_module_names}
ACTION_KINDS = "sb3_ezv2.common.actions"
ABOUT_ACTIONS = re.compile(r"action|candidates|(?<![.\w])(kind|head)\b")
SHAPE = re.compile(r"\.(ndim|dtype)\b|\blen\(.*\.shape\)")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_package() -> dict[str, str]:
    return {module_name(path): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


PACKAGES = {module_name(path) for path in PACKAGE.rglob("__init__.py")}
SOURCES = read_package()


def imports(module: str, source: str, modules: set[str]) -> Iterator[str]:
    """Full names of all modules that ``module`` imports, wherever in the file."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in modules else base


def room(module: str) -> str:
    """Room of one of our modules."""
    part = module.split(".")[1] if "." in module else ""
    assert part in BELOW or part in AT_THE_TOP, f"{module} is in no room: add it to AT_THE_TOP"
    return AT_THE_TOP.get(part, part)


def import_faults(sources: dict[str, str]) -> list[str]:
    """Imports that do not go downward."""
    faults = []
    for module, source in sources.items():
        ours = room(module)
        for name in imports(module, source, set(sources)):
            if name.split(".")[0] == "sb3_ezv2":
                if room(name) not in {ours, *BELOW[ours]}:
                    faults.append(f"{module} is in {ours} and may not import {name}")
            elif ours == "search" and name.split(".")[0] not in SEARCH_MAY_IMPORT:
                faults.append(f"{module} needs more than numpy and numba: {name}")
    return faults


def import_cycle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, empty if there are none."""
    graph = {
        module: {name for name in imports(module, source, set(sources)) if name in sources and name != module}
        for module, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def size_faults(module: str, source: str) -> list[str]:
    """Files and functions that are too long; docstrings and constructors do not count for functions."""
    faults = []
    n_lines = len(source.splitlines())
    if n_lines > MAX_FILE_LINES:
        faults.append(f"{module} has {n_lines} lines")
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name == "__init__":
            continue
        assert node.end_lineno is not None
        length = node.end_lineno - node.lineno + 1
        if ast.get_docstring(node) is not None:
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            length -= docstring.end_lineno - docstring.lineno + 1
        if length > MAX_FUNCTION_LINES:
            faults.append(f"{module}.{node.name} has {length} lines without its docstring")
    return faults


def unfinished(module: str, source: str) -> list[str]:
    """Marks of unfinished work."""
    lines = enumerate(source.splitlines(), start=1)
    return [f"{module}, line {number}: {line.strip()}" for number, line in lines if UNFINISHED.search(line)]


def action_branches(module: str, source: str) -> list[str]:
    """Where a module outside of ``common.actions`` asks which kind of action it has to do with."""
    if module.startswith(ACTION_KINDS):
        return []
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(ACTION_KINDS):
            asked = [alias.name for alias in node.names if re.fullmatch(r"[A-Z]\w+Actions", alias.name)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass", "type", "hasattr"):
            asked = [text for text in map(ast.unparse, node.args[:1]) if ABOUT_ACTIONS.search(text)]
        elif isinstance(node, ast.Match):
            asked = [text for text in [ast.unparse(node.subject)] if ABOUT_ACTIONS.search(text)]
        elif isinstance(node, ast.Compare):
            shapes = [text for text in map(ast.unparse, [node.left, *node.comparators]) if SHAPE.search(text)]
            asked = [text for text in shapes if ABOUT_ACTIONS.search(text)]
        else:
            continue
        faults += [f"{module}, line {node.lineno} asks for the kind of action: {text}" for text in asked]
    return faults


def test_package_is_found():
    assert "sb3_ezv2" in SOURCES and "sb3_ezv2.common.type_aliases" in SOURCES


def test_imports_go_downward():
    assert import_faults(SOURCES) == []


def test_no_module_imports_itself_through_others():
    assert import_cycle(SOURCES) == []


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_are_short(module):
    assert size_faults(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_the_kind_of_action_is_asked_for_in_one_place(module):
    assert action_branches(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_unfinished(module):
    assert unfinished(module, SOURCES[module]) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("sb3_ezv2.common.type_aliases", "from sb3_ezv2.networks.supports import compress"),
        ("sb3_ezv2.learning.losses", "import sb3_ezv2.ezv2"),
        ("sb3_ezv2.networks.model", "from sb3_ezv2.learning import losses"),
        ("sb3_ezv2.networks.model", "from ..policies import MlpPolicy"),
        ("sb3_ezv2.networks.supports", "from .. import ezv2"),
        ("sb3_ezv2.replay.buffer", "def late():\n    from sb3_ezv2.policies import MlpPolicy"),
        ("sb3_ezv2.networks.model", "if TYPE_CHECKING:\n    from sb3_ezv2.learning.reanalyze import Reanalyzer"),
        ("sb3_ezv2.ezv2", "from sb3_ezv2 import EfficientZeroV2"),
        ("sb3_ezv2.replay.buffer", "from sb3_ezv2.networks.supports import compress"),
        ("sb3_ezv2.planning.planner", "from sb3_ezv2.replay import buffer"),
        ("sb3_ezv2.ezv2", "from sb3_ezv2.inspection.report import inspect_model"),
        ("sb3_ezv2.inspection.report", "from sb3_ezv2.zoo.curves import draw"),
        ("sb3_ezv2.search.tree", "from sb3_ezv2.networks.supports import compress"),
        ("sb3_ezv2.envs.atari", "from sb3_ezv2.common.type_aliases import Masks"),
        ("sb3_ezv2.search.tree", "import torch as th"),
        ("sb3_ezv2.search.tree", "from torch.nn import functional"),
        ("sb3_ezv2.search.tree", "from stable_baselines3.common.utils import get_device"),
    ],
)
def test_a_forbidden_import_is_noticed(module, source):
    others = {"sb3_ezv2.policies": "", "sb3_ezv2.learning.losses": "", "sb3_ezv2.ezv2": ""}
    assert len(import_faults({**others, module: source})) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        (
            "sb3_ezv2.ezv2",
            "import torch\nfrom sb3_ezv2.policies import MlpPolicy\nfrom .learning.losses import unroll_loss",
        ),
        ("sb3_ezv2.search.search", "import numba\nimport math\nfrom sb3_ezv2.search.tree import plant"),
        ("sb3_ezv2.envs.dmc", "import gymnasium\nfrom sb3_ezv2.envs.atari import wrap"),
        ("sb3_ezv2", "from sb3_ezv2.ezv2 import EfficientZeroV2"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert import_faults({module: source}) == []


def test_a_module_without_a_room_is_noticed():
    with pytest.raises(AssertionError, match="sb3_ezv2.helpers is in no room"):
        import_faults({"sb3_ezv2.helpers": "import sb3_ezv2.networks.supports"})


def test_a_circle_is_noticed():
    sources = {
        "sb3_ezv2.learning.losses": "import sb3_ezv2.policies",
        "sb3_ezv2.policies": "from sb3_ezv2.learning import losses",
    }
    assert set(import_cycle(sources)) == set(sources)
    assert import_cycle({**sources, "sb3_ezv2.policies": ""}) == []


def function(n_lines: int, name: str = "f", docstring: str = "") -> str:
    """Source of a function with ``n_lines`` lines besides its docstring."""
    return "\n".join(
        [f"def {name}():", *([f'    """{docstring}"""'] if docstring else []), *["    x = 1"] * (n_lines - 1)]
    )


def test_length_is_noticed():
    assert size_faults("m", "\n" * (MAX_FILE_LINES + 1)) == [f"m has {MAX_FILE_LINES + 1} lines"]
    assert size_faults("m", "\n" * MAX_FILE_LINES) == []
    assert len(size_faults("m", function(MAX_FUNCTION_LINES + 1))) == 1
    assert size_faults("m", function(MAX_FUNCTION_LINES)) == []
    assert len(size_faults("m", "class C:\n" + re.sub("^", "    ", function(61), flags=re.M))) == 1


def test_docstrings_and_constructors_are_not_counted():
    assert size_faults("m", function(MAX_FUNCTION_LINES, docstring="\n    word" * 30)) == []
    assert size_faults("m", function(MAX_FUNCTION_LINES + 1, name="__init__")) == []


@pytest.mark.parametrize("line", ["x = 1  # TODO", "# FIXME: later", "raise NotImplementedError", "# XXX"])
def test_unfinished_work_is_noticed(line):
    assert len(unfinished("m", f"y = 2\n{line}\n")) == 1
    assert unfinished("m", "todo_list = 1  # all of it done\n") == []


@pytest.mark.parametrize(
    "source",
    [
        "if isinstance(self.action_space, spaces.Discrete): pass",
        "discrete = not isinstance(env.action_space, spaces.Box)",
        "continuous = isinstance(model.action_kind, kinds.BoxActions)",
        "if type(kind) is DiscreteActions: pass",
        "if plan.candidates.ndim == 2: pass",
        "if len(batch.actions.shape) > 2: pass",
        "discrete = 2 == actions.ndim",
        "integers = buffer.actions.dtype == np.int64",
        "sampled = hasattr(action_kind, 'gaussian')",
        "match action_space:\n    case spaces.Discrete(): pass",
        "from sb3_ezv2.common.actions import BoxActions",
        "from sb3_ezv2.common.actions.discrete import DiscreteActions",
    ],
)
def test_a_branch_on_the_kind_of_action_is_noticed(source):
    assert len(action_branches("sb3_ezv2.policies", source)) == 1
    assert action_branches("sb3_ezv2.common.actions.box", source) == []


@pytest.mark.parametrize(
    "source",
    [
        "if isinstance(observation_space, spaces.Box): pass",
        "from sb3_ezv2.common.actions import ActionKind, action_kind_of",
        "from sb3_ezv2.common.actions.box import MAX_ACTION",
        "n = kind.n_candidates if kind.sampled else 1",
        "if observations.ndim == 2: pass",
    ],
)
def test_what_does_not_depend_on_the_kind_of_action_passes(source):
    assert action_branches("sb3_ezv2.policies", source) == []
