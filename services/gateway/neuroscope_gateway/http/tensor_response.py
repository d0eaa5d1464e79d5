"""HTTP responses with the bytes of a tensor, or with a Range of them (RFC 9110, section 14)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import numpy as np
from starlette.responses import Response, StreamingResponse

from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.tensors import Array, dtype_name, numpy_dtype
from neuroscope_gateway.http import errors
from neuroscope_gateway.http.byte_ranges import ByteRange, ContentRange
from neuroscope_gateway.http.json_response import JsonResponse

BINARY = "application/octet-stream"
_BYTES: dict[str, Any] = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
_HEADERS = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in {
        "X-NeuroScope-Dtype": "element type, little-endian: float32, float16, bfloat16, int32, ...",
        "X-NeuroScope-Shape": "extents, outermost first, separated by commas",
        "X-NeuroScope-Axes": "meaning of each axis",
        "ETag": "changes with the tensor's content",
    }.items()
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole tensor, row-major", "content": _BYTES, "headers": _HEADERS},
    206: {"description": "The bytes of `Range`", "content": _BYTES, "headers": _HEADERS},
}
"""The OpenAPI `responses` of tensors."""


def tensor_headers(
    dtype: tensor_pb2.DataType.ValueType,
    shape: Iterable[int],
    axes: Iterable[tensor_pb2.Axis.ValueType],
    etag: str,
) -> dict[str, str]:
    """The headers that describe a tensor."""
    return {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "X-NeuroScope-Dtype": dtype_name(dtype),
        "X-NeuroScope-Shape": ",".join(map(str, shape)),
        "X-NeuroScope-Axes": ",".join(map(axis_name, axes)),
    }


async def tensor_response(
    parts: AsyncGenerator[memoryview, None],
    response_headers: dict[str, str],
    sent: ContentRange,
    part: ByteRange | None,
    wanted: str,
) -> Response:
    """The response of a started stream.

    Args:
        parts: exactly the bytes to send.
        response_headers: from `tensor_headers`.
        sent: which bytes they are.
        part: the parsed range; None: the whole tensor.
        wanted: the Range header.
    """
    response_headers = response_headers | {"Content-Length": str(sent.count)}
    if part is None:
        return StreamingResponse(_to_bytes(parts), HTTPStatus.OK, response_headers, BINARY)
    if not sent.count:
        await parts.aclose()
        message = f"The tensor has {sent.total} bytes, and none of them in {wanted!r}."
        body = errors.error_json(message, param="Range", code="range_not_satisfiable")
        beyond = {"Content-Range": f"bytes */{sent.total}"}
        return JsonResponse(body, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=beyond)
    response_headers["Content-Range"] = f"bytes {sent.first}-{sent.first + sent.count - 1}/{sent.total}"
    return StreamingResponse(_to_bytes(parts), HTTPStatus.PARTIAL_CONTENT, response_headers, BINARY)


async def slice_stream(parts: AsyncGenerator[memoryview, None], sent: ContentRange) -> AsyncGenerator[memoryview, None]:
    """Slices a stream of all bytes, and closes it after the last sent byte."""
    offset, end = 0, sent.first + sent.count
    async with aclosing(parts):
        async for part in parts:
            if kept := part[max(sent.first - offset, 0) : max(end - offset, 0)]:
                yield kept
            offset += part.nbytes
            if offset >= end and sent.count < sent.total:
                return


def to_array(data: bytes, dtype: tensor_pb2.DataType.ValueType, shape: Iterable[int]) -> Array:
    """The tensor of these bytes."""
    return np.frombuffer(data, numpy_dtype(dtype)).reshape(tuple(shape))


def axis_name(axis: tensor_pb2.Axis.ValueType) -> str:
    """The name of an axis: `key_position` for AXIS_KEY_POSITION."""
    return tensor_pb2.Axis.Name(axis).removeprefix("AXIS_").lower()


async def _to_bytes(parts: AsyncGenerator[memoryview, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        async for part in parts:
            yield bytes(part)
