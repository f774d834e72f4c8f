"""Options of the command lines: what the zoo's parsers take without a question is checked before anything runs."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import rl_zoo3.utils
import torch as th
from huggingface_hub.utils._validators import validate_repo_id

from sb3_ezv2.envs.atari import is_atari_id, register_atari
from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_folder
from sb3_ezv2.zoo.packages import import_fault, restore_packages
from sb3_ezv2.zoo.replacing import replaced
from sb3_ezv2.zoo.resuming import set_origin
from sb3_ezv2.zoo.settings import PAPER

LARGEST = 2**63 - 1
MOST_ENVS = 4096
"""Copies of an environment; more of them are a mistake."""
MOST_THREADS = 512


class Limits(NamedTuple):
    """Integers that an option takes."""

    low: int
    high: int = LARGEST
    also: int | None = None  # has a meaning of its own

    def fault(self, value: int) -> str | None:
        """What is wrong with a value, ``None`` if nothing is."""
        if value == self.also or self.low <= value <= self.high:
            return None
        high = "" if self.high == LARGEST else f" and at most {self.high}"
        also = "" if self.also is None else f", or {self.also}"
        return f"must be at least {self.low}{high}{also}"


NEGATIVE_IS_NONE = {"eval_freq", "save_freq"}
LIMITS = {
    "n_timesteps": Limits(1),
    "num_threads": Limits(1, MOST_THREADS, also=-1),
    "log_interval": Limits(1, also=-1),
    "eval_episodes": Limits(1),
    "n_eval_envs": Limits(1, MOST_ENVS),
    "n_envs": Limits(1, MOST_ENVS),
    "seed": Limits(0, 2**32 - 1),
    "n_trials": Limits(1),
    "max_total_trials": Limits(1),
    "n_jobs": Limits(1, MOST_THREADS, also=-1),
    "n_startup_trials": Limits(0),
    "n_evaluations": Limits(1),
    "trial_id": Limits(0),
    "verbose": Limits(0, 2),
    "exp_id": Limits(0, also=-1),
    "load_checkpoint": Limits(0),
    "episode_window": Limits(1),
    "n_episodes": Limits(1),
    "max_steps": Limits(1),
}
TRAIN_LIMITS = {
    "n_timesteps": Limits(1, also=-1),
    "log_interval": Limits(1, also=-2),
    "seed": Limits(0, 2**32 - 1, also=-1),
}
"""Where -1 is the default of the training command, or means something else there."""
FOLDERS = ("log_folder", "folder", "optimization_log_path", "output_folder", "reward_log", "tensorboard_log")


class NamedValues(rl_zoo3.utils.StoreDict):
    """The zoo's ``StoreDict`` for options such as ``-params gamma:0.99``, whose errors say which value is meant.

    An option that is given twice adds to the first.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Add the values of one option.

        :raises ArgumentError: naming the value
        """
        found = dict(getattr(namespace, self.dest) or {})
        for value in values:
            one = argparse.Namespace()
            if not value.partition(":")[0] or not value.partition(":")[2].strip():
                raise argparse.ArgumentError(self, f"{value!r} must be a name and a value, such as gamma:0.99")
            try:
                super().__call__(parser, one, [value], option_string)
            except Exception as error:  # of whatever the value makes Python do
                kind = type(error).__name__
                raise argparse.ArgumentError(self, f"{value!r} is no value in Python: {kind}: {error}") from error
            found |= getattr(one, self.dest)
        setattr(namespace, self.dest, found)


@contextmanager
def checked_options() -> Iterator[None]:
    """Inside, every parser refuses what cannot work, with a ValueError that names the option."""
    with (
        replaced(rl_zoo3.utils, "StoreDict", NamedValues),
        replaced(argparse.ArgumentParser, "parse_args", _parse_checked),
        replaced(argparse.ArgumentParser, "error", _refuse),
    ):
        yield


parse_args = argparse.ArgumentParser.parse_args


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    raise ValueError(message)


def _parse_checked(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, namespace: Any = None
) -> argparse.Namespace:
    given = sys.argv[1:] if arguments is None else list(arguments)
    for before, value in zip(["the command line", *given], given, strict=False):
        if not value.strip() or (value.startswith("--") and not value.partition("=")[2].strip() and "=" in value):
            raise ValueError(f"argument {before if not value.strip() else value}: its value is empty")
    actions = {action.dest: action for action in parser._actions}
    for action in actions.values():
        if action.type is bool:  # for which the text "False" is true
            action.type = _truth
    if "eval_freq" in actions:
        parser.set_defaults(eval_freq=None)  # so that an explicit value is known as such
    options = parse_args(parser, given, namespace)
    for name, value in vars(options).items():
        fault = None if value == actions[name].default else _fault(name, value, "trained_agent" in actions)
        if fault:
            raise ValueError(f"argument {'/'.join(actions[name].option_strings)}: {value!r} {fault}")
    _check_together(options)
    if getattr(options, "trained_agent", "") and options.algo == ALGO:
        try:
            set_origin(options)
        except ValueError as error:
            raise ValueError(f"argument -i/--trained-agent: {error}") from error
    if isinstance(getattr(options, "env", None), str):
        restore_packages(options)
        _check_env(options)
    return options


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} must be True or False")
    return text.lower() == "true"


def _fault(name: str, value: Any, is_train: bool) -> str | None:
    """What is wrong with the value of an option, ``None`` if nothing is."""
    if name in NEGATIVE_IS_NONE:
        return "must be at least 1, or negative for never" if value == 0 or abs(value) > LARGEST else None
    limits = TRAIN_LIMITS.get(name, LIMITS.get(name)) if is_train else LIMITS.get(name)
    if limits is not None:
        return limits.fault(value)
    check = CHECKS.get(name)
    try:
        return check(value) if check else None
    except OSError as error:
        return f"cannot be used: {error}"


def _folder_fault(path: str) -> str | None:
    check_folder(path)
    return None


def _file_fault(path: str) -> str | None:
    return None if Path(path).is_file() else "is no file"


def _model_fault(path: str) -> str | None:
    if Path(path).is_dir():
        return None
    return _file_fault(path) or (None if path.endswith(".zip") else "must be a run's folder or a model's .zip file")


def _device_fault(name: str) -> str | None:
    if name == "auto":
        return None
    try:
        th.zeros(1, device=name).item()
    except Exception as error:  # torch raises what it likes
        return f"is no device that can be used here: {' '.join(str(error).split())}"
    return None


def _config_fault(name: str) -> str | None:
    if name == PAPER:
        return None
    if Path(name).suffix in (".yml", ".yaml", ".py"):
        return _file_fault(name) and f"is no file: there is no hyperparameter file {name}"
    fault = import_fault([name])
    return fault or (None if hasattr(sys.modules[name], "hyperparams") else "has no dictionary 'hyperparams'")


CHECKS: dict[str, Any] = {
    **dict.fromkeys(FOLDERS, _folder_fault),
    "trained_agent": _model_fault,
    "device": _device_fault,
    "gym_packages": import_fault,
    "conf_file": _config_fault,
}


def _check_together(options: argparse.Namespace) -> None:
    """Refuse options that silently lose against others.

    :raises ValueError: naming them
    """
    given = {name for name, value in vars(options).items() if value not in (None, "", False, [])}
    if {"trained_agent", "optimize_hyperparameters"} <= given:
        raise ValueError("-optimize starts every trial afresh; leave out -i/--trained-agent")
    if options.__dict__.get("trial_id") is not None and not {"storage", "study_name"} <= given:
        raise ValueError("--trial-id needs the study: --storage and --study-name")
    which = sorted(given & {"load_best", "load_last_checkpoint"} | ({"load_checkpoint"} & set(_not_none(options))))
    if len(which) > 1:
        raise ValueError(f"only one of {', '.join('--' + name.replace('_', '-') for name in which)} can be loaded")
    if "organization" in given:
        name = options.repo_name or "ezv2"
        try:
            validate_repo_id(f"{options.organization}/{name}")
        except ValueError as error:
            raise ValueError(f"--organization {options.organization} --repo-name {name}: {error}") from error
    if "tensorboard_log" in given:
        importlib.import_module("tensorboard")


def _not_none(options: argparse.Namespace) -> list[str]:
    return [name for name, value in vars(options).items() if value is not None]


def _check_env(options: argparse.Namespace) -> None:
    """Refuse an environment that is not registered.

    :raises ImportError: if what registers it is not installed
    :raises ValueError: with the nearest name
    """
    env_id = getattr(options.env, "gym_id", options.env)
    if is_atari_id(env_id):
        register_atari()
    if env_id not in gym.envs.registry:
        nearest = difflib.get_close_matches(env_id, gym.envs.registry, n=1, cutoff=0.0)
        remedy = ", or name the package that registers it with --gym-packages"
        raise ValueError(
            f"argument --env: {env_id!r} is not registered; the nearest name is {nearest[0]!r}"
            f"{remedy if hasattr(options, 'gym_packages') else ''}"
        )
