"""What ``-i`` goes on with: the newest checkpoint of a run and what its journal has from later on."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.checkpoint_files import MANIFEST, MODEL, checkpoints_in, read_manifest
from sb3_ezv2.common.array_files import DamagedFileError
from sb3_ezv2.ezv2 import EfficientZeroV2

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a run's folder."""
JOURNAL = "journal.sqlite"
"""Name of the journal in a run's folder."""
KEPT = 2
"""Newest checkpoints that stay in a run's folder."""


class Origin(NamedTuple):
    """What a run goes on with."""

    run: Path  # folder of the run before
    model: Path | None  # file of its model, of a checkpoint or alone; None where there is only a journal

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the checkpoint, ``None`` if the model is not part of one."""
        return checkpoint_of(self.model)

    @property
    def journal(self) -> Path | None:
        """The run's journal, ``None`` if there is none."""
        path = self.run / JOURNAL
        return path if path.is_file() else None


def checkpoint_of(model: Path | None) -> Path | None:
    """Folder of the checkpoint that a file of a model is part of, ``None`` if it is part of none."""
    return model.parent if model is not None and (model.parent / MANIFEST).is_file() else None


def find_origin(path: str, env_id: str) -> Origin:
    """What ``-i`` means.

    A run's folder, or its model: the newest checkpoint, or the model if it has seen more steps; else the journal.
    A checkpoint, a folder of them, or another model: that one.

    :param path: folder, or zip file of a model
    :param env_id: of the environment
    :raises ValueError: if there is nothing to go on with
    """
    place, name = Path(path), f"{EnvironmentName(env_id)}.zip"
    if place.is_file() and (place.name != name or checkpoint_of(place)):
        return Origin(_run_of(place), place)
    if (place / MANIFEST).is_file():
        return Origin(_run_of(place / MODEL), place / MODEL)
    run = place.parent if place.is_file() or place.name == CHECKPOINTS else place
    newest, steps = _newest(run / CHECKPOINTS)
    model = run / name
    if newest is not None and (not model.is_file() or (_steps_of(model) or 0) <= steps):
        return Origin(run, newest / MODEL)
    if model.is_file():
        return Origin(run, model)
    if (run / JOURNAL).is_file():
        return Origin(run, None)
    raise ValueError(f"{path} holds no checkpoint, no {name} and no {JOURNAL}")


def origin_of(args: Any) -> Origin | None:
    """What the options of ``ezv2-train`` say that a run goes on with, ``None`` if it begins anew.

    :param args: of the command line, after :func:`set_origin`
    """
    if args.trained_agent:
        return Origin(_run_of(Path(args.trained_agent)), Path(args.trained_agent))
    return Origin(Path(args.from_journal).parent, None) if getattr(args, "from_journal", None) else None


def set_origin(args: Any) -> None:
    """Put the model that ``-i`` leads to in its place, as the zoo takes nothing but the zip file of one.

    Where there is only a journal, the option ``from_journal``, which the zoo does not know, names it.

    :param args: of the command line
    :raises ValueError: if there is nothing to go on with
    """
    origin = find_origin(args.trained_agent, args.env)
    args.trained_agent = "" if origin.model is None else str(origin.model)
    if origin.model is None:
        args.from_journal = str(origin.journal)


def command_to_go_on(args: Any, path: Path | str) -> str:
    """The command that goes on with a run.

    :param args: of the run's command line
    :param path: where it was saved
    """
    packages = f" --gym-packages {' '.join(args.gym_packages)}" if args.gym_packages else ""
    return f"ezv2-train --algo {args.algo} --env {args.env}{packages} -i {path}"


def _run_of(model: Path) -> Path:
    """Folder of the run that a model belongs to."""
    checkpoint = checkpoint_of(model)
    if checkpoint is None:
        return model.parent
    return checkpoint.parent.parent if checkpoint.absolute().parent.name == CHECKPOINTS else checkpoint.parent


def _newest(folder: Path) -> tuple[Path | None, int]:
    """The newest checkpoint that says what it is, and its steps; those that do not are told."""
    for checkpoint in reversed(checkpoints_in(folder)):
        try:
            return checkpoint, int(read_manifest(checkpoint)["num_timesteps"])
        except ValueError as error:
            print(f"Not used: {error}", file=sys.stderr)
    return None, 0


def _steps_of(model: Path) -> int | None:
    """Steps that a model has seen, ``None`` if the file does not tell."""
    try:
        with zipfile.ZipFile(model) as archive:
            return int(json.loads(archive.read("data"))["num_timesteps"])
    except Exception:  # damaged archives raise whatever their damage looks like to zipfile
        return None


def load_newest(checkpoint: Path, env: VecEnv, **kwargs: Any) -> EfficientZeroV2:
    """Load a checkpoint or, if it is damaged, the newest whole one before it.

    :param checkpoint: its folder
    :param env: to learn in
    :param kwargs: of ``load_checkpoint``
    :raises ValueError: if none is whole, or ``env`` does not fit
    """
    siblings = checkpoints_in(checkpoint.parent)
    names = [path.name for path in siblings]
    older = siblings[: names.index(checkpoint.name)] if checkpoint.name in names else []
    for place in (checkpoint, *reversed(older)):
        try:
            return EfficientZeroV2.load_checkpoint(place, env, **kwargs)
        except DamagedFileError as error:
            failure = error
            print(f"Not used: {error}", file=sys.stderr)
    raise failure


def add_journal(model: EfficientZeroV2, journal: Path, from_checkpoint: bool) -> int:
    """Add what a journal has from after a checkpoint, or all of it, to the replay buffer.

    Where there is something, the environments start anew.

    :param model: that has been loaded or made
    :param journal: of the run
    :param from_checkpoint: whether the buffer has what happened before
    :return: the step at which the journal ends, at least that of the model
    :raises ValueError: if the file is no journal, or of other environments
    """
    before = model.num_timesteps
    try:
        after = (model.run_id, before) if from_checkpoint else None
        summary = model.replay_buffer.add_journal(journal, after)
    except ValueError:
        if not from_checkpoint:
            raise
        # Of another run: what happened there is worth as much as what happened here.
        summary = model.replay_buffer.add_journal(journal)
        print(f"{journal} does not know the run {model.run_id}; all of it is read")
    if summary.n_transitions == 0:
        return before
    model._replay_buffer_loaded()
    model._last_obs = None
    print(f"{summary.n_transitions} transitions come from {journal}; the environments start anew")
    return max(before, summary.step)


def missed_updates(model: EfficientZeroV2, before: int, after: int) -> int:
    """Updates that a run would have made between two steps, 0 if their number depends on episodes.

    :param before: steps up to the last update
    :param after: steps up to now
    """
    plan = model.arguments.exploration
    n_steps = max(after - max(before, plan.learning_starts), 0)
    if plan.gradient_steps < 0:
        return n_steps
    frequency = plan.sb3_train_freq()
    if frequency.unit != TrainFrequencyUnit.STEP:
        return 0
    return n_steps * plan.gradient_steps // (frequency.frequency * model.n_envs)
