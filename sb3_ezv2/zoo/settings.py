"""Where the hyperparameters of a run come from, and whether their names exist."""

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from sb3_ezv2.common.arguments import argument_names, check_known
from sb3_ezv2.common.schedules import InverseSqrt, WarmUp

PACKAGE = Path(__file__).parents[1]
FILE = Path("hyperparams") / "ezv2.yml"
PAPER = "paper"
"""Name of a file beside it, of :func:`sb3_ezv2.presets.paper`."""

ZOO_NAMES = {
    "n_timesteps",
    "n_envs",
    "policy",
    "normalize",
    "frame_stack",
    "env_wrapper",
    "vec_env_wrapper",
    "env_kwargs",
    "monitor_kwargs",
    "callback",
    "noise_type",
    "noise_std",
}
"""Entries of a hyperparameter file that the zoo itself reads."""

GIVEN_BY_ZOO = {"self", "env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model"}
"""Arguments of an algorithm that come from the command line and not from a hyperparameter file."""


class Kind(NamedTuple):
    """What an entry must be."""

    words: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any, low: int, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high and value % 1 == 0


RATE = "a positive number, or like 'lin_1e-3', 'sqrt_1e-3_1000' or 'warmup_0.2_0.02_0.03'"


def _is_rate(value: Any) -> bool:
    if isinstance(value, str):
        read_schedule(value)
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_text_or_mapping(value: Any) -> bool:
    return isinstance(value, str | Mapping)


KINDS = {
    "n_timesteps": Kind(
        "a whole number of at least 1; in YAML write 10000 or !!float 1e4, 1e4 is text",
        lambda value: _is_whole(value, 1, 2**63 - 1),
    ),
    "n_envs": Kind("an integer from 1 to 4096", lambda value: isinstance(value, int) and _is_whole(value, 1, 4096)),
    "frame_stack": Kind(
        "an integer from 1 to 1024", lambda value: isinstance(value, int) and _is_whole(value, 1, 1024)
    ),
    "policy": Kind("the name of a policy, such as 'MlpPolicy'", lambda value: isinstance(value, str)),
    "normalize": Kind(
        "true, false or arguments of VecNormalize, such as 'dict(norm_obs=True, norm_reward=False)'",
        lambda value: isinstance(value, bool) or _is_text_or_mapping(value),
    ),
    "env_kwargs": Kind("a dictionary of arguments", lambda value: isinstance(value, Mapping)),
    "monitor_kwargs": Kind("a dictionary of arguments", _is_text_or_mapping),
    "learning_rate": Kind(RATE, _is_rate),
}
"""Entries of a hyperparameter file that the zoo passes on without a question."""

CLASSES: dict[str, tuple[type, ...]] = {
    "env_wrapper": (gym.Wrapper,),
    "vec_env_wrapper": (VecEnvWrapper,),
    "callback": (BaseCallback,),
}
"""Entries that name classes, and what these must be."""
WRAPPERS = ("env_wrapper", "vec_env_wrapper")

TRAINING_ONLY = {"sb3_ezv2.envs.atari.AtariTraining"}
"""Wrappers in ``env_wrapper`` that evaluation does without."""


def hyperparameter_file() -> Path:
    """The package's own hyperparameters: inside an installed package, beside it in a source checkout.

    :raises FileNotFoundError: if the installation is incomplete
    """
    for folder in (PACKAGE, PACKAGE.parent):
        if (folder / FILE).is_file():
            return folder / FILE
    raise FileNotFoundError(
        f"{FILE} is missing in {PACKAGE}; install the package again or name a file with --conf-file"
    )


def choose_file(env_id: str, config: str | None, is_atari: bool = False) -> tuple[str, str | None]:
    """The file that a run takes its hyperparameters from.

    A file without the environment and without an entry ``default`` gives way to the package's own one.

    :param env_id: environment to be trained on
    :param config: what the user chose: a YAML file, a Python file, a module, or ``"paper"`` for the published settings;
        ``None`` for the package's own file
    :param is_atari: whether the entry ``atari`` fits
    :return: what to give to the zoo, and what to tell the user if that is not what was asked for
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file does not hold hyperparameters by environment, or lacks an Atari game
    """
    ours = hyperparameter_file()
    if config == PAPER:
        config = str(ours.with_name(f"{PAPER}.yml"))
    chosen = Path(config or ours)
    if config and chosen.suffix not in (".yml", ".yaml"):
        return config, None
    names = read_entries(chosen)
    if env_id in names or (is_atari and "atari" in names):
        return str(chosen), None
    if is_atari:
        raise ValueError(f"{chosen} has no settings for {env_id} and no entry 'atari'")
    if "default" in names:
        return str(chosen), f"{chosen} has no settings for {env_id}: its entry 'default' is used"
    own = read_entries(ours)
    entry = env_id if env_id in own else "default"
    return str(ours), f"{chosen} has no settings for {env_id}: the entry '{entry}' of {ours} is used"


def read_entries(path: Path) -> dict[str, Any]:
    """All entries of a YAML file of hyperparameters.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it does not hold hyperparameters by environment
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no hyperparameter file {path}")
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"{path} must hold hyperparameters by environment, as in {hyperparameter_file()}")
    return entries


def for_evaluation(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters without the wrappers that belong to training alone.

    :param hyperparams: of one environment, as in the file
    """
    wrappers = hyperparams.get("env_wrapper")
    if not isinstance(wrappers, list):
        return dict(hyperparams)
    names = [next(iter(wrapper)) if isinstance(wrapper, Mapping) else wrapper for wrapper in wrappers]
    kept = [wrapper for wrapper, name in zip(wrappers, names, strict=True) if name not in TRAINING_ONLY]
    return {**hyperparams, "env_wrapper": kept or None}


def check_values(hyperparams: Mapping[str, Any], algorithm: type[BaseAlgorithm]) -> None:
    """Refuse values of the entries that the zoo itself reads, and of the learning rate, that cannot work.

    :param hyperparams: of one environment, as in the file
    :param algorithm: class that they are for
    :raises ValueError: naming the entry, its value and what it must be
    """
    for name in ("n_timesteps", "policy"):
        if name not in hyperparams:
            raise ValueError(f"the hyperparameters of this environment lack {name!r}")
    for name, kind in KINDS.items():
        if name in hyperparams and not kind.fits(hyperparams[name]):
            raise ValueError(f"{name}={hyperparams[name]!r} must be {kind.words}")
    for name, bases in CLASSES.items():
        entries = hyperparams.get(name)
        for entry in entries if isinstance(entries, list) else [] if entries is None else [entries]:
            _check_class(name, entry, bases)
    policy = hyperparams["policy"]
    if "." in policy:
        _check_class("policy", policy, (BasePolicy,))
    elif policy not in algorithm.policy_aliases:
        raise ValueError(f"policy={policy!r} must be one of {', '.join(algorithm.policy_aliases)}")


def _check_class(name: str, entry: Any, bases: tuple[type, ...]) -> None:
    """Refuse what names neither a class nor, for wrappers, a function: ``package.module.Class``, or with arguments."""
    path = next(iter(entry)) if isinstance(entry, Mapping) and len(entry) == 1 else entry
    arguments = entry[path] if isinstance(entry, Mapping) and len(entry) == 1 else {}
    if not isinstance(path, str | type) or not isinstance(arguments, Mapping):
        raise ValueError(
            f"{name}={entry!r} must be like 'package.module.Class', or that with a dictionary of arguments"
        )
    found: Any = path
    if isinstance(path, str):
        module, _, attribute = path.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # of whatever the module does
            raise ValueError(f"{name}={path!r} cannot be imported: {type(error).__name__}: {error}") from error
    is_function = callable(found) and not isinstance(found, type) and name in WRAPPERS
    if not is_function and not (isinstance(found, type) and issubclass(found, bases)):
        raise ValueError(f"{name}={path!r} is no {' or '.join(base.__name__ for base in bases)}")


def check_evaluated(hyperparams: Mapping[str, Any], normalize: Any, monitor_kwargs: Any) -> None:
    """Refuse what the zoo has made of the entries that it runs as Python.

    :param hyperparams: of one environment, after the zoo has read them
    :param normalize: arguments of ``VecNormalize``, or whether there is one
    :param monitor_kwargs: arguments of ``Monitor``
    :raises ValueError: naming the entry
    """
    named = {name: hyperparams[name] for name in ("policy_kwargs", "replay_buffer_kwargs") if name in hyperparams}
    for name, value in {**named, "normalize": normalize, "monitor_kwargs": monitor_kwargs}.items():
        is_flag = name == "normalize" and isinstance(value, bool)
        if not is_flag and value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{name}={value!r} must be a dictionary of arguments")
    replay_buffer_class = hyperparams.get("replay_buffer_class")
    if replay_buffer_class is not None and not isinstance(replay_buffer_class, type):
        raise ValueError(f"replay_buffer_class={replay_buffer_class!r} must be a class")
    for name, value, callee in (("normalize", normalize, VecNormalize), ("monitor_kwargs", monitor_kwargs, Monitor)):
        if isinstance(value, Mapping):
            known = argument_names(callee) - {"self", "venv", "env", "filename"}
            check_known(value, known, f"the arguments of {callee.__name__} ({name})")


def read_schedule(text: str) -> float | WarmUp | InverseSqrt:
    """A learning rate that is written as text, such as ``lin_1e-3``, ``warmup_0.2_0.02_0.03`` or ``sqrt_1e-3_1000``.

    :return: the rate at which one begins that falls to zero, or the schedule
    :raises ValueError: if it is not written in this way
    """
    if text.startswith("warmup_"):
        return read_warm_up(text)
    if text.startswith("sqrt_"):
        return read_inverse_sqrt(text)
    try:
        name, value = text.split("_")
        rate = float(value)
    except ValueError:
        name, rate = "", 0.0
    if name != "lin" or not 0 < rate < math.inf:
        raise ValueError(f"learning_rate={text!r} must be {RATE}")
    return rate


def read_warm_up(text: str) -> WarmUp:
    """A learning rate such as ``warmup_0.2_0.02_0.03``: the rate, and where its rise begins and ends.

    :raises ValueError: if it is not written in this way
    """
    try:
        rate, begin, end = map(float, text.split("_")[1:])
    except ValueError as error:
        raise ValueError(f"learning_rate={text!r} must be like 'warmup_0.2_0.02_0.03': rate, begin, end") from error
    return WarmUp(rate, begin, end)


def read_inverse_sqrt(text: str) -> InverseSqrt:
    """A learning rate such as ``sqrt_1e-3_1000``: the first rate, and over how many updates it begins to fall.

    :raises ValueError: if it is not written in this way
    """
    try:
        rate, n_updates = map(float, text.split("_")[1:])
        return InverseSqrt(rate, n_updates)
    except ValueError as error:
        raise ValueError(f"learning_rate={text!r} must be like 'sqrt_1e-3_1000': first rate, updates") from error


def check_names(hyperparams: Mapping[str, Any], algorithm: type) -> None:
    """Refuse hyperparameters that nothing reads.

    :param hyperparams: of one environment, as in the file
    :param algorithm: class that they are for
    :raises ValueError: with the nearest valid name
    """
    arguments = argument_names(algorithm)
    known = (arguments - GIVEN_BY_ZOO) | ZOO_NAMES
    if "action_noise" not in arguments:
        known -= {"noise_type", "noise_std"}
    check_known(hyperparams, known, f"{algorithm.__name__}'s hyperparameters")
