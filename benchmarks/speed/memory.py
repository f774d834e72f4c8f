"""The memory of this process."""

import resource
import sys


def peak_bytes() -> int:
    """Largest resident set of this process so far, interpreter and libraries included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
