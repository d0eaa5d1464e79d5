"""The client for event loops; its methods are those of `neuroscope.client.Client`, whose docstrings hold here too.

    async with AsyncClient() as client:
        async for token in client.generate("The capital of France is", hooks=["resid_post"], max_tokens=8):
            print(token.text, end="")

Calls about models are in `model_calls`, about kept streams in `kept_calls`, about sweeps in `experiments.calls`, about
weights in `weights.calls`, about datasets in `datasets.calls`; how a call is made is in `calling`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, SupportsIndex

from numpy.typing import ArrayLike
from opentelemetry import trace

from neuroscope import layer_predictions, requests, telemetry
from neuroscope.cache import ActivationCache
from neuroscope.datasets.calls import AsyncDatasetCalls
from neuroscope.dictionaries.calls import AsyncDictionaries
from neuroscope.experiments.calls import AsyncExperimentCalls
from neuroscope.frames import TensorPiece
from neuroscope.generation import AsyncGeneration
from neuroscope.hooks import HookLike
from neuroscope.interventions import InterventionLike
from neuroscope.kept_calls import AsyncKeptCalls
from neuroscope.layer_predictions import LayerPredictions
from neuroscope.progress import ByteListener
from neuroscope.prompts import PromptLike
from neuroscope.recovery import Recovery, Resumption
from neuroscope.stream import StreamState
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import telemetry_pb2
from neuroscope.weights.calls import AsyncWeightCalls


class AsyncClient(AsyncExperimentCalls, AsyncWeightCalls, AsyncKeptCalls, AsyncDatasetCalls):
    """Calls an inference service, on one event loop. Arguments and errors are those of `Client`."""

    @property
    def dictionaries(self) -> AsyncDictionaries:
        """Sparse autoencoders and transcoders of the loaded models; see `neuroscope.dictionaries`."""
        return AsyncDictionaries(self._unary, self._follow, self.attribute)

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

    async def capture_pieces(
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
    ) -> AsyncGenerator[TensorPiece, None]:
        """Captures without keeping anything: tensors come as they are made; as `Client.capture_pieces`."""
        call = requests.capture(
            prompt,
            sites,
            model_id=model_id,
            hook_ids=hook_ids,
            interventions=interventions,
            bos=bos,
            stop_at_layer=stop_at_layer,
            chunk_budget_bytes=chunk_budget_bytes,
        )
        fresh: list[TensorPiece] = []
        state = StreamState(keep=False, take=fresh.append)
        async with aclosing(self._transport.stream(call.rpc, call.request)) as events:
            async for event in events:
                state.feed(event)
                for piece in fresh:
                    yield piece
                fresh.clear()
        state.finish()

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
        return await self._follow(
            layer_predictions.steps(
                prompt,
                top_k=top_k,
                tokens=tokens,
                positions=positions,
                model_id=model_id,
                interventions=interventions,
                bos=bos,
            )
        )

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

    async def advance(self, generation_id: str, steps: int = 1) -> int:
        """Gives a generation with `max_steps_ahead` leave to compute further steps; returns those granted so far."""
        return await self._unary(requests.advance(generation_id, steps))

    async def steer(self, generation_id: str, interventions: Sequence[InterventionLike]) -> int:
        """Replaces the interventions of a running generation; returns the first step that they govern."""
        return await self._unary(requests.steer(generation_id, interventions))

    async def put_tensor(self, tensor: ArrayLike, *, time_to_live_s: float | None = None) -> str:
        """Uploads a tensor that interventions refer to; returns its id."""
        return await self._upload(requests.put_tensor(tensor, time_to_live_s))

    async def workload(self) -> telemetry_pb2.GetWorkloadResponse:
        """What the service is busy with: streams, rows, tokens and bytes so far, memory."""
        return await self._unary(requests.workload())

    async def trace(self, trace_id: str) -> bytes:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`."""
        return await self._unary(requests.trace(trace_id))
