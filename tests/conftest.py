"""Settings of the test session."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest

# The networks in the tests are tiny: a second thread costs more than it saves, and it must be said before torch loads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Numba's cache of a kernel looks only at the file of that kernel, not at the files of the functions it calls. A folder
# named by the contents of all of them keeps an edited function from being tested in its old form.
_package = Path(__file__).parent.parent / "sb3_ezv2"
_digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_package.rglob("*.py")))).hexdigest()[:16]
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"sb3_ezv2-numba-{_digest}"))


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Untrained networks are the same in every run of a test, whatever ran before it."""
    import torch as th

    th.manual_seed(0)
