"""The zoo's experiment, adapted to short runs that can be resumed."""

import contextlib
from pathlib import Path
from typing import Any

import optuna
from rl_zoo3 import ALGOS
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_wrapper_class
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.callbacks import TransitionJournal
from sb3_ezv2.common.user_errors import EXPECTED
from sb3_ezv2.envs.atari import FRAME_SKIP
from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_folder, check_model_file
from sb3_ezv2.zoo.curves import draw_run
from sb3_ezv2.zoo.progress import ReturnProgressBar
from sb3_ezv2.zoo.settings import check_names, choose_file, for_evaluation, read_warm_up
from sb3_ezv2.zoo.tuning import claim, open_storage, rescue_trials

JOURNAL = "journal.sqlite"
"""Name of the journal in a run's folder."""

N_EVALUATIONS = 5
"""Evaluations of a run at least, and of a trial while tuning, so that there is a best model and something to prune."""


class Continued:
    """A loaded model whose ``learn`` goes on with the step count, the schedules and the plan of the earlier run.

    :param model: loaded model
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        self.policy = model.policy
        self.env = model.env

    def learn(self, total_timesteps: int, **kwargs: Any) -> BaseAlgorithm:
        """Learn for that many further steps; see ``BaseAlgorithm.learn``."""
        return self.model.learn(total_timesteps, reset_num_timesteps=False, **kwargs)


class Experiment(ExperimentManager):
    """rl-zoo3's ``ExperimentManager`` with checks before anything is written; parameters as there.

    For this package's algorithm its own hyperparameters are the default, and ``-i`` continues a run where it stopped.
    Every run is evaluated, its bar shows the return, and its folder holds a picture of the learning curve.

    :raises OSError: if the log folder cannot be written to
    :raises ValueError: if the model to continue from is damaged
    """

    def __init__(self, args: Any, algo: str, env_id: str, log_folder: str, *rest: Any, **kwargs: Any) -> None:
        check_folder(log_folder)
        super().__init__(args, algo, env_id, log_folder, *rest, **kwargs)
        self.is_ours = algo == ALGO
        self.asked_config: str | None = kwargs.get("config")
        self.asked_timesteps = self.n_timesteps
        if self.is_ours:
            self.deterministic_eval = True  # the zoo plays Atari at random, for algorithms whose policy is the answer
        if self.is_ours and self.trained_agent:
            check_model_file(self.trained_agent)
        if self.optimize_hyperparameters:
            import pandas  # noqa: F401  # the report at the end needs it: better to miss it now

    # -- before the run --------------------------------------------------------------------------------------------

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the entry of the environment; see ``ExperimentManager``.

        :raises ValueError: for a name that nothing reads
        """
        if self.is_ours:
            self.config, message = choose_file(self.env_name.gym_id, self.asked_config, self._is_atari)
            if message:
                print(message)
        if self.storage and self.study_name and self.trial_id == 0:
            # The zoo takes trial 0 for no trial.
            trial = self.load_trial(self.storage, self.study_name, 0)
            self.custom_hyperparams = trial | (self.custom_hyperparams or {})
        hyperparams, saved = super().read_hyperparameters()
        check_names(hyperparams, ALGOS[self.algo])
        if self.n_evaluations is None:
            self.n_evaluations = N_EVALUATIONS
        return hyperparams, saved

    def setup_experiment(self) -> tuple[BaseAlgorithm, dict[str, Any]] | None:
        """Prepare the run; if that fails, or if there are only trials to come, leave no run's folder behind."""
        folders = [Path(self.params_path), *Path(self.params_path).parents]
        new = [folder for folder in folders if not folder.exists()]
        begun = False
        try:
            result = super().setup_experiment()
            begun = result is not None
        finally:
            if not begun:
                self._remove(new)
        return result

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
        result = super()._preprocess_hyperparams(hyperparams)
        if self._eval_env_kwargs_args is None:  # the zoo forgets those of the hyperparameter file
            self.eval_env_kwargs = self.env_kwargs
        return result

    @staticmethod
    def _preprocess_schedules(hyperparams: dict[str, Any]) -> dict[str, Any]:
        rate = hyperparams.get("learning_rate")
        if not (isinstance(rate, str) and rate.startswith("warmup_")):
            return ExperimentManager._preprocess_schedules(hyperparams)
        others = {name: value for name, value in hyperparams.items() if name != "learning_rate"}
        return ExperimentManager._preprocess_schedules(others) | {"learning_rate": read_warm_up(rate)}

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Create the environments; those for evaluation without what belongs to training alone."""
        training_wrapper = self.env_wrapper
        if eval_env:
            self.env_wrapper = self.eval_env_wrapper
        try:
            return super().create_envs(n_envs, eval_env, no_log)
        finally:
            self.env_wrapper = training_wrapper

    def create_callbacks(self) -> None:
        """Create the zoo's callbacks, with enough evaluations, our progress bar and a journal of every step."""
        if self.eval_freq > 0:
            self.eval_freq = min(self.eval_freq, max(self.n_timesteps // N_EVALUATIONS, 1))
        super().create_callbacks()
        self.callbacks = [
            ReturnProgressBar() if type(callback) is ProgressBarCallback else callback for callback in self.callbacks
        ]
        if self.is_ours and not self.optimize_hyperparameters:
            # Before the others, so that a step is safe before anything can go wrong in them.
            self.callbacks.insert(0, TransitionJournal(Path(self.save_path, JOURNAL)))

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        model = super()._load_pretrained_agent(hyperparams, env)
        if self.is_ours:
            left = model._total_timesteps - model.num_timesteps
            if self.asked_timesteps <= 0 and left > 0:
                self.n_timesteps = left
            print(f"Going on from step {model.num_timesteps} to step {model.num_timesteps + self.n_timesteps}")
            if len(model.replay_buffer) == 0:  # type: ignore[attr-defined]
                print("There is no replay_buffer.pkl beside the model: the replay buffer starts empty")
        return model

    # -- the run ---------------------------------------------------------------------------------------------------

    def learn(self, model: BaseAlgorithm) -> None:
        """Train; see ``ExperimentManager``.

        :raises RuntimeError: if something goes wrong while learning, which is no matter of the command line
        """
        try:
            super().learn(Continued(model) if self.is_ours and self.continue_training else model)  # type: ignore[arg-type]
        except EXPECTED as error:
            raise RuntimeError(f"training stopped at step {model.num_timesteps}: {error}") from error

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Save the model and draw the learning curve."""
        super().save_trained_model(model)
        # The Monitor of the zoo is inside the wrappers that skip a game's frames.
        frame_skip = FRAME_SKIP if self._is_atari else 1
        picture = draw_run(Path(self.save_path), f"{self.algo} on {self.env_name.gym_id}", frame_skip)
        if picture:
            print(f"Learning curve: {picture}")

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
        super().hyperparameters_optimization()

    @staticmethod
    def _rescue(study: optuna.Study) -> None:
        for number in rescue_trials(study):
            print(f"Trial {number} was left behind by a killed process and is queued again")
