"""Whether another process of this machine is still there."""

import ctypes
import os


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs; ``True`` where that cannot be found out.

    :param process: its number
    """
    if os.name == "nt":
        return _is_alive_on_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _is_alive_on_windows(process: int) -> bool:
    """As :func:`is_alive`: ``os.kill`` ends the process there, or sends it Ctrl-C, whatever signal is named."""
    synchronize, timeout = 0x00100000, 0x102  # rights to wait for it, and the answer that it has not ended
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  # exists on Windows only
    handle = kernel.OpenProcess(synchronize, False, process)
    if not handle:
        return bool(kernel.GetLastError() == 5)  # access denied: it runs for someone else
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == timeout)
    finally:
        kernel.CloseHandle(handle)
