"""Runs a command of the zoo and turns what a user can mend into one line, without a traceback."""

import os
import signal
import sys
from collections.abc import Sequence

from sb3_ezv2.common.user_errors import is_expected, one_line

DEBUG_VARIABLE = "EZV2_TRACEBACK"
"""Environment variable that brings tracebacks back."""


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """Run a command of :mod:`sb3_ezv2.zoo.commands`.

    :param command: its name, for example ``"train"``
    :param arguments: of the command line, those of the process if ``None``
    :raises SystemExit: after bad input, with status 1 and one line on the standard error stream; after a signal, with
        128 and its number, which is 130 for Ctrl-C
    """
    try:
        from sb3_ezv2.zoo import commands  # here, so that a missing package is one line as well

        getattr(commands, command)(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt as error:
        raise SystemExit(128 + getattr(error, "number", signal.SIGINT)) from None
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) or not is_expected(error):
            raise
        from sb3_ezv2.common.ranks import ranks_of_process  # which imports torch

        ranks_of_process().let_the_first_report()
        print(f"ezv2-{command.replace('_', '-')}: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None
