"""Tensors over REST in all their forms, and kept captures.

python -m pytest tests/integration/test_gateway_captures.py
"""

import base64
import json
from collections.abc import Generator
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope.client import Client
from neuroscope.errors import InvalidRequestError, UnknownIdError
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.tensors import numpy_dtype, parse_dtype
from tests.support.services import Service

ACTIVATIONS = "/v1/chat/completions/with_activations"
CAPTURES = "/v1/activations/captures"
MESSAGES: list[Any] = [{"role": "user", "content": "Hello there, who are you and where do you come from?"}]
HOOKS = [
    {"layer_name": "transformer.h.1", "component": "residual", "hook_id": "r", "capture_input": True},
    {"layer_name": "transformer.h.2", "component": "attention_pattern", "hook_id": "p"},
]
SIZE = 3


@pytest.fixture
def http(gateway: Service) -> Generator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=120) as client:
        yield client


@pytest.fixture
def grpc(inference: Service) -> Generator[Client]:
    with Client(inference.target) as client:
        yield client


def ask(http: httpx.Client, **parameters: Any) -> Any:
    body = {"messages": MESSAGES, "max_tokens": SIZE, "activation_hooks": HOOKS} | parameters
    response = http.post(ACTIVATIONS, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def array(piece: dict[str, Any], data: bytes) -> np.ndarray:
    return np.frombuffer(data, numpy_dtype(parse_dtype(piece["dtype"]))).reshape(piece["shape"])


def downloaded(http: httpx.Client, url: str) -> np.ndarray:
    """A tensor, from nothing but what its answer says."""
    response = http.get(url)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    dtype = numpy_dtype(parse_dtype(response.headers["x-neuroscope-dtype"]))
    shape = [int(extent) for extent in response.headers["x-neuroscope-shape"].split(",")]
    return np.frombuffer(response.content, dtype).reshape(shape)


@pytest.mark.parametrize("n", [1, 2])
def test_the_three_forms_are_the_same_numbers(http: httpx.Client, n: int) -> None:
    fields = {"n": n, "temperature": 1.0, "seed": 4}
    lists, coded, described = (
        ask(http, activation_format=form, **fields)["activations"] for form in ("list", "base64", "metadata")
    )
    for hook_id, pieces in lists.items():
        assert len(pieces) == len(coded[hook_id]) == len(described[hook_id])
        for one, other, third in zip(pieces, coded[hook_id], described[hook_id], strict=True):
            expected = np.array(one.pop("data"), np.float32)
            np.testing.assert_array_equal(array(other, base64.b64decode(other.pop("data"))), expected)
            np.testing.assert_array_equal(downloaded(http, third.pop("url")), expected)
            assert third.pop("data") is None
            assert one == other == third
            assert ("choice" in one) is (n > 1)


def test_base64_carries_bfloat16_as_it_is(http: httpx.Client, grpc: Client) -> None:
    grpc.register_hooks([Hook("mlp_out", 1, dtype="bfloat16", hook_id="narrow")])
    try:
        pieces = ask(http, activation_hooks=["narrow"], activation_format="base64")["activations"]["narrow"]
        expected = grpc.generate(MESSAGES, hook_ids=["narrow"], max_tokens=SIZE).wait().cache["narrow"]
    finally:
        grpc.clear_hooks(["narrow"])
    found = np.concatenate([array(piece, base64.b64decode(piece["data"])) for piece in pieces], 1)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def test_metadata_of_a_prefill_in_chunks_is_one_entry(http: httpx.Client) -> None:
    """A prompt longer than a chunk comes in pieces, whose bytes are one tensor."""
    text = "word " * 120
    parameters = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    pieces = ask(http, **parameters)["activations"]["p"]
    assert len(pieces) > 1
    (described,) = ask(http, activation_format="metadata", **parameters)["activations"]["p"]
    found = downloaded(http, described["url"])
    assert list(found.shape) == described["shape"]
    rows = np.zeros(found.shape, np.float32)
    start = 0
    for piece in pieces:
        values = np.array(piece["data"], np.float32)
        rows[:, :, start : start + values.shape[2], : values.shape[3]] = values
        start += values.shape[2]
    np.testing.assert_array_equal(found, rows)


def test_a_stream_of_metadata(http: httpx.Client) -> None:
    body = {"messages": MESSAGES, "max_tokens": SIZE, "activation_hooks": HOOKS, "stream": True}
    response = http.post(ACTIVATIONS, json=body | {"activation_format": "metadata", "capture_id": "streamed"})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines[-1]["capture_id"] == "streamed"
    urls = [piece["url"] for line in lines for piece in line["activations"].get("p", [])]
    assert len(urls) == SIZE
    assert downloaded(http, urls[1]).shape[2] == 1


@pytest.fixture
def kept(http: httpx.Client) -> Generator[str]:
    """A generation that was kept under a name."""
    answer = ask(http, capture_id="kept-1", activation_format="base64")
    assert answer["capture_id"] == "kept-1"
    yield f"{CAPTURES}/kept-1"
    http.delete(f"{CAPTURES}/kept-1")


def test_captures_are_listed_described_and_removed(http: httpx.Client, kept: str) -> None:
    assert "kept-1" in [capture["id"] for capture in http.get(CAPTURES).json()["data"]]
    described = http.get(kept).json()
    assert (described["state"], described["completion_tokens"]) == ("committed", SIZE)
    assert [(t["tensor"], t["hook_id"], t["component"], t["is_input"]) for t in described["tensors"]] == [
        (0, "r", "resid_pre", False),
        (1, "r", "resid_post", False),
        (2, "p", "attention_pattern", False),
    ]
    assert described["tensors"][2]["axes"] == ["batch", "head", "position", "key_position"]
    assert described["tensors"][2]["rows"][0]["piece_count"] == SIZE
    assert http.delete(kept).json() == {"id": "kept-1", "object": "capture", "deleted": True}
    for response in (http.get(kept), http.delete(kept), http.get(f"{kept}/0")):
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (404, "unknown_id", "capture_id")


def test_a_name_is_one_request(http: httpx.Client, kept: str) -> None:
    again = ask(http, capture_id="kept-1", activation_format="base64")
    assert again["capture_id"] == "kept-1"
    body = {"messages": MESSAGES, "max_tokens": 9, "activation_hooks": HOOKS, "capture_id": "kept-1"}
    response = http.post(ACTIVATIONS, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (409, "id_taken", "capture_id")


def test_ranges(http: httpx.Client, kept: str) -> None:
    url = f"{kept}/1"
    whole = http.get(url)
    total = len(whole.content)
    assert whole.headers["accept-ranges"] == "bytes"
    for header, expected in {
        "bytes=0-15": slice(0, 16),
        "bytes=100-": slice(100, None),
        "bytes=-20": slice(-20, None),
        f"bytes=-{10 * total}": slice(None),
        f"bytes={total - 1}-{10 * total}": slice(-1, None),
    }.items():
        response = http.get(url, headers={"Range": header})
        assert (response.status_code, response.content) == (206, whole.content[expected]), header
        first, last, _ = expected.indices(total)
        assert response.headers["content-range"] == f"bytes {first}-{last - 1}/{total}"
        assert response.headers["etag"] == whole.headers["etag"]
    for header in (f"bytes={total}-", "bytes=-0"):
        response = http.get(url, headers={"Range": header})
        assert (response.status_code, response.json()["error"]["code"]) == (416, "range_not_satisfiable")
        assert response.headers["content-range"] == f"bytes */{total}"
    for header in ("bytes=0-1,4-5", "bytes=9-3", "words=1-2"):
        assert http.get(url, headers={"Range": header}).status_code == 200
    part = {"Range": "bytes=0-3"}
    assert http.get(url, headers=part | {"If-Range": whole.headers["etag"]}).status_code == 206
    assert http.get(url, headers=part | {"If-Range": '"another"'}).status_code == 200


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/99", "tensor"),
        ("/1?step=50", "step"),
        ("/1?row=3", "row"),
        ("/x", "tensor"),
        ("/-1", "tensor"),
        ("/1?row=a", "row"),
    ],
)
def test_what_a_capture_has_not_is_named(http: httpx.Client, kept: str, path: str, param: str) -> None:
    response = http.get(kept + path)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


@pytest.mark.parametrize("capture_id", ["", "a/b", "ä", "x" * 129])
def test_names_fit_into_a_path(http: httpx.Client, capture_id: str) -> None:
    body = {"messages": MESSAGES, "activation_hooks": HOOKS, "capture_id": capture_id}
    response = http.post(ACTIVATIONS, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "capture_id")


def test_what_is_kept_over_grpc_can_be_read_over_rest(http: httpx.Client, grpc: Client) -> None:
    """And the SDK reads the same tensor without the rest of its stream."""
    cache = grpc.capture(["Once upon a time", "Twice"], ["resid_post", "logits"], resumable=True, capture_id="of-grpc")
    try:
        for activation in cache.by_name().values():
            for row in (0, 1):
                found = downloaded(http, f"{CAPTURES}/of-grpc/{activation.plan_index}?row={row}")
                np.testing.assert_array_equal(found, activation.row(row))
                read = grpc.captured_tensor("of-grpc", activation.plan_index, row=row)
                np.testing.assert_array_equal(read, activation.row(row))
        with pytest.raises(InvalidRequestError):
            grpc.captured_tensor("of-grpc", 99)
    finally:
        grpc.delete_capture("of-grpc")
    with pytest.raises(UnknownIdError):
        grpc.captured_tensor("of-grpc", 0)
