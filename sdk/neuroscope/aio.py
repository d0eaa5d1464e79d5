"""The client for event loops; its methods are those of `neuroscope.client.Client`, whose docstrings hold here too.

    async with AsyncClient() as client:
        async for token in client.generate("The capital of France is", hooks=["resid_post"], max_tokens=8):
            print(token.text, end="")

All logic is in modules that both clients share; here are only the calls.
"""

from __future__ import annotations

import operator
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from os import PathLike, fspath
from types import TracebackType
from typing import Any, SupportsIndex, TypeVar

from numpy.typing import ArrayLike
from opentelemetry import trace
from tenacity import AsyncRetrying

from neuroscope import layer_predictions, requests, telemetry
from neuroscope.cache import ActivationCache
from neuroscope.client import DEFAULT_TARGET, TEXTS_AT_ONCE
from neuroscope.endpoint import Endpoint
from neuroscope.errors import StreamingError
from neuroscope.experiments.experiment import Experiment
from neuroscope.experiments.grids import ValueLike
from neuroscope.experiments.patching import Patching, ablation, patching
from neuroscope.experiments.progress import SweepListener, sweep_listener
from neuroscope.experiments.result import SweepResult
from neuroscope.generation import AsyncGeneration
from neuroscope.hooks import HookLike
from neuroscope.interventions import InterventionLike
from neuroscope.layer_predictions import LayerPredictions
from neuroscope.model_info import ModelInfo, Tokens
from neuroscope.progress import ByteListener, LoadListener, byte_listener, load_listener
from neuroscope.prompts import Prompt, PromptLike
from neuroscope.recovery import Recovery, Resumption, Retry
from neuroscope.requests import Call, CapturedTensor, Upload
from neuroscope.rpc import RPCS
from neuroscope.stream import StreamState
from neuroscope.tensors import Array
from neuroscope.tls import Tls
from neuroscope.transport import LOCAL, AsyncGrpcTransport, AsyncTransport, open_async_transport
from neuroscope.v1 import experiment_pb2 as pb_experiments
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2

T = TypeVar("T")


class AsyncClient:
    """Calls an inference service, on one event loop. Arguments and errors are those of `Client`."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        transport: AsyncTransport | None = None,
        timeout_s: float | None = None,
        tls: Tls | bool | None = None,
        token: str = "",
        shared_memory: bool = True,
        retry: Retry | None = None,
    ) -> None:
        if transport is None:
            endpoint = None if target == LOCAL else Endpoint(target, tls, token, shared_memory)
            transport = open_async_transport(target) if endpoint is None else AsyncGrpcTransport(endpoint)
        self._transport = transport
        self._timeout_s = timeout_s
        self._retry = retry or Retry()

    @classmethod
    def local(cls, **settings: Any) -> AsyncClient:
        """A client of the engine in this process, started with the settings of the inference service."""
        return cls(transport=open_async_transport(LOCAL, **settings))

    async def close(self) -> None:
        """Ends running calls and frees the connection."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # Models.

    async def load_model(
        self,
        model_path: str | PathLike[str],
        *,
        model_id: str = "",
        revision: str = "",
        adapter_path: str | PathLike[str] = "",
        progress: LoadListener = False,
    ) -> pb.Model:
        """Loads a model into the service and waits until it is ready."""
        call = requests.load_model(
            fspath(model_path), model_id=model_id, revision=revision, adapter_path=fspath(adapter_path)
        )
        with self._span(call.name), load_listener(progress) as report:
            async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
                async for event in events:
                    if (model := requests.loaded(event, report)) is not None:
                        return model
        raise StreamingError("the load ended without a model")

    async def unload_model(self, model_id: str) -> None:
        """Frees a model."""
        return await self._unary(requests.unload_model(model_id))

    async def models(self) -> list[pb.Model]:
        """The loaded models, in the order in which they were loaded."""
        return await self._unary(requests.models())

    async def model(self, model_id: str = "") -> ModelInfo:
        """Describes a model and every point of it that can be captured; without a name: the one loaded first."""
        return await self._unary(requests.model(model_id))

    async def tokenize(self, prompt: Prompt, *, model_id: str = "", bos: bool | None = None) -> Tokens:
        """The token ids of a prompt, as the model would read them."""
        return await self._unary(requests.tokenize(prompt, model_id=model_id, bos=bos))

    async def detokenize(
        self, ids: Iterable[SupportsIndex] | Array, *, model_id: str = "", skip_special_tokens: bool = False
    ) -> str:
        """The text of token ids."""
        return await self._unary(requests.detokenize(ids, model_id=model_id, skip_special_tokens=skip_special_tokens))

    # Hooks kept by the service.

    async def register_hooks(self, hooks: Sequence[HookLike], model_id: str = "") -> list[str]:
        """Stores hooks under their ids for later requests (`hook_ids=`); all of them or none."""
        return await self._unary(requests.register_hooks(hooks, model_id))

    async def hooks(self) -> list[pb.HookSpec]:
        """The stored hooks."""
        return await self._unary(requests.list_hooks())

    async def clear_hooks(self, ids: Iterable[str] = ()) -> list[str]:
        """Removes stored hooks, all if none is named, and returns the ids of those removed."""
        return await self._unary(requests.clear_hooks(ids))

    # Running the model.

    def generate(
        self,
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
        bos: bool | None = None,
        max_steps_ahead: int = 0,
        chunk_budget_bytes: int = 0,
        generation_id: str = "",
        resumable: bool = False,
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        keep: bool = True,
        auto_advance: bool = True,
    ) -> AsyncGeneration:
        """Generates text, activations captured and edited; iterate with `async for`, no await before it."""
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
            bos=bos,
            max_steps_ahead=max_steps_ahead,
            chunk_budget_bytes=chunk_budget_bytes,
            generation_id=generation_id,
            resumable=resumable,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        span = telemetry.tracer().start_span(f"neuroscope.{call.name}")
        resumption = Resumption(call, self._retry) if resumable else None
        with trace.use_span(span):
            events = self._transport.stream(call.rpc, call.request)
        return AsyncGeneration(
            events,
            StreamState(keep=keep, steps_ahead=max_steps_ahead or 1),
            span,
            self.advance,
            self.steer,
            auto_advance=auto_advance and max_steps_ahead > 0,
            resumption=resumption,
            open_stream=lambda again: self._transport.stream(again.rpc, again.request),
        )

    async def capture(
        self,
        prompt: PromptLike,
        sites: Sequence[HookLike],
        *,
        model_id: str = "",
        hook_ids: Iterable[str] = (),
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
        stop_at_layer: int | None = None,
        chunk_budget_bytes: int = 0,
        resumable: bool = False,
        capture_id: str = "",
        kv_bits: int | None = None,
        kv_group_size: int = 64,
        progress: ByteListener = False,
    ) -> ActivationCache:
        """Runs prompts once, without sampling, and returns what was captured."""
        if resumable:
            capture_id = capture_id or uuid.uuid4().hex
        call = requests.capture(
            prompt,
            sites,
            model_id=model_id,
            hook_ids=hook_ids,
            interventions=interventions,
            bos=bos,
            stop_at_layer=stop_at_layer,
            chunk_budget_bytes=chunk_budget_bytes,
            resumable=resumable,
            capture_id=capture_id,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        return await self._captured(Recovery(call, self._retry, capture_id if resumable else ""), "capturing", progress)

    async def logit_lens(
        self,
        prompt: PromptLike,
        *,
        top_k: int = 5,
        tokens: Sequence[str | SupportsIndex] = (),
        positions: Any = None,
        model_id: str = "",
        interventions: Sequence[InterventionLike] = (),
        bos: bool | None = None,
    ) -> LayerPredictions:
        """As `Client.logit_lens`."""
        asked: list[int] = []
        for token in tokens:
            if isinstance(token, str):
                found = await self.tokenize(token, model_id=model_id, bos=False)
                asked.append(layer_predictions.single_token(token, found.ids, found.tokens))
            else:
                asked.append(operator.index(token))
        hooks = layer_predictions.hooks(top_k, asked, positions)
        cache = await self.capture(prompt, hooks, model_id=model_id, interventions=interventions, bos=bos)
        shown = layer_predictions.shown_token_ids(cache, asked)
        texts: dict[int, str] = {}
        for first in range(0, len(shown), TEXTS_AT_ONCE):
            some = shown[first : first + TEXTS_AT_ONCE]
            texts |= zip(some, (await self.tokenize(some, model_id=model_id)).tokens, strict=True)
        return layer_predictions.of_cache(cache, asked, texts)

    async def estimate_capture(
        self,
        prompt: PromptLike,
        sites: Sequence[HookLike],
        *,
        model_id: str = "",
        hook_ids: Iterable[str] = (),
        bos: bool | None = None,
        stop_at_layer: int | None = None,
        chunk_budget_bytes: int = 0,
        interventions: Sequence[InterventionLike] = (),
        kv_bits: int | None = None,
        kv_group_size: int = 64,
    ) -> pb.EstimateCaptureResponse:
        """What a capture of the same arguments would cost."""
        captured = requests.capture(
            prompt,
            sites,
            model_id=model_id,
            hook_ids=hook_ids,
            bos=bos,
            stop_at_layer=stop_at_layer,
            chunk_budget_bytes=chunk_budget_bytes,
            interventions=interventions,
            kv_bits=kv_bits,
            kv_group_size=kv_group_size,
        )
        return await self._unary(requests.estimate_capture(captured))

    # Captures and generations that the service keeps.

    async def resume_capture(
        self, capture_id: str, *, restart_token: str = "", progress: ByteListener = False
    ) -> ActivationCache:
        """The tensors of a capture or generation that was `resumable`, byte for byte."""
        call = requests.resume_capture(capture_id, restart_token=restart_token)
        recovery = Recovery(call, self._retry, capture_id, restarts=bool(restart_token))
        return await self._captured(recovery, "resuming", progress)

    async def get_capture(self, capture_id: str) -> pb.CaptureRecord:
        """State, plan, manifest and time of expiry of what is kept under an id."""
        return await self._unary(requests.get_capture(capture_id))

    async def captures(self) -> list[pb.CaptureRecord]:
        """What the service keeps, oldest first."""
        return await self._unary(requests.captures())

    async def delete_capture(self, capture_id: str) -> None:
        """Removes what is kept under an id."""
        return await self._unary(requests.delete_capture(capture_id))

    async def captured_tensor(self, capture_id: str, plan_index: int, *, step: int = 0, row: int = 0) -> Array:
        """One tensor of what is kept under an id: of one step and row, (1, ...), without the rest of the stream."""
        state = requests.CapturedTensor()
        parts = self.captured_tensor_bytes(state, capture_id, plan_index, step=step, row=row)
        return state.array([part async for part in parts])

    async def captured_tensor_bytes(
        self,
        state: CapturedTensor,
        capture_id: str,
        plan_index: int,
        *,
        step: int = 0,
        row: int = 0,
        offset_bytes: int = 0,
        length_bytes: int = 0,
    ) -> AsyncGenerator[memoryview, None]:
        """The bytes of such a tensor as they come, or of a range; an empty part says that the header is there.

        Args:
            state: gets the header.
            capture_id, plan_index, step, row: as in `captured_tensor`.
            offset_bytes: first byte; negative: from the end.
            length_bytes: 0: to the end.
        """
        call = requests.captured_tensor(
            capture_id, plan_index, step=step, row=row, offset_bytes=offset_bytes, length_bytes=length_bytes
        )
        async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
            async for event in events:
                yield state.feed(event) or memoryview(b"")
        state.finish()

    async def advance(self, generation_id: str, steps: int = 1) -> int:
        """Gives a generation with `max_steps_ahead` leave to compute further steps; returns those granted so far."""
        return await self._unary(requests.advance(generation_id, steps))

    async def steer(self, generation_id: str, interventions: Sequence[InterventionLike]) -> int:
        """Replaces the interventions of a running generation; returns the first step that they govern."""
        return await self._unary(requests.steer(generation_id, interventions))

    # Experiments.

    def patch(
        self,
        clean: PromptLike,
        corrupted: PromptLike,
        *,
        into: str = "corrupted",
        model_id: str = "",
        bos: bool | None = None,
    ) -> Patching[Coroutine[Any, Any, SweepResult]]:
        """A sweep that puts activations of one run in the place of the other's; `run` is awaited."""
        return patching(clean, corrupted, self.sweep, into=into, model_id=model_id, bos=bos)

    def ablate(
        self, prompt: PromptLike, value: ValueLike = 0.0, *, model_id: str = "", bos: bool | None = None
    ) -> Patching[Coroutine[Any, Any, SweepResult]]:
        """A sweep that puts something else in the place of activations; `run` is awaited."""
        return ablation(prompt, self.sweep, value=value, model_id=model_id, bos=bos)

    async def sweep_events(self, result: SweepResult) -> AsyncGenerator[pb_experiments.RunSweepResponse, None]:
        """Runs what a result still lacks; every event as it comes, once the result holds it."""
        async with aclosing(self._transport.stream(RPCS["RunSweep"], result.request())) as events:
            async for event in events:
                yield result.feed(event)

    async def sweep(
        self, experiment: Experiment, *, progress: SweepListener = False, result: SweepResult | None = None
    ) -> SweepResult:
        """Runs an experiment."""
        result = SweepResult(experiment) if result is None else result
        with sweep_listener(progress) as report:
            async with aclosing(self.sweep_events(result)) as events:
                async for event in events:
                    if event.HasField("progress"):
                        report(event.progress)
        result.finish()
        result.tokens = (await self.tokenize(result.edited_tokens, model_id=experiment.request.model_id)).tokens
        return result

    async def put_tensor(self, tensor: ArrayLike, *, time_to_live_s: float | None = None) -> str:
        """Uploads a tensor that interventions refer to; returns its id."""
        return await self._upload(requests.put_tensor(tensor, time_to_live_s))

    async def workload(self) -> telemetry_pb2.GetWorkloadResponse:
        """What the service is busy with: streams, rows, tokens and bytes so far, memory."""
        return await self._unary(requests.workload())

    async def trace(self, trace_id: str) -> bytes:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`."""
        return await self._unary(requests.trace(trace_id))

    async def _captured(self, recovery: Recovery, what: str, progress: ByteListener) -> ActivationCache:
        with self._span(recovery.call.name) as span, byte_listener(progress, what) as report:
            async for attempt in AsyncRetrying(**recovery.policy()):
                with attempt:
                    await self._feed(recovery.state, recovery.call, report)
                    recovery.state.finish()
            span.set_attributes(recovery.state.attributes())
        return recovery.state.cache

    async def _feed(self, state: StreamState, call: Call[None], report: Callable[[int], None]) -> None:
        async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
            async for event in events:
                state.feed(event)
                report(state.received_bytes)

    async def _unary(self, call: Call[T]) -> T:
        with self._span(call.name):
            return call.result(await self._transport.unary(call.rpc, call.request, timeout_s=self._timeout_s))

    async def _upload(self, call: Upload[T]) -> T:
        with self._span(call.name):
            return call.result(await self._transport.upload(call.rpc, call.requests, timeout_s=self._timeout_s))

    def _span(self, name: str) -> AbstractContextManager[trace.Span]:
        return telemetry.tracer().start_as_current_span(f"neuroscope.{name}")
