"""An SB3 algorithm whose arguments are checked, can be assigned, and come back from files as they were."""

import inspect
import io
import pathlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

import torch as th
from gymnasium.error import Error as GymnasiumError
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.argument_groups import Arguments, ExactValues, all_names, check_argument
from sb3_ezv2.common.arguments import argument_names, check_known, shown
from sb3_ezv2.common.normalization import Normalizer
from sb3_ezv2.common.schedules import InverseSqrt
from sb3_ezv2.compatibility import bring_up_to_date, keep_network

SelfConfiguredAlgorithm = TypeVar("SelfConfiguredAlgorithm", bound="ConfiguredAlgorithm")


class ConfiguredAlgorithm(BaseAlgorithm):
    """An SB3 algorithm with the arguments of :class:`~sb3_ezv2.argument_groups.Arguments`.

    Every argument of the constructor is an attribute of the same name, as everywhere in SB3. One that is assigned later
    is checked in the same way and holds from then on; ``gamma``, sizes and other things that the networks or the replay
    buffer were built with cannot be assigned. ``arguments`` has them all in groups.
    """

    arguments: Arguments
    _n_updates: int
    _from_release_0_1 = False  # whether the attributes were read from a file of that release
    _from_before_net_size = False  # whether they were read from a file without this argument

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Type checkers do not see the attributes that the arguments become."""

    # -- arguments ---------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in all_names() and "policy" in vars(self):
            before = self.arguments
            self._use_arguments(before.changed(name, value))
            try:
                self._argument_changed(name)
            except ValueError:
                self._use_arguments(before)
                raise
        else:
            super().__setattr__(name, value)

    def _use_arguments(self, arguments: Arguments) -> None:
        """Let attributes and groups be these arguments."""
        self.arguments = arguments
        flat = arguments.flat()
        self._exact_values = ExactValues(flat)
        vars(self).update(flat)

    def _read_arguments(self) -> None:
        """Group the arguments as they stand in the attributes, which may come from a file.

        :raises ValueError: naming the argument, its value and what it must be
        """
        found = vars(self)
        if self._from_release_0_1:
            parameters = inspect.signature(type(self).__init__).parameters
            bring_up_to_date(found, {name: parameter.default for name, parameter in parameters.items()})
            self._from_release_0_1 = False
        if self._from_before_net_size:
            keep_network(found)
            self._from_before_net_size = False
        found.update(self._exact_values.restored(found))
        self._use_arguments(Arguments.of(found))

    @abstractmethod
    def _argument_changed(self, name: str) -> None:
        """Let everything that was built know of an argument that was assigned."""

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "arguments"]

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        """Let the optimisers have the present learning rate, which may depend on the number of updates."""
        if not isinstance(self.learning_rate, InverseSqrt):
            super()._update_learning_rate(optimizers)
            return
        rate = self.learning_rate.after(self._n_updates)
        self.logger.record("train/learning_rate", rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, rate)

    # -- environments ------------------------------------------------------------------------------------------------

    @staticmethod
    def _wrap_env(env: GymEnv | str, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Wrap an environment, or make it by its name.

        :raises ValueError: if it is no environment, or if its wrappers hide what was observed
        """
        if isinstance(env, type) or not (isinstance(env, str) or hasattr(env, "step")):
            raise ValueError(f"env={shown(env)} must be an environment, a VecEnv or the name of a registered one")
        try:
            made = maybe_make_env(env, verbose)
        except GymnasiumError as error:
            raise ValueError(f"env={env!r} cannot be made: {error}") from error
        wrapped = BaseAlgorithm._wrap_env(made, verbose, monitor_wrapper)
        Normalizer(wrapped)
        return wrapped

    @classmethod
    def load(
        cls: type[SelfConfiguredAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SelfConfiguredAlgorithm:
        """Load a model; see ``BaseAlgorithm.load``.

        :param path: file, or a file-like object
        :param env: environments to learn in from now on, or the name of a registered one
        :param args: of ``BaseAlgorithm.load``
        :param kwargs: of ``BaseAlgorithm.load``, and arguments of the constructor that take the place of saved ones
        :return: the model
        :raises ValueError: if there is no such argument, or if a value is none for it
        """
        known = argument_names(BaseAlgorithm.load) | argument_names(cls.__init__)
        check_known(kwargs, known, f"the arguments of {cls.__name__}.load")
        for name, value in kwargs.items():
            check_argument(name, value)
        return super().load(path, env, *args, **kwargs)  # type: ignore[arg-type]  # _wrap_env makes it
