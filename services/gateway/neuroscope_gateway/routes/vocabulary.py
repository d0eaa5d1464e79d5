"""POST /v1/experiments/vocabulary: projections of vectors to the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.activations.vocabulary_projection import Reference, VectorsLike, VocabularyProjection
from neuroscope.aio import AsyncClient
from neuroscope.errors import DataConversionError
from neuroscope.interventions.expressions import to_reference
from neuroscope.interventions.tensor_json import TensorForm, to_expression
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.json_response import JsonResponse
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.routes.experiment_params import experiment_param
from neuroscope_gateway.schemas import vocabulary as schemas

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERROR_RESPONSES)


@router.post("/vocabulary", response_model=schemas.Vocabulary)
async def project(body: schemas.VocabularyRequest, request: Request, client: InferenceDep) -> Response:
    """Projects vectors through the model's final norm and unembedding (logit lens)."""
    return JsonResponse(await cancel_on_disconnect(request.receive, _project_json(client, body)))


async def _project_json(client: AsyncClient, body: schemas.VocabularyRequest) -> dict[str, Any]:
    reference: Reference = None
    if body.reference is not None:
        is_row = isinstance(body.reference, int)
        reference = body.reference if is_row else _to_vectors(body.reference, "reference")  # type: ignore[arg-type]
    with rest_params(_rest_param):
        seen = await client.project(
            _to_vectors(body.vectors, "vectors"),
            top_k=body.top_k,
            tokens=body.tokens,
            norm=body.norm,
            reference=reference,
            model_id=body.model or "",
        )
    finite = [seen.top_log_probabilities, seen.log_probabilities, seen.log_normalizers, seen.kl]
    if not all(np.isfinite(array).all() for array in finite if array is not None):
        raise DataConversionError("the model's logits of these vectors are not finite", field="vectors")
    found = schemas.Vocabulary(model=seen.model_id, data=list(_predictions(seen)))
    return found.model_dump()


def _to_vectors(form: TensorForm, field: str) -> VectorsLike:
    """The vectors of a request in the SDK's form.

    Raises:
        DataConversionError: they are not an array of finite numbers.
    """
    with rest_params(lambda _: field):
        return form if isinstance(form, list) else to_reference(to_expression(form))


def _rest_param(field: str) -> str:
    names = {"reference_row": "reference", "reference_vector": "reference", "model_id": "model"}
    return names.get(field, experiment_param(field).removesuffix(".id"))


def _predictions(seen: VocabularyProjection) -> Iterator[schemas.Prediction]:
    logits, top_logits = seen.logits, seen.top_logits
    for place in np.ndindex(seen.shape):
        yield schemas.Prediction(
            index=list(place),
            top=[
                schemas.PredictedToken(
                    id=int(token_id),
                    text=seen.texts[int(token_id)],
                    logit=float(top_logits[place][rank]),
                    log_probability=float(seen.top_log_probabilities[place][rank]),
                    rank=rank,
                )
                for rank, token_id in enumerate(seen.top_token_ids[place])
            ],
            tokens=[
                schemas.PredictedToken(
                    id=token_id,
                    text=seen.texts[token_id],
                    logit=float(logits[place][index]),
                    log_probability=float(seen.log_probabilities[place][index]),
                    rank=int(seen.ranks[place][index]),
                )
                for index, token_id in enumerate(seen.requested_token_ids)
            ],
            kl=None if seen.kl is None else float(seen.kl[place]),
            entropy=float(seen.entropies[place]),
        )
