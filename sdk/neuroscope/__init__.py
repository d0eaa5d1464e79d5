"""Opens a running language model to inspection: capture, stream, edit and explain activations while it generates.

    from neuroscope import Client, zero

    with Client() as client:
        cache = client.capture("The capital of France is", ["resid_post", "attention_pattern.3"])
        cache["resid_post", 5]

        client.generate("The capital of France is", interventions=[zero("mlp_out", 3)]).wait().text

The same over an event loop is `AsyncClient`; `Client.local()` needs no service.
"""

from importlib.metadata import PackageNotFoundError, version

from neuroscope.activations.cache import ActivationCache, MissingActivationError
from neuroscope.activations.stream import GeneratedToken
from neuroscope.aio import AsyncClient
from neuroscope.calls.recovery import Retry
from neuroscope.calls.running_generation import AsyncGeneration, Generation
from neuroscope.client import Client
from neuroscope.contrasts import contrast, contrast_async
from neuroscope.directions import Direction, Directions
from neuroscope.errors import (
    ActivationCaptureError,
    ChecksumError,
    ContextLengthError,
    DataConversionError,
    DeadlineExceededError,
    DoubledBosWarning,
    HookNeverFiredError,
    IdTakenError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelCorruptError,
    ModelError,
    ModelNotFoundError,
    ModelUnsupportedError,
    NeuroScopeIntegrationError,
    NotImplementedByEngineError,
    PermissionDeniedError,
    ResourceExhaustedError,
    StreamingError,
    UnauthenticatedError,
    UnavailableSiteError,
    UnknownIdError,
    UnknownSiteError,
    WorkflowValidationError,
)
from neuroscope.interventions import Intervention, add, edit, noise, replace, scale, tensor, zero
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.model_info import ModelInfo, Tokens
from neuroscope.wire.tls import Tls

try:
    __version__ = version("neuroscope-mlx")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0"

__all__ = [
    "ActivationCache",
    "ActivationCaptureError",
    "AsyncClient",
    "AsyncGeneration",
    "ChecksumError",
    "Client",
    "ContextLengthError",
    "DataConversionError",
    "DeadlineExceededError",
    "Direction",
    "Directions",
    "DoubledBosWarning",
    "GeneratedToken",
    "Generation",
    "Hook",
    "HookNeverFiredError",
    "IdTakenError",
    "Intervention",
    "InvalidRequestError",
    "MLXIntegrationError",
    "MissingActivationError",
    "ModelCorruptError",
    "ModelError",
    "ModelInfo",
    "ModelNotFoundError",
    "ModelUnsupportedError",
    "NeuroScopeIntegrationError",
    "NotImplementedByEngineError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "Retry",
    "StreamingError",
    "Tls",
    "Tokens",
    "UnauthenticatedError",
    "UnavailableSiteError",
    "UnknownIdError",
    "UnknownSiteError",
    "WorkflowValidationError",
    "__version__",
    "add",
    "contrast",
    "contrast_async",
    "edit",
    "noise",
    "replace",
    "scale",
    "tensor",
    "zero",
]
