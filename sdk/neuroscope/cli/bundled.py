"""Where the model is that comes with NeuroScope-MLX."""

from __future__ import annotations

from pathlib import Path

import neuroscope
from neuroscope.errors import ModelNotFoundError

NAME = "neuroscope-tiny"


def bundled_model() -> Path | None:
    """The bundled model's folder: beside the package's code, or in the checkout it is run from; None if neither."""
    package = Path(neuroscope.__file__).parent
    for folder in (package, *package.parents[:3]):
        candidate = folder / "models" / NAME
        if (candidate / "config.json").is_file():
            return candidate
    return None


def require_bundled_model() -> Path:
    """The bundled model's folder.

    Raises:
        ModelNotFoundError: it is not there.
    """
    found = bundled_model()
    if found is None:
        raise ModelNotFoundError(
            f"the bundled model {NAME} is not in this installation; name a model with --model PATH"
        )
    return found
