"""Settings of glibc's malloc for large messages and tensors.

By default glibc maps blocks above 128 KiB from the kernel and unmaps them when they are freed, so a stream of tensors
faults in every page of every message: up to 480,000 page faults and one CPU second per GB. `tune_malloc` makes glibc
keep such blocks. It also limits malloc to one arena: with one per thread, memory that one thread has freed is not
available to others, which cost 50 to 100 MB in a service with twenty threads. Importing the SDK changes none of this.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MIB = 1 << 20
KEPT_BYTES = 512 * _MIB
"""Free memory at the top of the heap up to this is kept."""
LARGEST_BLOCK_BYTES = 32 * _MIB
"""Blocks up to this come from the heap; glibc takes no more than this."""


def tune_malloc() -> bool:
    """Makes this process keep freed blocks for later messages of any thread. Call it once, at the start.

    Returns:
        Whether it took effect: only with glibc on Linux.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_THRESHOLD: LARGEST_BLOCK_BYTES,
        _M_TRIM_THRESHOLD: KEPT_BYTES,
        _M_TOP_PAD: 64 * _MIB,
    }
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())


def trim_heap() -> None:
    """Returns free memory to the system, including kept blocks. Use it when little memory will be needed next."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where there is no glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
