"""Packages that only some methods need."""

from __future__ import annotations

import importlib
from typing import Any

from neuroscope.errors import InvalidRequestError


def optional_import(package: str, feature: str) -> Any:
    """Imports a package that may not be installed.

    Args:
        package: its name, for `import` and for `pip install`.
        feature: what needs it, for the error.

    Raises:
        InvalidRequestError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InvalidRequestError(f"{feature} needs {package}: pip install {package}", field=package) from None
