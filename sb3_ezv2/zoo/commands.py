"""The commands: rl-zoo3's own scripts, run with this package registered and a few other defaults.

Defaults stand before the user's arguments, so that the user's win.
"""

import argparse
import contextlib
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.repocard
import huggingface_sb3
import rl_zoo3.exp_manager
import rl_zoo3.utils
import yaml
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.zoo import ALGO, plots, seeds
from sb3_ezv2.zoo.checks import check_model_file
from sb3_ezv2.zoo.experiment import Experiment
from sb3_ezv2.zoo.hub import (
    FolderOfTheRun,
    OfflineHub,
    checked_file,
    fetch,
    ffmpeg_on_path,
    local_file,
    mend_metadata,
    own_card,
    save_for_the_hub,
)
from sb3_ezv2.zoo.options import checked_options
from sb3_ezv2.zoo.replacing import replaced
from sb3_ezv2.zoo.settings import for_evaluation
from sb3_ezv2.zoo.settings_files import SettingsLoader, check_settings, check_wrappers, saved_hyperparams
from sb3_ezv2.zoo.stopping import Stopper

AS_TRAINED = ["--algo", ALGO, "-f", "logs", "--deterministic"]
"""Defaults of what shows a trained model; the zoo plays Atari at random, which ``--stochastic`` brings back."""


def train(arguments: list[str]) -> None:
    """``rl_zoo3.train`` with ``--algo ezv2`` and all evaluation episodes side by side; ``--n-seeds`` repeats it."""
    several = seeds.parse(arguments)
    if several is not None:
        seeds.train(several)
        return
    with (
        Stopper() as stopper,
        replaced(Experiment, "stopper", stopper),
        replaced(rl_zoo3.exp_manager, "ExperimentManager", Experiment),
    ):
        run_script("train", ["--algo", ALGO, "--n-eval-envs", "5", *arguments])


def enjoy(arguments: list[str]) -> None:
    """``rl_zoo3.enjoy`` with ``--algo ezv2`` and the folder that ``train`` writes to."""
    run_script("enjoy", [*AS_TRAINED, *arguments])


def record_video(arguments: list[str]) -> None:
    """``rl_zoo3.record_video`` with ``--algo ezv2`` and the folder that ``train`` writes to."""
    run_script("record_video", [*AS_TRAINED, *arguments])


def plot(arguments: list[str]) -> None:
    """Draw and compare learning curves; see :mod:`sb3_ezv2.zoo.plots`."""
    with checked_options():
        plots.plot(arguments)


def push_to_hub(arguments: list[str]) -> None:
    """``rl_zoo3.push_to_hub`` with the policy alone; ``--dry-run`` writes the folder ``hub`` and sends nothing."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    mend_metadata()
    offline = replaced(huggingface_hub, "HfApi", OfflineHub) if options.dry_run else contextlib.nullcontext()
    with (
        offline,
        replaced(huggingface_hub.repocard, "metadata_save", own_card),
        replaced(EfficientZeroV2, "save", save_for_the_hub),
        ffmpeg_on_path(),
    ):
        run_script("push_to_hub", [*AS_TRAINED, *rest])


def load_from_hub(arguments: list[str]) -> None:
    """``rl_zoo3.load_from_hub``; with ``--local hub`` from what ``push_to_hub --dry-run`` wrote there."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--local", metavar="FOLDER")
    options, rest = parser.parse_known_args(arguments)
    load = local_file(options.local) if options.local is not None else fetch
    while True:
        folder = FolderOfTheRun()
        with replaced(huggingface_sb3, "load_from_hub", checked_file(load)), folder.made_exclusively():
            run_script("load_from_hub", ["--algo", ALGO, "-f", "logs", *rest])
        if not folder.is_taken:
            return


def run_script(name: str, arguments: list[str]) -> None:
    """Run one of the zoo's scripts as ``python -m rl_zoo3.<name>`` does.

    :param name: of the script
    :param arguments: of its command line
    :raises ImportError: naming the extra to install if the environment is an Atari game and these are missing
    :raises ValueError: if an option cannot work, or what lies beside a model would have to be run
    """
    with (
        checked_options(),
        replaced(sys, "argv", [f"ezv2-{name.replace('_', '-')}", *arguments]),
        replaced(yaml, "UnsafeLoader", SettingsLoader),
        replaced(rl_zoo3, "get_saved_hyperparams", saved_hyperparams),
        replaced(rl_zoo3.utils, "get_saved_hyperparams", saved_hyperparams),
        replaced(rl_zoo3.utils, "get_model_path", checked_model_path),
        replaced(rl_zoo3.utils, "get_wrapper_class", evaluation_wrapper_class),
        replaced(rl_zoo3, "create_test_env", create_env_as_trained),
        replaced(rl_zoo3.utils, "create_test_env", create_env_as_trained),
    ):
        runpy.run_module(f"rl_zoo3.{name}", run_name="__main__")


def checked_model_path(exp_id: int, folder: str, algo: str, *arguments: Any, **kwargs: Any) -> tuple[str, str, str]:
    """The zoo's ``get_model_path``, which finds a model by its run, with a check of the file; parameters as there.

    :raises ValueError: if the file is damaged
    """
    try:
        found: tuple[str, str, str] = get_model_path(exp_id, folder, algo, *arguments, **kwargs)
    except (AssertionError, ValueError) as error:
        number = f" --load-checkpoint {arguments[2]}" if arguments[2] is not None else ""
        raise ValueError(f"--folder {folder} --exp-id {exp_id}{number}: {error}") from error
    if algo == ALGO:
        check_model_file(found[1])
    check_settings(Path(found[2]) / arguments[0])
    return found


def evaluation_wrapper_class(hyperparams: Mapping[str, Any], key: str = "env_wrapper") -> Callable[..., Any] | None:
    """The zoo's ``get_wrapper_class`` without what belongs to training alone; parameters as there."""
    check_wrappers(hyperparams, key)
    found: Callable[..., Any] | None = get_wrapper_class(for_evaluation(hyperparams), key)
    return found


def create_env_as_trained(
    env_id: str, *, hyperparams: dict[str, Any], env_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> VecEnv:
    """The zoo's ``create_test_env``, which also looks for the environment's arguments in the hyperparameters.

    Those given count first. Parameters as there, all but the first by name.
    """
    env_kwargs = {**hyperparams.get("env_kwargs", {}), **(env_kwargs or {})}
    return create_test_env(env_id, hyperparams=hyperparams, env_kwargs=env_kwargs, **kwargs)


create_test_env = rl_zoo3.utils.create_test_env
get_model_path = rl_zoo3.utils.get_model_path
get_wrapper_class = rl_zoo3.utils.get_wrapper_class
