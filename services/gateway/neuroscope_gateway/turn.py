"""One request for text: a generation of the inference service, read as deltas.

Chat completions, text completions and responses are three ways to write down what a turn yields.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from neuroscope.activations.stream import GeneratedToken
from neuroscope.aio import AsyncClient
from neuroscope.calls.running_generation import AsyncGeneration
from neuroscope.errors import MLXIntegrationError, ModelNotFoundError
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.wire.frames import TensorPiece
from neuroscope_gateway import logprobs, tensors
from neuroscope_gateway.requested import Named, RequestedHooks, param_of, tell
from neuroscope_gateway.requested_edits import RequestedInterventions
from neuroscope_gateway.schemas.chat import Form
from neuroscope_gateway.schemas.generation import GenerationRequest


@dataclass(slots=True)
class Delta:
    """What one token adds to an answer."""

    row: int
    """The answer: prompt * n + i."""
    text: str
    finish_reason: str | None
    logprob: dict[str, Any] | None = None
    activations: dict[str, list[orjson.Fragment]] = field(default_factory=dict[str, list[orjson.Fragment]])
    read: dict[str, list[TensorPiece]] = field(default_factory=dict[str, list[TensorPiece]])
    """What the turn's own hooks saw, by hook id."""


class Turn:
    """A generation for one request. Close it once it has begun, whatever happens: that cancels it if it still runs.

    Args:
        client: of the inference service.
        request: what is asked for.
        hooks: what the request captures.
        prefix: of the id.
        form: how captured values are written.
        capture_id: where the stream is to be kept.
        prompts: what the model reads in place of the request's prompts, one for each.
        own_hooks: what the gateway itself reads; it comes as `Delta.read`.

    Attributes:
        id: `chatcmpl-...`, or with another prefix.
        rows: answers that are generated.
        capture_id: where the stream is kept; None where it is not.
        created: Unix time in seconds.
        model: the model that answers; known once the turn has begun.
    """

    def __init__(
        self,
        client: AsyncClient,
        request: GenerationRequest,
        hooks: RequestedHooks | None = None,
        *,
        prefix: str = "chatcmpl-",
        form: Form = "list",
        capture_id: str | None = None,
        prompts: PromptLike | None = None,
        own_hooks: Sequence[inference_pb2.HookSpec] = (),
    ) -> None:
        self.id = f"{prefix}{uuid.uuid4().hex}"
        self.rows = request.choices
        self.capture_id = self.id if form == "metadata" and capture_id is None else capture_id
        self._form: Form = form
        self.created = int(time.time())
        self.model = request.model or ""
        self._client = client
        self._generation: AsyncGeneration | None = None
        self._request = request
        self._prompts = request.prompts if prompts is None else prompts
        self._own_hooks = list(own_hooks)
        self._own_ids = frozenset(hook.hook_id for hook in own_hooks)
        self._hooks = hooks or RequestedHooks(())
        self._edits = RequestedInterventions(request.interventions or ())
        self._named: dict[int, Named] = {}  # by plan index
        self._spelt: dict[int, str] = {}
        self._aliases = {"model_id": "model", "max_tokens": request.limit[0], "rows_per_prompt": "n"}
        self._aliases |= {"generation_id": "capture_id", "resumable": "capture_id"}
        cache = "cache_quantization"
        self._aliases |= {cache: "kv_bits", f"{cache}.bits": "kv_bits", f"{cache}.group_size": "kv_group_size"}

    async def begin(self) -> None:
        """Waits until the service has accepted the request.

        Raises:
            MLXIntegrationError: it has not; `field` is the REST parameter at fault.
        """
        with self._rest_params():
            if self._hooks.hook_ids:
                self._hooks.know(await self._client.hooks())
            self._generation = self._client.generate(
                self._prompts,
                hooks=[*self._hooks.specs, *self._own_hooks],
                hook_ids=self._hooks.hook_ids,
                interventions=self._edits.messages,
                keep=False,
                resumable=self.capture_id is not None,
                generation_id=self.capture_id or "",
                **self._request.sampling(),
            )
            started = await self._generation.start()
            self.model, self.rows = started.model_id, len(started.prompts)

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """The answer, token by token.

        Raises:
            MLXIntegrationError: the generation failed.
        """
        with self._rest_params():
            async for token in self._running():
                yield await self._delta(token)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and written, once the deltas have ended."""
        usage = self._running().usage
        read, written = usage.prompt_tokens, usage.completion_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    async def close(self) -> None:
        """Cancels the generation unless it has ended."""
        if self._generation is not None:
            await self._generation.aclose()

    def _running(self) -> AsyncGeneration:
        assert self._generation is not None, "the turn has not begun"
        return self._generation

    async def _delta(self, token: GeneratedToken) -> Delta:
        delta = Delta(token.row, token.text, token.finish_reason or None)
        if self._request.alternatives is not None:
            delta.logprob = await logprobs.entry(token, self._request.alternatives, self._spell)
        for hook_id, pieces in token.activations.items():
            if hook_id in self._own_ids:
                delta.read[hook_id] = list(pieces)
                continue
            written = delta.activations[hook_id] = list[orjson.Fragment]()
            for own in _grouped(pieces) if self._form == "metadata" else [[piece] for piece in pieces]:
                written += await tensors.activations(
                    own,
                    self._name(own[0].spec),
                    form=self._form,
                    choice=token.row if self.rows > 1 else None,
                    url=self._url(own[0]),
                )
        return delta

    def _url(self, piece: TensorPiece) -> str:
        where = f"{self.capture_id}/{piece.spec.plan_index}?step={piece.step}&row={piece.row}"
        return f"/v1/activations/captures/{where}"

    def _name(self, spec: Any) -> Named:
        named = self._named.get(spec.plan_index)
        if named is None:
            named = self._named[spec.plan_index] = self._hooks.name(spec)
        return named

    async def _spell(self, token_id: int) -> str:
        """The text of a token by itself."""
        if token_id not in self._spelt:
            self._spelt[token_id] = await self._client.detokenize([token_id], model_id=self.model)
        return self._spelt[token_id]

    @contextmanager
    def _rest_params(self) -> Generator[None]:
        try:
            yield
        except MLXIntegrationError as error:
            if error.field:
                param = self._edits.param(error.field) or param_of(
                    error.field, self._hooks, self._aliases, self._request.prompt_param
                )
                tell(error, param)
            elif isinstance(error, ModelNotFoundError):
                error.field = "model"
            raise


def _grouped(pieces: Sequence[TensorPiece]) -> list[list[TensorPiece]]:
    """The pieces of each tensor."""
    groups: dict[int, list[TensorPiece]] = {}
    for piece in pieces:
        groups.setdefault(piece.spec.plan_index, []).append(piece)
    return list(groups.values())
