"""Evaluations while a run learns."""

import os
from pathlib import Path

import numpy as np
from rl_zoo3.callbacks import SaveVecNormalizeCallback
from stable_baselines3.common.callbacks import EvalCallback

from sb3_ezv2.background_evaluation import MaskedModel
from sb3_ezv2.common.files import replacing


class Evaluation(EvalCallback):
    """SB3's ``EvalCallback`` whose best model is one that has learned, and whose file is always whole.

    What is evaluated before the first update is stored, and is no best model; parameters as there.
    """

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq != 0:
            return super()._on_step()
        untrained = getattr(self.model, "_n_updates", 1) == 0
        best = self.best_mean_reward
        if untrained:
            self.best_mean_reward = np.inf
        model = self.model
        if getattr(model, "has_action_masks", False):
            self.model = MaskedModel(model, self.eval_env)  # type: ignore[assignment]
        try:
            return self._evaluate()
        finally:
            self.model = model
            if untrained:
                self.best_mean_reward = best

    def _evaluate(self) -> bool:
        if self.log_path is None:
            return super()._on_step()
        log_path = self.log_path
        try:
            with replacing(f"{log_path}.npz") as temporary:
                self.log_path = str(temporary)
                return super()._on_step()
        finally:
            self.log_path = log_path


class SaveNormalization(SaveVecNormalizeCallback):
    """The zoo's ``SaveVecNormalizeCallback`` with a file that is always whole; parameters as there."""

    def _on_step(self) -> bool:
        vec_normalize = self.model.get_vec_normalize_env()
        if vec_normalize is not None and self.n_calls % self.save_freq == 0:
            with replacing(Path(os.fspath(self.save_path)) / "vecnormalize.pkl") as temporary:
                vec_normalize.save(str(temporary))
        return True
