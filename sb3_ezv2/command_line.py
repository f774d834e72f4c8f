"""Runs a command of the zoo and turns what a user can mend into one line, without a traceback."""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from zipfile import BadZipFile

EXTRAS = {
    "rl_zoo3": "zoo",
    "huggingface_sb3": "zoo",
    "optuna": "zoo",
    "pandas": "zoo",
    "pygame": "zoo",
    "moviepy": "zoo",
    "Box2D": "box2d",
    "dm_control": "dmc",
    "shimmy": "dmc",
    "mujoco": "mujoco",
    "ale_py": "atari",
}
"""Extra of this package that brings a module."""

DEBUG_VARIABLE = "EZV2_TRACEBACK"
"""Environment variable that brings tracebacks back."""

# What wrong input leads to, in the zoo, in Stable-Baselines3 and here. Errors while learning are not among them: the
# zoo layer turns those into a RuntimeError, which keeps its traceback.
EXPECTED = (ValueError, TypeError, AssertionError, ImportError, OSError, KeyError, NameError, SyntaxError, BadZipFile)


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command of :mod:`sb3_ezv2.zoo.commands`.

    :param command: its name, for example ``"train"``
    :param arguments: of the command line, those of the process if ``None``
    :raises SystemExit: after bad input, with status 1 and one line on the standard error stream; after Ctrl-C, with 130
    """
    try:
        commands = importlib.import_module("sb3_ezv2.zoo.commands")
        getattr(commands, command)(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) or not is_expected(error):
            raise
        print(f"ezv2-{command.replace('_', '-')}: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None


def is_expected(error: BaseException) -> bool:
    """Whether the user, rather than the code, can mend what led to an error."""
    return isinstance(error, EXPECTED) or type(error).__module__.split(".")[0] in ("gymnasium", "yaml")


def one_line(error: BaseException) -> str:
    """What an error says, with the extra to install if a package is missing."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError | NameError | SyntaxError | TypeError):
        message = f"{type(error).__name__}: {message}"
    extra = missing_extra(error)
    if extra and "sb3_ezv2[" not in message:
        message += f" (install it with: pip install 'sb3_ezv2[{extra}]')"
    return message


def missing_extra(error: BaseException) -> str | None:
    """Extra of this package that would have prevented an error, if there is one."""
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError) and cause.name and cause.name.split(".")[0] in EXTRAS:
            return EXTRAS[cause.name.split(".")[0]]
        if type(cause).__name__ == "DependencyNotInstalled":
            named = [extra for module, extra in EXTRAS.items() if module.lower() in str(cause).lower()]
            if named:
                return named[0]
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
