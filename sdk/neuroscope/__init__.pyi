"""What users import; `__init__.py` has the same names, and a test holds them together."""

from neuroscope.activations.cache import (
    ActivationCache as ActivationCache,
    MissingActivationError as MissingActivationError,
)
from neuroscope.activations.stream import GeneratedToken as GeneratedToken
from neuroscope.aio import AsyncClient as AsyncClient
from neuroscope.base_client.retry import Retry as Retry
from neuroscope.calls.running_generation import (
    AsyncGeneration as AsyncGeneration,
    Generation as Generation,
)
from neuroscope.client import Client as Client
from neuroscope.contrasts import (
    contrast as contrast,
    contrast_async as contrast_async,
)
from neuroscope.directions import (
    Direction as Direction,
    Directions as Directions,
)
from neuroscope.errors import (
    ActivationCaptureError as ActivationCaptureError,
    ChecksumError as ChecksumError,
    ContextLengthError as ContextLengthError,
    DataConversionError as DataConversionError,
    DeadlineExceededError as DeadlineExceededError,
    DoubledBosWarning as DoubledBosWarning,
    HookNeverFiredError as HookNeverFiredError,
    IdTakenError as IdTakenError,
    InvalidRequestError as InvalidRequestError,
    MLXIntegrationError as MLXIntegrationError,
    ModelCorruptError as ModelCorruptError,
    ModelError as ModelError,
    ModelNotFoundError as ModelNotFoundError,
    ModelUnsupportedError as ModelUnsupportedError,
    NeuroScopeIntegrationError as NeuroScopeIntegrationError,
    NotImplementedByEngineError as NotImplementedByEngineError,
    PermissionDeniedError as PermissionDeniedError,
    ResourceExhaustedError as ResourceExhaustedError,
    StreamingError as StreamingError,
    UnauthenticatedError as UnauthenticatedError,
    UnavailableSiteError as UnavailableSiteError,
    UnknownIdError as UnknownIdError,
    UnknownSiteError as UnknownSiteError,
    WorkflowValidationError as WorkflowValidationError,
)
from neuroscope.interventions import (
    Intervention as Intervention,
    add as add,
    edit as edit,
    noise as noise,
    replace as replace,
    scale as scale,
    tensor as tensor,
    zero as zero,
)
from neuroscope.vocabulary.hooks import Hook as Hook
from neuroscope.vocabulary.model_info import (
    ModelInfo as ModelInfo,
    Tokens as Tokens,
)
from neuroscope.wire.tls import Tls as Tls

__all__: list[str]
__version__: str
