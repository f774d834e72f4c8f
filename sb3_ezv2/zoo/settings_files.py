"""Settings that lie beside a model, read without running anything that is written in them.

The zoo writes them as YAML with Python's tags and would run whatever a tag names.
"""

import ast
import importlib
import importlib.util
import inspect
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.vec_env import VecEnvWrapper

from sb3_ezv2.zoo.runs import check_unchanged

TAG = "tag:yaml.org,2002:python/"
FUNCTIONS_FROM = {"gymnasium", "rl_zoo3", "sb3_ezv2", "stable_baselines3"}
"""Packages whose functions may wrap an environment; from others, classes of wrappers only."""
METRICS = "*.monitor.csv or evaluations.npz"
EVALUATED = ("policy_kwargs", "replay_buffer_class", "replay_buffer_kwargs", "monitor_kwargs", "normalize")
"""Entries of a hyperparameter file that the zoo runs as Python where they are text."""


class SettingsLoader(yaml.SafeLoader):
    """A safe loader that knows the tags that the zoo writes: ordered dictionaries, tuples, and names, kept as text."""

    def ordered(self, node: yaml.Node) -> OrderedDict[Any, Any]:
        """``!!python/object/apply:collections.OrderedDict`` with its list of pairs."""
        arguments = self.construct_sequence(node, deep=True)
        return OrderedDict(*arguments)

    def as_tuple(self, node: yaml.Node) -> tuple[Any, ...]:
        """``!!python/tuple``."""
        return tuple(self.construct_sequence(node, deep=True))

    def as_name(self, suffix: str, node: yaml.Node) -> str:
        """``!!python/name:``, of a class or a function."""
        return suffix


SettingsLoader.add_constructor(f"{TAG}object/apply:collections.OrderedDict", SettingsLoader.ordered)
SettingsLoader.add_constructor(f"{TAG}tuple", SettingsLoader.as_tuple)
SettingsLoader.add_multi_constructor(f"{TAG}name:", SettingsLoader.as_name)


def read_settings(path: Path) -> dict[str, Any]:
    """Settings in a YAML file that the zoo wrote.

    :raises ValueError: if the file is damaged, or names something that would have to be run
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=SettingsLoader)
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{path} is refused: {' '.join(str(error).split())}; nothing that it names is run. Remove that "
            "entry if the file is yours"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ValueError(f"{path} is damaged: it must hold settings by name")
    return dict(settings)


def check_settings(folder: Path) -> None:
    """Refuse damaged settings of a run.

    :param folder: the one with ``args.yml`` and ``config.yml``
    :raises ValueError: naming the file and what is wrong with it
    """
    args = folder / "args.yml"
    if args.is_file() and not isinstance(read_settings(args).get("env_kwargs", ""), dict | None):
        raise ValueError(f"{args} is damaged: env_kwargs must be null or hold arguments by name")
    saved_hyperparams(str(folder))


def saved_hyperparams(
    stats_path: str, norm_reward: bool = False, test_mode: bool = False
) -> tuple[dict[str, Any], str | None]:
    """The zoo's ``get_saved_hyperparams`` without running what the file names; parameters as there.

    :raises ValueError: if the file is damaged
    """
    folder = Path(stats_path)
    if not folder.is_dir():
        return {}, None
    path = folder / "config.yml"
    hyperparams: dict[str, Any] = read_settings(path) if path.is_file() else {}
    hyperparams.setdefault("normalize", not path.is_file() and (folder / "obs_rms.pkl").is_file())
    normalize = hyperparams["normalize"]
    if isinstance(normalize, str):
        try:
            normalize = keyword_values(normalize)
        except ValueError as error:
            raise ValueError(f"{path} is refused: normalize: {error}") from error
    if normalize:
        kwargs: dict[str, Any] = dict(normalize) if isinstance(normalize, Mapping) else {"norm_obs": normalize}
        if test_mode or not isinstance(normalize, Mapping):
            kwargs["norm_reward"] = norm_reward
        hyperparams["normalize_kwargs"] = kwargs
    hyperparams["normalize"] = bool(normalize)
    _check_kind(path, hyperparams, "frame_stack", int | None)
    _check_kind(path, hyperparams, "env_kwargs", dict)
    return hyperparams, stats_path


def read_run(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hyperparameters and options of a run to go on with, empty where it left none.

    :param folder: the one with ``args.yml`` and ``config.yml``
    :raises ValueError: if they are damaged, or hold what would have to be run
    """
    check_unchanged(folder.parent)
    config, args = folder / "config.yml", folder / "args.yml"
    hyperparams = read_settings(config) if config.is_file() else {}
    for name in EVALUATED:
        if isinstance(text := hyperparams.get(name), str):
            try:
                keyword_values(text)
            except ValueError as error:
                raise ValueError(f"{config} is refused: {name}: {error}; name a file of your own with -c") from error
    for name in ("env_wrapper", "vec_env_wrapper"):
        check_wrappers(hyperparams, name)
    options = read_settings(args) if args.is_file() else {}
    for name in ("env_kwargs", "eval_env_kwargs"):
        if not isinstance(options.get(name), dict | None):
            raise ValueError(f"{args} is damaged: {name} must be null or hold arguments by name")
    return hyperparams, options


def _check_kind(path: Path, hyperparams: Mapping[str, Any], name: str, kind: Any) -> None:
    if name in hyperparams and not isinstance(hyperparams[name], kind):
        raise ValueError(f"{path} is damaged: {name}={hyperparams[name]!r} must be {getattr(kind, '__name__', kind)}")


def keyword_values(text: str) -> Any:
    """What ``dict(name=value, ...)`` or a literal stands for, without running it.

    :raises ValueError: if it is anything else
    """
    try:
        tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.Call):
            return ast.literal_eval(tree)
        if isinstance(tree.func, ast.Name) and tree.func.id == "dict" and not tree.args:
            named = {keyword.arg: keyword.value for keyword in tree.keywords}
            if None not in named:
                return {name: ast.literal_eval(value) for name, value in named.items()}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError(f"{text!r} must be like 'dict(norm_obs=True, norm_reward=False)', with plain values")


def check_wrappers(hyperparams: Mapping[str, Any], key: str) -> None:
    """Refuse what stored settings name as wrappers and what is none.

    :param hyperparams: of a stored run
    :param key: ``"env_wrapper"`` or ``"vec_env_wrapper"``
    :raises ValueError: naming it
    """
    entries = hyperparams.get(key) or []
    for entry in entries if isinstance(entries, list) else [entries]:
        name = next(iter(entry), None) if isinstance(entry, Mapping) else entry
        if not isinstance(name, str) or not _is_wrapper(name):
            raise ValueError(f"{key}={name!r} is refused: it is no installed class of wrappers")


def _is_wrapper(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    package = module.split(".")[0]
    try:
        spec = importlib.util.find_spec(package) if package else None
        if spec is None or spec.origin is None:  # a folder, perhaps the one that came with the model
            return False
        found = getattr(importlib.import_module(module), attribute, None)
    except (ImportError, ValueError):
        return False
    if inspect.isclass(found):
        return issubclass(found, gym.Wrapper | VecEnvWrapper)
    return inspect.isfunction(found) and package in FUNCTIONS_FROM


def check_metrics(names: list[str], archive: str) -> None:
    """Refuse an archive of training metrics with anything else in it, such as code.

    :param names: of its files
    :param archive: its path
    :raises ValueError: naming the file
    """
    for name in names:
        if "/" in name or "\\" in name or not (name.endswith(".csv") or name == "evaluations.npz"):
            raise ValueError(f"{archive} is refused: it may hold {METRICS} and holds {name!r}")
