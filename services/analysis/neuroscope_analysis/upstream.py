"""The inference service as one analysis uses it: calls counted and traced, and its failures told as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from opentelemetry import context as contexts
from opentelemetry.context import Context

from neuroscope.aio import AsyncClient
from neuroscope.circuits import ComponentGraph
from neuroscope.errors import (
    ChecksumError,
    ContextLengthError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    StreamingError,
)
from neuroscope.experiments import AttributionResult, Experiment, SweepResult
from neuroscope.frames import TensorPiece
from neuroscope.hooks import HookLike
from neuroscope.model_info import ModelInfo, Tokens
from neuroscope.v1 import experiment_pb2, inference_pb2
from neuroscope.weights import Weights

T = TypeVar("T")
_RECAPTURES = 1
"""How often activations whose bytes were changed on the way are captured again."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """The inference service."""

    client: AsyncClient
    """Calls it."""
    target: str
    """Where it is, for errors."""

    async def model(self, model_id: str, context: Context) -> InspectedModel:
        """A model of it.

        Args:
            model_id: empty: the one loaded first.
            context: of the span of the call that asks.

        Raises:
            ModelNotFoundError, NeuroScopeIntegrationError
        """
        with _current(context):
            return InspectedModel(self, await self.client.model(model_id), context)


class InspectedModel:
    """One model, as one analysis sees it.

    Attributes:
        info: its shape and its points.
        call_count: calls made so far.
        token_count: tokens read so far by captures.
    """

    def __init__(self, upstream: Upstream, info: ModelInfo, context: Context) -> None:
        self.info = info
        self.call_count = 0
        self.token_count = 0
        self._upstream = upstream
        self._context = context

    @property
    def client(self) -> AsyncClient:
        """Of the service; for experiments to be written with."""
        return self._upstream.client

    @property
    def model_id(self) -> str:
        """Its name."""
        return self.info.model_id

    def layers(self, component: str) -> list[int]:
        """Layers in which a component can be captured."""
        return [
            point.site.layer
            for point in self.info.points
            if point.site.component == component and point.available and point.site.HasField("layer")
        ]

    async def tokenize(self, prompts: Sequence[inference_pb2.Prompt]) -> list[Tokens]:
        """The tokens of prompts, each at least two and no more than the model's context.

        Raises:
            InvalidRequestError, ContextLengthError: names the prompt.
        """
        found: list[Tokens] = []
        for index, prompt in enumerate(prompts):
            field = f"prompts[{index}]"
            with self._asking("reading the prompts", "prompt", field):
                tokens = await self._counted(self.client.tokenize(prompt, model_id=self.model_id))
            longest = self.info.model.context_length
            if longest and len(tokens) > longest:
                raise ContextLengthError(
                    f"{field} has {len(tokens)} tokens, and the model's context {longest}", field=field
                )
            found.append(tokens)
        return found

    async def read(
        self,
        ids: Sequence[int],
        sites: Sequence[HookLike],
        fresh: Callable[[], Callable[[TensorPiece], Awaitable[None]]],
        *,
        chunk_budget_bytes: int,
        what: str,
    ) -> None:
        """Captures activations of one prompt and hands them on piece by piece; nothing is kept.

        Args:
            ids: the prompt.
            sites: what is captured.
            fresh: makes what takes the pieces; made anew when bytes were changed on the way and are captured again.
            chunk_budget_bytes: activations of one chunk of the prompt.
            what: for errors.
        """
        for attempt in range(_RECAPTURES + 1):
            take = fresh()
            try:
                with self._asking(what, "", ""):
                    self.call_count += 1
                    pieces = self.client.capture_pieces(
                        ids, sites, model_id=self.model_id, chunk_budget_bytes=chunk_budget_bytes
                    )
                    async with aclosing(pieces):
                        async for piece in pieces:
                            await take(piece)
                self.token_count += len(ids)
                return
            except ChecksumError:
                if attempt == _RECAPTURES:
                    raise

    async def weights(self, *names: str, layers: Sequence[int] = (), content: str = "values") -> Weights:
        """Weights by name, or their plan.

        Raises:
            UnavailableSiteError: the model does not have one of them.
        """
        with self._asking("reading weights", "", ""):
            read = self.client.weights(*names, layers=layers, content=content, model_id=self.model_id)
            return await self._counted(read)

    async def sweep(self, experiment: Experiment, what: str) -> SweepResult:
        """Runs an experiment."""
        with self._asking(what, "", ""):
            return await self._counted(self.client.sweep(experiment))

    async def sweep_events(
        self, result: SweepResult, what: str
    ) -> AsyncGenerator[experiment_pb2.RunSweepResponse, None]:
        """Runs what a result still lacks; every event as it comes, once the result holds it."""
        self.call_count += 1
        with self._asking(what, "", ""):
            async with aclosing(self.client.sweep_events(result)) as events:
                async for event in events:
                    yield event

    async def attribution_events(
        self, result: AttributionResult, what: str
    ) -> AsyncGenerator[experiment_pb2.AttributeResponse, None]:
        """Runs what a result was asked for; every message as it comes, once the result holds it."""
        self.call_count += 1
        with self._asking(what, "", ""):
            async with aclosing(self.client.attribution_events(result)) as events:
                async for event in events:
                    yield event

    async def edge_graph(self) -> ComponentGraph:
        """What writes the residual stream, what reads it, and the edges between them.

        Raises:
            UnavailableSiteError: what the model's heads write does not add up; says why.
        """
        with self._asking("asking for the graph", "", ""):
            return await self._counted(self.client.edge_graph(model_id=self.model_id))

    async def _counted(self, call: Awaitable[T]) -> T:
        self.call_count += 1
        return await call

    @contextmanager
    def _asking(self, what: str, theirs: str, ours: str) -> Generator[None]:
        with _told(self._upstream.target, what), _current(self._context):
            try:
                yield
            except MLXIntegrationError as error:
                if theirs and error.field.startswith(theirs):
                    error.field = ours + error.field.removeprefix(theirs)
                raise


@contextmanager
def _current(context: Context) -> Generator[None]:
    """Makes a span's context current for calls that are awaited within one task."""
    token = contexts.attach(context)
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def _told(target: str, what: str) -> Generator[None]:
    """Tells a service that went away as that, with what was being done."""
    try:
        yield
    except ChecksumError:
        raise
    except (StreamingError, NeuroScopeIntegrationError) as error:
        raise NeuroScopeIntegrationError(
            f"the inference service at {target} went away while this analysis was {what}; what it had found until then "
            f"was sent ({error.message})"
        ) from None
