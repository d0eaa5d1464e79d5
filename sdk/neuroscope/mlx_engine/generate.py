"""Loading, tokenising and generating, with or without activations."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from neuroscope.activations.stream import GeneratedToken
from neuroscope.base_client.progress import LoadListener
from neuroscope.errors import IdTakenError, InvalidRequestError, NotImplementedByEngineError
from neuroscope.interventions import InterventionLike
from neuroscope.mlx_engine import engine
from neuroscope.mlx_engine.activation_hooks import (
    MAX_CAPTURED_BYTES,
    ActivationHookSpec,
    CapturedActivation,
    captured_activation,
    to_spec,
)
from neuroscope.mlx_engine.model_kit import ModelKit
from neuroscope.rest.hook_manager import HookSpecLike
from neuroscope.vocabulary.prompts import Prompt

# Parameters of mlx-engine's generator that this engine does not have: each with the values that ask for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "images_b64": (None, []),
    "max_image_size": (None,),
    "json_schema": (None,),
    "min_tokens_to_keep": (None, 1),
    "num_draft_tokens": (None, 0),
    "speculative_decoding_toggle": (None, False),
    "prompt_progress_callback": (None,),
}


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and the natural logarithm of its probability."""

    id: int
    text: str
    logprob: float
    from_draft: bool = False
    """Always false: there is no draft model."""


@dataclass(frozen=True, slots=True)
class GenerationStopCondition:
    """Why a generation ended."""

    stop_reason: str
    """`eos_found`, `stop_string` or `token_limit`."""
    stop_string: str
    """The stop text that came; empty: none did."""
    stop_tokens: list[int]
    """The end-of-sequence token that came, if one did."""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What one token adds."""

    text: str
    """Text that became final with it; it may be empty."""
    tokens: list[Token]
    """The token."""
    top_logprobs: list[list[Token]] = field(default_factory=list[list[Token]])
    """The likeliest tokens in its place, likeliest first, where they were asked for."""
    stop_condition: GenerationStopCondition | None = None
    """On the last one: why it is the last."""


def load_model(
    model_path: str | PathLike[str],
    *,
    model_id: str = "",
    revision: str = "",
    adapter_path: str | PathLike[str] = "",
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    max_captured_bytes: int = MAX_CAPTURED_BYTES,
    progress: LoadListener = False,
) -> ModelKit:
    """Loads a model into this process.

    Args:
        model_path: a folder in mlx-lm's format, or a Hugging Face id.
        model_id, revision, adapter_path, progress: as in `Client.load_model`.
        kv_bits, kv_group_size: as in `Client.generate`.
        max_captured_bytes: most bytes that are kept of what registered hooks captured.

    Raises:
        ModelNotFoundError, ModelCorruptError, ModelUnsupportedError, IdTakenError
        NeuroScopeIntegrationError: the extra `inference` is not installed.
    """
    client = engine.client()
    model = client.load_model(
        model_path, model_id=model_id, revision=revision, adapter_path=adapter_path, progress=progress
    )
    return ModelKit(
        client, model.model_id, kv_bits=kv_bits, kv_group_size=kv_group_size, max_captured_bytes=max_captured_bytes
    )


def tokenize(model: ModelKit, prompt: Prompt) -> list[int]:
    """The token ids of a text or a conversation, as the model reads them."""
    return list(model.client.tokenize(prompt, model_id=model.model_id).ids)


def create_generator(
    model: ModelKit, tokens: Sequence[int], **parameters: Any
) -> Generator[GenerationResult, None, None]:
    """`create_generator_with_activations` without the activations; registered hooks capture all the same."""
    return (result for result, _ in create_generator_with_activations(model, tokens, **parameters))


def create_generator_with_activations(
    model: ModelKit,
    tokens: Sequence[int],
    *,
    activation_hooks: Sequence[HookSpecLike] = (),
    max_tokens: int | None = None,
    temp: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float | None = None,
    repetition_context_size: int = 20,
    seed: int | None = None,
    stop_strings: Sequence[str] | None = None,
    top_logprobs: int = 0,
    interventions: Sequence[InterventionLike] = (),
    **others: Any,
) -> Generator[tuple[GenerationResult, dict[str, list[CapturedActivation]]], None, None]:
    """Generates token by token, each with what was captured while it was computed.

    Args:
        model: a loaded model.
        tokens: the prompt, as `tokenize` gives it.
        activation_hooks: `ActivationHookSpec`s or REST objects, for this generation alone, beside those registered
            with the model.
        max_tokens: most tokens; None: the engine's default.
        temp: 0: always the likeliest token.
        top_p, top_k, min_p, seed, repetition_penalty: as in `Client.generate`; None or 0: no penalty.
        repetition_context_size: how many of the last tokens the penalty looks at.
        stop_strings: texts that end the generation; they are not part of the result.
        top_logprobs: so many likely alternatives of each token.
        interventions: what to edit, in any form of `neuroscope.interventions`.
        **others: further parameters of mlx-engine's generator, at the values that ask for nothing.

    Yields:
        The token and its activations by hook id: the prefill's with the first token (in pieces, if it ran in chunks),
        then one for each side and layer. The request begins with the first `next`; closing the generator cancels it.

    Raises, at once,
        IdTakenError: two hooks have one id.
        NotImplementedByEngineError: a parameter asks for what the engine does not have.
    and, while it is iterated, what `Client.generate` raises.
    """
    _check_others(others)
    specs = {spec.hook_id: spec for spec in model.hooks.specs}
    registered = frozenset(specs)
    for index, hook in enumerate(activation_hooks):
        spec = to_spec(hook)
        if spec.hook_id in specs:
            where = f"activation_hooks[{index}].hook_id"
            raise IdTakenError(f"two hooks have the id {spec.hook_id!r}", field=where)
        specs[spec.hook_id] = spec
    stops = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())

    def run() -> Generator[tuple[GenerationResult, dict[str, list[CapturedActivation]]], None, None]:
        with model.client.generate(
            list(tokens),
            hooks=[message for spec in specs.values() for message in spec.to_messages()],
            interventions=interventions,
            model_id=model.model_id,
            max_tokens=max_tokens,
            temperature=temp,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty or 1.0,
            penalty_context_size=repetition_context_size if repetition_penalty else 0,
            seed=seed,
            stop=stops,
            top_logprobs=top_logprobs,
            kv_bits=model.kv_bits,
            kv_group_size=model.kv_group_size,
            keep=False,
        ) as generation:
            told = {"model": model.model_id}
            ids: list[int] = []
            for token in generation:
                ids.append(token.token_id)
                activations = _activations(token, specs, told)
                model.hooks.keep(one for hook_id in registered for one in activations.get(hook_id, ()))
                yield _result(model, token, ids, stops), activations

    return run()


def _activations(
    token: GeneratedToken, specs: Mapping[str, ActivationHookSpec], metadata: Mapping[str, Any]
) -> dict[str, list[CapturedActivation]]:
    return {
        hook_id: [captured_activation(piece, specs[hook_id], metadata) for piece in pieces]
        for hook_id, pieces in token.activations.items()
    }


def _result(model: ModelKit, token: GeneratedToken, ids: Sequence[int], stops: Sequence[str]) -> GenerationResult:
    alternatives = [Token(other.token_id, other.text, other.logprob) for other in token.top_logprobs]
    stop = _stop_condition(model, token, ids, stops) if token.finish_reason else None
    one = Token(token.token_id, token.text, token.logprob)
    return GenerationResult(token.text, [one], [alternatives] if alternatives else [], stop)


def _stop_condition(
    model: ModelKit, token: GeneratedToken, ids: Sequence[int], stops: Sequence[str]
) -> GenerationStopCondition:
    if token.finish_reason == "length":
        return GenerationStopCondition("token_limit", "", [])
    if stops:
        text = model.client.detokenize(ids, model_id=model.model_id)
        found = [(text.find(stop), stop) for stop in stops if stop in text]
        if found:
            return GenerationStopCondition("stop_string", min(found)[1], [])
    return GenerationStopCondition("eos_found", "", [token.token_id])


def _check_others(parameters: Mapping[str, Any]) -> None:
    for name, value in parameters.items():
        if name not in _NEUTRAL:
            raise InvalidRequestError(f"there is no parameter {name!r}", field=name)
        if value not in _NEUTRAL[name]:
            raise NotImplementedByEngineError(f"the engine does not have {name}; leave it out", field=name)
