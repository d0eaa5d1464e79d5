"""What Generate and Capture share: from prompts and hooks to a run, and from a run to the events of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias

from opentelemetry.context import Context

from neuroscope.errors import HookNeverFiredError, InvalidRequestError, UnavailableSiteError
from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import intervention_pb2
from neuroscope.vocabulary.tensors import Array
from neuroscope.wire.codec import Event
from neuroscope.wire.frames import SLICE_BYTES, FramePacker, OutgoingTensor
from neuroscope_inference.engine.caches import (
    DEFAULT_GROUP_SIZE,
    GROUP_SIZES,
    QUANTIZED_BITS,
    CacheQuantization,
)
from neuroscope_inference.engine.capture_plan import CapturePlan
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.engine import Engine
from neuroscope_inference.engine.forward import ForwardRunner
from neuroscope_inference.engine.model import LoadedModel, TokenizedPrompt
from neuroscope_inference.engine.results import StepResult
from neuroscope_inference.engine.row import Row
from neuroscope_inference.engine.run import Credit, Run
from neuroscope_inference.engine.steering import Steering
from neuroscope_inference.servicers.hooks import HookServicer
from neuroscope_inference.settings import InferenceSettings
from neuroscope_inference.shared_memory_pool import slice_bytes
from neuroscope_inference.tensor_references import TensorReferences

_DEFAULT_CONTEXT_LENGTH = 2**20  # where a model does not say
Response: TypeAlias = "type[pb.GenerateResponse] | type[pb.CaptureResponse] | type[pb.ResumeCaptureResponse]"
"""The message that carries a stream's events; their layouts agree."""


@dataclass(slots=True)
class PreparedRun:
    """A checked request, ready to run."""

    stream_id: str
    run: Run
    prompts: list[TokenizedPrompt]
    """Of each row."""
    rows_per_prompt: int
    slice_bytes: int = SLICE_BYTES
    """Most bytes of a large tensor in one frame."""
    seed: int = 0
    packer: FramePacker = field(init=False)

    def __post_init__(self) -> None:
        self.packer = FramePacker([read.spec for read in self.run.forward.plan.tensors], self.slice_bytes)


class Runner:
    """Prepares and streams runs."""

    def __init__(
        self, engine: Engine, hooks: HookServicer, tensors: TensorReferences, settings: InferenceSettings
    ) -> None:
        self._engine = engine
        self._hooks = hooks
        self._tensors = tensors
        self._settings = settings

    async def prepare(
        self,
        request: pb.GenerateRequest | pb.CaptureRequest,
        stream_id: str,
        context: Context,
        *,
        max_new_tokens: int = 0,
        rows_per_prompt: int = 1,
        stop_before: int | None = None,
        credit: Credit | None = None,
    ) -> PreparedRun:
        """Checks a request against its model. Nothing has run when it raises."""
        model = self._engine.model(request.model_id)
        read = await self._tokenize(model, request.prompts, rows_per_prompt)
        prompts = [prompt for prompt in read for _ in range(rows_per_prompt)]
        hooks = self._hooks.resolve(request.hooks, request.hook_ids)
        _check_lenses(model, hooks)
        plan = CapturePlan(model, hooks, len(prompts), stop_before, await self._resolve_directions(hooks))
        # The last generated token is not read by the model, so it has no position.
        plan.check_positions([len(prompt.ids) for prompt in prompts], max(max_new_tokens - 1, 0))
        lengths = [len(prompt.ids) for prompt in prompts]
        edits = await self.edit_plan(model, request.interventions, lengths, max_new_tokens, stop_before)
        forward = ForwardRunner(
            model,
            plan,
            Steering([(0, edits)]),
            request.chunk_budget_bytes or self._settings.chunk_budget_bytes,
            context,
            max(len(prompt.ids) for prompt in prompts),
            self._settings.memory_limit_bytes,
            await self._cache_quantization(model, request),
        )
        run = Run(forward, [prompt.ids for prompt in prompts], credit or Credit(), max_new_tokens)
        # A stream that is kept will also be read where memory is not shared.
        size = SLICE_BYTES if request.resumable else slice_bytes(context)
        return PreparedRun(stream_id, run, prompts, rows_per_prompt, size)

    async def _cache_quantization(
        self, model: LoadedModel, request: pb.GenerateRequest | pb.CaptureRequest
    ) -> CacheQuantization | None:
        if not request.HasField("cache_quantization"):
            return None
        asked, field = request.cache_quantization, "cache_quantization"
        if asked.bits not in QUANTIZED_BITS:
            raise InvalidRequestError(
                f"{asked.bits} bits: there are {_comma_separated(QUANTIZED_BITS)}", field=f"{field}.bits"
            )
        if asked.group_size and asked.group_size not in GROUP_SIZES:
            raise InvalidRequestError(
                f"groups of {asked.group_size}: there are {_comma_separated(GROUP_SIZES)}", field=f"{field}.group_size"
            )
        quantization = CacheQuantization(asked.bits, asked.group_size or DEFAULT_GROUP_SIZE)
        reason = await self._engine.call(lambda: model.why_not_quantised(quantization))
        if reason:
            raise InvalidRequestError(
                f"keys and values of {model.description.model_id} stay as they are: {reason}", field=field
            )
        return quantization

    async def edit_plan(
        self,
        model: LoadedModel,
        interventions: Sequence[intervention_pb2.Intervention],
        lengths: Sequence[int],
        max_new_tokens: int,
        stop_before: int | None = None,
    ) -> EditPlan:
        """Checks interventions against a model and the prompts that they edit."""
        context = model.description.context_length or _DEFAULT_CONTEXT_LENGTH
        horizon = min(max_new_tokens, context - min(lengths) + 1)
        plan = EditPlan, model, interventions, lengths, horizon, self._tensors.resolve_tensor, stop_before
        return await asyncio.to_thread(*plan)  # tensors may lie on disk

    async def events(
        self, prepared: PreparedRun, work: Iterator[StepResult | list[Row]], response: Response
    ) -> AsyncGenerator[Event, None]:
        """The events of a stream: what is about to be sent, frames before the token of their step, the manifest.

        Raises:
            HookNeverFiredError: a hook saw nothing until the end.
        """
        run, forward, packer = prepared.run, prepared.run.forward, prepared.packer
        yield response(
            started=pb.StreamStarted(
                stream_id=prepared.stream_id,
                model_id=forward.model.description.model_id,
                prompts=[pb.TokenIds(ids=prompt.ids) for prompt in prepared.prompts],
                seed=prepared.seed,
                warnings=[
                    warning for prompt in prepared.prompts[:: prepared.rows_per_prompt] for warning in prompt.warnings
                ],
            )
        )
        if forward.plan.tensors:
            yield response(plan=forward.plan.message(forward.chunk_positions))
        stream = self._engine.start(
            work, model=forward.model, may_compute=run.credit.allows, size=lambda result: result.nbytes
        )
        try:
            async with aclosing(stream.items()) as results:
                async for result in results:
                    held = result.nbytes
                    self._engine.counters.captured_bytes += held
                    with telemetry.child_span("serialise", forward.context) as span:
                        span.set_attribute(telemetry.STEP, result.step)
                        span.set_attribute(telemetry.BYTES, held)
                        frames = packer.pack(result.step, _pop_each(result.tensors))
                        first = next(frames, None)
                    while first is not None:
                        yield first
                        sent = min(first.nbytes, held)
                        held -= sent
                        stream.release(sent)
                        first = next(frames, None)
                    if held:
                        stream.release(held)
                    if result.token is not None:
                        self._engine.counters.generated_tokens += 1
                        yield response(token=result.token)  # type: ignore[call-arg]  # captures have none
        finally:
            stream.close()
        yield response(manifest=_manifest(prepared))

    async def _resolve_directions(self, hooks: Sequence[tuple[str, pb.HookSpec]]) -> list[Array | None]:
        """For every hook the directions that it projects on, if it does."""
        return [
            await asyncio.to_thread(
                self._tensors.resolve_tensor,
                hook.reduction.projection.directions,
                f"{field}.reduction.projection.directions",
            )
            if hook.reduction.WhichOneof("kind") == "projection"
            else None
            for field, hook in hooks
        ]

    async def _tokenize(
        self, model: LoadedModel, prompts: Sequence[pb.Prompt], rows_per_prompt: int
    ) -> list[TokenizedPrompt]:
        if not prompts:
            raise InvalidRequestError("there is no prompt", field="prompts")
        most = self._settings.max_prompts
        if len(prompts) > most:
            raise InvalidRequestError(f"at most {most} prompts a request", field="prompts")
        if len(prompts) * rows_per_prompt > most:
            raise InvalidRequestError(
                f"{rows_per_prompt} rows of each prompt: a request has at most {most} rows (the setting max_prompts)",
                field="sampling.rows_per_prompt",
            )
        return [
            await asyncio.to_thread(model.tokenize, prompt, f"prompts[{index}]") for index, prompt in enumerate(prompts)
        ]


def _check_lenses(model: LoadedModel, hooks: Sequence[tuple[str, pb.HookSpec]]) -> None:
    """Refuses a lens on a model whose end cannot be applied by itself."""
    reason = model.capabilities.why_no_lens
    for path, hook in hooks if reason else ():
        if hook.reduction.HasField("lens") and hook.site.component != "logits":  # which are taken as they are
            raise UnavailableSiteError(
                f"there is no lens of {model.description.model_id}: {reason}", field=f"{path}.reduction.lens"
            )


def _comma_separated(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _pop_each(tensors: list[OutgoingTensor]) -> Iterator[OutgoingTensor]:
    """Hands tensors over one by one, so that each one's memory is free as soon as it has left."""
    tensors.reverse()
    while tensors:
        yield tensors.pop()


def _manifest(prepared: PreparedRun) -> pb.Manifest:
    run = prepared.run
    run.forward.steering.current.check_applied()
    entries: list[pb.ManifestEntry] = []
    for read, row in run.forward.plan.expected(len(prepared.prompts)):
        digest = prepared.packer.digests.get((read.spec.plan_index, row))
        if digest is None:
            raise HookNeverFiredError(
                f"hook {read.spec.hook_id!r} ({read.point}) saw nothing in prompt {row}: "
                f"none of the steps and positions that it selects was run",
                field=read.field,
            )
        entries.append(
            pb.ManifestEntry(
                plan_index=read.spec.plan_index,
                hook_id=read.spec.hook_id,
                row=row,
                piece_count=digest.piece_count,
                position_count=digest.position_count,
                dtype=read.spec.dtype,
                length_bytes=digest.length_bytes,
                xxh3_64=digest.checksum,
            )
        )
    return pb.Manifest(
        entries=entries,
        usage=pb.Usage(
            prompt_tokens=sum(len(prompt.ids) for prompt in prepared.prompts[:: prepared.rows_per_prompt]),
            completion_tokens=run.forward.generated_tokens,
        ),
        frame_count=prepared.packer.frame_count,
        prefill_ms=1e3 * run.forward.timing.prefill_s,
        decode_ms=1e3 * run.forward.timing.decode_s,
        warnings=[run.forward.memory_warning] if run.forward.memory_warning else [],
    )
