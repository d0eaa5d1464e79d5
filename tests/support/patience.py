"""Waiting for what happens elsewhere."""

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Waits until something holds.

    Raises:
        AssertionError: it did not happen in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
