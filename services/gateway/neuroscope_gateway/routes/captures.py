"""/v1/activations/captures: kept streams and the bytes of their tensors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.reductions import NAMES
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope.wire.captured_tensor import CapturedTensor
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.http import byte_ranges, tensor_response
from neuroscope_gateway.http.byte_ranges import PAST_END, ByteRange
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.tensor_response import axis_name
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas import captures as schemas

router = APIRouter(prefix="/v1/activations/captures", tags=["captures"], responses=ERROR_RESPONSES)

_Index = Annotated[int, Query(ge=0, lt=2**32)]


@router.get("")
async def list_captures(client: InferenceDep) -> schemas.CaptureList:
    """Lists the kept streams, oldest first."""
    return schemas.CaptureList(data=[_capture_info(record) for record in await client.captures()])


@router.get("/{capture_id}")
async def get_capture(capture_id: str, client: InferenceDep) -> schemas.Capture:
    """Describes a kept stream and its tensors."""
    return _capture_info(await client.get_capture(capture_id))


@router.delete("/{capture_id}")
async def delete_capture(capture_id: str, client: InferenceDep) -> schemas.DeletedCapture:
    """Deletes a kept stream."""
    await client.delete_capture(capture_id)
    return schemas.DeletedCapture(id=capture_id)


@router.get(
    "/{capture_id}/{tensor}",
    response_class=Response,
    responses=tensor_response.RESPONSES,
)
async def get_captured_tensor(
    capture_id: str,
    tensor: Annotated[int, Path(ge=0, lt=2**32, description="Its number in the capture")],
    request: Request,
    client: InferenceDep,
    step: _Index = 0,
    row: _Index = 0,
    wanted: Annotated[str | None, Header(alias="Range", description="One range of bytes")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range", description="Range only of this ETag")] = None,
) -> Response:
    """Returns one tensor of one step (0: prefill) and row, or the bytes of `Range`."""
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
            with rest_params(_rest_param):
                await cancel_on_disconnect(request.receive, _first_part(parts))
        except BaseException:
            await parts.aclose()
            raise
        return state, parts

    if part is not None and if_range is not None:
        state, parts = await begin(ByteRange(PAST_END))
        await parts.aclose()
        part = part if _etag(state) == if_range else None
    state, parts = await begin(part or ByteRange(0))
    header = _header(state)
    sent = byte_ranges.ContentRange(header.first_byte, header.following_bytes, header.length_bytes)
    headers = tensor_response.tensor_headers(header.dtype, header.shape, header.axes, _etag(state))
    return await tensor_response.tensor_response(parts, headers, sent, part, wanted or "")


async def _first_part(parts: AsyncGenerator[memoryview, None]) -> memoryview | None:
    return await anext(parts, None)


def _header(state: CapturedTensor) -> inference_pb2.CapturedTensorHeader:
    assert state.header is not None, "the stream has begun"
    return state.header


def _etag(state: CapturedTensor) -> str:
    return f'"{_header(state).xxh3_64:016x}"'


def _rest_param(field: str) -> str:
    name = field.rpartition(".")[2]  # of `tensor.captured.plan_index`
    return "tensor" if name == "plan_index" else name


def _capture_info(record: inference_pb2.CaptureRecord) -> schemas.Capture:
    state: Any = inference_pb2.CaptureState.Name(record.state).removeprefix("CAPTURE_STATE_").lower()
    rows: dict[int, list[schemas.CapturedRow]] = {}
    for entry in record.manifest.entries:
        kept = schemas.CapturedRow(
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
        tensors=[_tensor_info(spec, rows.get(spec.plan_index, [])) for spec in record.plan.tensors],
    )


def _tensor_info(spec: tensor_pb2.TensorSpec, rows: list[schemas.CapturedRow]) -> schemas.CapturedTensor:
    point = Point.from_message(spec.site)
    return schemas.CapturedTensor(
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
