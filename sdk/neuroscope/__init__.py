"""Opens a running language model to inspection: capture, stream, edit and explain activations while it generates.

    from neuroscope import Client, zero

    with Client() as client:
        cache = client.capture("The capital of France is", ["resid_post", "attention_pattern.3"])
        cache["resid_post", 5]

        client.generate("The capital of France is", interventions=[zero("mlp_out", 3)]).wait().text

The same over an event loop is `AsyncClient`; `Client.local()` needs no service.
"""

from importlib import import_module
from typing import Any

# Type checkers read __init__.pyi. Here a name is imported when it is first used, so that a program loads what it needs.
_HOMES = {
    "neuroscope.activations.cache": "ActivationCache MissingActivationError",
    "neuroscope.activations.stream": "GeneratedToken",
    "neuroscope.aio": "AsyncClient",
    "neuroscope.base_client.retry": "Retry",
    "neuroscope.calls.running_generation": "AsyncGeneration Generation",
    "neuroscope.client": "Client",
    "neuroscope.contrasts": "contrast contrast_async",
    "neuroscope.directions": "Direction Directions",
    "neuroscope.errors": (
        "ActivationCaptureError ChecksumError ContextLengthError DataConversionError DeadlineExceededError "
        "DoubledBosWarning HookNeverFiredError IdTakenError InvalidRequestError MLXIntegrationError "
        "ModelCorruptError ModelError ModelNotFoundError ModelUnsupportedError NeuroScopeIntegrationError "
        "NotImplementedByEngineError PermissionDeniedError ResourceExhaustedError StreamingError "
        "UnauthenticatedError UnavailableSiteError UnknownIdError UnknownSiteError WorkflowValidationError"
    ),
    "neuroscope.interventions": "Intervention add edit noise replace scale tensor zero",
    "neuroscope.vocabulary.hooks": "Hook",
    "neuroscope.vocabulary.model_info": "ModelInfo Tokens",
    "neuroscope.wire.tls": "Tls",
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}
__all__ = [*sorted(_MODULES), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        return _module(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("neuroscope-mlx")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "0.0.0"


def _module(name: str) -> Any:
    """A module of the package, so that `neuroscope.errors` needs no import of its own."""
    full_name = f"{__name__}.{name}"
    try:
        return import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name != full_name:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
