"""``ezv2-train`` under ``torchrun``: every rank runs the command, the first one alone writes the run's folder."""

import argparse
import contextlib
import os
import platform
import secrets
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.callbacks import TransitionJournal
from sb3_ezv2.checkpoint_files import checkpoints_in
from sb3_ezv2.common.files import write_text
from sb3_ezv2.common.rank_watch import RankError
from sb3_ezv2.common.ranks import RESTARTS_VARIABLE, Ranks, ranks_of_process
from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.experiment import Experiment
from sb3_ezv2.zoo.learner import Learner
from sb3_ezv2.zoo.resuming import CHECKPOINTS, KEPT, Origin
from sb3_ezv2.zoo.runs import write_record
from sb3_ezv2.zoo.stopping import StopAfterStep, Stopper

LAUNCH = "torchrun.txt"
"""File in a run's folder that says which start of torchrun it belongs to."""
OF_ONE_PROCESS = ("-optimize", "--optimize-hyperparameters", "--n-seeds", "--trial-id", "--track")


def launch_name() -> str:
    """Which start of torchrun this is; the same after it has restarted the ranks."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return name if name != "none" else f"{platform.node()}-{os.getppid()}"


def is_restart() -> bool:
    """Whether torchrun has started the ranks again because one of them had ended."""
    return int(os.environ.get(RESTARTS_VARIABLE, "0")) > 0


def arguments_of_rank(arguments: Sequence[str], ranks: Ranks) -> list[str]:
    """The command line that all ranks run: with one seed and, after a restart, with the run that was begun.

    :param arguments: of this rank
    :param ranks: that run the same command
    :raises ValueError: on the first rank, if the command lines differ or cannot be run by several ranks
    """
    for option in arguments:
        if option.partition("=")[0] in OF_ONE_PROCESS:
            ranks.refuse(f"argument {option}: not under torchrun; start one process, or several with one --storage")
    found = ranks.gathered(list(arguments))
    for rank, theirs in enumerate(found):
        if theirs != found[0]:
            ranks.refuse(f"rank {rank} was started with {' '.join(theirs)!r}, rank 0 with {' '.join(found[0])!r}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seed", default="-1")
    parser.add_argument("--algo", default=ALGO)
    parser.add_argument("-f", "--log-folder", default="logs")
    parser.add_argument("-i", "--trained-agent", default="")
    known, _ = parser.parse_known_args(arguments)
    if known.algo != ALGO:
        ranks.refuse(f"argument --algo: {known.algo} learns in one process; only {ALGO} learns under torchrun")
    given = list(arguments)
    if known.seed == "-1":
        given += ["--seed", str(ranks.gathered(secrets.randbelow(2**32))[0])]
    run = ranks.gathered(_begun_run(Path(known.log_folder, known.algo)))[0] if is_restart() else None
    return given if run is None else [*given, "-i", run]


def _begun_run(folder: Path) -> str | None:
    """Folder of the run that this start of torchrun has begun, the newest if it went on already."""
    files = sorted(folder.glob(f"*/{LAUNCH}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        if path.read_text(encoding="utf-8").strip() == launch_name() and checkpoints_in(path.parent / CHECKPOINTS):
            return str(path.parent)
    return None


@contextlib.contextmanager
def silent(is_silent: bool) -> Iterator[None]:
    """Let nothing be printed inside, as on all ranks but the first one."""
    if not is_silent:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


class RankStopper(Stopper):
    """Never interrupts a step: a rank that leaves the others in the middle of one could save nothing."""

    def _insist(self, number: int) -> None:
        return


class RankedExperiment(Experiment):
    """An :class:`~sb3_ezv2.zoo.experiment.Experiment` of several ranks; parameters as there.

    ``n_envs`` counts the environments of all ranks; where it is not given, each has one. There is no journal: what a
    run goes on with is its newest checkpoint.

    :raises ValueError: on the first rank, if the environments cannot be divided, or there is no checkpoint to go on
        with
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ranks = ranks_of_process()
        super().__init__(*args, **kwargs)
        if self.origin is not None and self.origin.checkpoint is None:
            self.ranks.refuse(f"-i {self.origin.run}: under torchrun a run goes on from a checkpoint, and it has none")

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run's folder."""
        return self.ranks.rank == 0

    # -- before the run --------------------------------------------------------------------------------------------

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> tuple[Any, ...]:
        size = self.ranks.size
        n_envs = hyperparams.setdefault("n_envs", size)
        if n_envs % size:
            fault = "fewer environments than ranks" if n_envs < size else "not a multiple of the number of ranks"
            self.ranks.refuse(
                f"n_envs={n_envs} counts the environments of all {size} ranks and is {fault}; use -params "
                f"n_envs:{-(-n_envs // size) * size}, or torchrun with fewer ranks"
            )
        return super()._preprocess_hyperparams(hyperparams)

    def create_log_folder(self) -> None:
        """Create the run's folder on the first rank; the others take its path."""
        if self.is_first:
            super().create_log_folder()
        self.save_path = self.ranks.gathered(self.save_path)[0]
        self.params_path = f"{self.save_path}/{self.env_name}"

    def create_callbacks(self) -> None:
        """Create the callbacks of the first rank, without a journal, which would have its environments alone."""
        if self.is_first:
            super().create_callbacks()
            self.callbacks = [part for part in self.callbacks if not isinstance(part, TransitionJournal)]

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create this rank's environments, or all of those for evaluation."""
        if eval_env:
            return super().create_envs(n_envs, eval_env, no_log)
        run = self.save_path
        if not self.is_first:
            self.save_path = f"{run}/rank_{self.ranks.rank}"  # of the files of its monitors
        try:
            return super().create_envs(n_envs // self.ranks.size, eval_env, no_log)
        finally:
            self.save_path = run

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        if self.is_first:
            super()._save_config(saved_hyperparams)
            write_text(Path(self.save_path, LAUNCH), launch_name() + "\n")

    def _go_on(self, model: Any, origin: Origin) -> None:
        """Plan the steps that are left, and make the new folder whole in itself."""
        planned = model._total_timesteps
        if (self.asked_timesteps <= 0 or is_restart()) and planned > model.num_timesteps:
            self.n_timesteps = planned - model.num_timesteps
        self.first_step = model.num_timesteps
        if self.is_first:
            write_record(Path(self.save_path), origin.run, self.first_step)
        model.save_checkpoint(Path(self.save_path, CHECKPOINTS), KEPT)
        print(f"Going on from step {model.num_timesteps} to step {model.num_timesteps + self.n_timesteps}")

    # -- the run ---------------------------------------------------------------------------------------------------

    def learn(self, model: BaseAlgorithm) -> None:
        """Train; see ``ExperimentManager``.

        :raises SystemExit: if a signal ends the run early, after it is saved, with 128 and its number; after an error
            on any rank with 1, and then the newest checkpoint is what it goes on with
        """
        learner = Learner(model, goes_on=self.origin is not None)
        self.callbacks.append(StopAfterStep(self.stopper))
        try:
            with self.stopper.learning():
                ExperimentManager.learn(self, learner)  # type: ignore[arg-type]
            number = self.stopper.received or (signal.SIGINT if learner.is_interrupted else None)
            self.stopper.received = self.ranks.gathered(number)[0]
        except BaseException as error:
            self._give_up(model, error)
        if self.stopper.received is not None:
            self._end_early(learner, None)

    def _end_early(self, learner: Learner, error: BaseException | None) -> NoReturn:
        if self.is_first:
            super()._end_early(learner, error)
        with self.stopper.saving():
            self._save(learner.model, with_checkpoint=True)
            learner.close()
            raise SystemExit(128 + (self.stopper.received or signal.SIGINT))

    def _give_up(self, model: BaseAlgorithm, error: BaseException) -> NoReturn:
        """Leave without saving: the ranks no longer stand at the same step."""
        if isinstance(error, RankError):
            print(f"ezv2-train: error: {error}", file=sys.stderr, flush=True)
        elif not isinstance(error, SystemExit):
            traceback.print_exception(error)
            print(
                f"{type(error).__name__} on rank {self.ranks.rank} ended the run at step {model.num_timesteps}; go on "
                f"from its newest checkpoint with -i {self.save_path}",
                file=sys.stderr,
                flush=True,
            )
        raise SystemExit(1) from None

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model on the first rank and draw the learning curve."""
        if self.is_first:
            super().save_trained_model(model)
            return
        self._save(model, with_checkpoint=False)
        Learner(model, False).close()

    def _save(self, model: Any, with_checkpoint: bool) -> Path:
        saved = [Path(self.save_path)]

        def save() -> bool:
            saved.append(super(RankedExperiment, self)._save(model, with_checkpoint))
            return True

        self.ranks.led(save, model.save_checkpoint)
        return saved[-1]
