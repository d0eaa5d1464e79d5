"""/v1/dictionaries: sparse autoencoders and transcoders of loaded models."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request

from neuroscope.dictionaries import Dictionary, FeatureActivations
from neuroscope.vocabulary.tensors import dtype_name
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas import dictionaries as schemas

router = APIRouter(prefix="/v1/dictionaries", tags=["dictionaries"], responses=ERROR_RESPONSES)


@router.get("")
async def list_dictionaries(client: InferenceDep, model: str = "") -> schemas.DictionaryList:
    """Lists the loaded dictionaries of one model or of all."""
    with rest_params(_rest_param):
        return schemas.DictionaryList(data=[_dictionary_info(found) for found in await client.dictionaries.list(model)])


@router.post("")
async def load_dictionary(
    body: schemas.LoadDictionaryRequest, request: Request, client: InferenceDep
) -> schemas.Dictionary:
    """Loads a dictionary in SAELens' format from a path on the machine of the inference service."""
    work = client.dictionaries.load(
        body.path,
        dictionary_id=body.dictionary_id or "",
        model_id=body.model or "",
        site=body.site,
        output_site=body.output_site,
        dtype=body.dtype or "",
    )
    with rest_params(_rest_param):
        return _dictionary_info(await cancel_on_disconnect(request.receive, work))


@router.get("/{dictionary_id}")
async def get_dictionary(dictionary_id: str, client: InferenceDep) -> schemas.Dictionary:
    """Describes a loaded dictionary."""
    return _dictionary_info(await client.dictionaries.get(dictionary_id))


@router.delete("/{dictionary_id}")
async def delete_dictionary(dictionary_id: str, client: InferenceDep) -> schemas.DeletedDictionary:
    """Unloads a dictionary; its files are kept."""
    await client.dictionaries.unload(dictionary_id)
    return schemas.DeletedDictionary(id=dictionary_id)


@router.post("/{dictionary_id}/features")
async def read_features(
    dictionary_id: str, body: schemas.FeaturesRequest, request: Request, client: InferenceDep
) -> schemas.FeatureActivations:
    """Returns the strongest features at each position of a prompt."""
    dictionary = await client.dictionaries.get(dictionary_id)
    with rest_params(_rest_param):
        return _feature_activations(
            await cancel_on_disconnect(request.receive, dictionary.features(body.prompt, top=body.top))
        )


def _rest_param(field: str) -> str:
    if field.startswith("prompts"):
        return "prompt"
    return "model" if field == "model_id" else field.removesuffix(".component")


def _dictionary_info(found: Dictionary) -> schemas.Dictionary:
    description = found.description
    kind: Any = found.architecture
    return schemas.Dictionary(
        id=found.dictionary_id,
        created=description.loaded_at_ms // 1000,
        model=description.model_id,
        path=description.path,
        architecture=kind,
        site=str(found.point),
        output_site=str(found.output),
        feature_count=found.feature_count,
        input_width=description.input_width,
        output_width=description.output_width,
        top_k=description.top_k,
        dtype=dtype_name(description.dtype),
        length_bytes=description.length_bytes,
        trained_on=description.trained_on,
        warnings=list(description.warnings),
    )


def _feature_activations(seen: FeatureActivations) -> schemas.FeatureActivations:
    return schemas.FeatureActivations(
        dictionary_id=seen.dictionary.dictionary_id,
        model=seen.dictionary.model_id,
        fvu=None if math.isnan(seen.fvu) else seen.fvu,
        positions=[
            schemas.PositionFeatures(
                position=position,
                token_id=token_id,
                token=seen.texts[token_id],
                active_count=int(seen.l0[place]),
                squared_error=float(seen.squared_errors[place]),
                squared_norm=float(seen.squared_norms[place]),
                features=[
                    schemas.ActiveFeature(feature=int(feature), value=float(value))
                    for feature, value in zip(seen.indices[place], seen.values[place], strict=True)
                    if feature >= 0
                ],
            )
            for place, (position, token_id) in enumerate(zip(seen.positions, seen.token_ids, strict=True))
        ],
    )
