"""The layers of the package, the size of its parts, and nothing left unfinished; each check is shown to fail."""

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sb3_ezv2"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# A module may import from its own layer and from those below; every module or folder has a layer.
LAYERS = {
    "type_aliases": 0,
    "spaces": 1,
    "arguments": 1,
    "tensors": 1,
    "compilation": 0,
    "exponential": 1,
    "supports": 1,
    "targets": 1,
    "augmentation": 1,
    "sum_tree": 1,
    "schedules": 1,
    "frame_storage": 1,
    "replay_buffer": 1,
    "search": 1,
    "recording": 1,
    "tensor_search": 2,
    "networks": 2,
    "torch_nodes": 3,
    "device_planning": 3,
    "fused_planning": 3,
    "planning": 3,
    "policies": 3,
    "losses": 3,
    "statistics": 3,
    "reanalyze": 4,
    "updates": 4,
    "replay_algorithm": 4,
    "ezv2": 5,
    "zoo": 6,
    "envs": 6,
    "user_errors": 5,
    "command_line": 7,
    "train": 7,
    "enjoy": 7,
    "record_video": 7,
    "plot": 7,
    "push_to_hub": 7,
    "load_from_hub": 7,
    "": 7,  # sb3_ezv2/__init__.py, which offers the public names
}
SEARCH_MAY_IMPORT = {"numpy", "numba", "sb3_ezv2", *sys.stdlib_module_names}
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


def layer(module: str) -> int:
    """Layer of one of our modules."""
    part = module.split(".")[1] if "." in module else ""
    assert part in LAYERS, f"{module} has no layer: add it to LAYERS"
    return LAYERS[part]


def import_faults(sources: dict[str, str]) -> list[str]:
    """Imports that break the layers."""
    faults = []
    for module, source in sources.items():
        top = module.split(".")[1] if "." in module else ""
        for name in imports(module, source, set(sources)):
            ours = name.split(".")[0] == "sb3_ezv2"
            if ours and layer(name) > layer(module):
                faults.append(f"{module} imports upward: {name}")
            if top == "envs" and ours and not name.startswith("sb3_ezv2.envs"):
                faults.append(f"{module} imports something of ours: {name}")
            if top == "search" and name.split(".")[0] not in SEARCH_MAY_IMPORT:
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


def test_package_is_found():
    assert "sb3_ezv2" in SOURCES and "sb3_ezv2.type_aliases" in SOURCES


def test_imports_go_downward():
    assert import_faults(SOURCES) == []


def test_no_module_imports_itself_through_others():
    assert import_cycle(SOURCES) == []


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_are_short(module):
    assert size_faults(module, SOURCES[module]) == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_unfinished(module):
    assert unfinished(module, SOURCES[module]) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("sb3_ezv2.type_aliases", "from sb3_ezv2.supports import compress"),
        ("sb3_ezv2.losses", "import sb3_ezv2.ezv2"),
        ("sb3_ezv2.networks.model", "from sb3_ezv2 import losses"),
        ("sb3_ezv2.networks.model", "from ..policies import MlpPolicy"),
        ("sb3_ezv2.supports", "from . import ezv2"),
        ("sb3_ezv2.replay_buffer", "def late():\n    from sb3_ezv2.policies import MlpPolicy"),
        ("sb3_ezv2.policies", "if TYPE_CHECKING:\n    from sb3_ezv2.reanalyze import Reanalyzer"),
        ("sb3_ezv2.ezv2", "from sb3_ezv2 import EfficientZeroV2"),
        ("sb3_ezv2.envs.atari", "from sb3_ezv2.type_aliases import Masks"),
        ("sb3_ezv2.search.tree", "import torch as th"),
        ("sb3_ezv2.search.tree", "from torch.nn import functional"),
        ("sb3_ezv2.search.tree", "from stable_baselines3.common.utils import get_device"),
    ],
)
def test_a_forbidden_import_is_noticed(module, source):
    assert (
        len(import_faults({"sb3_ezv2.policies": "", "sb3_ezv2.losses": "", "sb3_ezv2.ezv2": "", module: source})) == 1
    )


@pytest.mark.parametrize(
    "module, source",
    [
        ("sb3_ezv2.ezv2", "import torch\nfrom sb3_ezv2.policies import MlpPolicy\nfrom .losses import unroll_loss"),
        ("sb3_ezv2.search.search", "import numba\nimport math\nfrom sb3_ezv2.search.tree import plant"),
        ("sb3_ezv2.envs.dmc", "import gymnasium\nfrom sb3_ezv2.envs.atari import wrap"),
        ("sb3_ezv2", "from sb3_ezv2.ezv2 import EfficientZeroV2"),
    ],
)
def test_an_allowed_import_passes(module, source):
    assert import_faults({module: source}) == []


def test_a_module_without_a_layer_is_noticed():
    with pytest.raises(AssertionError, match="sb3_ezv2.helpers has no layer"):
        import_faults({"sb3_ezv2.helpers": "import sb3_ezv2.supports"})


def test_a_circle_is_noticed():
    sources = {"sb3_ezv2.losses": "import sb3_ezv2.policies", "sb3_ezv2.policies": "from sb3_ezv2 import losses"}
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
