"""Models of stored runs and the environments that belong to them, found and checked as the commands need them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rl_zoo3.utils
from stable_baselines3.common.vec_env import VecEnv

from sb3_ezv2.zoo import ALGO
from sb3_ezv2.zoo.checks import check_model_file
from sb3_ezv2.zoo.settings import for_evaluation
from sb3_ezv2.zoo.settings_files import check_settings, check_wrappers

create_test_env = rl_zoo3.utils.create_test_env
get_model_path = rl_zoo3.utils.get_model_path
get_wrapper_class = rl_zoo3.utils.get_wrapper_class


def checked_model_path(exp_id: int, folder: str, algo: str, *arguments: Any, **kwargs: Any) -> tuple[str, str, str]:
    """The zoo's ``get_model_path``, which finds a model by its run, with a check of the file; parameters as there.

    :raises ValueError: if the file is damaged
    """
    try:
        found: tuple[str, str, str] = get_model_path(exp_id, folder, algo, *arguments, **kwargs)
    except (AssertionError, ValueError) as error:
        number = f" --load-checkpoint {arguments[2]}" if arguments[2] is not None else ""
        raise ValueError(f"--folder {folder} --exp-id {exp_id}{number}: {error}") from error
    if algo == ALGO:
        check_model_file(found[1])
    check_settings(Path(found[2]) / arguments[0])
    return found


def evaluation_wrapper_class(hyperparams: Mapping[str, Any], key: str = "env_wrapper") -> Callable[..., Any] | None:
    """The zoo's ``get_wrapper_class`` without what belongs to training alone; parameters as there."""
    check_wrappers(hyperparams, key)
    found: Callable[..., Any] | None = get_wrapper_class(for_evaluation(hyperparams), key)
    return found


def create_env_as_trained(
    env_id: str, *, hyperparams: dict[str, Any], env_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> VecEnv:
    """The zoo's ``create_test_env``, which also looks for the environment's arguments in the hyperparameters.

    Those given count first. Parameters as there, all but the first by name.
    """
    env_kwargs = {**hyperparams.get("env_kwargs", {}), **(env_kwargs or {})}
    return create_test_env(env_id, hyperparams=hyperparams, env_kwargs=env_kwargs, **kwargs)
