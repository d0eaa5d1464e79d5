"""/v1/activations/captures: streams that the service keeps, and their tensors as bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from neuroscope.captured_tensor import CapturedTensor
from neuroscope.errors import MLXIntegrationError
from neuroscope.reductions import NAMES
from neuroscope.sites import Point
from neuroscope.tensors import dtype_name
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope_gateway import byte_ranges, errors
from neuroscope_gateway.byte_ranges import BEYOND, ByteRange
from neuroscope_gateway.connection import while_connected
from neuroscope_gateway.json import JsonResponse
from neuroscope_gateway.schemas import captures as schemas
from neuroscope_gateway.service import ERRORS, Client

router = APIRouter(prefix="/v1/activations/captures", tags=["captures"], responses=ERRORS)

BINARY = "application/octet-stream"
_Index = Annotated[int, Query(ge=0, lt=2**32)]
_BYTES: dict[str, Any] = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
_HEADERS = {
    name: {"description": told, "schema": {"type": "string"}}
    for name, told in {
        "X-NeuroScope-Dtype": "element type, little-endian: float32, float16, bfloat16, int32, ...",
        "X-NeuroScope-Shape": "extents, outermost first, separated by commas",
        "X-NeuroScope-Axes": "meaning of each axis",
        "ETag": "hash of the whole tensor (XXH3-64)",
    }.items()
}


@router.get("")
async def list_captures(client: Client) -> schemas.CaptureList:
    """Lists the kept streams, oldest first."""
    return schemas.CaptureList(data=[_capture(record) for record in await client.captures()])


@router.get("/{capture_id}")
async def get_capture(capture_id: str, client: Client) -> schemas.Capture:
    """Describes a kept stream and its tensors."""
    return _capture(await client.get_capture(capture_id))


@router.delete("/{capture_id}")
async def delete_capture(capture_id: str, client: Client) -> schemas.DeletedCapture:
    """Removes a kept stream."""
    await client.delete_capture(capture_id)
    return schemas.DeletedCapture(id=capture_id)


@router.get(
    "/{capture_id}/{tensor}",
    response_class=Response,
    responses={
        200: {"description": "The whole tensor, row-major", "content": _BYTES, "headers": _HEADERS},
        206: {"description": "The bytes of `Range`", "content": _BYTES, "headers": _HEADERS},
    },
)
async def get_captured_tensor(
    capture_id: str,
    tensor: Annotated[int, Path(ge=0, lt=2**32, description="Its number in the capture")],
    request: Request,
    client: Client,
    step: _Index = 0,
    row: _Index = 0,
    wanted: Annotated[str | None, Header(alias="Range", description="One range of bytes")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range", description="Range only of this ETag")] = None,
) -> Response:
    """Sends one tensor of one step (0 is the prefill) and row, whole or the bytes of `Range`."""
    part = byte_ranges.parse(wanted)

    async def begin(part: ByteRange) -> tuple[CapturedTensor, AsyncGenerator[memoryview, None]]:
        state = CapturedTensor()
        parts = client.captured_tensor_bytes(
            state,
            capture_id,
            tensor,
            step=step,
            row=row,
            offset_bytes=part.offset_bytes,
            length_bytes=part.length_bytes,
        )
        try:
            with _rest_params():
                await while_connected(request.receive, _first(parts))
        except BaseException:
            await parts.aclose()
            raise
        return state, parts

    if part is not None and if_range is not None:
        state, parts = await begin(ByteRange(BEYOND))
        await parts.aclose()
        part = part if _etag(state) == if_range else None
    state, parts = await begin(part or ByteRange(0))
    header = _header(state)
    headers = _headers(state)
    if part is None:
        return StreamingResponse(_sent(parts), HTTPStatus.OK, headers, BINARY)
    first, count, total = header.first_byte, header.following_bytes, header.length_bytes
    if not count:
        await parts.aclose()
        message = f"The tensor has {total} bytes, and none of them in {wanted!r}."
        answer = errors.body(message, param="Range", code="range_not_satisfiable")
        return JsonResponse(
            answer, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers={"Content-Range": f"bytes */{total}"}
        )
    headers["Content-Range"] = f"bytes {first}-{first + count - 1}/{total}"
    return StreamingResponse(_sent(parts), HTTPStatus.PARTIAL_CONTENT, headers, BINARY)


async def _first(parts: AsyncGenerator[memoryview, None]) -> memoryview | None:
    return await anext(parts, None)


async def _sent(parts: AsyncGenerator[memoryview, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        async for part in parts:
            yield bytes(part)


def _header(state: CapturedTensor) -> inference_pb2.CapturedTensorHeader:
    assert state.header is not None, "the stream has begun"
    return state.header


def _etag(state: CapturedTensor) -> str:
    return f'"{_header(state).xxh3_64:016x}"'


def _headers(state: CapturedTensor) -> dict[str, str]:
    header = _header(state)
    return {
        "Accept-Ranges": "bytes",
        "Content-Length": str(header.following_bytes),
        "ETag": _etag(state),
        "X-NeuroScope-Dtype": dtype_name(header.dtype),
        "X-NeuroScope-Shape": ",".join(map(str, header.shape)),
        "X-NeuroScope-Axes": ",".join(map(axis_name, header.axes)),
    }


@contextmanager
def _rest_params() -> Generator[None]:
    """Errors about `tensor.captured.plan_index` speak of `tensor`."""
    try:
        yield
    except MLXIntegrationError as error:
        name = error.field.rpartition(".")[2]
        error.field = "tensor" if name == "plan_index" else name
        raise


def axis_name(axis: tensor_pb2.Axis.ValueType) -> str:
    """`key_position` of AXIS_KEY_POSITION."""
    return tensor_pb2.Axis.Name(axis).removeprefix("AXIS_").lower()


def _capture(record: inference_pb2.CaptureRecord) -> schemas.Capture:
    state: Any = inference_pb2.CaptureState.Name(record.state).removeprefix("CAPTURE_STATE_").lower()
    rows: dict[int, list[schemas.KeptRow]] = {}
    for entry in record.manifest.entries:
        kept = schemas.KeptRow(
            row=entry.row,
            piece_count=entry.piece_count,
            position_count=entry.position_count,
            length_bytes=entry.length_bytes,
        )
        rows.setdefault(entry.plan_index, []).append(kept)
    return schemas.Capture(
        id=record.capture_id,
        state=state,
        expires_at=record.expires_at_ms // 1000,
        prompt_tokens=record.manifest.usage.prompt_tokens,
        completion_tokens=record.manifest.usage.completion_tokens,
        tensors=[_tensor(spec, rows.get(spec.plan_index, [])) for spec in record.plan.tensors],
    )


def _tensor(spec: tensor_pb2.TensorSpec, rows: list[schemas.KeptRow]) -> schemas.KeptTensor:
    point = Point.from_message(spec.site)
    return schemas.KeptTensor(
        tensor=spec.plan_index,
        hook_id=spec.hook_id,
        layer_name=spec.layer_name,
        component=point.component,
        is_input=point.is_input,
        dtype=dtype_name(spec.dtype),
        axes=[axis_name(axis) for axis in spec.axes],
        reduced=NAMES.get(spec.reduced, ""),
        rows=rows,
    )
