"""Which errors a user can mend, and what to say about them in one line."""

from collections.abc import Iterator
from zipfile import BadZipFile

EXTRAS = {
    "rl_zoo3": "zoo",
    "huggingface_sb3": "zoo",
    "optuna": "zoo",
    "pandas": "zoo",
    "pygame": "zoo",
    "moviepy": "zoo",
    "tensorboard": "zoo",
    "Box2D": "box2d",
    "dm_control": "dmc",
    "shimmy": "dmc",
    "mujoco": "mujoco",
    "ale_py": "atari",
}
"""Extra of this package that brings a module."""

# What wrong input leads to, in the zoo, in Stable-Baselines3 and here. Errors while learning are not among them: the
# zoo layer turns those into a RuntimeError, which keeps its traceback.
EXPECTED = (ValueError, TypeError, AssertionError, ImportError, OSError, KeyError, NameError, SyntaxError, BadZipFile)


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
