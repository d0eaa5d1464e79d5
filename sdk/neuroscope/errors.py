"""The error classes with their gRPC status, HTTP status and JSON body.

MLXIntegrationError                     INTERNAL             500   a fault of ours
├── InvalidRequestError                 INVALID_ARGUMENT     400   a field is malformed or out of range
│   └── ContextLengthError              INVALID_ARGUMENT     400   more tokens than the model's context
├── ActivationCaptureError              INTERNAL             500
│   ├── UnknownSiteError                INVALID_ARGUMENT     400   a component or layer name resolves to nothing
│   ├── UnavailableSiteError            INVALID_ARGUMENT     400   a valid name that this model does not have
│   └── HookNeverFiredError             FAILED_PRECONDITION  400   a hook matched a site that never ran
├── ModelError                          INTERNAL             500
│   ├── ModelNotFoundError              NOT_FOUND            404
│   ├── ModelCorruptError               FAILED_PRECONDITION  400
│   └── ModelUnsupportedError           FAILED_PRECONDITION  400
├── DataConversionError                 INVALID_ARGUMENT     400   a tensor cannot be carried in the form asked for
│   └── ChecksumError                   DATA_LOSS            500   bytes do not match their checksum
├── StreamingError                      ABORTED              409   a stream broke and cannot be continued
├── NeuroScopeIntegrationError          UNAVAILABLE          503   a service is draining or cannot be reached
├── DeadlineExceededError               DEADLINE_EXCEEDED    504   the caller's deadline passed
├── WorkflowValidationError             INVALID_ARGUMENT     400
├── UnknownIdError                      NOT_FOUND            404   no hook, generation, capture or trace of that id
├── IdTakenError                        ALREADY_EXISTS       409
├── ResourceExhaustedError              RESOURCE_EXHAUSTED   429   a limit on memory, size or concurrency
├── UnauthenticatedError                UNAUTHENTICATED      401   no token, or a wrong one
├── PermissionDeniedError               PERMISSION_DENIED    403   a path outside of the service's allow-list
└── NotImplementedByEngineError         UNIMPLEMENTED        501   in the contract, but not in this engine

Errors are independent of the transport: `neuroscope.wire.status` converts them to gRPC statuses and back.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

import grpc

from neuroscope.v1 import errors_pb2 as pb

NEAREST_NAMES = 5
_COMPARED_CHARACTERS = 200  # comparing names of several megabytes, which a request may have, takes seconds
Reason = pb.ErrorReason


class MLXIntegrationError(Exception):
    """Base class of all errors of the services and the SDK.

    Args:
        message: the problem and what to do about it.
        field: path of the offending field, such as `hooks[1].site.layer`; otherwise empty.
        valid: the nearest valid values of that field.

    Attributes:
        partial: the partial result of a failed analysis; otherwise None.
    """

    reason: ClassVar[pb.ErrorReason.ValueType] = Reason.ERROR_REASON_INTERNAL
    grpc_status: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "server_error"

    def __init__(self, message: str, *, field: str = "", valid: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.valid = tuple(valid)
        self.partial: Any = None

    @classmethod
    def code(cls) -> str:
        """The reason in lower case without the enum's prefix, such as `unknown_site`."""
        return pb.ErrorReason.Name(cls.reason).removeprefix("ERROR_REASON_").lower()

    def to_openai(self) -> dict[str, Any]:
        """The JSON body `{"error": {...}}` that OpenAI clients expect."""
        return {
            "error": {
                "message": self.message,
                "type": self.openai_type,
                "param": self.field or None,
                "code": self.code(),
            }
        }


class InvalidRequestError(MLXIntegrationError):
    """A field of the request is malformed or out of its range."""

    reason = Reason.ERROR_REASON_INVALID_REQUEST
    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    openai_type = "invalid_request_error"


class ContextLengthError(InvalidRequestError):
    """The prompt, or the prompt and the tokens to generate, exceed the model's context."""

    reason = Reason.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED


class ActivationCaptureError(MLXIntegrationError):
    """Base class of errors of captures and hooks."""


class UnknownSiteError(ActivationCaptureError):
    """A component or layer name resolves to nothing."""

    reason = Reason.ERROR_REASON_UNKNOWN_SITE
    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    openai_type = "invalid_request_error"


class UnavailableSiteError(UnknownSiteError):
    """The name is valid, but the model does not have the hook point."""

    reason = Reason.ERROR_REASON_UNAVAILABLE_SITE


class HookNeverFiredError(ActivationCaptureError):
    """A hook matched a site that never ran."""

    reason = Reason.ERROR_REASON_HOOK_NEVER_FIRED
    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 400
    openai_type = "invalid_request_error"


class ModelError(MLXIntegrationError):
    """Base class of errors of models."""


class ModelNotFoundError(ModelError):
    """No model, or no file, of that name."""

    reason = Reason.ERROR_REASON_MODEL_NOT_FOUND
    grpc_status = grpc.StatusCode.NOT_FOUND
    http_status = 404
    openai_type = "invalid_request_error"


class ModelCorruptError(ModelError):
    """The model's files cannot be read."""

    reason = Reason.ERROR_REASON_MODEL_CORRUPT
    grpc_status = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 400
    openai_type = "invalid_request_error"


class ModelUnsupportedError(ModelCorruptError):
    """The model's architecture or configuration is not supported."""

    reason = Reason.ERROR_REASON_MODEL_UNSUPPORTED


class DataConversionError(MLXIntegrationError):
    """A tensor cannot be carried in the form asked for."""

    reason = Reason.ERROR_REASON_UNCARRIABLE_TENSOR
    grpc_status = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    openai_type = "invalid_request_error"


class ChecksumError(DataConversionError):
    """A tensor's bytes do not match their checksum."""

    reason = Reason.ERROR_REASON_CHECKSUM_MISMATCH
    grpc_status = grpc.StatusCode.DATA_LOSS
    http_status = 500
    openai_type = "server_error"


class StreamingError(MLXIntegrationError):
    """A stream broke and cannot be continued.

    Attributes:
        restart_token: for `Client.resume_capture`, to run an incomplete capture again; otherwise empty.
    """

    reason = Reason.ERROR_REASON_STREAM_BROKEN
    grpc_status = grpc.StatusCode.ABORTED
    http_status = 409

    def __init__(self, message: str, *, field: str = "", valid: Iterable[str] = (), restart_token: str = "") -> None:
        super().__init__(message, field=field, valid=valid)
        self.restart_token = restart_token


class NeuroScopeIntegrationError(MLXIntegrationError):
    """A service is draining or cannot be reached."""

    reason = Reason.ERROR_REASON_SERVICE_UNAVAILABLE
    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503


class DeadlineExceededError(MLXIntegrationError):
    """The deadline passed before the response."""

    grpc_status = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504


class WorkflowValidationError(InvalidRequestError):
    """The steps or parameters of a workflow are inconsistent."""


class UnknownIdError(MLXIntegrationError):
    """There is no registered hook, running generation, stored capture, tensor or trace of that id."""

    reason = Reason.ERROR_REASON_UNKNOWN_ID
    grpc_status = grpc.StatusCode.NOT_FOUND
    http_status = 404
    openai_type = "invalid_request_error"


class IdTakenError(MLXIntegrationError):
    """An id is in use."""

    reason = Reason.ERROR_REASON_ID_TAKEN
    grpc_status = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409
    openai_type = "invalid_request_error"


class ResourceExhaustedError(MLXIntegrationError):
    """A limit on memory, size or concurrency."""

    reason = Reason.ERROR_REASON_RESOURCE_EXHAUSTED
    grpc_status = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    openai_type = "rate_limit_error"


class UnauthenticatedError(MLXIntegrationError):
    """The call has no token, or a wrong one."""

    reason = Reason.ERROR_REASON_UNAUTHENTICATED
    grpc_status = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401
    openai_type = "authentication_error"


class PermissionDeniedError(MLXIntegrationError):
    """The path is outside of the service's allow-list."""

    reason = Reason.ERROR_REASON_PERMISSION_DENIED
    grpc_status = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403
    openai_type = "permission_error"


class NotImplementedByEngineError(MLXIntegrationError):
    """The contract has it, but this version's engine does not; the message says why."""

    reason = Reason.ERROR_REASON_NOT_IMPLEMENTED
    grpc_status = grpc.StatusCode.UNIMPLEMENTED
    http_status = 501
    openai_type = "invalid_request_error"


class DoubledBosWarning(UserWarning):
    """A prompt begins with two beginning-of-sequence tokens; activations probably differ from what was intended."""


def error_classes() -> dict[pb.ErrorReason.ValueType, type[MLXIntegrationError]]:
    """The class of each reason."""
    classes: dict[pb.ErrorReason.ValueType, type[MLXIntegrationError]] = {}
    pending: list[type[MLXIntegrationError]] = [MLXIntegrationError]
    while pending:
        cls = pending.pop(0)
        classes.setdefault(cls.reason, cls)
        pending.extend(cls.__subclasses__())
    return classes


def nearest(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """The candidates most similar to a name, best first; the first few if none is similar. Long names are truncated."""
    names = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(name[:_COMPARED_CHARACTERS].lower(), names, n=NEAREST_NAMES, cutoff=0.4)
    return tuple(names[each] for each in close or list(names)[:NEAREST_NAMES])
