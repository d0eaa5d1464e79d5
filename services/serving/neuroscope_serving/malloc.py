"""How glibc hands out the large blocks that messages and tensors live in.

By default glibc maps a block above 128 KiB from the kernel and gives it back when it is freed, so a stream of tensors
faults in every page of every message: up to 480,000 page faults and one CPU second per GB. A process of ours tells it
to keep such blocks. And glibc gives every thread a heap of its own, where what one has freed is lost to all others: a
service of twenty threads held 50 to 100 MB of such pieces. A process of ours has one heap. A library should not decide
that for a program, so importing the SDK does not.
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
    """Makes this process keep freed blocks for the next messages of any thread; call it once, at the start.

    Returns:
        Whether it took effect: it does with glibc on Linux, and nothing happens elsewhere.
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
    """Gives the system back what is free, kept blocks too; for moments after which little of it is wanted again."""
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None where there is no glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
