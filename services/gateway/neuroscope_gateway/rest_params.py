"""Names of parameters in errors: services name fields of the contract, REST clients need their own parameters."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from neuroscope.errors import MLXIntegrationError

_MODEL_ID = {"model_id": "model"}


@contextmanager
def rest_params(rename: Callable[[str], str] | dict[str, str] = _MODEL_ID) -> Generator[None]:
    """Renames `error.field` of errors that pass.

    Args:
        rename: gives the REST parameter of a field of the contract; a dict leaves other fields as they are.
    """
    try:
        yield
    except MLXIntegrationError as error:
        error.field = rename(error.field) if callable(rename) else rename.get(error.field, error.field)
        raise


def below(path: str) -> Callable[[str], str]:
    """Prefixes fields with the path of the object that has them: `pairs[0]` makes `noise` `pairs[0].noise`."""
    return lambda field: f"{path}.{field}"
