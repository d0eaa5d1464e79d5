"""The application: routes, middleware, and the clients of the services."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware import Middleware

from neuroscope.aio import AsyncClient
from neuroscope.analysis import AsyncAnalysisClient
from neuroscope.wire.transport import AsyncGrpcTransport
from neuroscope_gateway import exception_handlers, openapi_document
from neuroscope_gateway.middleware.api_keys import ApiKeyMiddleware
from neuroscope_gateway.middleware.body_limit import BodyLimitMiddleware
from neuroscope_gateway.middleware.concurrency_limit import ConcurrencyLimitMiddleware
from neuroscope_gateway.middleware.server_errors import ServerErrorMiddleware
from neuroscope_gateway.middleware.tracing import TracingMiddleware
from neuroscope_gateway.middleware.trusted_origins import TrustedOriginMiddleware
from neuroscope_gateway.routes import (
    activations,
    attention,
    attributions,
    captures,
    chat,
    circuits,
    completions,
    dictionaries,
    edge_graph,
    heads,
    health,
    hooks,
    models,
    presets,
    reference,
    residual,
    responses,
    sweeps,
    traces,
    vocabulary,
    weights,
)
from neuroscope_gateway.settings import GatewaySettings

ROUTERS = (
    health.router,
    models.router,
    chat.router,
    completions.router,
    responses.router,
    activations.router,
    captures.router,
    hooks.router,
    presets.router,
    dictionaries.router,
    sweeps.router,
    attributions.router,
    edge_graph.router,
    attention.router,
    circuits.router,
    heads.router,
    residual.router,
    weights.router,
    vocabulary.router,
    traces.router,
    reference.router,
)


def create_app(settings: GatewaySettings | None = None, *, client: AsyncClient | None = None) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        settings: default: from the environment.
        client: client of the inference service; default: made from the settings, and closed with the application.

    Raises:
        neuroscope.errors.InvalidRequestError: the settings of the inference service are inconsistent.
    """
    chosen = settings or GatewaySettings()
    endpoint, analysis = chosen.inference_endpoint(), chosen.endpoint_of(chosen.analysis, "analysis")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        app.state.client = AsyncClient(transport=AsyncGrpcTransport(endpoint)) if client is None else client
        app.state.analysis = AsyncAnalysisClient(transport=AsyncGrpcTransport(analysis))
        try:
            yield
        finally:
            await app.state.analysis.close()
            if client is None:
                await app.state.client.close()

    app = FastAPI(
        title="NeuroScope-MLX",
        summary="Chat completions with activations.",
        version=version("neuroscope-mlx"),
        lifespan=lifespan,
        separate_input_output_schemas=False,  # requests have the same name as input and as output
        middleware=[
            Middleware(TracingMiddleware),
            Middleware(TrustedOriginMiddleware, hosts=chosen.hosts(), origins=chosen.allowed_origins),
            Middleware(BodyLimitMiddleware, max_bytes=chosen.max_body_bytes, timeout_s=chosen.body_timeout_seconds),
            Middleware(ApiKeyMiddleware, keys=chosen.api_keys),
            Middleware(ConcurrencyLimitMiddleware, max_requests=chosen.max_concurrent_requests),
            Middleware(ServerErrorMiddleware),
        ],
        # FastAPI's pages load scripts from a CDN, which could then read activations from this origin;
        # `routes.reference` has no scripts.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = chosen
    exception_handlers.add_exception_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi_document.set_openapi(app, has_keys=bool(chosen.api_keys))
    return app
