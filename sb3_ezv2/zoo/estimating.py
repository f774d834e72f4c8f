"""How long ``ezv2-train`` would take with the same options, measured without training."""

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ezv2.ezv2 import EfficientZeroV2
from sb3_ezv2.run_time import estimate_run_time
from sb3_ezv2.zoo.experiment import Experiment


class Estimation(Experiment):
    """An experiment that is set up as any other, and timed instead of trained."""

    def learn(self, model: BaseAlgorithm) -> None:
        """Print how long it would take.

        :raises ValueError: if it is a run of another algorithm, or one that has begun
        """
        if not isinstance(model, EfficientZeroV2):
            raise ValueError(f"--algo {self.algo}: only runs of ezv2 can be timed")
        print(estimate_run_time(model, int(self.n_timesteps)))

    def save_trained_model(self, model: BaseAlgorithm) -> None:
        """Nothing: nothing has been learned."""

    def hyperparameters_optimization(self) -> None:
        """Refuse.

        :raises ValueError: always
        """
        raise ValueError("-optimize: a study has many settings; leave it out to time one run")
