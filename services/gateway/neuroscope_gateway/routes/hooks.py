"""/v1/activations/hooks: registered hooks, which requests refer to by id."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query

from neuroscope.errors import MLXIntegrationError
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep, get_model_info
from neuroscope_gateway.generation.request_hooks import RequestHooks, rename_param, rest_param, to_rest_hooks
from neuroscope_gateway.schemas.hooks import (
    ActivationHook,
    ClearHooksRequest,
    ClearHooksResponse,
    HookList,
    RegisterHooksBody,
    RegisterHooksRequest,
    RegisterHooksResponse,
)

router = APIRouter(prefix="/v1/activations/hooks", tags=["hooks"], responses=ERROR_RESPONSES)
_ALIASES = {"model_id": "model"}


@router.post("")
async def register_hooks(body: RegisterHooksRequest, client: InferenceDep) -> RegisterHooksResponse:
    """Registers `{"hooks": [...]}`, a list of hooks or one hook: all or none."""
    model = ""
    match body.root:
        case RegisterHooksBody(hooks=hooks, model=model):
            requested = RequestHooks(hooks, "hooks")
        case ActivationHook() as hook:
            requested = RequestHooks([hook], single=True)
        case hooks:
            requested = RequestHooks(hooks, "")
    try:
        ids = await client.register_hooks(requested.specs, model or "")
    except MLXIntegrationError as error:
        if error.field:
            rename_param(error, rest_param(error.field, requested, _ALIASES))
        raise
    return RegisterHooksResponse(registered_hooks=list(dict.fromkeys(ids)))


@router.get("")
async def list_hooks(client: InferenceDep) -> HookList:
    """Lists the registered hooks in the order of registration."""
    return HookList(hooks=to_rest_hooks(await client.hooks()))


@router.delete("")
async def clear_hooks(
    client: InferenceDep,
    body: Annotated[ClearHooksRequest | None, Body()] = None,
    hook_ids: Annotated[list[str] | None, Query()] = None,
    model: Annotated[str, Query(description="Checked to be loaded; hooks belong to no model")] = "",
) -> ClearHooksResponse:
    """Removes the hooks named in the body or the query, or all if neither names any."""
    if model:
        await get_model_info(client, model)
    ids = hook_ids if body is None or body.hook_ids is None else body.hook_ids
    if ids is not None and not ids:  # an empty list means none here, but all to the service
        return ClearHooksResponse(cleared_hooks=[])
    return ClearHooksResponse(cleared_hooks=await client.clear_hooks(ids or ()))
