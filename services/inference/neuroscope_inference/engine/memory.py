"""Memory that runs short: how MLX says so, and the limit of the settings."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

import mlx.core as mx

_ALLOCATION = re.compile(
    r"alloc|out of memory|insufficient memory", re.IGNORECASE
)  # Metal's, CUDA's and the CPU's words


class OutOfMemoryError(Exception):
    """Memory ran short in a piece of work. No error for users yet: less is tried first."""


@contextmanager
def limited(limit_bytes: int) -> Generator[None, None, None]:
    """Work whose arrays are evaluated at the end of the block.

    Args:
        limit_bytes: memory that MLX may hold then; 0 for no limit.

    Raises:
        OutOfMemoryError: an allocation failed, or MLX holds more than the limit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    if reason := excess(limit_bytes):
        raise OutOfMemoryError(reason)


def excess(limit_bytes: int) -> str:
    """Says by how much MLX holds more than a limit; empty if it does not, or the limit is 0."""
    held_bytes = mx.get_active_memory()
    if not limit_bytes or held_bytes <= limit_bytes:
        return ""
    return f"MLX held {held_bytes / 1e6:,.1f} MB and the setting memory_limit_bytes allows {limit_bytes / 1e6:,.1f} MB"


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of MLX is a failed allocation."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _ALLOCATION.search(str(error)) is not None
    )
