"""Errors as gRPC statuses with google.rpc details, and back. The only place that knows both."""

from __future__ import annotations

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
import grpc
from grpc_status import rpc_status

from neuroscope import errors
from neuroscope.v1 import errors_pb2

DOMAIN = "neuroscope"
_PREFIX = "ERROR_REASON_"


def to_status(error: errors.MLXIntegrationError) -> status_pb2.Status:
    """The status of an error: its code, message, ErrorInfo and, if a field is at fault, BadRequest."""
    info = error_details_pb2.ErrorInfo(reason=error.code().upper(), domain=DOMAIN)
    if error.valid:
        info.metadata["valid"] = ",".join(error.valid)
    if error.field:
        info.metadata["field"] = error.field
    details = [_packed(info)]
    if error.field and error.grpc_status is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.message)
        details.append(_packed(error_details_pb2.BadRequest(field_violations=[violation])))
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.grpc_status.name), message=error.message, details=details
    )


def to_abort(error: errors.MLXIntegrationError) -> grpc.Status:
    """What `context.abort_with_status` takes."""
    return rpc_status.to_status(to_status(error))


def from_rpc_error(error: grpc.RpcError) -> errors.MLXIntegrationError:
    """The error of the tree that a failed call carries; one by status alone if another server answered."""
    call: grpc.Call = error  # type: ignore[assignment]  # both kinds of RpcError have code() and details()
    message = call.details() or ""
    info = _error_info(error)
    if info is not None:
        reason = errors_pb2.ErrorReason.Value(_PREFIX + info.reason)
        valid = tuple(name for name in info.metadata["valid"].split(",") if name) if "valid" in info.metadata else ()
        field = info.metadata["field"] if "field" in info.metadata else ""
        return errors.error_classes()[reason](message, field=field, valid=valid)
    return _by_status(call.code(), message)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo | None:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the trailer contradicts the status: not one of ours
        return None
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and _PREFIX + info.reason in errors_pb2.ErrorReason.keys():
            return info
    return None


def _by_status(code: grpc.StatusCode, message: str) -> errors.MLXIntegrationError:
    for cls in errors.error_classes().values():
        if cls.grpc_status is code:
            return cls(message)
    return errors.MLXIntegrationError(f"{code.name}: {message}")
