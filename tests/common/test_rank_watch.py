"""The thread that tells other ranks what this one does ends with its process."""

from __future__ import annotations

import subprocess
import sys

TELLS_AND_ENDS = """
import time
from torch.distributed import TCPStore
from sb3_ezv2.common.rank_watch import Watch

store = TCPStore("127.0.0.1", 0, 1, is_master=True)
for rank in range(8):
    Watch(rank, 8).begin(store, timeout=1e-6)  # they write without a pause
while not store.check(["doing/7"]):
    time.sleep(0.01)
print("told")
"""


def test_a_process_ends_while_threads_are_inside_torch() -> None:
    """The interpreter would abort when one comes back from there during its own shutdown."""
    ended = subprocess.run([sys.executable, "-c", TELLS_AND_ENDS], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "told\n"), ended.stderr
