"""neuroscope.errors and neuroscope.wire.status: every error keeps its class, message, field and names on its way."""

import time

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from neuroscope import errors
from neuroscope.errors import MLXIntegrationError, error_classes, nearest
from neuroscope.v1.errors_pb2 import ErrorReason
from neuroscope.wire import status


def all_classes() -> list[type[MLXIntegrationError]]:
    found: list[type[MLXIntegrationError]] = []
    pending = [MLXIntegrationError]
    while pending:
        cls = pending.pop(0)
        if cls.__module__ == errors.__name__:
            found.append(cls)
        pending.extend(cls.__subclasses__())
    return found


class FakeCall(grpc.RpcError, grpc.Call):
    """What a failed call looks like to a client."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata=()) -> None:
        self._code, self._details, self._metadata = code, details, trailing_metadata

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._metadata

    def initial_metadata(self):
        return ()

    def is_active(self):
        return False

    def time_remaining(self):
        return 0.0

    def cancel(self):
        return False

    def add_callback(self, callback):
        return False


def failed(error: MLXIntegrationError) -> FakeCall:
    abort = status.to_grpc_status(error)
    return FakeCall(abort.code, abort.details, abort.trailing_metadata)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("cls", all_classes())
def test_an_error_survives_its_status(cls):
    error = status.from_rpc_error(failed(cls("what is wrong", field="hooks[1].site", valid=["a", "b"])))
    # A class that shares its parent's reason and status comes back as the parent.
    same = [other for other in cls.__mro__ if getattr(other, "reason", None) == cls.reason]
    assert type(error) is next(other for other in reversed(same) if other.grpc_status is cls.grpc_status)
    assert (error.message, error.field, error.valid) == ("what is wrong", "hooks[1].site", ("a", "b"))
    assert str(error) == "what is wrong"


@pytest.mark.parametrize("cls", all_classes())
def test_statuses_bodies_and_codes_agree_with_the_tree(cls):
    error = cls("what is wrong", field="prompt")
    body = error.to_openai()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["code"] == cls.code()
    assert body["param"] == "prompt"
    assert cls.code() == ErrorReason.Name(cls.reason).removeprefix("ERROR_REASON_").lower()
    assert 400 <= cls.http_status < 600
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {cls.__name__} " in f" {line}")
    assert cls.grpc_status.name in line.split()
    assert str(cls.http_status) in line.split()


def test_every_reason_of_the_contract_has_a_class():
    assert set(error_classes()) == set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED}


def test_an_error_without_field_has_no_param():
    assert MLXIntegrationError("x").to_openai()["error"]["param"] is None


def test_a_mistake_in_a_field_is_a_field_violation():
    message = status.to_status(errors.UnknownSiteError("no such layer", field="hooks[0].site.layer"))
    violations = error_details_pb2.BadRequest()
    assert message.details[1].Unpack(violations)
    assert violations.field_violations[0].field == "hooks[0].site.layer"
    assert len(status.to_status(errors.ModelNotFoundError("x", field="model_id")).details) == 1


def test_long_messages_are_cut_so_that_the_status_stays_a_header():
    error = status.from_rpc_error(failed(errors.InvalidRequestError("ü" * 5000, field="prompt")))
    assert error.message.startswith("üüü")
    assert error.message.endswith("…")
    assert len(error.message.encode()) <= status.MESSAGE_BYTES


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, errors.UnknownIdError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.CANCELLED, errors.StreamingError),
        (grpc.StatusCode.UNAVAILABLE, errors.NeuroScopeIntegrationError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.NotImplementedByEngineError),
        (grpc.StatusCode.INTERNAL, MLXIntegrationError),
        (grpc.StatusCode.UNKNOWN, MLXIntegrationError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
        (grpc.StatusCode.OUT_OF_RANGE, MLXIntegrationError),
    ],
)
def test_a_status_without_details_gives_the_nearest_class(code, cls):
    error = status.from_rpc_error(FakeCall(code, "words"))
    assert type(error) is cls
    assert "words" in str(error)
    if cls is MLXIntegrationError:
        assert code.name in str(error)


def test_reasons_of_other_domains_are_not_ours():
    info = error_details_pb2.ErrorInfo(reason="UNKNOWN_SITE", domain="example.com")
    message = status.to_status(errors.MLXIntegrationError("x"))
    message.details[0].Pack(info)
    abort = rpc_status.to_status(message)
    error = FakeCall(abort.code, abort.details, abort.trailing_metadata)  # pyright: ignore[reportAttributeAccessIssue]
    assert status.error_info(error) is None


def test_a_trailer_that_contradicts_the_status_is_ignored():
    abort = status.to_grpc_status(errors.UnknownSiteError("x"))
    error = FakeCall(grpc.StatusCode.UNAVAILABLE, "proxy", abort.trailing_metadata)  # pyright: ignore[reportAttributeAccessIssue]
    assert type(status.from_rpc_error(error)) is errors.NeuroScopeIntegrationError


def test_nearest_names_come_best_first_and_never_none():
    assert nearest("resid_pst", ["mlp_out", "resid_post", "resid_pre"])[0] == "resid_post"
    assert nearest("zzz", ["a", "b"]) == ("a", "b")
    assert nearest("x", []) == ()


def test_a_name_of_megabytes_is_not_compared_for_seconds():
    begin = time.process_time()
    assert set(nearest("resid_post" * 10**6, ["mlp_out", "resid_post"])) == {"mlp_out", "resid_post"}
    assert time.process_time() - begin < 0.5
