"""POST /v1/experiments/vocabulary: what vectors predict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.activations.vocabulary_projection import Reference, VectorsLike, VocabularyProjection
from neuroscope.aio import AsyncClient
from neuroscope.errors import DataConversionError, MLXIntegrationError
from neuroscope.interventions.expressions import to_reference
from neuroscope.interventions.tensor_json import TensorForm, to_expression
from neuroscope_gateway.connection import while_connected
from neuroscope_gateway.experiments import param_of
from neuroscope_gateway.json import JsonResponse
from neuroscope_gateway.schemas import vocabulary as schemas
from neuroscope_gateway.service import ERRORS, Client

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERRORS)


@router.post("/vocabulary", response_model=schemas.Vocabulary)
async def project(body: schemas.VocabularyRequest, request: Request, client: Client) -> Response:
    """Shows vectors through the model's own final norm and unembedding: the logit lens of vectors from anywhere."""
    return JsonResponse(await while_connected(request.receive, _projected(client, body)))


async def _projected(client: AsyncClient, body: schemas.VocabularyRequest) -> dict[str, Any]:
    reference: Reference = None
    if body.reference is not None:
        is_row = isinstance(body.reference, int)
        reference = body.reference if is_row else _vectors(body.reference, "reference")  # type: ignore[arg-type]
    try:
        seen = await client.project(
            _vectors(body.vectors, "vectors"),
            top_k=body.top_k,
            tokens=body.tokens,
            norm=body.norm,
            reference=reference,
            model_id=body.model or "",
        )
    except MLXIntegrationError as error:
        names = {"reference_row": "reference", "reference_vector": "reference", "model_id": "model"}
        error.field = names.get(error.field, param_of(error.field).removesuffix(".id"))
        raise
    finite = [seen.top_log_probabilities, seen.log_probabilities, seen.log_normalizers, seen.kl]
    if not all(np.isfinite(array).all() for array in finite if array is not None):
        raise DataConversionError("the model's logits of these vectors are not finite", field="vectors")
    found = schemas.Vocabulary(model=seen.model_id, data=list(_predictions(seen)))
    return found.model_dump()


def _vectors(form: TensorForm, field: str) -> VectorsLike:
    """Vectors of a request as the SDK takes them; whole numbers are numbers too.

    Raises:
        DataConversionError: they are no array of finite numbers.
    """
    try:
        return form if isinstance(form, list) else to_reference(to_expression(form))
    except MLXIntegrationError as error:
        error.field = field
        raise


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
