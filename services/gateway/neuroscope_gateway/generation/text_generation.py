"""One generation of the inference service, as deltas.

Chat completions, text completions and responses are three formats of its deltas.
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
from neuroscope.vocabulary.tools import ToolCall
from neuroscope.wire.frames import TensorPiece
from neuroscope_gateway.generation import logprobs
from neuroscope_gateway.generation.request_hooks import RequestHooks, TensorLabel, rename_param, rest_param
from neuroscope_gateway.http import tensor_json
from neuroscope_gateway.schemas.chat import ActivationFormat
from neuroscope_gateway.schemas.generation import GenerationRequest
from neuroscope_gateway.schemas.request_interventions import RequestInterventions


@dataclass(slots=True)
class TokenDelta:
    """The delta of one token."""

    row: int
    """Index of the choice: prompt * n + i."""
    text: str
    finish_reason: str | None
    logprob: dict[str, Any] | None = None
    activations: dict[str, list[orjson.Fragment]] = field(default_factory=dict[str, list[orjson.Fragment]])
    gateway_captures: dict[str, list[TensorPiece]] = field(default_factory=dict[str, list[TensorPiece]])
    """Captures of the gateway's own hooks, by hook id."""
    tool_calls: tuple[ToolCall, ...] = ()


class TextGeneration:
    """A generation for one request. Always close it after `start`; this cancels a running generation.

    Args:
        client: client of the inference service.
        request: the request.
        hooks: hooks of the request.
        prefix: prefix of the id.
        format: encoding of captured values.
        capture_id: id of the kept stream; None: not kept.
        prompts: prompts that replace those of the request, one for each.
        gateway_hooks: hooks of the gateway itself, returned as `TokenDelta.gateway_captures`.

    Attributes:
        id: `chatcmpl-...`, or with another prefix.
        rows: number of choices of all prompts.
        capture_id: id of the kept stream, or None.
        created: Unix time in seconds.
        model: id of the model; known after `start`.
    """

    def __init__(
        self,
        client: AsyncClient,
        request: GenerationRequest,
        hooks: RequestHooks | None = None,
        *,
        prefix: str = "chatcmpl-",
        format: ActivationFormat = "list",
        capture_id: str | None = None,
        prompts: PromptLike | None = None,
        gateway_hooks: Sequence[inference_pb2.HookSpec] = (),
    ) -> None:
        self.id = f"{prefix}{uuid.uuid4().hex}"
        self.rows = request.choice_count
        self.capture_id = self.id if format == "metadata" and capture_id is None else capture_id
        self._format: ActivationFormat = format
        self.created = int(time.time())
        self.model = request.model or ""
        self._client = client
        self._generation: AsyncGeneration | None = None
        self._request = request
        self._prompts = request.prompts if prompts is None else prompts
        self._gateway_hooks = list(gateway_hooks)
        self._gateway_hook_ids = frozenset(hook.hook_id for hook in gateway_hooks)
        self._hooks = hooks or RequestHooks(())
        self._interventions = RequestInterventions(request.interventions or ())
        self._labels: dict[int, TensorLabel] = {}  # by plan index
        self._token_texts: dict[int, str] = {}
        self._aliases = {"model_id": "model", "max_tokens": request.max_tokens_param[0], "rows_per_prompt": "n"}
        self._aliases |= {"json_schema": "response_format", "json_schema.schema": request.json_schema_param}
        self._aliases |= {"generation_id": "capture_id", "resumable": "capture_id"}
        cache = "cache_quantization"
        self._aliases |= {cache: "kv_bits", f"{cache}.bits": "kv_bits", f"{cache}.group_size": "kv_group_size"}

    async def start(self) -> None:
        """Starts the generation; returns when the service has accepted it.

        Raises:
            MLXIntegrationError: the service rejects the request; `field` is the REST parameter.
        """
        with self._rest_params():
            if self._hooks.hook_ids:
                self._hooks.add_registered(await self._client.hooks())
            self._generation = self._client.generate(
                self._prompts,
                hooks=[*self._hooks.specs, *self._gateway_hooks],
                hook_ids=self._hooks.hook_ids,
                interventions=self._interventions.messages,
                keep=False,
                resumable=self.capture_id is not None,
                generation_id=self.capture_id or "",
                **self._request.sampling(),
            )
            started = await self._generation.start()
            self.model, self.rows = started.model_id, len(started.prompts)

    async def deltas(self) -> AsyncGenerator[TokenDelta, None]:
        """The answer, token by token.

        Raises:
            MLXIntegrationError: the generation fails.
        """
        with self._rest_params():
            async for token in self._started():
                yield await self._delta(token)

    @property
    def usage(self) -> dict[str, int]:
        """Token counts, after the last delta."""
        usage = self._started().usage
        read, written = usage.prompt_tokens, usage.completion_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    async def close(self) -> None:
        """Cancels a running generation."""
        if self._generation is not None:
            await self._generation.aclose()

    def _started(self) -> AsyncGeneration:
        assert self._generation is not None, "the turn has not begun"
        return self._generation

    async def _delta(self, token: GeneratedToken) -> TokenDelta:
        delta = TokenDelta(token.row, token.text, token.finish_reason or None, tool_calls=token.tool_calls)
        if self._request.top_logprob_count is not None:
            delta.logprob = await logprobs.token_logprob(token, self._request.top_logprob_count, self._token_text)
        for hook_id, pieces in token.activations.items():
            if hook_id in self._gateway_hook_ids:
                delta.gateway_captures[hook_id] = list(pieces)
                continue
            written = delta.activations[hook_id] = list[orjson.Fragment]()
            for own in _group_by_tensor(pieces) if self._format == "metadata" else [[piece] for piece in pieces]:
                written += await tensor_json.activation_json(
                    own,
                    self._label(own[0].spec),
                    form=self._format,
                    choice=token.row if self.rows > 1 else None,
                    url=self._url(own[0]),
                )
        return delta

    def _url(self, piece: TensorPiece) -> str:
        where = f"{self.capture_id}/{piece.spec.plan_index}?step={piece.step}&row={piece.row}"
        return f"/v1/activations/captures/{where}"

    def _label(self, spec: Any) -> TensorLabel:
        named = self._labels.get(spec.plan_index)
        if named is None:
            named = self._labels[spec.plan_index] = self._hooks.label(spec)
        return named

    async def _token_text(self, token_id: int) -> str:
        """The text of a token."""
        if token_id not in self._token_texts:
            self._token_texts[token_id] = await self._client.detokenize([token_id], model_id=self.model)
        return self._token_texts[token_id]

    @contextmanager
    def _rest_params(self) -> Generator[None]:
        try:
            yield
        except MLXIntegrationError as error:
            if error.field:
                param = self._interventions.param(error.field) or rest_param(
                    error.field, self._hooks, self._aliases, self._request.prompt_param
                )
                rename_param(error, param)
            elif isinstance(error, ModelNotFoundError):
                error.field = "model"
            raise


def _group_by_tensor(pieces: Sequence[TensorPiece]) -> list[list[TensorPiece]]:
    """The pieces grouped by tensor."""
    groups: dict[int, list[TensorPiece]] = {}
    for piece in pieces:
        groups.setdefault(piece.spec.plan_index, []).append(piece)
    return list(groups.values())
