"""/v1/models: loaded models and their hook points."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from neuroscope.v1 import inference_pb2, site_pb2, tensor_pb2
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep, get_model_info
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.tensor_response import axis_name
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas import models as schemas

router = APIRouter(prefix="/v1/models", tags=["models"], responses=ERROR_RESPONSES)


@router.get("")
async def list_models(client: InferenceDep) -> schemas.ModelList:
    """Lists the loaded models in the order of loading."""
    models = [schemas.Model(**_model_fields(model)) for model in await client.models()]
    return schemas.ModelList(data=models, models=models)


@router.post("/load")
async def load_model(body: schemas.LoadModelRequest, request: Request, client: InferenceDep) -> schemas.LoadedModel:
    """Loads a model from a path on the machine of the inference service; returns when it is ready."""
    work = client.load_model(
        body.model_path,
        model_id=body.model_id or "",
        revision=body.revision or "",
        adapter_path=body.adapter_path or "",
        dtype=body.dtype or "",
        dequantize=body.dequantize,
    )
    model = await cancel_on_disconnect(request.receive, work)
    return schemas.LoadedModel(**_model_fields(model), model_id=model.model_id)


@router.get("/{model_id:path}")
async def get_model(model_id: str, client: InferenceDep) -> schemas.ModelDetail:
    """Describes a loaded model: its hook points, and why others are unavailable."""
    info = await get_model_info(client, model_id)
    return schemas.ModelDetail(
        **_model_fields(info.model),
        hook_points=[_hook_point(point) for point in info.points],
        self_test=_self_test(info.self_test),
    )


@router.delete("/{model_id:path}")
async def delete_model(model_id: str, client: InferenceDep) -> schemas.DeletedModel:
    """Unloads a model. Running requests end with 503; its files are kept."""
    with rest_params(lambda _: "model"):
        await client.unload_model(model_id)
    return schemas.DeletedModel(id=model_id)


def _model_fields(model: inference_pb2.Model) -> dict[str, Any]:
    return {
        "id": model.model_id,
        "created": model.loaded_at_ms // 1000,
        "model_path": model.model_path,
        "architecture": model.architecture,
        "num_layers": model.num_layers,
        "d_model": model.d_model,
        "num_heads": model.num_heads,
        "num_kv_heads": model.num_kv_heads,
        "d_head": model.d_head,
        "vocab_size": model.vocab_size,
        "context_length": model.context_length,
        "dtype": _dtype(model.dtype),
        "parameter_count": model.parameter_count,
        "weights_bytes": model.weights_bytes,
        "weights_hash": model.weights_hash,
        "quantization": [
            schemas.Quantization(bits=form.bits, group_size=form.group_size, mode=form.mode, matrices=form.matrices)
            for form in model.quantization
        ],
        "notes": list(model.notes),
        "has_chat_template": model.has_chat_template,
        "bos_token_id": model.bos_token_id if model.HasField("bos_token_id") else None,
        "eos_token_ids": list(model.eos_token_ids),
    }


def _hook_point(point: inference_pb2.HookPoint) -> schemas.HookPoint:
    layer = point.site.layer if point.site.HasField("layer") else None
    return schemas.HookPoint(
        component=point.site.component,
        layer=layer,
        layer_name="" if layer is None else f"model.layers.{layer}",
        is_input=point.site.side == site_pb2.SIDE_INPUT,
        available=point.available,
        reason=point.reason,
        axes=[axis_name(axis) for axis in point.axes],
        dtype=_dtype(point.dtype),
        module_path=point.module_path,
    )


def _self_test(test: inference_pb2.SelfTest) -> schemas.SelfTest:
    return schemas.SelfTest(
        logits_identical=test.logits_identical,
        token_count=test.token_count,
        duration_ms=test.duration_ms,
        identities=[
            schemas.IdentityCheck(
                name=check.name,
                worst_relative_error=check.worst_relative_error,
                tolerance=check.tolerance,
                failed_layers=list(check.failed_layers),
            )
            for check in test.identities
        ],
    )


def _dtype(dtype: tensor_pb2.DataType.ValueType) -> str:
    return dtype_name(dtype) if dtype != tensor_pb2.DATA_TYPE_UNSPECIFIED else ""
