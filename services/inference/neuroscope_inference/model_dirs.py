"""The folders from which callers may load models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from neuroscope.errors import PermissionDeniedError
from neuroscope_inference.hub import local_folder


class ModelDirs:
    """An allowlist of folders for models and adapters. An empty one allows every folder, and the hub.

    Args:
        dirs: the folders.
        models: paths that the service loads at startup; callers may use the same strings.
    """

    def __init__(self, dirs: Iterable[str], models: Iterable[str] = ()) -> None:
        self._dirs = [Path(path).expanduser().resolve() for path in dirs]
        self._models = frozenset(models)

    def check(self, path: str, field: str) -> None:
        """Raises PermissionDeniedError for a path outside the folders, also through `..`, a symlink or a hub id.

        The error is the same whether the path exists or not.
        """
        if not self._dirs or path in self._models:
            return
        folder = local_folder(path)
        if folder is not None and any(folder.is_relative_to(allowed) for allowed in self._dirs):
            return
        raise PermissionDeniedError(
            f"{path!r} is not in a folder that this service loads from (its setting model_dirs)", field=field
        )
