"""/v1/experiments/weights: the weights of a model, as a list or one by one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any

import numpy as np
import orjson
import xxhash
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from neuroscope.calls.weights import reading
from neuroscope.errors import DataConversionError, InvalidRequestError
from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope.weights.names import WEIGHTS, resolve
from neuroscope.weights.weights import Weights
from neuroscope.wire.weight_bytes import WeightBytes
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep, get_model_info
from neuroscope_gateway.http import byte_ranges, tensor_response
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.http.tensor_json import array_json
from neuroscope_gateway.http.tensor_response import axis_name
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas import weights as schemas

router = APIRouter(prefix="/v1/experiments/weights", tags=["experiments"], responses=ERROR_RESPONSES)

_PARAMS = {"names[0]": "weight", "layers[0]": "layer", "model_id": "model"}
_Index = Annotated[int, Query(ge=-(2**31), lt=2**31)]
_Model = Annotated[str, Query(description="Absent: the one loaded first")]
_Indices = Annotated[list[_Index], Query(max_length=4096)]
_Dtype = Annotated[str, Query(description="float32, float16 or bfloat16; absent: the model's own")]


@router.get("")
async def list_weights(
    request: Request,
    client: InferenceDep,
    model: _Model = "",
    names: Annotated[
        list[str], Query(max_length=256, description="Names, or groups such as attention, qk, ov, mlp; absent: all")
    ] = [],  # noqa: B006  # as FastAPI reads it
    layers: _Indices = [],  # noqa: B006
    summaries: Annotated[bool, Query(description="With norm, mean and deviation of each")] = False,
) -> schemas.WeightList:
    """Lists the weights: names, shapes, origins, and how they relate to activations."""
    weights = Weights()
    wanted = reading(names, layers, (), (), "", "summaries" if summaries else "plan", model)

    async def read() -> None:
        async for _ in client.weight_events(weights, wanted):
            pass

    with rest_params(_PARAMS):
        await cancel_on_disconnect(request.receive, read())
    return _weight_list(weights.finish())


@router.get(
    "/{weight}",
    response_class=Response,
    responses={
        **tensor_response.RESPONSES,
        200: {
            **tensor_response.RESPONSES[200],
            "content": {**tensor_response.RESPONSES[200]["content"], "application/json": {}},
            "model": schemas.WeightValues,
        },
    },
)
async def get_weight(
    weight: Annotated[str, Path(description="W_Q, W_O, W_in, W_out, W_E, W_U, ln1.w, ...")],
    request: Request,
    client: InferenceDep,
    model: _Model = "",
    layer: Annotated[_Index | None, Query(description="Negative ones count from the last")] = None,
    heads: _Indices = [],  # noqa: B006
    experts: _Indices = [],  # noqa: B006
    dtype: _Dtype = "",
    form: Annotated[schemas.WeightFormat, Query(alias="format", description="How the values are written")] = "binary",
    wanted: Annotated[str | None, Header(alias="Range", description="One range of bytes, of binary")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range", description="Range only of this ETag")] = None,
) -> Response:
    """Returns one weight of one layer: (inputs, outputs), preceded by heads and experts."""
    ask = _single_weight_request(weight, layer, heads, experts, dtype, model)
    state = WeightBytes()
    parts = client.weight_bytes(state, ask)
    try:
        with rest_params(_PARAMS):
            loaded = (await cancel_on_disconnect(request.receive, get_model_info(client, model))).model
            await cancel_on_disconnect(request.receive, _first_part(parts))
    except BaseException:
        await parts.aclose()
        raise
    plan, spec = state.plan, state.spec
    assert plan is not None
    if form != "binary":
        return await cancel_on_disconnect(request.receive, _weight_json(plan, spec, parts, form))
    identity = f"{loaded.model_id}/{loaded.loaded_at_ms}/{ask.SerializeToString(deterministic=True).hex()}"
    etag = f'"{xxhash.xxh3_64_hexdigest(identity.encode())}"'
    part = byte_ranges.parse(wanted)
    if if_range is not None and if_range != etag:
        part = None
    sent = byte_ranges.ContentRange.of(part, plan.length_bytes)
    headers = tensor_response.tensor_headers(spec.dtype, spec.shape, spec.axes, etag)
    return await tensor_response.tensor_response(
        tensor_response.slice_stream(parts, sent), headers, sent, part, wanted or ""
    )


def _single_weight_request(
    name: str, layer: int | None, heads: list[int], experts: list[int], dtype: str, model: str
) -> pb.ReadWeightsRequest:
    """The request for one weight.

    Raises:
        InvalidRequestError: the name is a group, or the layer is missing.
    """
    if len(resolve(name, field="weight")) > 1:
        raise InvalidRequestError(f"{name} are several weights: name one of them", field="weight", valid=WEIGHTS)
    if WEIGHTS[name].has_layer and layer is None:
        raise InvalidRequestError(f"which layer's {name}?", field="layer")
    layers = [layer] if layer is not None and WEIGHTS[name].has_layer else []
    return reading([name], layers, heads, experts, dtype, "values", model)


async def _first_part(parts: AsyncGenerator[memoryview, None]) -> None:
    await anext(parts, None)


async def _weight_json(
    plan: pb.WeightsPlan,
    spec: tensor_pb2.TensorSpec,
    parts: AsyncGenerator[memoryview, None],
    form: schemas.WeightFormat,
) -> Response:
    data = b"".join([bytes(part) async for part in parts])
    array = tensor_response.to_array(data, spec.dtype, spec.shape)
    if form == "list" and not np.isfinite(array.astype(np.float32)).all():
        raise DataConversionError(f"{spec.hook_id} holds NaN or infinity: take base64 or binary", field="format")
    info = _weight_info(plan, spec, None).model_dump() | {"object": "weight"}
    return JsonResponse(info | {"data": orjson.Fragment(await array_json(array, form))})


def _weight_list(weights: Weights) -> schemas.WeightList:
    plan = weights.plan
    return schemas.WeightList(
        model=plan.model_id,
        data=[
            _weight_info(plan, spec, weights.summaries.get(place))
            for spec, place in zip(plan.tensors.tensors, weights.places, strict=True)
        ],
        layers=[
            schemas.WeightLayerInfo(
                layer=facts.layer,
                is_rotary=facts.is_rotary,
                has_query_norm=facts.has_query_norm,
                score_scale=facts.score_scale,
                score_softcap=facts.score_softcap if facts.HasField("score_softcap") else None,
                contribution_scale=facts.contribution_scale,
                activation=facts.activation,
            )
            for facts in plan.layers
        ],
        embedding_scale=plan.embedding_scale,
        logit_scale=plan.logit_scale,
        logit_softcap=plan.logit_softcap if plan.HasField("logit_softcap") else None,
        is_tied=plan.is_tied,
        notes=list(plan.notes),
        missing=weights.missing,
    )


def _weight_info(
    plan: pb.WeightsPlan, spec: tensor_pb2.TensorSpec, summary: pb.WeightSummary | None
) -> schemas.WeightInfo:
    weight = plan.weights[spec.plan_index]
    source: Any = pb.WeightSource.Name(weight.source).removeprefix("WEIGHT_SOURCE_").lower()
    measures = None
    if summary is not None:
        measures = schemas.WeightSummary(
            norm=summary.norm,
            mean=summary.mean,
            standard_deviation=summary.standard_deviation,
            largest=summary.largest,
        )
    return schemas.WeightInfo(
        name=spec.hook_id,
        layer=spec.site.layer if spec.site.HasField("layer") else None,
        shape=list(spec.shape),
        axes=[axis_name(axis) for axis in spec.axes],
        dtype=dtype_name(spec.dtype),
        module=spec.layer_name,
        source=source,
        heads=list(weight.heads),
        experts=list(weight.experts),
        measures=measures,
    )
