"""The inference service as one analysis uses it: calls counted and traced, and its failures told as they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from opentelemetry import context as contexts
from opentelemetry.context import Context

from neuroscope.activations.vocabulary_projection import VocabularyProjection
from neuroscope.aio import AsyncClient
from neuroscope.calls.layer_predictions import TEXTS_AT_ONCE
from neuroscope.circuits import ComponentGraph
from neuroscope.errors import (
    ChecksumError,
    ContextLengthError,
    InvalidRequestError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    StreamingError,
)
from neuroscope.experiments import AttributionResult, Experiment, SweepResult
from neuroscope.experiments.attribution import Attribution
from neuroscope.interventions import InterventionLike
from neuroscope.v1 import experiment_pb2, inference_pb2, site_pb2
from neuroscope.vocabulary.hooks import HookLike
from neuroscope.vocabulary.model_info import ModelInfo, Tokens
from neuroscope.weights import Weights
from neuroscope.wire.frames import TensorPiece

T = TypeVar("T")
_RECAPTURES = 1
"""How often tensors whose bytes were changed on the way are asked for again."""


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
        """Layers in which what a component writes can be captured."""
        return [
            point.site.layer
            for point in self.info.points
            if point.site.component == component
            and point.site.side != site_pb2.SIDE_INPUT
            and point.available
            and point.site.HasField("layer")
        ]

    async def tokenize(self, prompts: Sequence[inference_pb2.Prompt], name: str = "prompts") -> list[Tokens]:
        """The tokens of prompts, each no longer than the model's context.

        Args:
            prompts: of the request.
            name: of their field.

        Raises:
            InvalidRequestError, ContextLengthError: names the prompt.
        """
        return [await self.tokens(prompt, f"{name}[{index}]", 1) for index, prompt in enumerate(prompts)]

    async def tokens(self, prompt: inference_pb2.Prompt, field: str, least: int = 2) -> Tokens:
        """The tokens of a prompt, no more than the model's context.

        Args:
            prompt: of a request.
            field: its path there.
            least: so many at least.

        Raises:
            InvalidRequestError, ContextLengthError: names the field.
        """
        tokens = await self.tokenized(prompt, field)
        longest = self.info.model.context_length
        if longest and len(tokens) > longest:
            raise ContextLengthError(
                f"{field} has {len(tokens)} tokens, and the model's context {longest}", field=field
            )
        if len(tokens) < least:
            raise InvalidRequestError(f"{field} is one token, which attends to itself", field=field)
        return tokens

    async def token_id(self, choice: experiment_pb2.TokenChoice, field: str) -> int:
        """The id of a token that is named by it or by its text.

        Raises:
            InvalidRequestError: it is none of the model's, or several.
        """
        match choice.WhichOneof("token"):
            case "id":
                if choice.id >= self.info.model.vocab_size:
                    raise InvalidRequestError(
                        f"{choice.id} is no token: the vocabulary has {self.info.model.vocab_size}", field=field
                    )
                return choice.id
            case "text" if choice.text:
                with self._asking("reading the answers", "prompt", field):
                    asked = self.client.tokenize(choice.text, model_id=self.model_id, bos=False)
                    tokens = await self._counted(asked)
                if len(tokens) != 1:
                    parts = ", ".join(map(repr, tokens.tokens))
                    raise InvalidRequestError(
                        f"{choice.text!r} is {len(tokens)} tokens, and one is wanted: {parts}", field=field
                    )
                return tokens.ids[0]
            case _:
                raise InvalidRequestError("a token is named by its id or its text", field=field)

    async def tokenized(self, prompt: inference_pb2.Prompt, field: str) -> Tokens:
        """The tokens of one prompt or text.

        Raises:
            InvalidRequestError: names the field.
        """
        with self._asking("reading the prompts", "prompt", field):
            return await self._counted(self.client.tokenize(prompt, model_id=self.model_id))

    async def texts(self, token_ids: Iterable[int]) -> dict[int, str]:
        """The text of each token by itself."""
        wanted, found = sorted(set(token_ids)), dict[int, str]()
        for first in range(0, len(wanted), TEXTS_AT_ONCE):
            some = wanted[first : first + TEXTS_AT_ONCE]
            with self._asking("reading texts of tokens", "", ""):
                tokens = await self._counted(self.client.tokenize(some, model_id=self.model_id))
            found |= zip(some, tokens.tokens, strict=True)
        return found

    async def project(self, vectors: NDArray[np.float32], what: str, **wanted: Any) -> VocabularyProjection:
        """Vectors through the model's own end; further arguments are those of `Client.project`."""
        return await self._intact(what, lambda: self.client.project(vectors, model_id=self.model_id, **wanted))

    async def read(
        self,
        ids: Sequence[int] | Sequence[Sequence[int]],
        sites: Sequence[HookLike],
        fresh: Callable[[], Callable[[TensorPiece], Awaitable[None]]],
        *,
        chunk_budget_bytes: int,
        what: str,
        interventions: Sequence[InterventionLike] = (),
    ) -> None:
        """Captures activations of one prompt, or of several, and hands them on piece by piece; nothing is kept.

        Args:
            ids: the prompt, or prompts.
            sites: what is captured.
            fresh: makes what takes the pieces; made anew when bytes were changed on the way and are captured again.
            chunk_budget_bytes: activations of one chunk of the prompt.
            what: for errors.
            interventions: edits of the run.
        """
        prompt: list[int] | list[list[int]] = [*ids]  # type: ignore[assignment]

        async def captured() -> None:
            take = fresh()
            pieces = self.client.capture_pieces(
                prompt,
                sites,
                model_id=self.model_id,
                chunk_budget_bytes=chunk_budget_bytes,
                interventions=interventions,
            )
            async with aclosing(pieces):
                async for piece in pieces:
                    await take(piece)

        await self._intact(what, captured)
        self.token_count += sum(1 if isinstance(each, int) else len(each) for each in prompt)

    async def weights(self, *names: str, layers: Sequence[int] = (), content: str = "values") -> Weights:
        """Weights by name, or their plan.

        Raises:
            UnavailableSiteError: the model does not have one of them.
        """
        return await self._intact(
            "reading weights",
            lambda: self.client.weights(*names, layers=layers, content=content, model_id=self.model_id),
        )

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

    async def attribute(
        self, attribution: Attribution, what: str, tell: Callable[[experiment_pb2.AttributionProgress], Awaitable[None]]
    ) -> AttributionResult:
        """Runs an attribution.

        Args:
            attribution: what is asked for.
            what: for errors.
            tell: hears how far it is.
        """

        async def asked() -> AttributionResult:
            result = AttributionResult(attribution, warns=False)
            async with aclosing(self.client.attribution_events(result)) as events:
                async for event in events:
                    if event.HasField("progress"):
                        await tell(event.progress)
            return result.finish()

        return await self._intact(what, asked)

    async def edge_graph(self) -> ComponentGraph:
        """What writes the residual stream, what reads it, and the edges between them.

        Raises:
            UnavailableSiteError: what the model's heads write does not add up; says why.
        """
        with self._asking("asking for the graph", "", ""):
            return await self._counted(self.client.edge_graph(model_id=self.model_id))

    async def _intact(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """What a call that sends tensors answers; it is made again where their bytes were changed on the way."""
        attempts = 0
        while True:
            try:
                with self._asking(what, "", ""):
                    return await self._counted(ask())
            except ChecksumError as error:
                attempts += 1
                if attempts > _RECAPTURES:
                    raise ChecksumError(
                        f"bytes from the inference service at {self._upstream.target} were changed on the way while "
                        f"this analysis was {what}, and again when they were asked for again: {error.message}"
                    ) from None

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
