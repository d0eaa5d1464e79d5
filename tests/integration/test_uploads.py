"""PutTensor over gRPC and in process.

python -m pytest tests/integration/test_uploads.py
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from neuroscope.errors import (
    ChecksumError,
    DataConversionError,
    InvalidRequestError,
    MLXIntegrationError,
    ResourceExhaustedError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import SLICE_BYTES
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.transport import GrpcTransport, Transport
from neuroscope_inference.local import LocalTransport

PUT = RPCS["PutTensor"]
ARRAY = np.random.default_rng(1).standard_normal((600, 1000)).astype(np.float32)  # three frames


def header(array: Any = ARRAY, **fields: Any) -> pb.PutTensorRequest:
    values: dict[str, Any] = {"dtype": tensor_pb2.DATA_TYPE_FLOAT32, "shape": array.shape, **fields}
    return pb.PutTensorRequest(header=pb.TensorHeader(**values))


def frames(array: Any = ARRAY) -> list[Frame]:
    data = memoryview(array.tobytes())
    found = [
        Frame(tensor_pb2.TensorFrame(sequence=index, offset_bytes=start), (data[start : start + SLICE_BYTES],))
        for index, start in enumerate(range(0, data.nbytes, SLICE_BYTES))
    ]
    last = found[-1].header
    assert isinstance(last, tensor_pb2.TensorFrame)
    last.last, last.xxh3_64 = True, xxhash.xxh3_64_intdigest(data)
    return found


def changed(frame: Frame, **fields: Any) -> Frame:
    copy = tensor_pb2.TensorFrame()
    copy.CopyFrom(frame.header)  # type: ignore[arg-type]
    for name, value in fields.items():
        setattr(copy, name, value)
    return Frame(copy, frame.parts)


@pytest.fixture(scope="module", params=["grpc", "local"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "grpc":
        yield request.getfixturevalue("grpc_transport")
        return
    local = LocalTransport()
    yield local
    local.close()


def put(transport: Transport, *requests: Event) -> Any:
    return transport.upload(PUT, requests)


def test_a_tensor_of_several_frames_is_stored(transport: Transport) -> None:
    before_ms = 1000 * time.time()
    answer = put(transport, header(time_to_live_ms=60_000), *frames())
    assert answer.length_bytes == ARRAY.nbytes
    assert before_ms + 60_000 <= answer.expires_at_ms + 1 <= 1000 * time.time() + 60_001
    again = put(transport, header(time_to_live_ms=60_000), *frames())
    assert again.tensor_id == answer.tensor_id
    assert again.expires_at_ms >= answer.expires_at_ms
    other = ARRAY + 1
    assert put(transport, header(other), *frames(other)).tensor_id != answer.tensor_id


def test_both_ways_give_one_id(grpc_transport: GrpcTransport, tmp_path: Path) -> None:
    local = LocalTransport()
    try:
        assert put(local, header(), *frames()).tensor_id == put(grpc_transport, header(), *frames()).tensor_id
    finally:
        local.close()


def test_a_frame_that_was_never_serialised_is_taken(transport: Transport) -> None:
    small = np.ones(3, np.float32)
    (frame,) = frames(small)
    message = pb.PutTensorRequest(tensor_frame=frame.header)  # type: ignore[arg-type]
    message.tensor_frame.data = small.tobytes()
    assert put(transport, header(small), message).tensor_id == put(transport, header(small), *frames(small)).tensor_id


first, second, third = frames()
with_nan = ARRAY.copy()
with_nan[7, 11] = np.nan


@pytest.mark.parametrize(
    ("requests", "error", "field"),
    [
        ([], InvalidRequestError, "header"),
        ([first], InvalidRequestError, "header"),
        ([header(), header()], InvalidRequestError, "tensor_frame"),
        ([header(dtype=tensor_pb2.DATA_TYPE_UNSPECIFIED)], DataConversionError, "header.dtype"),
        ([header(shape=[0])], InvalidRequestError, "header.shape"),
        ([header(time_to_live_ms=2**63)], InvalidRequestError, "header.time_to_live_ms"),
        ([header(shape=[2**40])], ResourceExhaustedError, "header.shape"),
        ([header()], InvalidRequestError, "tensor_frame.last"),
        ([header(), first, second], InvalidRequestError, "tensor_frame.last"),
        ([header(), first, third], InvalidRequestError, "tensor_frame.offset_bytes"),
        ([header(), first, first], InvalidRequestError, "tensor_frame.offset_bytes"),
        ([header(), first, changed(second, last=True)], InvalidRequestError, "tensor_frame.data"),
        ([header(shape=[10]), first], InvalidRequestError, "tensor_frame.data"),
        ([header(), *frames(), third], InvalidRequestError, "tensor_frame.last"),
        ([header(), first, second, changed(third, xxh3_64=1)], ChecksumError, "tensor_frame.xxh3_64"),
        ([header(), *frames(with_nan)], DataConversionError, "header.data"),
    ],
)
def test_an_upload_that_is_wrong_is_refused_and_keeps_no_room(
    transport: Transport, requests: list[Event], error: type[MLXIntegrationError], field: str
) -> None:
    with pytest.raises(error) as caught:
        put(transport, *requests)
    assert caught.value.field == field
    put(transport, header(), *frames())


def test_a_full_store_says_so_and_the_service_goes_on() -> None:
    local = LocalTransport(tensor_max_bytes=ARRAY.nbytes + 100)
    try:
        put(local, header(), *frames())
        with pytest.raises(ResourceExhaustedError, match="uploads hold 2400000 of 2400100"):
            put(local, header(), *frames())
        small = np.ones(3, np.float32)
        put(local, header(small), *frames(small))
    finally:
        local.close()


def test_a_cancelled_upload_keeps_no_room() -> None:
    local = LocalTransport(tensor_max_bytes=ARRAY.nbytes)

    def broken() -> Iterator[Event]:
        yield header()
        yield first
        raise RuntimeError("the caller goes")

    try:
        with pytest.raises(RuntimeError, match="the caller goes"):
            local.upload(PUT, broken())
        put(local, header(), *frames())
    finally:
        local.close()
