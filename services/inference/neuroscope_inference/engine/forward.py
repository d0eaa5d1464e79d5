"""Forward passes of one request: graphs with their reads, and prefill chunks under a byte budget."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from opentelemetry.context import Context

from neuroscope import telemetry
from neuroscope_inference.engine.layout import ForwardStopped
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.reads import CapturePlan, Pending, Span, StepResult
from neuroscope_inference.engine.sampling import Draw, Sampler

MAX_CHUNK_POSITIONS = 512
_LOGITS_BUDGET_BYTES = 64 * 1024 * 1024

Cache = list[Any]


@dataclass(slots=True)
class Timing:
    """Durations of a run, in seconds."""

    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(slots=True)
class Forward:
    """Builds and evaluates the forward passes of one request.

    Args:
        model: what runs.
        plan: what is read.
        chunk_budget_bytes: captures of one prefill chunk may take this many bytes.
        context: the trace that spans belong to.
        longest_prompt: tokens of the request's longest prompt.
    """

    model: LoadedModel
    plan: CapturePlan
    chunk_budget_bytes: int
    context: Context
    longest_prompt: int
    timing: Timing = field(default_factory=Timing)

    @property
    def chunk_positions(self) -> int:
        """Positions of one prefill chunk: what the byte budget holds, from the model and the request alone."""
        per_position = max(self.plan.bytes_per_position(self.longest_prompt), 1)
        return max(1, min(MAX_CHUNK_POSITIONS, self.chunk_budget_bytes // per_position))

    def chunks(self, row: int, length: int, *, needs_logits: bool) -> Iterator[Span]:
        """Spans of a prefill.

        The model computes logits for every position of the chunk whose last logits are needed. Where those are dear,
        the last position is a chunk of its own.
        """
        positions = self.chunk_positions
        logits_bytes = 4 * self.model.description.vocab_size * min(length, positions)
        body = length - 1 if needs_logits and logits_bytes > _LOGITS_BUDGET_BYTES else length
        for first in range(0, body, positions):
            yield Span(row, 0, first, min(positions, body - first), length)
        if body < length:
            yield Span(row, 0, body, 1, length)

    def prefill(
        self, prompt: Sequence[int], span: Span, cache: Cache, sampler: Sampler | None = None
    ) -> tuple[list[Pending], Draw | None]:
        """Computes one chunk; with a sampler it also draws the first token."""
        started = time.perf_counter()
        with telemetry.tracer().start_as_current_span("prefill", context=self.context) as recorded:
            tokens = mx.array([prompt[span.first : span.first + span.length]])
            pending, logits = self.build(tokens, span, cache)
            draw = sampler.draw(logits[:, -1], span.row, 0) if sampler is not None and logits is not None else None
            mx.eval([p.array for p in pending], draw.arrays if draw else [], [layer.state for layer in cache])
            recorded.set_attribute(telemetry.STEP, 0)
            recorded.set_attribute(telemetry.TOKENS, span.length)
            recorded.set_attribute(telemetry.BYTES, sum(p.array.nbytes for p in pending))
        self.timing.prefill_s += time.perf_counter() - started
        return pending, draw

    def chunk(self, prompt: Sequence[int], span: Span, cache: Cache) -> StepResult:
        """Computes one chunk of which nothing but its captures is wanted. Only the result holds their memory."""
        pending, _ = self.prefill(prompt, span, cache)
        return StepResult.of(span.step, pending)

    def build(self, tokens: mx.array, span: Span, cache: Cache) -> tuple[list[Pending], mx.array | None]:
        """Builds the graph of one forward pass; nothing is computed yet. No logits if the plan stops before them."""
        tap = self.plan.tap(span)
        call: Any = self.model.network
        logits: mx.array | None = None
        reading = contextlib.nullcontext() if tap is None else self.model.layout.switch.reading(tap)
        with reading, contextlib.suppress(ForwardStopped):
            logits = call(tokens, cache=cache)
        with telemetry.tracer().start_as_current_span("capture", context=self.context) as recorded:
            pending = self.plan.take(tap, span)
            recorded.set_attribute(telemetry.STEP, span.step)
            recorded.set_attribute("neuroscope.tensors", len(pending))
            recorded.set_attribute(telemetry.BYTES, sum(p.array.nbytes for p in pending))
        return pending, logits
