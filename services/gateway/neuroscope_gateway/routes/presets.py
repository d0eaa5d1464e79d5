"""/v1/activations/presets: hooks and scenarios for a loaded model."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from neuroscope.errors import InvalidRequestError
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep, get_model_info
from neuroscope_gateway.schemas.presets import Preset, PresetList, PresetName, preset_list

router = APIRouter(prefix="/v1/activations/presets", tags=["presets"], responses=ERROR_RESPONSES)

ModelName = Annotated[str, Query(description="A loaded model; absent: the one that was loaded first")]


@router.get("", response_model_exclude_unset=True)
async def list_presets(client: InferenceDep, model: ModelName = "") -> PresetList:
    """Returns all presets for all layers, and the scenarios as example requests."""
    return preset_list(await get_model_info(client, model))


@router.get("/{name}")
async def get_preset(
    name: PresetName,
    client: InferenceDep,
    model: ModelName = "",
    layers: Annotated[
        list[Annotated[int, Query(ge=0)]] | None, Query(description="Layers, repeated; absent: all")
    ] = None,
) -> Preset:
    """Returns the hooks of one preset."""
    info = await get_model_info(client, model)
    count = info.model.num_layers
    for index, layer in enumerate(layers or ()):
        if layer >= count:
            raise InvalidRequestError(f"the model has layers 0 to {count - 1}, not {layer}", field=f"layers[{index}]")
    return Preset.of(name, info, layers)
