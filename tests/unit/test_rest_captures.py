"""Tensors as bytes, from servers that break off or lie.  Run: python -m pytest tests/unit/test_rest_captures.py"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xxhash

from neuroscope import errors
from neuroscope.rest import RESTActivationCaptureClient
from tests.support.http_script import Answer, http_script

ARRAY = np.arange(24, dtype=np.float32).reshape(1, 4, 6)
ARRAY[0, 0, :2] = np.nan, np.inf
WHOLE = ARRAY.tobytes()


def etag(data: bytes) -> str:
    return f'"{xxhash.xxh3_64_hexdigest(data)}"'


def answer(
    data: bytes, *, cut: int = 0, status: int = 200, of: bytes = WHOLE, dtype: str = "float32", shape: str = "1,4,6"
) -> Answer:
    headers = {"ETag": etag(of), "X-NeuroScope-Dtype": dtype, "X-NeuroScope-Shape": shape}
    return Answer(status, data, cut=cut, headers=headers)


def read(*answers: Answer, **parameters: Any) -> tuple[Any, list[Any]]:
    with http_script(*answers) as script, RESTActivationCaptureClient(script.url) as client:
        got = client.captures.read("c", 0, **parameters) if parameters else client.captures.tensor("c", 0)
        return got, [headers.get("Range") for headers in script.headers]


def test_nan_and_infinity_arrive() -> None:
    array, asked = read(answer(WHOLE))
    np.testing.assert_array_equal(array, ARRAY)
    assert asked == [None]


def test_the_type_is_that_of_the_header() -> None:
    data = np.array([1.5, -2, 0, 4], ml_dtypes.bfloat16)
    array, _ = read(answer(data.tobytes(), of=data.tobytes(), dtype="bfloat16", shape="4"))
    assert array.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(array, data)


@pytest.mark.parametrize("cut_at", [0, 1, 50, len(WHOLE) - 1])
def test_what_is_missing_is_asked_for(cut_at: int) -> None:
    first = answer(WHOLE[:cut_at], cut=len(WHOLE) - cut_at)
    array, asked = read(first, answer(WHOLE[cut_at:], status=206 if cut_at else 200))
    np.testing.assert_array_equal(array, ARRAY)
    assert asked == [None, f"bytes={cut_at}-" if cut_at else None]


def test_a_range_goes_on_within_itself() -> None:
    got, asked = read(
        answer(WHOLE[10:15], status=206, cut=15), answer(WHOLE[15:30], status=206), first_byte=10, length_bytes=20
    )
    assert got == WHOLE[10:30]
    assert asked == ["bytes=10-29", "bytes=15-29"]


def test_a_tensor_that_changed_is_read_anew() -> None:
    other = (ARRAY + 1).tobytes()
    answers = [answer(WHOLE[:20], cut=76), answer(other, of=other), answer(other, of=other)]
    array, asked = read(*answers)
    np.testing.assert_array_equal(array, ARRAY + 1)
    assert asked == [None, "bytes=20-", None]


def test_bytes_that_were_changed_are_an_error() -> None:
    with pytest.raises(errors.ChecksumError):
        read(answer(WHOLE[:-1] + b"?"))


def test_what_breaks_every_time_is_an_error() -> None:
    with pytest.raises(errors.StreamingError, match="broke"):
        read(answer(b"", cut=96))


def test_who_answers_is_no_gateway() -> None:
    with pytest.raises(errors.NeuroScopeIntegrationError, match="no gateway"):
        read(Answer(200, WHOLE))


def test_a_key_is_sent_with_every_request() -> None:
    with http_script(answer(WHOLE)) as script, RESTActivationCaptureClient(script.url, api_key="secret") as client:
        client.captures.tensor("c", 0)
        assert script.headers[0]["Authorization"] == "Bearer secret"
    with pytest.raises(errors.InvalidRequestError) as caught:
        RESTActivationCaptureClient("http://x", api_key="ä")
    assert caught.value.field == "api_key"
