"""Which folders callers may load from, where the service limits that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from neuroscope.errors import PermissionDeniedError
from neuroscope_inference.hub import local_folder


class ModelDirs:
    """The folders below which models and adapters are loaded; none: from anywhere, the hub included.

    Args:
        dirs: the folders.
        models: what the service loads by itself; callers may ask for it by the same name.
    """

    def __init__(self, dirs: Iterable[str], models: Iterable[str] = ()) -> None:
        self._dirs = [Path(path).expanduser().resolve() for path in dirs]
        self._models = frozenset(models)

    def check(self, path: str, field: str) -> None:
        """Raises PermissionDeniedError for a path outside, however it gets there: `..`, a link, a hub id.

        What is outside and exists is told from what does not exist by nobody.
        """
        if not self._dirs or path in self._models:
            return
        folder = local_folder(path)
        if folder is not None and any(folder.is_relative_to(allowed) for allowed in self._dirs):
            return
        raise PermissionDeniedError(
            f"{path!r} is not in a folder that this service loads from (its setting model_dirs)", field=field
        )
