"""Where this user's cache is: what can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "NEUROSCOPE_CACHE_DIR"


def cache_folder(part: str = "") -> Path:
    """The folder that NEUROSCOPE_CACHE_DIR names, or the platform's cache directory; or a folder below it.

    Args:
        part: such as gguf; empty: the whole cache.
    """
    import platformdirs

    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("neuroscope")) / part
