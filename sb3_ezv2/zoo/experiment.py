"""The zoo's experiment, adapted to short runs that can be resumed."""

import contextlib
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import optuna
from rl_zoo3 import ALGOS, exp_manager
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.callbacks import TransitionJournal
from sb3_ezv2.checkpoints import CheckpointedAlgorithm, ResumableCheckpointCallback
from sb3_ezv2.common.files import new_folder
from sb3_ezv2.common.user_errors import EXPECTED
from sb3_ezv2.envs.atari import FRAME_SKIP
from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_folder, check_model_file
from sb3_ezv2.zoo.curves import try_to_draw_run
from sb3_ezv2.zoo.evaluation import Evaluation, SaveNormalization
from sb3_ezv2.zoo.learner import Learner
from sb3_ezv2.zoo.progress import ReturnProgressBar
from sb3_ezv2.zoo.replacing import replaced
from sb3_ezv2.zoo.resuming import (
    CHECKPOINTS,
    JOURNAL,
    KEPT,
    Origin,
    add_journal,
    command_to_go_on,
    load_newest,
    missed_updates,
    origin_of,
)
from sb3_ezv2.zoo.runs import create_folder, write_record
from sb3_ezv2.zoo.saving import save_run, speak_without_a_terminal
from sb3_ezv2.zoo.settings import check_evaluated, check_names, check_values, choose_file, for_evaluation, read_schedule
from sb3_ezv2.zoo.settings_files import EVALUATED, read_run
from sb3_ezv2.zoo.stopping import StopAfterStep, Stopper, is_interrupt, workers_without_ctrl_c
from sb3_ezv2.zoo.tuning import claim, open_storage, rescue_trials

create_study = optuna.create_study

EVAL_FREQ = 25_000
"""Steps between evaluations at most, as in the zoo, unless the user says otherwise."""
FOR_ENVS = ("env_kwargs", "env_wrapper", "vec_env_wrapper", "monitor_kwargs")
"""Entries that environments are made with."""
N_EVALUATIONS = 5
"""Evaluations of a run at least, and of a trial while tuning, so that there is a best model and something to prune."""


class Experiment(ExperimentManager):
    """rl-zoo3's ``ExperimentManager`` with checks before anything is written; parameters as there.

    For this package's algorithm its own hyperparameters are the default, and ``-i`` continues a run where it stopped.
    Every run is evaluated, its bar shows the return, and its folder holds a picture of the learning curve. Whatever
    ends a run, it is saved.

    :raises OSError: if the log folder cannot be written to
    :raises ValueError: if the model to continue from is damaged
    """

    stopper = Stopper()
    """Receives the signals that end a run early."""

    def __init__(self, args: Any, algo: str, env_id: str, log_folder: str, *rest: Any, **kwargs: Any) -> None:
        check_folder(log_folder)
        super().__init__(args, algo, env_id, log_folder, *rest, **kwargs)
        self.first_step = 0
        self.is_ours = algo == ALGO
        self.asked_config: str | None = kwargs.get("config")
        self.asked_timesteps = self.n_timesteps
        if self.is_ours:
            self.deterministic_eval = True  # the zoo plays Atari at random, for algorithms whose policy is the answer
        self.origin = origin_of(args) if self.is_ours else None
        if self.origin is not None:
            self._take_options(self.origin)
        if self.optimize_hyperparameters:
            import pandas  # noqa: F401  # the report at the end needs it: better to miss it now

    def _take_options(self, origin: Origin) -> None:
        """Take the environment's arguments from the run that this one goes on with, unless others are given."""
        if origin.model is not None:
            check_model_file(origin.model)
        self.before, args = read_run(origin.run / str(self.env_name))
        self.planned_before = args.get("n_timesteps", -1)  # by -n; else the entry's number is the plan
        if not self.env_kwargs and args.get("env_kwargs"):
            self.env_kwargs = self.args.env_kwargs = dict(args["env_kwargs"])
            self.eval_env_kwargs = self.eval_env_kwargs or self.env_kwargs
        if not self._eval_env_kwargs_args and args.get("eval_env_kwargs"):
            self.eval_env_kwargs = self._eval_env_kwargs_args = self.args.eval_env_kwargs = dict(
                args["eval_env_kwargs"]
            )

    # -- before the run --------------------------------------------------------------------------------------------

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the entry of the environment; see ``ExperimentManager``.

        :raises ValueError: for a name that nothing reads
        """
        own = self.before if self.origin is not None and self.asked_config is None else {}
        if self.is_ours:
            self.config, message = choose_file(self.env_name.gym_id, self.asked_config, self._is_atari)
            if message and not own:
                print(message)
        if own:
            self.custom_hyperparams = own | (self.custom_hyperparams or {})
        if self.trial_id is not None:
            # The zoo takes trial 0 for no trial, and the last one for one that is not there.
            trial = self.load_trial(str(self.storage), str(self.study_name), self.trial_id)
            self.custom_hyperparams = trial | (self.custom_hyperparams or {})
            self.trial_id = None
        try:
            hyperparams, saved = super().read_hyperparameters()
        except EXPECTED:
            raise
        except Exception as error:  # of a Python file of hyperparameters, which is run
            raise ValueError(f"{self.config} cannot be read: {type(error).__name__}: {error}") from error
        check_names(hyperparams, ALGOS[self.algo])
        check_values(hyperparams, ALGOS[self.algo])
        if self.n_evaluations is None:
            self.n_evaluations = N_EVALUATIONS
        return hyperparams, saved

    def load_trial(
        self, storage: str, study_name: str, trial_id: int | None = None, convert: bool = True
    ) -> dict[str, Any]:
        """Hyperparameters of one trial of a study; see ``ExperimentManager``.

        :raises ValueError: if there is no such study or trial
        """
        try:
            study = optuna.load_study(storage=open_storage(storage), study_name=study_name)
        except KeyError as error:
            raise ValueError(f"--study-name {study_name}: {storage} holds no such study") from error
        numbers = [trial.number for trial in study.get_trials(deepcopy=False) if trial.params]
        if trial_id not in numbers:
            raise ValueError(f"--trial-id {trial_id}: the study has trials {numbers[:1]} to {numbers[-1:]}")
        params = study.trials[trial_id].params
        return HYPERPARAMS_CONVERTER[self.algo](params) if convert else params

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Prepare the run; if that fails, or if there are only trials to come, leave no run's folder behind."""
        parents = [folder for folder in Path(self.params_path).parents[1:] if not folder.exists()]
        begun = False
        try:
            result = super().setup_experiment()
            begun = result is not None
            if result is not None and self.origin is not None:
                self._go_on(result[0], self.origin)
        finally:
            if not begun and self.has_folder:
                self._remove([Path(self.params_path), Path(self.save_path), *parents])
        return result

    has_folder = False

    def create_log_folder(self) -> None:
        """Create a folder that no other run has, not even one that starts at the same moment."""
        first, _, rest = self.save_path.rpartition("_")
        if self.args.uuid:
            first, _, number = first.rpartition("_")
            run = create_folder(Path(first), int(number), f"_{rest}")
        else:
            run = create_folder(Path(first), int(rest))
        self.has_folder = True
        self.save_path = str(run)
        self.params_path = f"{self.save_path}/{self.env_name}"

    def _save_config(self, saved_hyperparams: dict[str, Any]) -> None:
        path = self.params_path
        with new_folder(path) as place:
            self.params_path = str(place)
            super()._save_config(saved_hyperparams)
        self.params_path = path
        if self.origin is None:
            before = Path(self.trained_agent).parent if self.trained_agent else None
            write_record(Path(self.save_path), before, 0)

    def _remove(self, folders: list[Path]) -> None:
        """Remove folders of a run that never began, innermost first, unless something else has been put there."""
        if Path(self.save_path) in folders:
            for monitor_file in Path(self.save_path).glob("*.monitor.csv"):
                monitor_file.unlink()
        for folder in folders:
            with contextlib.suppress(OSError):  # not there, or no longer empty
                folder.rmdir()

    def _preprocess_hyperparams(self, hyperparams: dict[str, Any]) -> tuple[Any, ...]:
        self.eval_env_wrapper = get_wrapper_class(for_evaluation(hyperparams))
        self._unprocessed = dict(hyperparams)
        texts = {name: hyperparams[name] for name in EVALUATED if isinstance(hyperparams.get(name), str)}
        try:
            result = super()._preprocess_hyperparams(hyperparams)
        except Exception as error:  # of whatever the zoo runs as Python
            if not texts:
                raise
            named = " or ".join(f"{name}={text!r}" for name, text in texts.items())
            raise ValueError(f"{named} is no value in Python: {type(error).__name__}: {error}") from error
        check_evaluated(result[0], self.normalize_kwargs or self.normalize, self.monitor_kwargs)
        if self._eval_env_kwargs_args is None:  # the zoo forgets those of the hyperparameter file
            self.eval_env_kwargs = self.env_kwargs
        return result

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        rate = hyperparams.get("learning_rate")
        if not (isinstance(rate, str) and callable(schedule := read_schedule(rate))):
            return ExperimentManager._preprocess_schedules(hyperparams)
        others = {name: value for name, value in hyperparams.items() if name != "learning_rate"}
        return ExperimentManager._preprocess_schedules(others) | {"learning_rate": schedule}

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create the environments; those for evaluation without what belongs to training alone."""
        training_wrapper = self.env_wrapper
        if eval_env:
            self.env_wrapper = self.eval_env_wrapper
        try:
            with workers_without_ctrl_c():
                return super().create_envs(n_envs, eval_env, no_log)
        except TypeError as error:
            given = ", ".join(f"{name}={self._unprocessed[name]!r}" for name in FOR_ENVS if name in self._unprocessed)
            if not given and not self.env_kwargs:
                raise
            given = given or f"--env-kwargs {self.env_kwargs}"
            raise ValueError(f"the environment cannot be made with {given}: {error}") from error
        finally:
            self.env_wrapper = training_wrapper

    def create_callbacks(self) -> None:
        """Create the zoo's callbacks, with enough evaluations, our progress bar and a journal of every step."""
        if self.eval_freq is None:
            self.eval_freq = min(EVAL_FREQ, max(self.n_timesteps // N_EVALUATIONS, 1))
            self.args.eval_freq = self.eval_freq
        with (
            replaced(exp_manager, "EvalCallback", Evaluation),
            replaced(exp_manager, "SaveVecNormalizeCallback", SaveNormalization),
            replaced(exp_manager, "ProgressBarCallback", ReturnProgressBar),
            replaced(exp_manager, "CheckpointCallback", partial(self._checkpoints, self.save_freq)),
        ):
            super().create_callbacks()
        if self.is_ours and not self.optimize_hyperparameters:
            # Before the others, so that a step is safe before anything can go wrong in them.
            self.callbacks.insert(0, TransitionJournal(Path(self.save_path, JOURNAL)))

    def _checkpoints(self, every: int, **arguments: Any) -> BaseCallback:
        """The zoo's models every so many steps, for ``enjoy``, and checkpoints to go on with."""
        models = CheckpointCallback(**arguments)
        if not self.is_ours:
            return models
        return CallbackList([models, ResumableCheckpointCallback(every, Path(self.save_path, CHECKPOINTS), KEPT, 1)])

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        checkpoint = None if self.origin is None else self.origin.checkpoint
        if checkpoint is None:
            return super()._load_pretrained_agent(hyperparams, env)
        print(f"Loading {checkpoint}")
        settings = {name: value for name, value in hyperparams.items() if name not in ("policy", "policy_kwargs")}
        return load_newest(
            checkpoint,
            env,
            seed=self.seed,
            tensorboard_log=self.tensorboard_log,
            verbose=self.verbose,
            device=self.device,
            **settings,
        )

    def _go_on(self, model: Any, origin: Origin) -> None:
        """Read the journal of the run before, plan the steps that are left, and make the new folder whole in itself."""
        before = model.num_timesteps
        is_last = origin.model is None or origin.checkpoint is not None or origin.model.stem == str(self.env_name)
        if origin.journal is not None and (origin.checkpoint is not None or len(model.replay_buffer) == 0):
            step = add_journal(model, origin.journal, origin.checkpoint is not None)
            if is_last and step > before:
                model.num_timesteps = step
                model._updates_due += missed_updates(model, before, step)
                print(f"{model._updates_due} updates for them come first")
        elif len(model.replay_buffer) == 0:
            print("There is neither a replay_buffer.pkl nor a journal beside the model: the replay buffer starts empty")
        of_the_journal = self.planned_before if self.planned_before > 0 else self.n_timesteps
        planned = of_the_journal if origin.model is None else model._total_timesteps
        if self.asked_timesteps <= 0 and planned > model.num_timesteps:
            self.n_timesteps = planned - model.num_timesteps
        self.first_step = model.num_timesteps
        write_record(Path(self.save_path), origin.run, self.first_step)
        model.save_checkpoint(Path(self.save_path, CHECKPOINTS), KEPT)
        print(f"Going on from step {model.num_timesteps} to step {model.num_timesteps + self.n_timesteps}")

    # -- the run ---------------------------------------------------------------------------------------------------

    def learn(self, model: BaseAlgorithm) -> None:
        """Train; see ``ExperimentManager``.

        :raises SystemExit: if something ends the run early, after it is saved: with 128 and the number of the signal,
            or with 1 after an error, whose traceback is written
        """
        learner = Learner(model, goes_on=self.origin is not None)
        self.callbacks.append(StopAfterStep(self.stopper))
        try:
            with self.stopper.learning():
                super().learn(learner)  # type: ignore[arg-type]
        except BaseException as error:
            is_stop = self.stopper.received is not None or is_interrupt(error)
            self._end_early(learner, None if is_stop else error)
        if self.stopper.received is not None or learner.is_interrupted:
            self._end_early(learner, None)

    def _end_early(self, learner: Learner, error: BaseException | None) -> NoReturn:
        """Save, say where, and leave."""
        model = learner.model
        with self.stopper.saving():
            speak_without_a_terminal()
            if error is not None:
                traceback.print_exception(error)
            try:
                saved = self._save(model, with_checkpoint=True)
            except BaseException as failure:
                traceback.print_exception(failure)
                print(f"The run stopped at step {model.num_timesteps} and could not be saved anywhere", file=sys.stderr)
                raise SystemExit(1) from None
            learner.close()
            sys.stdout.flush()
            number = self.stopper.received or signal.SIGINT
            why = type(error).__name__ if error is not None else signal.Signals(number).name
            path = saved if isinstance(model, CheckpointedAlgorithm) else f"{saved / self.env_name}.zip"
            print(
                f"{why} ended the run at step {model.num_timesteps}; it was saved to {saved}, go on with: "
                f"{command_to_go_on(self.args, path)}",
                file=sys.stderr,
                flush=True,
            )
            raise SystemExit(1 if error is not None else 128 + number)

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model and draw the learning curve.

        :raises SystemExit: if a signal came while the files were written
        """
        with self.stopper.saving():
            saved = self._save(model, with_checkpoint=False)
            Learner(model, False).close()
            print(f"The run was saved to {saved}")
            if saved != Path(self.save_path):
                raise SystemExit(1)
            # The Monitor of the zoo is inside the wrappers that skip a game's frames.
            frame_skip = FRAME_SKIP if self._is_atari else 1
            try_to_draw_run(saved, f"{self.algo} on {self.env_name.gym_id}", frame_skip)
        if self.stopper.received is not None:
            raise SystemExit(128 + self.stopper.received)

    def _save(self, model: BaseAlgorithm, with_checkpoint: bool) -> Path:
        return save_run(model, Path(self.save_path), str(self.env_name), self.save_replay_buffer, with_checkpoint)

    # -- tuning ----------------------------------------------------------------------------------------------------

    def objective(self, trial: optuna.Trial) -> float:
        """Run one trial; see ``ExperimentManager``."""
        claim(trial)
        self._rescue(trial.study)
        return super().objective(trial)

    def hyperparameters_optimization(self) -> None:
        """Tune; trials that killed processes left behind are tried again."""
        if self.storage and self.study_name:
            with contextlib.suppress(KeyError):  # the first worker finds no study
                self._rescue(optuna.load_study(study_name=self.study_name, storage=open_storage(self.storage)))
        storage, self.storage = self.storage, None  # the zoo would open it once more
        opened = open_storage(storage) if storage else None

        def create(**kwargs: Any) -> optuna.Study:
            return create_study(**{**kwargs, "storage": opened})

        try:
            with replaced(optuna, "create_study", create):
                super().hyperparameters_optimization()
        except ValueError:
            if self.stopper.received is None:  # stopped before any trial was complete
                raise
        if self.stopper.received is not None:
            raise SystemExit(128 + self.stopper.received)

    @staticmethod
    def _rescue(study: optuna.Study) -> None:
        for number in rescue_trials(study):
            print(f"Trial {number} was left behind by a killed process and is queued again")
