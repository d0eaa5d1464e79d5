"""A model of the inference service: calls are counted, traced, and retried after checksum errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from opentelemetry import context as contexts
from opentelemetry.context import Context

from neuroscope.activations.vocabulary_projection import VocabularyProjection
from neuroscope.aio import AsyncClient
from neuroscope.calls.logit_lens import TEXTS_AT_ONCE
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
_CHECKSUM_RETRIES = 1
"""Retries after a checksum error."""


class RemoteModel:
    """A model of the inference service, for one analysis.

    Attributes:
        client: the SDK's client, for building experiments.
        info: shape and hook points.
        chunk_budget_bytes: bytes of activations in one chunk of a prompt.
        call_count: number of calls so far.
        token_count: number of captured tokens so far.
    """

    def __init__(
        self, client: AsyncClient, target: str, info: ModelInfo, context: Context, *, chunk_budget_bytes: int
    ) -> None:
        self.client = client
        self.info = info
        self.chunk_budget_bytes = chunk_budget_bytes
        self.call_count = 0
        self.token_count = 0
        self._target = target
        self._context = context

    @property
    def model_id(self) -> str:
        """The id of the model."""
        return self.info.model_id

    def layers(self, component: str) -> list[int]:
        """Layers in which the output of a component can be captured."""
        return [
            point.site.layer
            for point in self.info.points
            if point.site.component == component
            and point.site.side != site_pb2.SIDE_INPUT
            and point.available
            and point.site.HasField("layer")
        ]

    async def tokenize_prompts(self, prompts: Sequence[inference_pb2.Prompt], name: str = "prompts") -> list[Tokens]:
        """Tokenizes prompts.

        Args:
            prompts: prompts of the request.
            name: name of their field.

        Raises:
            InvalidRequestError, ContextLengthError: a prompt is invalid or longer than the context.
        """
        return [await self.tokenize_prompt(prompt, f"{name}[{index}]", 1) for index, prompt in enumerate(prompts)]

    async def tokenize_prompt(self, prompt: inference_pb2.Prompt, field: str, least: int = 2) -> Tokens:
        """Tokenizes a prompt.

        Args:
            prompt: a prompt of the request.
            field: its path.
            least: minimum number of tokens.

        Raises:
            InvalidRequestError, ContextLengthError: the prompt is invalid, or shorter or longer than allowed.
        """
        tokens = await self.tokenize_text(prompt, field)
        longest = self.info.model.context_length
        if longest and len(tokens) > longest:
            raise ContextLengthError(
                f"{field} has {len(tokens)} tokens, above the context length of {longest}", field=field
            )
        if len(tokens) < least:
            raise InvalidRequestError(f"{field} has one token, at least two are needed", field=field)
        return tokens

    async def token_id(self, choice: experiment_pb2.TokenChoice, field: str) -> int:
        """The id of a token that is given by id or text.

        Raises:
            InvalidRequestError: the id is not in the vocabulary, or the text is not one token.
        """
        match choice.WhichOneof("token"):
            case "id":
                if choice.id >= self.info.model.vocab_size:
                    raise InvalidRequestError(
                        f"token {choice.id} is outside the vocabulary of {self.info.model.vocab_size}", field=field
                    )
                return choice.id
            case "text" if choice.text:
                with self._call("reading the answers", "prompt", field):
                    call = self.client.tokenize(choice.text, model_id=self.model_id, bos=False)
                    tokens = await self._count_call(call)
                if len(tokens) != 1:
                    parts = ", ".join(map(repr, tokens.tokens))
                    raise InvalidRequestError(
                        f"{choice.text!r} is not one token but {len(tokens)}: {parts}", field=field
                    )
                return tokens.ids[0]
            case _:
                raise InvalidRequestError("a token needs an id or a text", field=field)

    async def tokenize_text(self, prompt: inference_pb2.Prompt, field: str) -> Tokens:
        """Tokenizes a prompt of any length.

        Raises:
            InvalidRequestError: the prompt is invalid.
        """
        with self._call("reading the prompts", "prompt", field):
            return await self._count_call(self.client.tokenize(prompt, model_id=self.model_id))

    async def token_texts(self, token_ids: Iterable[int]) -> dict[int, str]:
        """The text of each token."""
        wanted, found = sorted(set(token_ids)), dict[int, str]()
        for first in range(0, len(wanted), TEXTS_AT_ONCE):
            some = wanted[first : first + TEXTS_AT_ONCE]
            with self._call("reading texts of tokens", "", ""):
                tokens = await self._count_call(self.client.tokenize(some, model_id=self.model_id))
            found |= zip(some, tokens.tokens, strict=True)
        return found

    async def project(self, vectors: NDArray[np.float32], what: str, **wanted: Any) -> VocabularyProjection:
        """Projects vectors to the vocabulary; further arguments are those of `Client.project`."""
        return await self._retry_on_checksum_error(
            what, lambda: self.client.project(vectors, model_id=self.model_id, **wanted)
        )

    async def capture(
        self,
        prompts: Sequence[int] | Sequence[Sequence[int]],
        sites: Sequence[HookLike],
        new_consumer: Callable[[], Callable[[TensorPiece], Awaitable[None]]],
        *,
        what: str,
        interventions: Sequence[InterventionLike] = (),
    ) -> None:
        """Captures activations and passes them on piece by piece.

        Args:
            prompts: one prompt or several, as token ids.
            sites: hooks.
            new_consumer: makes a consumer of pieces; again when the capture is repeated after a checksum error.
            what: what the analysis is doing, for errors.
            interventions: edits of the run.
        """
        prompt: list[int] | list[list[int]] = [*prompts]  # type: ignore[assignment]

        async def captured() -> None:
            take = new_consumer()
            pieces = self.client.capture_pieces(
                prompt,
                sites,
                model_id=self.model_id,
                chunk_budget_bytes=self.chunk_budget_bytes,
                interventions=interventions,
            )
            async with aclosing(pieces):
                async for piece in pieces:
                    await take(piece)

        await self._retry_on_checksum_error(what, captured)
        self.token_count += sum(1 if isinstance(each, int) else len(each) for each in prompt)

    async def weights(self, *names: str, layers: Sequence[int] = (), content: str = "values") -> Weights:
        """Reads weights by name, or their plan.

        Raises:
            UnavailableSiteError: the model lacks one of them.
        """
        return await self._retry_on_checksum_error(
            "reading weights",
            lambda: self.client.weights(*names, layers=layers, content=content, model_id=self.model_id),
        )

    async def sweep(self, experiment: Experiment, what: str) -> SweepResult:
        """Runs a sweep."""
        with self._call(what, "", ""):
            return await self._count_call(self.client.sweep(experiment))

    async def sweep_events(
        self, result: SweepResult, what: str
    ) -> AsyncGenerator[experiment_pb2.RunSweepResponse, None]:
        """Runs the missing part of a sweep and yields its events; the result is updated first."""
        self.call_count += 1
        with self._call(what, "", ""):
            async with aclosing(self.client.sweep_events(result)) as events:
                async for event in events:
                    yield event

    async def attribute(
        self, attribution: Attribution, what: str, tell: Callable[[experiment_pb2.AttributionProgress], Awaitable[None]]
    ) -> AttributionResult:
        """Runs an attribution.

        Args:
            attribution: the attribution.
            what: what the analysis is doing, for errors.
            tell: receives progress.
        """

        async def run() -> AttributionResult:
            result = AttributionResult(attribution, warns=False)
            async with aclosing(self.client.attribution_events(result)) as events:
                async for event in events:
                    if event.HasField("progress"):
                        await tell(event.progress)
            return result.finish()

        return await self._retry_on_checksum_error(what, run)

    async def edge_graph(self) -> ComponentGraph:
        """The graph of the model.

        Raises:
            UnavailableSiteError: the outputs of heads do not sum to that of attention.
        """
        with self._call("asking for the graph", "", ""):
            return await self._count_call(self.client.edge_graph(model_id=self.model_id))

    async def _retry_on_checksum_error(self, what: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Makes a call that returns tensors, and repeats it after a checksum error."""
        attempts = 0
        while True:
            try:
                with self._call(what, "", ""):
                    return await self._count_call(ask())
            except ChecksumError as error:
                attempts += 1
                if attempts > _CHECKSUM_RETRIES:
                    raise ChecksumError(
                        f"data from the inference service at {self._target} had a wrong checksum while "
                        f"this analysis was {what}, and again in the retry: {error.message}"
                    ) from None

    async def _count_call(self, call: Awaitable[T]) -> T:
        self.call_count += 1
        return await call

    @contextmanager
    def _call(self, what: str, theirs: str, ours: str) -> Generator[None]:
        with _report_disconnect(self._target, what), use_context(self._context):
            try:
                yield
            except MLXIntegrationError as error:
                if theirs and error.field.startswith(theirs):
                    error.field = ours + error.field.removeprefix(theirs)
                raise


@contextmanager
def use_context(context: Context) -> Generator[None]:
    """Makes a trace context current."""
    token = contexts.attach(context)
    try:
        yield
    finally:
        contexts.detach(token)


@contextmanager
def _report_disconnect(target: str, what: str) -> Generator[None]:
    """Reports a lost connection with what the analysis was doing."""
    try:
        yield
    except ChecksumError:
        raise
    except (StreamingError, NeuroScopeIntegrationError) as error:
        raise NeuroScopeIntegrationError(
            f"the connection to the inference service at {target} was lost while this analysis was {what}; "
            f"earlier results were sent ({error.message})"
        ) from None
