"""Where the hyperparameters of a run come from, and whether their names exist."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sb3_ezv2.common.arguments import argument_names, check_known
from sb3_ezv2.common.schedules import WarmUp

PACKAGE = Path(__file__).parents[1]
FILE = Path("hyperparams") / "ezv2.yml"

ZOO_NAMES = {
    "n_timesteps",
    "n_envs",
    "policy",
    "normalize",
    "frame_stack",
    "env_wrapper",
    "vec_env_wrapper",
    "env_kwargs",
    "monitor_kwargs",
    "callback",
    "noise_type",
    "noise_std",
}
"""Entries of a hyperparameter file that the zoo itself reads."""

GIVEN_BY_ZOO = {"self", "env", "tensorboard_log", "seed", "verbose", "device", "_init_setup_model"}
"""Arguments of an algorithm that come from the command line and not from a hyperparameter file."""


TRAINING_ONLY = {"sb3_ezv2.envs.atari.AtariTraining"}
"""Wrappers in ``env_wrapper`` that evaluation does without."""


def hyperparameter_file() -> Path:
    """The package's own hyperparameters: inside an installed package, beside it in a source checkout.

    :raises FileNotFoundError: if the installation is incomplete
    """
    for folder in (PACKAGE, PACKAGE.parent):
        if (folder / FILE).is_file():
            return folder / FILE
    raise FileNotFoundError(
        f"{FILE} is missing in {PACKAGE}; install the package again or name a file with --conf-file"
    )


def choose_file(env_id: str, config: str | None, is_atari: bool = False) -> tuple[str, str | None]:
    """The file that a run takes its hyperparameters from.

    A file without the environment and without an entry ``default`` gives way to the package's own one.

    :param env_id: environment to be trained on
    :param config: what the user chose: a YAML file, a Python file or a module; ``None`` for the package's own file
    :param is_atari: whether the entry ``atari`` fits
    :return: what to give to the zoo, and what to tell the user if that is not what was asked for
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if the file does not hold hyperparameters by environment, or lacks an Atari game
    """
    ours = hyperparameter_file()
    chosen = Path(config or ours)
    if config and chosen.suffix not in (".yml", ".yaml"):
        return config, None
    names = read_entries(chosen)
    if env_id in names or (is_atari and "atari" in names):
        return str(chosen), None
    if is_atari:
        raise ValueError(f"{chosen} has no settings for {env_id} and no entry 'atari'")
    if "default" in names:
        return str(chosen), f"{chosen} has no settings for {env_id}: its entry 'default' is used"
    own = read_entries(ours)
    entry = env_id if env_id in own else "default"
    return str(ours), f"{chosen} has no settings for {env_id}: the entry '{entry}' of {ours} is used"


def read_entries(path: Path) -> dict[str, Any]:
    """All entries of a YAML file of hyperparameters.

    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if it does not hold hyperparameters by environment
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no hyperparameter file {path}")
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise ValueError(f"{path} must hold hyperparameters by environment, as in {hyperparameter_file()}")
    return entries


def for_evaluation(hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters without the wrappers that belong to training alone.

    :param hyperparams: of one environment, as in the file
    """
    wrappers = hyperparams.get("env_wrapper")
    if not isinstance(wrappers, list):
        return dict(hyperparams)
    names = [next(iter(wrapper)) if isinstance(wrapper, Mapping) else wrapper for wrapper in wrappers]
    kept = [wrapper for wrapper, name in zip(wrappers, names, strict=True) if name not in TRAINING_ONLY]
    return {**hyperparams, "env_wrapper": kept or None}


def read_warm_up(text: str) -> WarmUp:
    """A learning rate such as ``warmup_0.2_0.02_0.03``: the rate, and where its rise begins and ends.

    :raises ValueError: if it is not written in this way
    """
    try:
        rate, begin, end = map(float, text.split("_")[1:])
    except ValueError as error:
        raise ValueError(f"learning_rate={text!r} must be like 'warmup_0.2_0.02_0.03': rate, begin, end") from error
    return WarmUp(rate, begin, end)


def check_names(hyperparams: Mapping[str, Any], algorithm: type) -> None:
    """Refuse hyperparameters that nothing reads.

    :param hyperparams: of one environment, as in the file
    :param algorithm: class that they are for
    :raises ValueError: with the nearest valid name
    """
    known = (argument_names(algorithm) - GIVEN_BY_ZOO) | ZOO_NAMES
    check_known(hyperparams, known, f"{algorithm.__name__}'s hyperparameters")
