"""/v1/activations/hooks: hooks that the service keeps under an id, for later requests to refer to."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query

from neuroscope.errors import MLXIntegrationError
from neuroscope_gateway.models import described
from neuroscope_gateway.requested import RequestedHooks, param_of, tell, to_rest
from neuroscope_gateway.schemas.hooks import (
    ActivationHook,
    ClearedHooks,
    ClearHooksRequest,
    HookList,
    HookListing,
    RegisteredHooks,
    RegisterHooksRequest,
)
from neuroscope_gateway.service import ERRORS, Client

router = APIRouter(prefix="/v1/activations/hooks", tags=["hooks"], responses=ERRORS)
_ALIASES = {"model_id": "model"}


@router.post("")
async def register_hooks(body: RegisterHooksRequest, client: Client) -> RegisteredHooks:
    """Registers `{"hooks": [...]}`, a list of hooks or one hook: all of them or none."""
    model = ""
    match body.root:
        case HookList(hooks=hooks, model=model):
            requested = RequestedHooks(hooks, "hooks")
        case ActivationHook() as hook:
            requested = RequestedHooks([hook], single=True)
        case hooks:
            requested = RequestedHooks(hooks, "")
    try:
        ids = await client.register_hooks(requested.specs, model or "")
    except MLXIntegrationError as error:
        if error.field:
            tell(error, param_of(error.field, requested, _ALIASES))
        raise
    return RegisteredHooks(registered_hooks=list(dict.fromkeys(ids)))


@router.get("")
async def list_hooks(client: Client) -> HookListing:
    """Lists the registered hooks, in the order in which they were registered."""
    return HookListing(hooks=to_rest(await client.hooks()))


@router.delete("")
async def clear_hooks(
    client: Client,
    body: Annotated[ClearHooksRequest | None, Body()] = None,
    hook_ids: Annotated[list[str] | None, Query()] = None,
    model: Annotated[str, Query(description="Checked to be loaded; hooks belong to no model")] = "",
) -> ClearedHooks:
    """Removes the hooks named in the body or the query, or all if neither names any."""
    if model:
        await described(client, model)
    ids = hook_ids if body is None or body.hook_ids is None else body.hook_ids
    if ids is not None and not ids:  # an empty list names none, whereas to the service it would mean all
        return ClearedHooks(cleared_hooks=[])
    return ClearedHooks(cleared_hooks=await client.clear_hooks(ids or ()))
