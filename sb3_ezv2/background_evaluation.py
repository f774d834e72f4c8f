"""Evaluation in another process, so that a run does not stand still for it."""

import io
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cloudpickle
import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_ezv2.common.action_masks import masks_of
from sb3_ezv2.common.arguments import Whole, shown, switch
from sb3_ezv2.common.files import open_to_replace
from sb3_ezv2.common.ranks import VARIABLES

MOST_WAITING = 1
"""Snapshots that may wait for the one that is being evaluated; then the run waits."""


class Snapshot(NamedTuple):
    """A model as it was at one step."""

    step: int
    model: bytes  # what ``save`` writes
    normalization: bytes | None  # statistics of VecNormalize, of observations and of returns, pickled


class Evaluated(NamedTuple):
    """What the episodes of one snapshot came to."""

    returns: list[float]
    lengths: list[int]
    successes: list[bool]  # empty where the environment does not say


class MaskedModel:
    """A model whose predictions are for the states that environments are in, and legal there; otherwise the same.

    :param model: that was made for environments with action masks
    :param env: that it acts in
    """

    def __init__(self, model: Any, env: VecEnv) -> None:
        self._model, self._env = model, env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """As ``model.predict``."""
        masks = masks_of(self._env, self._model.policy.action_kind)
        return self._model.predict(observation, *args, action_masks=masks, **kwargs)


class BackgroundEvalCallback(EventCallback):
    """SB3's ``EvalCallback`` in another process: the run goes on meanwhile.

    Every evaluation is of the weights, and of the statistics of ``VecNormalize``, that the run had when it was due, and
    is logged and stored under that step; ``best_model.zip`` holds these weights. The other callbacks are called when a
    result has come, at the latest when training ends. If evaluations take longer than the time between them, the run
    waits, so that it is never more than two ahead.

    :param make_eval_env: makes the environment or the vectorised environments to evaluate in, in the other process
    :param callback_on_new_best: called after a new best mean return
    :param callback_after_eval: called after every evaluation
    :param n_eval_episodes: episodes of an evaluation
    :param eval_freq: calls of this callback, each one step of every environment, between evaluations
    :param log_path: folder of ``evaluations.npz``; ``None`` for none
    :param best_model_save_path: folder of ``best_model.zip``; ``None`` for none
    :param deterministic: whether to act greedily
    :param verbose: 1 to print every result
    :raises ValueError: naming the argument, if a value cannot be
    """

    def __init__(
        self,
        make_eval_env: Callable[[], gym.Env | VecEnv],
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        log_path: str | os.PathLike | None = None,
        best_model_save_path: str | os.PathLike | None = None,
        deterministic: bool = True,
        verbose: int = 1,
    ) -> None:
        super().__init__(callback_after_eval, verbose=verbose)
        if not callable(make_eval_env) or isinstance(make_eval_env, gym.Env | VecEnv):
            raise ValueError(
                f"make_eval_env={shown(make_eval_env)} must be a function that makes the environment in the other "
                "process, for example lambda: gym.make('CartPole-v1')"
            )
        self.make_eval_env = make_eval_env
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.n_eval_episodes = Whole(1)("n_eval_episodes", n_eval_episodes)
        self.eval_freq = Whole(1)("eval_freq", eval_freq)
        self.deterministic = switch("deterministic", deterministic)
        self.log_path = None if log_path is None else Path(log_path, "evaluations.npz")
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.best_mean_reward = self.last_mean_reward = -np.inf
        self.evaluations_timesteps: list[int] = []
        self.evaluations: list[Evaluated] = []
        self._snapshots: list[Snapshot] = []  # the first one is being evaluated
        self._worker: Worker | None = None

    def _init_callback(self) -> None:
        for folder in (self.best_model_save_path, self.log_path and self.log_path.parent):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _on_step(self) -> bool:
        goes_on = self._take_results(MOST_WAITING + 1)
        if self.n_calls % self.eval_freq == 0:
            goes_on &= self._take_results(MOST_WAITING)  # room for one more
            self._snapshots.append(self._snapshot())
            if len(self._snapshots) == 1:
                self._send()
        return goes_on

    def _on_training_end(self) -> None:
        self._take_results(0)
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _snapshot(self) -> Snapshot:
        file = io.BytesIO()
        self.model.save(file)
        normalizer = unwrap_vec_normalize(self.training_env)
        statistics = None
        if normalizer is not None:  # they change with the next step
            statistics = pickle.dumps((getattr(normalizer, "obs_rms", None), normalizer.ret_rms))
        return Snapshot(self.num_timesteps, file.getvalue(), statistics)

    def _send(self) -> None:
        """Let the other process begin with the first snapshot."""
        if self._worker is None:
            self._worker = Worker(self.make_eval_env, type(self.model), self.n_eval_episodes, self.deterministic)
        self._worker.send(self._snapshots[0])

    def _take_results(self, most: int) -> bool:
        """Record what has come, and wait until at most so many snapshots are left; whether the callbacks go on."""
        goes_on = True
        while self._snapshots:
            assert self._worker is not None
            found = self._worker.result(wait=len(self._snapshots) > most)
            if found is None:
                break
            snapshot = self._snapshots.pop(0)
            if self._snapshots:
                self._send()
            goes_on &= self._record(snapshot, found)
        return goes_on

    def _record(self, snapshot: Snapshot, found: Evaluated) -> bool:
        """Log and store one evaluation, and call the other callbacks; whether they go on."""
        self.evaluations_timesteps.append(snapshot.step)
        self.evaluations.append(found)
        mean = self.last_mean_reward = float(np.mean(found.returns))
        if self.log_path is not None:
            self._write(self.log_path)
        if self.verbose >= 1:
            print(f"Eval num_timesteps={snapshot.step}, episode_reward={mean:.2f} +/- {np.std(found.returns):.2f}")
        self.logger.record("eval/mean_reward", mean)
        self.logger.record("eval/mean_ep_length", float(np.mean(found.lengths)))
        if found.successes:
            self.logger.record("eval/success_rate", float(np.mean(found.successes)))
        self.logger.record("time/total_timesteps", snapshot.step, exclude="tensorboard")
        self.logger.dump(snapshot.step)
        goes_on = True
        if mean > self.best_mean_reward:
            self.best_mean_reward = mean
            if self.best_model_save_path is not None:
                with open_to_replace(self.best_model_save_path / "best_model.zip") as file:
                    file.write(snapshot.model)
            if self.callback_on_new_best is not None:
                goes_on = self.callback_on_new_best.on_step()
        return self._on_event() and goes_on

    def _write(self, path: Path) -> None:
        """Write all evaluations so far, as ``EvalCallback`` does."""
        more = [found.successes for found in self.evaluations]
        with open_to_replace(path) as file:
            np.savez(
                file,
                timesteps=self.evaluations_timesteps,
                results=[found.returns for found in self.evaluations],
                ep_lengths=[found.lengths for found in self.evaluations],
                **({"successes": more} if all(more) else {}),  # type: ignore[arg-type]
            )


class Worker:
    """The other process, as the run sees it.

    It is a new interpreter: nothing of the run's script is run again in it.

    :param make_env: makes the environments
    :param model_class: of the models
    :param n_episodes: of an evaluation
    :param deterministic: whether to act greedily
    """

    def __init__(self, make_env: Callable[[], Any], model_class: type, n_episodes: int, deterministic: bool) -> None:
        hidden = {*VARIABLES, "PYTHONPATH"}
        variables = {name: value for name, value in os.environ.items() if name not in hidden}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import work; work()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                "OMP_NUM_THREADS": "1",
                "NUMBA_NUM_THREADS": "1",
                **variables,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        self._results: queue.Queue[Evaluated | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.send(cloudpickle.dumps((make_env, model_class, n_episodes, deterministic)))

    def send(self, message: Any) -> None:
        """Give it something, which it takes when it has nothing else to do."""
        assert self.process.stdin is not None
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
        except OSError:
            self._fail()

    def result(self, wait: bool) -> Evaluated | None:
        """The next result; ``None`` if there is none yet.

        :param wait: until there is one
        :raises RuntimeError: if the process has ended
        """
        try:
            found = self._results.get(block=wait)
        except queue.Empty:
            return None
        if found is None:
            self._fail()
        return found

    def end(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _fail(self) -> None:
        raise RuntimeError(
            f"the process that evaluates has ended with status {self.process.wait()}; what it said stands above. "
            "Call make_eval_env in this process to see whether it works"
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                self._results.put(pickle.load(self.process.stdout))
            except (EOFError, pickle.UnpicklingError):
                self._results.put(None)
                return


def work() -> None:
    """What the other process does: evaluate one snapshot after the other until there are no more."""
    snapshots = sys.stdin.buffer
    results: BinaryIO = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what environments print must not come between the results
    make_env, model_class, n_episodes, deterministic = pickle.loads(pickle.load(snapshots))
    made = make_env()
    env = made if isinstance(made, VecEnv) else DummyVecEnv([lambda: made])
    while True:
        try:
            snapshot: Snapshot = pickle.load(snapshots)
        except EOFError:
            return
        model = model_class.load(io.BytesIO(snapshot.model), device="cpu")
        statistics = None if snapshot.normalization is None else pickle.loads(snapshot.normalization)
        pickle.dump(evaluate(model, env, statistics, n_episodes, deterministic), results)
        results.flush()


def evaluate(
    model: Any, env: VecEnv, normalization: tuple[Any, Any] | None, n_episodes: int, deterministic: bool
) -> Evaluated:
    """Play episodes.

    :param model: that plays
    :param env: to play in
    :param normalization: statistics of the ``VecNormalize`` around the training environments
    :param n_episodes: how many
    :param deterministic: whether to act greedily
    :raises ValueError: if the training environments are normalised and these are not
    """
    if normalization is not None:
        wrapper = unwrap_vec_normalize(env)
        if wrapper is None:
            raise ValueError(
                "the training environments have a VecNormalize, those of make_eval_env have not; let it return "
                "VecNormalize(env, training=False, norm_reward=False)"
            )
        if normalization[0] is not None:
            wrapper.obs_rms = normalization[0]
        wrapper.ret_rms = normalization[1]
    successes: list[bool] = []

    def see(locals_: dict[str, Any], _: dict[str, Any]) -> None:
        if locals_["done"] and locals_["info"].get("is_success") is not None:
            successes.append(bool(locals_["info"]["is_success"]))

    player = MaskedModel(model, env) if getattr(model, "has_action_masks", False) else model
    returns, lengths = evaluate_policy(
        player, env, n_episodes, deterministic, return_episode_rewards=True, warn=False, callback=see
    )
    assert isinstance(returns, list) and isinstance(lengths, list)
    return Evaluated(returns, lengths, successes)
