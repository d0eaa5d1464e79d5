"""The echo of text completions: the prompt and its log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuroscope.aio import AsyncClient
from neuroscope.errors import MLXIntegrationError, ModelNotFoundError
from neuroscope.v1 import inference_pb2
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.reductions import NAMES
from neuroscope.wire.frames import TensorPiece
from neuroscope_gateway.generation.logprobs import MIN_LOGPROB
from neuroscope_gateway.generation.request_hooks import rename_param
from neuroscope_gateway.schemas.completions import CompletionRequest

_BATCH_SIZE = 128  # token ids of one call


@dataclass(slots=True)
class PromptEcho:
    """The echo of one prompt."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list[int])
    """Empty without log-probabilities."""
    tokens: list[str] = field(default_factory=list[str])

    def hook(self, rows: range, alternatives: int) -> inference_pb2.HookSpec:
        """The hook that captures the log-probabilities of the prompt.

        Args:
            rows: rows of the prompt.
            alternatives: number of alternatives for each token.
        """
        following = self.token_ids[1:]
        lens = {"top_k": alternatives, "next_token_ids": following}
        hook = Hook(
            "logits", hook_id=hook_id(rows.start), reduce={"lens": lens}, positions=slice(0, len(following)), steps=0
        )
        message = hook.to_message()
        message.select.rows.extend(rows)
        return message

    async def logprobs(
        self, pieces: Sequence[TensorPiece], alternatives: int, client: AsyncClient, model: str
    ) -> dict[str, Any]:
        """OpenAI's `logprobs` of the prompt.

        Args:
            pieces: captures of `hook`; empty for a prompt of one token.
            alternatives: number of alternatives for each token.
            client, model: return the texts of alternatives.
        """
        read: dict[str, list[Any]] = {}
        for piece in pieces:
            read.setdefault(NAMES[piece.spec.reduced], []).extend(piece.array[0].tolist())
        own = [max(value, MIN_LOGPROB) for value in read.get("lens_next_log_probability", [])]
        tops: list[dict[str, float] | None] = []
        if alternatives:
            ids, values = read.get("lens_top_k_tokens", []), read.get("lens_top_k", [])
            texts = await _token_texts({token for some in ids for token in some}, client, model)
            for place, (some, logs) in enumerate(zip(ids, values, strict=True)):
                likeliest = {texts[token]: max(log, MIN_LOGPROB) for token, log in zip(some, logs, strict=True)}
                tops.append(likeliest | {self.tokens[place + 1]: own[place]})
        return {
            "tokens": list(self.tokens),
            "token_logprobs": [None, *own],
            "top_logprobs": [None, *tops] if alternatives else None,
            "text_offset": self._offsets(),
        }

    def _offsets(self) -> list[int]:
        """The offset of each token in the text; a token that is not part of it, such as BOS, has no length."""
        offsets: list[int] = []
        place = 0
        for token in self.tokens:
            found = self.text.find(token, place, place + len(token) + 1) if token else -1
            offsets.append(place if found < 0 else found)
            place = place if found < 0 else found + len(token)
        return offsets


def hook_id(first_row: int) -> str:
    """The id of the hook of a prompt, by its first row."""
    return f"echo{first_row}"


async def prompt_echoes(request: CompletionRequest, client: AsyncClient) -> list[PromptEcho]:
    """The echoes of all prompts of a request; empty without `echo`."""
    if not request.echo:
        return [PromptEcho() for _ in request.prompt_list]
    found: list[PromptEcho] = []
    for index, prompt in enumerate(request.prompt_list):
        try:
            found.append(await _prompt_echo(prompt, request, client))
        except MLXIntegrationError as error:
            is_model = isinstance(error, ModelNotFoundError)
            rename_param(error, "model" if is_model else request.prompt_param(f"prompts[{index}]"))
            raise
    return found


async def _prompt_echo(prompt: str | list[int], request: CompletionRequest, client: AsyncClient) -> PromptEcho:
    model = request.model or ""
    text = prompt if isinstance(prompt, str) else await client.detokenize(prompt, model_id=model)
    if request.top_logprob_count is None:
        return PromptEcho(text)
    read = await client.tokenize(prompt, model_id=model)
    return PromptEcho(text, list(read.ids), list(read.tokens))


async def _token_texts(token_ids: set[int], client: AsyncClient, model: str) -> Mapping[int, str]:
    wanted = sorted(token_ids)
    texts: dict[int, str] = {}
    for first in range(0, len(wanted), _BATCH_SIZE):
        some = wanted[first : first + _BATCH_SIZE]
        texts |= zip(some, (await client.tokenize(some, model_id=model)).tokens, strict=True)
    return texts
