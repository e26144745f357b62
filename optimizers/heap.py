"""The process's heap between rollouts and updates, whose tensors differ in size."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Give pages that hold nothing back to the system; glibc would keep gigabytes of them. Does nothing elsewhere."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
