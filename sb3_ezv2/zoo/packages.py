"""Packages that register environments: those that options name, and those that a stored run names."""

import argparse
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import get_latest_run_id

from sb3_ezv2.envs.atari import is_atari_id
from sb3_ezv2.zoo.resuming import origin_of
from sb3_ezv2.zoo.settings_files import read_settings


def import_fault(names: Sequence[str]) -> str | None:
    """Import packages, those in the current folder included, as ``python -m`` does; what is wrong, if anything is.

    :param names: of packages or modules
    """
    _look_in_the_current_folder()
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # of whatever the package does
            return f"cannot be imported: {type(error).__name__}: {error}"
        if hasattr(module, "__path__") and getattr(module, "__file__", None) is None:
            return "is a folder without an __init__.py"
    return None


def _look_in_the_current_folder() -> None:
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def restore_packages(options: argparse.Namespace) -> None:
    """Import the packages of the run that a command goes on with or shows, unless ``--gym-packages`` names others.

    They stand in ``options.gym_packages`` afterwards, where the command has that option.

    :param options: of the command line, after :func:`~sb3_ezv2.zoo.resuming.set_origin`
    :raises ValueError: if the run's ``args.yml`` is damaged, or a package that the environment needs is not imported
    """
    run = None if getattr(options, "gym_packages", None) else _run_of(options)
    if run is None:
        return
    path = run / EnvironmentName(options.env) / "args.yml"
    names = (read_settings(path).get("gym_packages") or []) if path.is_file() else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: gym_packages={names!r} must be a list of names")
    env_id = getattr(options.env, "gym_id", options.env)
    for name in names:
        fault = import_fault([name]) if _is_elsewhere(name, run) else "is not installed, nor in the current folder"
        if fault is None:
            continue
        fault = f"{name!r}, which gym_packages in {path} names, {fault}"
        if env_id not in gym.envs.registry and not is_atari_id(env_id):
            raise ValueError(f"argument --env: {env_id!r} is not registered: {fault}; --gym-packages names others")
        print(f"Not used: {fault}", file=sys.stderr)
    if names and hasattr(options, "gym_packages"):
        options.gym_packages = names


def _run_of(options: argparse.Namespace) -> Path | None:
    """Folder of the run that options lead to, ``None`` if they lead to none."""
    if hasattr(options, "trained_agent"):
        origin = origin_of(options)
        return origin.run if origin is not None else None
    if not hasattr(options, "load_best"):
        return None
    folder = Path(options.folder, options.algo)
    name = EnvironmentName(options.env)
    number = options.exp_id or get_latest_run_id(str(folder), name)
    return folder / f"{name}_{number}" if number > 0 else folder


def _is_elsewhere(name: str, run: Path) -> bool:
    """Whether a package lies outside a run's folder: what came with a model is not run, nor is a plain folder."""
    _look_in_the_current_folder()
    try:
        spec = importlib.util.find_spec(name.partition(".")[0])
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and run.resolve() not in Path(spec.origin).resolve().parents
