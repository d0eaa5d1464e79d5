"""Generation, in lockstep or not: a part of both clients."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, SupportsIndex, overload

from neuroscope.activations.stream import StreamState
from neuroscope.base_client.call import Call
from neuroscope.base_client.client import AsyncBaseClient, BaseClient
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.retry import GenerationRetry
from neuroscope.calls import requests
from neuroscope.calls.running_generation import AsyncGeneration, Generation
from neuroscope.interventions import InterventionLike
from neuroscope.vocabulary.hooks import HookLike
from neuroscope.vocabulary.json_schemas import JsonSchemaLike
from neuroscope.vocabulary.prompts import PromptLike
from neuroscope.vocabulary.tools import ToolChoiceLike, ToolLike

P = ParamSpec("P")


class client_generation(Generic[P]):
    """A method that begins a generation, to be iterated with `for`, or with `async for` and no await before it."""

    def __init__(self, begin: Callable[Concatenate[Any, P], Any]) -> None:
        self._begin = begin
        self.__doc__ = begin.__doc__

    @overload
    def __get__(self, caller: BaseClient, owner: type[Any]) -> Callable[P, Generation]: ...
    @overload
    def __get__(self, caller: AsyncBaseClient, owner: type[Any]) -> Callable[P, AsyncGeneration]: ...
    @overload
    def __get__(self, caller: None, owner: type[Any]) -> Callable[Concatenate[Any, P], Any]: ...
    def __get__(self, caller: Any, owner: type[Any]) -> Any:
        begin: Any = self._begin
        return begin.__get__(caller, owner)


class GenerationCalls:
    """What both clients do with generations."""

    @client_generation
    def generate(
        self: Any,
        prompt: PromptLike,
        *,
        hooks: Sequence[HookLike] = (),
        hook_ids: Iterable[str] = (),
        interventions: Sequence[InterventionLike] = (),
        model_id: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        seed: int | None = None,
        stop: str | Iterable[str] = (),
        stop_token_ids: Iterable[SupportsIndex] = (),
        ignore_eos: bool = False,
        top_logprobs: int = 0,
        n: int = 1,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        penalty_context_size: int = 0,
        penalize_generated_only: bool = False,
        logit_bias: Mapping[int, float] | None = None,
        json_schema: JsonSchemaLike | None = None,
        grammar: str | None = None,
        tools: Iterable[ToolLike] = (),
        tool_choice: ToolChoiceLike | None = None,
        parallel_tool_calls: bool = True,
        bos: bool | None = None,
        max_steps_ahead: int = 0,
        chunk_budget_bytes: int = 0,
        generation_id: str = "",
        resumable: bool = False,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        keep: bool = True,
        auto_advance: bool = True,
    ) -> Any:
        """Generates text while activations are captured and edited.

        Args:
            prompt: a text, a conversation, token ids, or a list of these; each entry is a row, or `n`.
            hooks: what to capture, in any form of `neuroscope.vocabulary.hooks`.
            hook_ids: further hooks that are stored at the service.
            interventions: edits, in any form of `neuroscope.interventions`.
            model_id: empty: the one loaded first.
            max_tokens: most tokens to generate in each row; None: the server's default.
            temperature: 0: always the likeliest token.
            top_p: keeps the smallest set of tokens whose probability reaches this.
            top_k: keeps this many likeliest tokens; 0: all.
            min_p: keeps tokens with at least this share of the likeliest token's probability.
            seed: of the draws; the same seed gives the same text. None: drawn by the server, see `started.seed`.
            stop: texts that end a row; they are not part of the output.
            stop_token_ids: further tokens that end a row.
            ignore_eos: goes on after end-of-sequence tokens.
            top_logprobs: likeliest alternatives to report for each token.
            n: rows of each prompt; row `n * prompt + i` of the request draws with the seed `seed + i`.
            presence_penalty: subtracted from the logits of tokens that the row has already.
            frequency_penalty: subtracted from them as often as the row has them.
            repetition_penalty: what their logits are divided by, or multiplied with where they are negative.
            penalty_context_size: how many of the row's last tokens, prompt and generated, the penalties look at;
                0: all.
            penalize_generated_only: the penalties look at generated tokens alone, as vLLM's presence and frequency do.
            logit_bias: what is added to the logits of tokens, by id, before the penalties.
            json_schema: the text is JSON that this schema allows: a dict, a JSON text, a class with `model_json_schema`
                (pydantic), or a `pb.JsonSchema`. Tokens that would break it are never drawn. A row that ends at
                `max_tokens` or with a stop text ends in the middle of it.
            grammar: the text is one of this grammar: Lark, in llguidance's dialect. Excludes `json_schema`.
            tools: functions that the model may call, in OpenAI's form; the prompt is a conversation. The calls that it
                writes are `GeneratedToken.tool_calls` and `Generation.tool_calls`, and no part of the text.
            tool_choice: `auto` (default), `none`, `required`, or the name of the function to call. A required call is
                enforced as `json_schema` is.
            parallel_tool_calls: without it a row ends with its first call.
            bos: as in `tokenize`.
            max_steps_ahead: steps the engine may run ahead of credit; 0: as far as buffers allow, 1: lockstep.
            chunk_budget_bytes: byte budget of one prefill chunk's captures; 0: the server's default.
            generation_id: name for `advance` and `steer`; empty: one is made up, see `started.stream_id`.
            resumable: the service keeps the stream for a while; `resume_capture` with the generation's id has it again.
                A connection that breaks is taken up where it broke, if the service had finished.
            kv_bits: keeps all keys and values in so many bits: 2, 3, 4, 5, 6 or 8; None: as they are. What is captured
                of them is then what attention makes of those bits.
            kv_group_size: numbers that share a scale: 32, 64 or 128.
            keep: collects all tensors in `Generation.cache`; without it they live as long as their token.
            auto_advance: with `max_steps_ahead`, asking for the next token gives the credit it needs. Without it,
                `Generation.advance` alone does.

        Returns:
            An iterator of `GeneratedToken`; the call has begun. Close it, or use `with`, to stop early.
        """
        if resumable:
            generation_id = generation_id or uuid.uuid4().hex
        call = requests.generate(
            prompt,
            hooks=hooks,
            hook_ids=hook_ids,
            interventions=interventions,
            model_id=model_id,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            stop=stop,
            stop_token_ids=stop_token_ids,
            ignore_eos=ignore_eos,
            top_logprobs=top_logprobs,
            n=n,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            repetition_penalty=repetition_penalty,
            penalty_context_size=penalty_context_size,
            penalize_generated_only=penalize_generated_only,
            logit_bias=logit_bias,
            json_schema=json_schema,
            grammar=grammar,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            bos=bos,
            max_steps_ahead=max_steps_ahead,
            chunk_budget_bytes=chunk_budget_bytes,
            generation_id=generation_id,
            resumable=resumable,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        return self._generation(
            call,
            StreamState(keep=keep, steps_ahead=max_steps_ahead or 1),
            auto_advance=auto_advance and max_steps_ahead > 0,
            resumption=GenerationRetry(call, self._retry) if resumable else None,
        )

    @client_method
    def advance(self, generation_id: str, steps: int = 1) -> Call[int]:
        """Grants further steps to a generation with `max_steps_ahead`; returns the steps granted so far.

        Raises:
            UnknownIdError: no generation of that id is running.
        """
        return requests.advance(generation_id, steps)

    @client_method
    def steer(self, generation_id: str, interventions: Sequence[InterventionLike]) -> Call[int]:
        """Replaces the interventions of a running generation; none: it goes on unedited.

        Returns:
            The first step that they govern.

        Raises:
            UnknownIdError: no generation of that id is running.
        """
        return requests.steer(generation_id, interventions)
