"""A scripted inference service: the real contract over a real grpc.aio server, without a model.

It answers with the tokens it was given, and with tensors whose values a test can compute (`FakeInference.tensor`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from neuroscope.errors import (
    ContextLengthError,
    IdTakenError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelNotFoundError,
    UnknownIdError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import site_pb2, telemetry_pb2, tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.tensors import numpy_dtype
from neuroscope.wire import status
from neuroscope.wire.codec import Event
from neuroscope.wire.frames import FramePacker, OutgoingTensor
from neuroscope.wire.rpc import RPCS, Rpc

NUM_LAYERS = 8
D_MODEL = 6
NUM_HEADS = 2
D_HEAD = 3
PROMPT_IDS = (11, 12, 13, 14)
VOCABULARY = 32


@dataclass
class Token:
    """A token of the script."""

    text: str
    token_id: int = 20
    logprob: float = -0.5
    tops: tuple[tuple[int, str, float], ...] | None = None  # absent: the token itself, then two others
    tool_calls: Sequence[pb.ToolCall] = ()


@dataclass
class Script:
    """What the next generations do."""

    tokens: list[Token] = field(default_factory=lambda: [Token("Hel"), Token("lo"), Token("!", 21)])
    finish: pb.FinishReason.ValueType = pb.FINISH_REASON_LENGTH
    dtype: tensor_pb2.DataType.ValueType = tensor_pb2.DATA_TYPE_FLOAT32
    chunks: int = 1  # of the prefill
    refusal: MLXIntegrationError | None = None  # before anything is sent
    refusals: list[MLXIntegrationError] = field(default_factory=list)  # of the first generations, one each
    failure: MLXIntegrationError | Exception | None = None  # after `fail_after` tokens
    fail_after: int = 0
    prefill_s: float = 0.0
    step_s: float = 0.0
    change: Callable[[np.ndarray], np.ndarray] | None = None  # of every tensor
    drop_manifest: bool = False


def tensor(component: str, layer: int | None, step: int, positions: int, keys: int, dtype: Any) -> np.ndarray:
    """The values of a tensor: all different, exact in bfloat16."""
    extents = {
        tensor_pb2.AXIS_BATCH: 1,
        tensor_pb2.AXIS_POSITION: positions,
        tensor_pb2.AXIS_KEY_POSITION: keys,
        tensor_pb2.AXIS_HEAD: NUM_HEADS,
        tensor_pb2.AXIS_D_HEAD: D_HEAD,
        tensor_pb2.AXIS_D_MODEL: D_MODEL,
        tensor_pb2.AXIS_D_MLP: 4 * D_MODEL,
        tensor_pb2.AXIS_VOCABULARY: VOCABULARY,
    }
    shape = [extents[axis] for axis in sites.COMPONENTS[component].axes]
    values = np.arange(np.prod(shape), dtype=np.float32) % 128 / 4 + (layer or 0) + step / 2
    return np.ascontiguousarray(values.reshape(shape).astype(dtype))


class FakeInference:
    """The service. Attributes are read and set by tests, from any thread.

    Attributes:
        script: what the next generations do.
        requests: every request so far, newest last.
        metadata: the metadata of each.
        cancelled: set when a generation was cancelled by its client.
        prefilling: set when a generation has begun and not yet given a token.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to one loaded model, no hooks, the default script."""
        self.script = Script()
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.models = {"tiny": _model("tiny", "/models/tiny")}
        self.hooks: list[pb.HookSpec] = []
        self.traces: dict[str, bytes] = {}
        self.cancelled = threading.Event()
        self.prefilling = threading.Event()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers every scripted call with a server."""
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for rpc in RPCS.values():
            if (behaviour := getattr(self, rpc.method, None)) is not None:
                services.setdefault(rpc.service, {})[rpc.method] = self._handler(rpc, behaviour)
        for name, handlers in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    def _handler(self, rpc: Rpc, behaviour: Callable[[Any], Any]) -> grpc.RpcMethodHandler:
        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._note(request, context)
            try:
                return await behaviour(request)
            except MLXIntegrationError as error:
                await context.abort_with_status(status.to_grpc_status(error))

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            self._note(request, context)
            try:
                async for event in behaviour(request):
                    yield event
            except MLXIntegrationError as error:
                await context.abort_with_status(status.to_grpc_status(error))
            except (asyncio.CancelledError, GeneratorExit):
                self.cancelled.set()
                raise

        make = grpc.unary_stream_rpc_method_handler if rpc.streams_responses else grpc.unary_unary_rpc_method_handler
        return make(  # pyright: ignore[reportCallIssue]
            stream if rpc.streams_responses else unary,  # pyright: ignore[reportArgumentType]
            request_deserializer=rpc.deserialize_request,
            response_serializer=rpc.serialize,
        )

    def _note(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.requests.append(request)
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})

    # Models.

    async def LoadModel(self, request: pb.LoadModelRequest) -> AsyncIterator[pb.LoadModelResponse]:
        if "missing" in request.model_path:
            raise ModelNotFoundError(f"there is no model at {request.model_path}", field="model_path")
        yield pb.LoadModelResponse(progress=pb.LoadProgress(phase=pb.LOAD_PHASE_READ, bytes_done=5, bytes_total=10))
        await asyncio.sleep(self.script.prefill_s)
        name = request.model_id or request.model_path.rstrip("/").rpartition("/")[2]
        self.models[name] = _model(name, request.model_path)
        yield pb.LoadModelResponse(model=self.models[name])

    async def ListModels(self, request: pb.ListModelsRequest) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=self.models.values())

    async def GetModel(self, request: pb.GetModelRequest) -> pb.GetModelResponse:
        return pb.GetModelResponse(
            model=self._model(request.model_id),
            points=[
                pb.HookPoint(
                    site=site_pb2.Site(component="resid_post", layer=3, side=site_pb2.SIDE_OUTPUT),
                    available=True,
                    axes=sites.COMPONENTS["resid_post"].axes,
                    dtype=tensor_pb2.DATA_TYPE_BFLOAT16,
                    module_path="model.layers.3",
                ),
                pb.HookPoint(
                    site=site_pb2.Site(component="router_logits", layer=3, side=site_pb2.SIDE_OUTPUT),
                    reason="this model has no experts",
                ),
            ],
            self_test=pb.SelfTest(
                logits_identical=True,
                token_count=8,
                duration_ms=12.5,
                identities=[pb.IdentityCheck(name="a == b", worst_relative_error=1e-7, tolerance=1e-5)],
            ),
        )

    async def Detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text="".join(f"<{number}>" for number in request.token_ids))

    # Hooks.

    async def RegisterHooks(self, request: pb.RegisterHooksRequest) -> pb.RegisterHooksResponse:
        ids: list[str] = []
        for index, hook in enumerate(request.hooks):
            points = sites.resolve(hook.site, NUM_LAYERS if request.model_id else None, field=f"hooks[{index}].site")
            if not hook.hook_id:
                hook.hook_id = str(points[0])
            elif hook.hook_id in {kept.hook_id for kept in self.hooks}:
                raise IdTakenError(f"the id {hook.hook_id!r} is taken", field=f"hooks[{index}].hook_id")
            ids.append(hook.hook_id)
        self.hooks.extend(request.hooks)
        return pb.RegisterHooksResponse(hook_ids=ids)

    async def ListHooks(self, request: pb.ListHooksRequest) -> pb.ListHooksResponse:
        return pb.ListHooksResponse(hooks=self.hooks)

    async def ClearHooks(self, request: pb.ClearHooksRequest) -> pb.ClearHooksResponse:
        known = list(dict.fromkeys(hook.hook_id for hook in self.hooks))
        wanted = list(request.hook_ids) or known
        for index, hook_id in enumerate(wanted):
            if hook_id not in known:
                raise UnknownIdError(f"no hook has the id {hook_id!r}", field=f"hook_ids[{index}]")
        self.hooks = [hook for hook in self.hooks if hook.hook_id not in wanted]
        return pb.ClearHooksResponse(hook_ids=wanted)

    # Traces.

    async def GetTrace(self, request: telemetry_pb2.GetTraceRequest) -> telemetry_pb2.GetTraceResponse:
        if request.trace_id not in self.traces:
            raise UnknownIdError(f"no trace {request.trace_id} here", field="trace_id")
        return telemetry_pb2.GetTraceResponse(traces_data=self.traces[request.trace_id])

    async def GetWorkload(self, request: telemetry_pb2.GetWorkloadRequest) -> telemetry_pb2.GetWorkloadResponse:
        return telemetry_pb2.GetWorkloadResponse(streams=2, decoding_rows=3, queue_wait_ms=0.5, weights_bytes=10**9)

    # Generation.

    async def Generate(self, request: pb.GenerateRequest) -> AsyncIterator[Event]:
        script = self.script
        if script.refusals:
            raise script.refusals.pop(0)
        if script.refusal is not None:
            raise script.refusal
        model = self._model(request.model_id)
        rows = len(request.prompts) * (request.sampling.rows_per_prompt or 1)
        specs = self._plan(request, script)
        for index, intervention in enumerate(request.interventions):
            if intervention.HasField("site"):  # that of features is left to their dictionary
                sites.resolve(intervention.site, NUM_LAYERS, field=f"interventions[{index}].site")
        for index, message in enumerate(request.prompts[0].chat.messages):
            if len(message.content) > 1000:
                field = f"prompts[0].chat.messages[{index}].content"
                raise ContextLengthError("the prompt has more tokens than the context of 256", field=field)
        limit = request.sampling.max_tokens or len(script.tokens)
        if limit > 10_000:
            raise InvalidRequestError("max_tokens is too large", field="sampling.max_tokens")
        yield pb.GenerateResponse(
            started=pb.StreamStarted(
                stream_id="g1", model_id=model.model_id, prompts=[pb.TokenIds(ids=PROMPT_IDS)] * rows, seed=7
            )
        )
        if specs:
            yield pb.GenerateResponse(plan=tensor_pb2.TensorPlan(tensors=specs))
        packer = FramePacker(specs)
        self.prefilling.set()
        await asyncio.sleep(script.prefill_s)
        tokens = script.tokens[:limit]
        for step, token in enumerate(tokens):
            if script.failure is not None and step == script.fail_after:
                raise script.failure
            last = step == len(tokens) - 1
            for row in range(rows):
                for frame in _frames(packer, row, step, script):
                    yield frame
                event = _event(token, step, request.sampling.top_logprobs, script, last)
                event.row = row
                yield pb.GenerateResponse(token=event)
            await asyncio.sleep(script.step_s)
        if not script.drop_manifest:
            usage = pb.Usage(prompt_tokens=len(request.prompts) * len(PROMPT_IDS), completion_tokens=rows * len(tokens))
            yield pb.GenerateResponse(manifest=_manifest(packer, usage))

    def _model(self, model_id: str) -> pb.Model:
        if not self.models:
            raise ModelNotFoundError("no model is loaded")
        if model_id and model_id not in self.models:
            raise ModelNotFoundError(f"no model {model_id!r} is loaded", field="model_id", valid=self.models)
        return self.models[model_id or next(iter(self.models))]

    def _plan(self, request: pb.GenerateRequest, script: Script) -> list[tensor_pb2.TensorSpec]:
        hooks = [(hook, f"hooks[{index}].site") for index, hook in enumerate(request.hooks)]
        for index, hook_id in enumerate(request.hook_ids):
            kept = [hook for hook in self.hooks if hook.hook_id == hook_id]
            if not kept:
                raise UnknownIdError(f"no hook has the id {hook_id!r}", field=f"hook_ids[{index}]")
            hooks.extend((hook, f"hook_ids[{index}]") for hook in kept)
        specs: list[tensor_pb2.TensorSpec] = []
        for hook, path in hooks:
            for point in sites.resolve(hook.site, NUM_LAYERS, field=path):
                specs.append(
                    tensor_pb2.TensorSpec(
                        plan_index=len(specs),
                        hook_id=hook.hook_id or str(point),
                        site=point.to_message(),
                        layer_name=hook.site.layer_name
                        or ("" if point.layer is None else f"model.layers.{point.layer}"),
                        dtype=script.dtype,
                        axes=sites.COMPONENTS[point.component].axes,
                    )
                )
        return specs


def _model(name: str, path: str) -> pb.Model:
    return pb.Model(
        model_id=name,
        model_path=path,
        architecture="llama",
        num_layers=NUM_LAYERS,
        d_model=D_MODEL,
        num_heads=NUM_HEADS,
        num_kv_heads=NUM_HEADS,
        d_head=D_HEAD,
        vocab_size=VOCABULARY,
        context_length=256,
        dtype=tensor_pb2.DATA_TYPE_BFLOAT16,
        parameter_count=1234,
        weights_bytes=2468,
        has_chat_template=True,
        bos_token_id=1,
        eos_token_ids=[2],
        loaded_at_ms=1_700_000_000_500,
    )


def _frames(packer: FramePacker, row: int, step: int, script: Script) -> Any:
    """The frames of a step; the prefill's in `script.chunks` chunks."""
    counts = [1] if step else np.diff(np.linspace(0, len(PROMPT_IDS), script.chunks + 1).astype(int)).tolist()
    first = len(PROMPT_IDS) + step - 1 if step else 0
    for count in counts:
        outgoing: list[OutgoingTensor] = []
        for spec in packer.specs:
            point = sites.Point.from_message(spec.site)
            array = tensor(point.component, point.layer, step, count, first + count, numpy_dtype(script.dtype))
            if script.change is not None:
                array = script.change(array)
            outgoing.append(OutgoingTensor(spec.plan_index, row, array.shape, first, memoryview(array.tobytes())))
        yield from packer.pack(step, outgoing)
        first += count


def _event(token: Token, step: int, top_logprobs: int, script: Script, last: bool) -> pb.TokenEvent:
    tops = token.tops
    if tops is None:
        tops = ((token.token_id, token.text, token.logprob), (30, "x", -2.0), (31, "y", -3.0))
    return pb.TokenEvent(
        step=step,
        token_id=token.token_id,
        text=token.text,
        logprob=token.logprob,
        top_logprobs=[pb.TokenLogprob(token_id=i, text=text, logprob=p) for i, text, p in tops[:top_logprobs]],
        finish_reason=script.finish if last else pb.FINISH_REASON_UNSPECIFIED,
        tool_calls=token.tool_calls,
    )


def _manifest(packer: FramePacker, usage: pb.Usage) -> pb.Manifest:
    return pb.Manifest(
        entries=[
            pb.ManifestEntry(
                plan_index=plan_index,
                hook_id=packer.specs[plan_index].hook_id,
                row=row,
                piece_count=digest.piece_count,
                position_count=digest.position_count,
                dtype=packer.specs[plan_index].dtype,
                length_bytes=digest.length_bytes,
                xxh3_64=digest.checksum,
            )
            for (plan_index, row), digest in packer.digests.items()
        ],
        usage=usage,
        frame_count=packer.frame_count,
    )
