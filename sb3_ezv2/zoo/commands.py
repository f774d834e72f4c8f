"""The commands: rl-zoo3's own scripts, run with this package registered and a few other defaults.

Defaults stand before the user's arguments, so that the user's win.
"""

import argparse
import contextlib
import runpy
import sys
import tempfile

import huggingface_hub
import huggingface_hub.repocard
import huggingface_sb3
import rl_zoo3.exp_manager
import rl_zoo3.utils
import yaml

from sb3_ezv2.common.ranks import ranks_of_process
from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.zoo import ALGO, inspecting, plots, seeds, together
from sb3_ezv2.zoo.estimating import Estimation
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
from sb3_ezv2.zoo.masked_playing import masks_while_playing
from sb3_ezv2.zoo.options import checked_options
from sb3_ezv2.zoo.plan_videos import plans_beside_frames
from sb3_ezv2.zoo.replacing import replaced
from sb3_ezv2.zoo.settings_files import SettingsLoader, saved_hyperparams
from sb3_ezv2.zoo.stopping import Stopper
from sb3_ezv2.zoo.stored_models import checked_model_path, evaluation_wrapper_class

AS_TRAINED = ["--algo", ALGO, "-f", "logs", "--deterministic"]
"""Defaults of what shows a trained model; the zoo plays Atari at random, which ``--stochastic`` brings back."""


def train(arguments: list[str]) -> None:
    """``rl_zoo3.train`` with ``--algo ezv2`` and all evaluation episodes side by side; ``--n-seeds`` repeats it.

    Under torchrun it is one run of all ranks.
    """
    ranks = ranks_of_process()
    stopper_class, experiment_class = Stopper, Experiment
    if ranks.size > 1:
        arguments = together.arguments_of_rank(arguments, ranks)
        stopper_class, experiment_class = together.RankStopper, together.RankedExperiment
    several = seeds.parse(arguments)
    if several is not None:
        seeds.train(several)
        return
    with (
        stopper_class() as stopper,
        replaced(Experiment, "stopper", stopper),
        replaced(rl_zoo3.exp_manager, "ExperimentManager", experiment_class),
        together.silent(ranks.rank > 0),
    ):
        run_script("train", ["--algo", ALGO, "--n-eval-envs", "5", *arguments])


def estimate(arguments: list[str]) -> None:
    """Say how long ``train`` would take with the same options; nothing is kept."""
    with (
        tempfile.TemporaryDirectory(prefix="ezv2-estimate-") as folder,
        replaced(rl_zoo3.exp_manager, "ExperimentManager", Estimation),
    ):
        run_script("train", ["--algo", ALGO, *arguments, "-f", folder, "--eval-freq", "-1"])


def enjoy(arguments: list[str]) -> None:
    """``rl_zoo3.enjoy`` with ``--algo ezv2`` and the folder that ``train`` writes to."""
    run_script("enjoy", [*AS_TRAINED, *arguments])


def record_video(arguments: list[str]) -> None:
    """``rl_zoo3.record_video`` with ``--algo ezv2``; ``--plans`` shows candidates and value beside each frame."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--plans", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    with plans_beside_frames() if options.plans else contextlib.nullcontext():
        run_script("record_video", [*AS_TRAINED, *rest])


def inspect(arguments: list[str]) -> None:
    """Look inside the model of a run; see :mod:`sb3_ezv2.zoo.inspecting`."""
    with checked_options():
        inspecting.inspect(arguments)


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
        masks_while_playing(),
    ):
        runpy.run_module(f"rl_zoo3.{name}", run_name="__main__")
