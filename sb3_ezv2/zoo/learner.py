"""A model as the zoo's experiment sees it while it learns."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_ezv2.zoo.progress import ReturnProgressBar


class OpenEnv:
    """In the place of the environments, which stay open until the run is saved: their state is part of a checkpoint."""

    def close(self) -> None:
        """Leave them open."""


class Learner:
    """A model whose ``learn`` notes whether Ctrl-C ended it, which the zoo keeps to itself.

    :param model: to learn
    :param goes_on: whether to keep the step count, the schedules and the plan of an earlier run
    """

    def __init__(self, model: BaseAlgorithm, goes_on: bool) -> None:
        self.model = model
        self.policy = model.policy
        self.env = OpenEnv()
        self.goes_on = goes_on
        self.is_interrupted = False

    def learn(self, total_timesteps: int, **kwargs: Any) -> BaseAlgorithm:
        """Learn for that many further steps; see ``BaseAlgorithm.learn``."""
        if self.goes_on:
            kwargs["reset_num_timesteps"] = False
        try:
            return self.model.learn(total_timesteps, **kwargs)
        except KeyboardInterrupt:
            self.is_interrupted = True
            raise
        finally:
            # The zoo does so for the first callback only, which is the journal.
            for callback in kwargs.get("callback", []):
                if isinstance(callback, ReturnProgressBar):
                    callback.clean()

    def close(self) -> None:
        """Close the environments."""
        try:
            if self.model.env is not None:
                self.model.env.close()
        except (EOFError, BrokenPipeError):
            pass  # the processes of the environments are gone
