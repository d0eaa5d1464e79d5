"""Maps errors to gRPC statuses with google.rpc details, and back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]

from neuroscope import errors
from neuroscope.v1 import errors_pb2

DOMAIN = "neuroscope"
MESSAGE_BYTES = 1000
"""Limit of a message: a status carries it three times in HTTP/2 headers, and peers refuse headers above 8 KiB."""
VALID_BYTES = 1000
"""Limit of the valid names together."""
_PREFIX = "ERROR_REASON_"
# Statuses without an ErrorInfo of ours: from gRPC itself, a proxy, or another server.
_BY_STATUS: dict[grpc.StatusCode, type[errors.MLXIntegrationError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: errors.UnknownIdError,
    grpc.StatusCode.ALREADY_EXISTS: errors.IdTakenError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    grpc.StatusCode.ABORTED: errors.StreamingError,
    grpc.StatusCode.CANCELLED: errors.StreamingError,
    grpc.StatusCode.DATA_LOSS: errors.ChecksumError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: errors.NeuroScopeIntegrationError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotImplementedByEngineError,
}


def to_status(error: errors.MLXIntegrationError) -> status_pb2.Status:
    """The status of an error: code, message, ErrorInfo, and BadRequest if a field is at fault."""
    message = _cut(error.message)
    info = error_details_pb2.ErrorInfo(reason=error.code().upper(), domain=DOMAIN)
    if valid := _that_fit(error.valid):
        info.metadata["valid"] = ",".join(valid)
    if error.field:
        info.metadata["field"] = error.field
    if isinstance(error, errors.StreamingError) and error.restart_token:
        info.metadata["restart_token"] = error.restart_token
    details = [_packed(info)]
    if error.field and error.grpc_status is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=message)
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return status_pb2.Status(code=code_pb2.Code.Value(error.grpc_status.name), message=message, details=details)


def to_grpc_status(error: errors.MLXIntegrationError) -> grpc.Status:
    """The status of an error for `context.abort_with_status`."""
    from grpc_status import rpc_status

    return rpc_status.to_status(to_status(error))  # pyright: ignore[reportUnknownMemberType]


def from_rpc_error(error: grpc.RpcError) -> errors.MLXIntegrationError:
    """The error of a failed call: by its ErrorInfo, or by its code if no NeuroScope service sent the status."""
    call = cast("grpc.Call", error)  # both kinds of RpcError have code() and details()
    code, message = call.code(), call.details() or ""
    info = error_info(error)
    if info is None:
        cls = _BY_STATUS.get(code)
        return errors.MLXIntegrationError(f"{code.name}: {message}") if cls is None else cls(message)
    valid = tuple(name for name in info.metadata["valid"].split(",") if name) if "valid" in info.metadata else ()
    field = info.metadata.get("field", "")
    translated = _class_of(info.reason, code)(message, field=field, valid=valid)
    if isinstance(translated, errors.StreamingError) and "restart_token" in info.metadata:
        translated.restart_token = info.metadata["restart_token"]
    return translated


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    """The ErrorInfo of a NeuroScope service; None if the status is from elsewhere."""
    from grpc_status import rpc_status

    try:
        found = rpc_status.from_call(cast("grpc.Call", error))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    except ValueError:  # the trailer contradicts the status: not from a NeuroScope service
        return None
    status = cast("status_pb2.Status | None", found)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and _PREFIX + info.reason in errors_pb2.ErrorReason.keys():
            return info
    return None


def _class_of(name: str, code: grpc.StatusCode) -> type[errors.MLXIntegrationError]:
    cls = errors.error_classes()[errors_pb2.ErrorReason.Value(_PREFIX + name)]
    if cls.grpc_status is code:
        return cls
    return _BY_STATUS.get(code, cls)


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _that_fit(names: Sequence[str]) -> list[str]:
    sizes = itertools.accumulate(len(name.encode()) + 1 for name in names)
    return [name for name, size in zip(names, sizes, strict=True) if size <= VALID_BYTES]


def _cut(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= MESSAGE_BYTES:
        return message
    return encoded[: MESSAGE_BYTES - 3].decode(errors="ignore") + "…"
