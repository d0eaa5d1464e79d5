"""The one engine of this process, which all models that it loads share.

It ends with the process, whose exit its threads do not hold up: they are daemons.
"""

from __future__ import annotations

import threading
from collections import Counter

from neuroscope.client import Client

_lock = threading.Lock()
_clients: list[Client] = []
_uses: Counter[str] = Counter()


def client() -> Client:
    """The client of the engine, which starts when it is first asked for.

    Raises:
        NeuroScopeIntegrationError: the extra `inference` is not installed.
    """
    with _lock:
        if not _clients:
            _clients.append(Client.local())
        return _clients[0]


def acquire(model_id: str) -> None:
    """Counts a user of a model."""
    with _lock:
        _uses[model_id] += 1


def release(model_id: str) -> None:
    """Counts one less, and unloads a model that nobody uses."""
    with _lock:
        _uses[model_id] -= 1
        unused = _uses[model_id] <= 0
        if unused:
            del _uses[model_id]
    if unused:
        client().unload_model(model_id)
