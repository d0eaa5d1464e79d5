"""What the REST client does when a gateway does not answer as it should: again, or a clear error.

python -m pytest tests/unit/test_rest_gateway.py
"""

import json
import socket
import threading
import time
from typing import Any

import pytest

from neuroscope import errors
from neuroscope.rest import ActivationHookSpec, RESTActivationCaptureClient
from tests.support.http_script import Answer, http_script

MESSAGES = [{"role": "user", "content": "Hello"}]
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    "activations": {},
}
WHOLE = json.dumps(ANSWER).encode()


def error_body(code: str, message: str = "told so", param: str | None = "model") -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "param": param, "code": code}}).encode()


def line(text: str, finish_reason: str | None = None) -> bytes:
    told: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}
    if finish_reason:
        told["usage"] = ANSWER["usage"]
    return json.dumps(told | {"activations": {}}, ensure_ascii=False).encode() + b"\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nobody_answers() -> None:
    with RESTActivationCaptureClient(f"http://127.0.0.1:{free_port()}") as client:
        began = time.monotonic()
        with pytest.raises(errors.NeuroScopeIntegrationError, match="Start one: neuroscope up"):
            client.health()
        assert 1.2 < time.monotonic() - began < 10, "four attempts, with pauses of 0.2, 0.4 and 0.8 s"


def test_a_gateway_that_comes_late_is_waited_for() -> None:
    port, done = free_port(), threading.Event()

    def start_late() -> None:
        time.sleep(0.4)
        with http_script(Answer(body=WHOLE), port=port):
            done.wait(10)

    late = threading.Thread(target=start_late)
    late.start()
    try:
        with RESTActivationCaptureClient(f"http://127.0.0.1:{port}") as client:
            assert client.generate_with_activations(MESSAGES).text == "Hi"
    finally:
        done.set()
        late.join()


@pytest.mark.parametrize(
    "trouble",
    [Answer(503, error_body("service_unavailable")), Answer(body=WHOLE[:20], cut=100), Answer(502, b"<html>")],
    ids=["unavailable", "cut off", "a proxy's page"],
)
def test_what_does_no_harm_is_asked_again(trouble: Answer) -> None:
    with http_script(trouble, trouble, Answer(body=WHOLE)) as script, RESTActivationCaptureClient(script.url) as client:
        assert client.generate_with_activations(MESSAGES).text == "Hi"
        assert len(script.requests) == 3
        assert len(set(script.requests)) == 1


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Answer(503, error_body("service_unavailable")), errors.NeuroScopeIntegrationError),
        (Answer(body=b'{"registered', cut=100), errors.StreamingError),
    ],
)
def test_a_registration_is_not_repeated(trouble: Answer, kind: type[Exception]) -> None:
    with http_script(trouble) as script, RESTActivationCaptureClient(script.url) as client:
        with pytest.raises(kind):
            client.create_activation_hooks([ActivationHookSpec("blocks.0", "key")])
        assert len(script.requests) == 1


def test_a_slow_answer_ends_at_the_timeout() -> None:
    with http_script(Answer(silent_s=20)) as script, RESTActivationCaptureClient(script.url, timeout=0.2) as client:
        with pytest.raises(errors.DeadlineExceededError, match=r"nothing for 0\.2 s") as caught:
            client.generate_with_activations(MESSAGES)
        assert caught.value.field == "timeout"
        assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "unknown_site", errors.UnknownSiteError),
        (400, "unavailable_site", errors.UnavailableSiteError),
        (400, "context_length_exceeded", errors.ContextLengthError),
        (400, "hook_never_fired", errors.HookNeverFiredError),
        (400, "uncarriable_tensor", errors.DataConversionError),
        (404, "model_not_found", errors.ModelNotFoundError),
        (404, "unknown_id", errors.UnknownIdError),
        (409, "id_taken", errors.IdTakenError),
        (409, "stream_broken", errors.StreamingError),
        (429, "resource_exhausted", errors.ResourceExhaustedError),
        (400, "unknown_parameter", errors.InvalidRequestError),
        (400, "unsupported_parameter", errors.InvalidRequestError),
        (413, "request_too_large", errors.ResourceExhaustedError),
        (401, "invalid_api_key", errors.UnauthenticatedError),
        (403, "origin_not_allowed", errors.PermissionDeniedError),
        (403, "permission_denied", errors.PermissionDeniedError),
        (404, "unknown_route", errors.NotImplementedByEngineError),
        (405, "method_not_allowed", errors.NotImplementedByEngineError),
        (504, "internal", errors.DeadlineExceededError),
        (500, "internal", errors.MLXIntegrationError),
        (418, "unheard_of", errors.MLXIntegrationError),
    ],
)
def test_a_code_becomes_its_error(status: int, code: str, kind: type[errors.MLXIntegrationError]) -> None:
    with http_script(Answer(status, error_body(code))) as script, RESTActivationCaptureClient(script.url) as client:
        with pytest.raises(errors.MLXIntegrationError, match="told so") as caught:
            client.generate_with_activations(MESSAGES)
        assert type(caught.value) is kind
        assert caught.value.field == "model"


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"choices": []}', b"null"])
def test_who_answers_is_no_gateway(body: bytes) -> None:
    with http_script(Answer(body=body)) as script, RESTActivationCaptureClient(script.url) as client:
        with pytest.raises(errors.NeuroScopeIntegrationError, match="no gateway of NeuroScope-MLX"):
            client.generate_with_activations(MESSAGES)
        with pytest.raises(errors.MLXIntegrationError):
            list(client.stream_with_activations(MESSAGES))


def test_lines_end_at_line_feeds_alone() -> None:
    texts = ["a\u2028b", "c\u0085d", "e"]
    body = b"".join(map(line, texts)) + line("", "stop")
    with http_script(Answer(body=body)) as script, RESTActivationCaptureClient(script.url) as client:
        assert [result.token for result in client.stream_with_activations(MESSAGES)] == [*texts, ""]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(body=line("a")), errors.StreamingError),
        (Answer(body=line("a"), cut=50), errors.StreamingError),
        (Answer(body=line("a") + error_body("hook_never_fired") + b"\n"), errors.HookNeverFiredError),
        (Answer(body=line("a") + error_body("internal") + b"\n"), errors.MLXIntegrationError),
    ],
    ids=["no last line", "cut off", "an error", "a fault"],
)
def test_a_stream_that_breaks_off_says_so_after_its_tokens(answer: Answer, kind: type[Exception]) -> None:
    with http_script(answer) as script, RESTActivationCaptureClient(script.url) as client:
        stream = client.stream_with_activations(MESSAGES)
        assert next(stream).token == "a"
        with pytest.raises(errors.MLXIntegrationError) as caught:
            next(stream)
        assert type(caught.value) is kind
        assert len(script.requests) == 1, "what was told in part is not begun again"


def test_a_url_is_checked_at_once() -> None:
    for url in ("127.0.0.1:8080", "ftp://x", ""):
        with pytest.raises(errors.InvalidRequestError, match="http://127"):
            RESTActivationCaptureClient(url)
    with pytest.raises(errors.InvalidRequestError, match="positive"):
        RESTActivationCaptureClient("http://x", timeout=0)
