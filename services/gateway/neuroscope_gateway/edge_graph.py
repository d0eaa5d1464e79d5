"""GET /v1/experiments/edge_graph: the graph that attributions, sweeps of edges and circuits are of."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from neuroscope.aio import AsyncClient
from neuroscope.errors import UnavailableSiteError
from neuroscope_gateway.connection import while_connected
from neuroscope_gateway.models import described
from neuroscope_gateway.schemas import edge_graph as schemas
from neuroscope_gateway.service import ERRORS, Client

router = APIRouter(prefix="/v1/experiments", tags=["experiments"], responses=ERRORS)


@router.get("/edge_graph")
async def get_edge_graph(
    request: Request,
    client: Client,
    model: Annotated[str, Query(description="Absent: the one loaded first")] = "",
) -> schemas.EdgeGraph:
    """Names what writes the residual stream, what reads it, and so every edge: a sender reaches what reads later."""
    return await while_connected(request.receive, _graph(client, model))


async def _graph(client: AsyncClient, model: str) -> schemas.EdgeGraph:
    model_id = (await described(client, model)).model_id
    try:
        graph = await client.edge_graph(model_id=model_id)
    except UnavailableSiteError as error:
        error.field = "model"
        raise
    return schemas.EdgeGraph(
        model=model_id,
        senders=list(graph.senders),
        receivers=[
            schemas.EdgeReceiver(name=name, sender_count=count)
            for name, count in zip(graph.receivers, graph.sender_counts, strict=True)
        ],
        edge_count=graph.edge_count,
    )
