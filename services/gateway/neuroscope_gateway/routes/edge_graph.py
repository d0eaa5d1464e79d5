"""GET /v1/experiments/edge_graph: the graph of circuits, edge sweeps and attributions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from neuroscope.aio import AsyncClient
from neuroscope_gateway.dependencies import ERROR_RESPONSES, InferenceDep, get_model_info
from neuroscope_gateway.http.disconnect import cancel_on_disconnect
from neuroscope_gateway.rest_params import rest_params
from neuroscope_gateway.schemas import edge_graph as schemas

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERROR_RESPONSES)


@router.get("/edge_graph")
async def get_edge_graph(
    request: Request,
    client: InferenceDep,
    model: Annotated[str, Query(description="Absent: the one loaded first")] = "",
) -> schemas.EdgeGraph:
    """Returns senders and receivers of the residual stream; each sender has an edge to every later receiver."""
    return await cancel_on_disconnect(request.receive, _graph(client, model))


async def _graph(client: AsyncClient, model: str) -> schemas.EdgeGraph:
    model_id = (await get_model_info(client, model)).model_id
    with rest_params(lambda _: "model"):
        graph = await client.edge_graph(model_id=model_id)
    return schemas.EdgeGraph(
        model=model_id,
        senders=list(graph.senders),
        receivers=[
            schemas.EdgeReceiver(name=name, sender_count=count)
            for name, count in zip(graph.receivers, graph.sender_counts, strict=True)
        ],
        edge_count=graph.edge_count,
    )
