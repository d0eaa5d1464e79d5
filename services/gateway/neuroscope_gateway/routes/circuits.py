"""POST /v1/analysis/circuits...: discovery, evaluation and export of circuits."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from neuroscope.analysis import AsyncAnalysisClient, DiscoveryResult, EvaluationResult
from neuroscope.analysis.circuit_requests import discovery_request, evaluation_request
from neuroscope.circuits import Circuit
from neuroscope.datasets import Dataset
from neuroscope_gateway.dependencies import ERROR_RESPONSES, AnalysisDep
from neuroscope_gateway.examples.circuits import FILE
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.http.event_stream import SSE_CONTENT
from neuroscope_gateway.http.message_json import message_json
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.routes.analysis_response import AnalysisJson, analysis_response, plan_and_end
from neuroscope_gateway.schemas import circuits as schemas

router = APIRouter(prefix="/v1/analysis/circuits", tags=["analysis"], responses=ERROR_RESPONSES)
_MEDIA_TYPES = {
    "json": "application/json",
    "mib": "application/json",
    "lazarus": "application/json",
    "graphml": "application/graphml+xml",
    "dot": "text/vnd.graphviz",
    "mermaid": "text/plain",
    "html": "text/html",
    "svg": "image/svg+xml",
    "png": "image/png",
    "pdf": "application/pdf",
}
_FILE_CONTENT: dict[str, Any] = {
    media: {"schema": {"type": "string"}, "example": FILE}
    for media in _MEDIA_TYPES.values()
    if media != "application/json"
}
_OBJECT_CONTENT: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_PARAM_NAMES = {"model_id": "model", "dataset": "dataset", "count": "pair_count", "edited_run": "into"}


@router.post(
    "",
    response_model=schemas.DiscoveredCircuit,
    responses={200: {"description": "The circuit", "content": {**SSE_CONTENT, **_FILE_CONTENT}}},
)
async def discover_circuit(body: schemas.DiscoveryRequest, request: Request, client: AnalysisDep) -> Response:
    """Discovers the circuit of a behaviour from pairs of prompts. A disconnect cancels it.

    Events with `stream`: plan, progress, baseline, edges, evaluation, point, result or error. With `format` the
    response is the circuit in that format.
    """
    pairs = await _fitted_dataset(client, body, request)
    wanted = discovery_request(
        pairs,
        metric=body.sdk_metric,
        method=body.method,
        size=body.size,
        count=body.count,
        threshold=body.threshold,
        faithfulness=body.faithfulness,
        granularity=body.granularity or "",
        steps=body.steps,
        into=body.into or "",
        prune=body.prune,
        test=body.test,
        significance=body.significance,
        least_effect=body.least_effect,
        evaluation=body.evaluation_options(skip=not body.evaluate, resample_count=body.resample_count),
        name=body.name,
        model_id=body.model or "",
    )
    result = DiscoveryResult(wanted)

    def result_json(result: DiscoveryResult) -> dict[str, Any]:
        plan, end = plan_and_end(result)
        return schemas.DiscoveredCircuit(
            model=plan.model.model_id,
            is_found=result.is_found,
            reason=result.reason,
            circuit=result.circuit.to_json(),
            dropped=pairs.dropped,
            warnings=list(plan.warnings),
            token_count=end.token_count,
        ).model_dump()

    response = await analysis_response(
        client, result, AnalysisJson(_circuit_event, result_json, _circuit_param), request, stream=body.stream
    )
    return response if body.format is None else _circuit_file(result.circuit, body.format)


@router.post(
    "/evaluate",
    response_model=schemas.EvaluatedCircuit,
    responses={200: {"description": "The circuit, evaluated", "content": {**SSE_CONTENT, **_FILE_CONTENT}}},
)
async def evaluate_circuit(body: schemas.EvaluationRequest, request: Request, client: AnalysisDep) -> Response:
    """Evaluates a circuit on pairs of prompts; edges outside it carry activations of the other run.

    Events and formats are those of discovery.
    """
    circuit = Circuit.from_json(body.circuit)
    pairs = await _fitted_dataset(client, body, request)
    wanted = evaluation_request(
        circuit, pairs, metric=body.sdk_metric, evaluation=body.evaluation_options(), model_id=body.model or ""
    )
    result = EvaluationResult(wanted)

    def result_json(result: EvaluationResult) -> dict[str, Any]:
        plan, end = plan_and_end(result)
        return schemas.EvaluatedCircuit(
            model=plan.model.model_id,
            circuit=result.circuit.to_json(),
            dropped=pairs.dropped,
            warnings=list(plan.warnings),
            token_count=end.token_count,
            elapsed_seconds=end.elapsed_seconds,
        ).model_dump()

    response = await analysis_response(
        client, result, AnalysisJson(_circuit_event, result_json, _circuit_param), request, stream=body.stream
    )
    return response if body.format is None else _circuit_file(result.circuit, body.format)


@router.post(
    "/export",
    response_class=Response,
    responses={200: {"description": "The circuit", "content": {**_OBJECT_CONTENT, **_FILE_CONTENT}}},
)
async def export_circuit(body: schemas.ExportRequest) -> Response:
    """Converts a circuit to another format: JSON of MIB or chuk-lazarus, GraphML, DOT, Mermaid, HTML, a picture."""
    return _circuit_file(Circuit.from_json(body.circuit), body.format)


async def _fitted_dataset(client: AsyncAnalysisClient, body: schemas.CircuitRequest, request: Request) -> Dataset:
    """The dataset of a request, fitted to the model's tokenizer."""
    body.check_consistency()
    dataset = client.dataset(
        body.dataset_source, count=body.pair_count, seed=body.seed, drop=body.drop, model_id=body.model or ""
    )

    def rest_param(field: str) -> str:
        return _circuit_param(field if body.pairs is None else field.replace("dataset", "pairs", 1))

    with rest_params(rest_param):
        return await cancel_on_disconnect(request.receive, dataset)


def _circuit_event(event: Any) -> dict[str, Any]:
    """An event that is neither progress nor the result."""
    if event.HasField("plan"):
        plan = message_json(event.plan)
        model = plan.pop("model", {}).get("model_id", "")
        plan.pop("arrays", None)
        return {"type": "plan", "model": model, **plan}
    kind = event.partial.WhichOneof("finding") or ""
    return {"type": kind, **message_json(getattr(event.partial, kind))}


def _circuit_file(circuit: Circuit, format: str) -> Response:
    return Response(circuit.to_bytes(format), media_type=_MEDIA_TYPES[format])


def _circuit_param(field: str) -> str:
    """The parameter of the request for a field of the contract."""
    field = re.sub(r"^(pairs\[\d+\]\.\w+).*$", r"\1", field)
    field = re.sub(r"^(search|evaluation)\.(effect_test\.)?", "", field)
    return _PARAM_NAMES.get(field, field)
