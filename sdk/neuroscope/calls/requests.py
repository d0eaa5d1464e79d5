"""Requests from plain Python values, and values from responses, for both clients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from neuroscope import interventions as edits
from neuroscope.activations.stream import warn
from neuroscope.base_client.call import Call, Stream, Upload
from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import InterventionLike
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2, tensor_pb2
from neuroscope.vocabulary import hooks as hook_forms
from neuroscope.vocabulary import json_schemas, prompts, tensors
from neuroscope.vocabulary import tools as tool_forms
from neuroscope.vocabulary.hooks import HookLike
from neuroscope.vocabulary.json_schemas import JsonSchemaLike
from neuroscope.vocabulary.model_info import ModelInfo, Tokens
from neuroscope.vocabulary.prompts import Prompt, PromptLike
from neuroscope.vocabulary.tensors import Array, parse_dtype
from neuroscope.vocabulary.tools import ToolChoiceLike, ToolLike
from neuroscope.wire import frames
from neuroscope.wire.rpc import RPCS


def load_model(
    model_path: str,
    report: Callable[[pb.LoadProgress], None],
    *,
    model_id: str,
    revision: str,
    adapter_path: str,
    dtype: str,
    dequantize: bool | None,
) -> Stream[pb.Model]:
    """LoadModel: reports progress and returns the model."""

    def take(response: pb.LoadModelResponse) -> list[pb.Model]:
        if response.HasField("progress"):
            report(response.progress)
        return [response.model] if response.HasField("model") else []

    request = pb.LoadModelRequest(
        model_path=str(model_path),
        model_id=model_id,
        revision=revision,
        adapter_path=str(adapter_path),
        dtype=parse_dtype(dtype),
        dequantize=dequantize,
    )
    return Stream("load_model", RPCS["LoadModel"], request, take)


def unload_model(model_id: str) -> Call[None]:
    """UnloadModel."""
    return Call("unload_model", RPCS["UnloadModel"], pb.UnloadModelRequest(model_id=model_id), lambda response: None)


def models() -> Call[list[pb.Model]]:
    """ListModels."""
    return Call("models", RPCS["ListModels"], pb.ListModelsRequest(), lambda response: list(response.models))


def model(model_id: str) -> Call[ModelInfo]:
    """GetModel."""
    return Call("model", RPCS["GetModel"], pb.GetModelRequest(model_id=model_id), ModelInfo)


def tokenize(prompt: Prompt, *, model_id: str, bos: bool | None) -> Call[Tokens]:
    """Tokenize; warnings of the server become Python's."""

    def result(response: pb.TokenizeResponse) -> Tokens:
        warn(response.warnings)
        return Tokens(list(response.token_ids), list(response.tokens), tuple(response.warnings))

    request = pb.TokenizeRequest(model_id=model_id, prompt=prompts.to_message(prompt, bos))
    return Call("tokenize", RPCS["Tokenize"], request, result)


def detokenize(ids: Iterable[SupportsIndex] | Array, *, model_id: str, skip_special_tokens: bool) -> Call[str]:
    """Detokenize."""
    request = pb.DetokenizeRequest(
        model_id=model_id, token_ids=prompts.token_ids(ids), skip_special_tokens=skip_special_tokens
    )
    return Call("detokenize", RPCS["Detokenize"], request, lambda response: response.text)


def register_hooks(hooks: Sequence[HookLike], model_id: str) -> Call[list[str]]:
    """RegisterHooks."""
    request = pb.RegisterHooksRequest(hooks=hook_forms.to_messages(hooks), model_id=model_id)
    return Call("register_hooks", RPCS["RegisterHooks"], request, lambda response: list(response.hook_ids))


def list_hooks() -> Call[list[pb.HookSpec]]:
    """ListHooks."""
    return Call("hooks", RPCS["ListHooks"], pb.ListHooksRequest(), lambda response: list(response.hooks))


def clear_hooks(ids: Iterable[str]) -> Call[list[str]]:
    """ClearHooks."""
    request = pb.ClearHooksRequest(hook_ids=_texts(ids))
    return Call("clear_hooks", RPCS["ClearHooks"], request, lambda response: list(response.hook_ids))


def advance(generation_id: str, steps: int) -> Call[int]:
    """AdvanceGeneration; returns the steps granted so far."""
    request = pb.AdvanceGenerationRequest(generation_id=generation_id, steps=steps)
    return Call("advance", RPCS["AdvanceGeneration"], request, lambda response: response.granted_steps)


def steer(generation_id: str, interventions: Sequence[InterventionLike]) -> Call[int]:
    """Steer; returns the first step with the new interventions."""
    request = pb.SteerRequest(generation_id=generation_id, interventions=edits.to_messages(interventions))
    return Call("steer", RPCS["Steer"], request, lambda response: response.first_step)


def put_tensor(tensor: ArrayLike, time_to_live_s: float | None) -> Upload[str]:
    """PutTensor: the header, then the bytes in slices."""
    if time_to_live_s is not None and not 0 < time_to_live_s < math.inf:
        raise InvalidRequestError(f"a time to live must be positive, not {time_to_live_s!r} s", field="time_to_live_s")
    array = tensors.to_array(tensor)
    header = pb.TensorHeader(
        dtype=parse_dtype(array.dtype.name), shape=array.shape, time_to_live_ms=math.ceil(1e3 * (time_to_live_s or 0))
    )
    parts = itertools.chain(
        [pb.PutTensorRequest(header=header)], frames.slice_frames(array.reshape(-1).view(np.uint8).data)
    )
    return Upload("put_tensor", RPCS["PutTensor"], parts, lambda response: response.tensor_id)


def workload() -> Call[telemetry_pb2.GetWorkloadResponse]:
    """GetWorkload."""
    return Call("workload", RPCS["GetWorkload"], telemetry_pb2.GetWorkloadRequest(), lambda response: response)


def trace(trace_id: str) -> Call[bytes]:
    """GetTrace."""
    request = telemetry_pb2.GetTraceRequest(trace_id=trace_id)
    return Call("trace", RPCS["GetTrace"], request, lambda response: response.traces_data)


def generate(
    prompt: PromptLike,
    *,
    hooks: Sequence[HookLike],
    hook_ids: Iterable[str],
    interventions: Sequence[InterventionLike],
    model_id: str,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    top_k: int,
    min_p: float,
    seed: int | None,
    stop: str | Iterable[str],
    stop_token_ids: Iterable[SupportsIndex],
    ignore_eos: bool,
    top_logprobs: int,
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
    bos: bool | None,
    max_steps_ahead: int,
    chunk_budget_bytes: int,
    generation_id: str,
    resumable: bool = False,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
) -> Call[None]:
    """Generate; its stream is folded by `stream.StreamState`."""
    if json_schema is not None and grammar is not None:
        raise InvalidRequestError("json_schema and grammar exclude each other", field="grammar")
    rows = prompts.to_messages(prompt, bos)
    offered = tool_forms.to_messages(tools)
    choice = tool_forms.to_choice(tool_choice, parallel=parallel_tool_calls)
    if offered or tool_choice is not None:
        rows = prompts.with_tools(rows, offered, choice)
    request = pb.GenerateRequest(
        model_id=model_id,
        prompts=rows,
        sampling=pb.Sampling(
            max_tokens=max_tokens or 0,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            stop=_texts(stop),
            stop_token_ids=prompts.token_ids(stop_token_ids, "stop_token_ids"),
            ignore_eos=ignore_eos,
            top_logprobs=top_logprobs,
            presence_penalty=presence_penalty or None,
            frequency_penalty=frequency_penalty or None,
            repetition_penalty=None if repetition_penalty == 1 else repetition_penalty,
            penalty_context_size=penalty_context_size,
            penalize_generated_only=penalize_generated_only,
            logit_bias=_bias(logit_bias or {}),
            rows_per_prompt=_rows(n),
            json_schema=None if json_schema is None else json_schemas.to_message(json_schema),
            grammar=grammar,  # type: ignore[arg-type]  # None: absent
        ),
        hooks=hook_forms.to_messages(hooks),
        hook_ids=_texts(hook_ids),
        interventions=edits.to_messages(interventions),
        max_steps_ahead=max_steps_ahead,
        generation_id=generation_id,
        chunk_budget_bytes=chunk_budget_bytes,
        resumable=resumable,
        cache_quantization=_cache_quantization(kv_bits, kv_group_size),
    )
    return Call("generate", RPCS["Generate"], request, lambda response: None)


def capture(
    prompt: PromptLike,
    sites: Sequence[HookLike],
    *,
    model_id: str,
    hook_ids: Iterable[str],
    interventions: Sequence[InterventionLike],
    bos: bool | None,
    stop_at_layer: int | None,
    chunk_budget_bytes: int,
    resumable: bool = False,
    capture_id: str = "",
    kv_bits: int | None = None,
    kv_group_size: int = 64,
) -> Call[None]:
    """Capture; its stream is folded by `stream.StreamState`."""
    request = pb.CaptureRequest(
        model_id=model_id,
        prompts=prompts.to_messages(prompt, bos),
        hooks=hook_forms.to_messages(sites),
        hook_ids=_texts(hook_ids),
        interventions=edits.to_messages(interventions),
        stop_at_layer=stop_at_layer,
        chunk_budget_bytes=chunk_budget_bytes,
        resumable=resumable,
        capture_id=capture_id,
        cache_quantization=_cache_quantization(kv_bits, kv_group_size),
    )
    return Call("capture", RPCS["Capture"], request, lambda response: None)


def estimate_capture(captured: Call[None]) -> Call[pb.EstimateCaptureResponse]:
    """EstimateCapture of a capture's call."""
    assert isinstance(captured.request, pb.CaptureRequest)
    request = pb.EstimateCaptureRequest(capture=captured.request)
    return Call("estimate_capture", RPCS["EstimateCapture"], request, lambda response: response)


def get_capture(capture_id: str) -> Call[pb.CaptureRecord]:
    """GetCapture."""
    request = pb.GetCaptureRequest(capture_id=capture_id)
    return Call("get_capture", RPCS["GetCapture"], request, lambda response: response.capture)


def captures() -> Call[list[pb.CaptureRecord]]:
    """ListCaptures."""
    return Call("captures", RPCS["ListCaptures"], pb.ListCapturesRequest(), lambda response: list(response.captures))


def delete_capture(capture_id: str) -> Call[None]:
    """DeleteCapture."""
    request = pb.DeleteCaptureRequest(capture_id=capture_id)
    return Call("delete_capture", RPCS["DeleteCapture"], request, lambda response: None)


def captured_tensor(
    capture_id: str, plan_index: int, *, step: int, row: int, offset_bytes: int = 0, length_bytes: int = 0
) -> Call[None]:
    """GetCapturedTensor; its stream is read by `captured_tensor.CapturedTensor`."""
    tensor = tensor_pb2.CapturedTensor(capture_id=capture_id, plan_index=plan_index, step=step, row=row)
    request = pb.GetCapturedTensorRequest(tensor=tensor, offset_bytes=offset_bytes, length_bytes=length_bytes)
    return Call("captured_tensor", RPCS["GetCapturedTensor"], request, lambda response: None)


def _bias(logit_bias: Mapping[int, float]) -> dict[int, float]:
    ids = prompts.token_ids(logit_bias, "logit_bias")
    return dict(zip(ids, logit_bias.values(), strict=True))


def _rows(n: int) -> int:
    if n < 1:
        raise InvalidRequestError(f"n is at least 1, not {n}", field="n")
    return 0 if n == 1 else n


def _cache_quantization(kv_bits: int | None, kv_group_size: int) -> pb.CacheQuantization | None:
    return None if kv_bits is None else pb.CacheQuantization(bits=kv_bits, group_size=kv_group_size)


def _texts(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
