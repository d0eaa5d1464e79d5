"""Running rows: prefill in chunks, decode step by step, captures evaluated together with the token.

A run is a generator that the engine's thread advances; what it yields is evaluated and ready to send. Step 0 is the
prefill, whose last logits give the first token; step s reads the s-th generated token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from opentelemetry.context import Context

from neuroscope import telemetry
from neuroscope.frames import Outgoing
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.layout import ForwardStopped
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.reads import CapturePlan, Pending, Span
from neuroscope_inference.engine.sampling import Draw, Sampler
from neuroscope_inference.engine.stopping import StopMatcher

MAX_CHUNK_POSITIONS = 512
_LOGITS_BUDGET_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class StepResult:
    """What one forward pass produced: evaluated tensors, and at the end of a step its token."""

    step: int
    tensors: list[Outgoing]
    nbytes: int
    token: pb.TokenEvent | None = None


@dataclass(slots=True)
class Credit:
    """How far a run may go. The engine's thread reads it, others add to it."""

    granted_steps: int | None = None  # None: as far as buffers allow
    next_step: int = 0

    @property
    def allows_next(self) -> bool:
        """Whether the step that comes next may be computed."""
        return self.allows(self.next_step)

    def allows(self, step: int) -> bool:
        """Whether a step may be computed."""
        return self.granted_steps is None or step < self.granted_steps


@dataclass(slots=True)
class Timing:
    """Durations of a run, in seconds."""

    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(slots=True)
class Run:
    """The rows of one request."""

    model: LoadedModel
    prompts: Sequence[Sequence[int]]
    plan: CapturePlan
    chunk_budget_bytes: int
    context: Context
    credit: Credit = field(default_factory=Credit)
    timing: Timing = field(default_factory=Timing)
    generated_tokens: int = 0

    @property
    def chunk_positions(self) -> int:
        """Positions of one prefill chunk: what the byte budget holds, from the model and the request alone."""
        longest = max(len(prompt) for prompt in self.prompts)
        per_position = self.plan.bytes_per_position(longest)
        return max(1, min(MAX_CHUNK_POSITIONS, self.chunk_budget_bytes // max(per_position, 1)))

    def capture(self) -> Iterator[StepResult]:
        """One forward pass over every prompt, in chunks."""
        for row, prompt in enumerate(self.prompts):
            cache = make_prompt_cache(self.model.network)
            for span in self._chunks(row, prompt, whole=True):
                pending, _ = self._prefill_chunk(prompt, span, cache)
                yield _result(span.step, pending)

    def generate(self, sampler: Sampler) -> Iterator[StepResult]:
        """Generates every row, one step of each in turn."""
        rows = [_Row(self, sampler, row, prompt).steps() for row, prompt in enumerate(self.prompts)]
        while rows:
            going: list[Iterator[StepResult]] = []
            for row in rows:
                finished = True
                for result in row:
                    yield result
                    if result.token is not None:
                        finished = bool(result.token.finish_reason)
                        break
                if not finished:
                    going.append(row)
            rows = going
            self.credit.next_step += 1

    def _chunks(self, row: int, prompt: Sequence[int], *, whole: bool) -> Iterator[Span]:
        """Spans of the prefill. Logits of many positions are dear, so the last position may be a span of its own."""
        length = len(prompt)
        logits_bytes = 4 * self.model.description.vocab_size * min(length, self.chunk_positions)
        body = length if whole or logits_bytes <= _LOGITS_BUDGET_BYTES else length - 1
        for first in range(0, body, self.chunk_positions):
            yield Span(row, 0, first, min(self.chunk_positions, body - first), length)
        if body < length:
            yield Span(row, 0, body, 1, length)

    def _prefill_chunk(
        self, prompt: Sequence[int], span: Span, cache: list[Any], sampler: Sampler | None = None
    ) -> tuple[list[Pending], Draw | None]:
        """Computes one chunk; with a sampler it also draws the first token."""
        started = time.perf_counter()
        with telemetry.tracer().start_as_current_span("prefill", context=self.context) as recorded:
            tokens = mx.array([prompt[span.first : span.first + span.length]])
            pending, logits = self._forward(tokens, span, cache)
            draw = sampler.draw(logits[:, -1], span.row, 0) if sampler is not None and logits is not None else None
            mx.eval([p.array for p in pending], draw.arrays if draw else [], [layer.state for layer in cache])
            recorded.set_attribute(telemetry.STEP, 0)
            recorded.set_attribute(telemetry.TOKENS, span.length)
            recorded.set_attribute(telemetry.BYTES, sum(p.array.nbytes for p in pending))
        self.timing.prefill_s += time.perf_counter() - started
        return pending, draw

    def _forward(self, tokens: mx.array, span: Span, cache: list[Any]) -> tuple[list[Pending], mx.array | None]:
        """Builds the graph of one forward pass; nothing is computed yet."""
        tap = self.plan.tap(span)
        call: Any = self.model.network
        logits: mx.array | None = None
        with self.model.layout.switch.reading(tap):
            try:
                logits = call(tokens, cache=cache)
            except ForwardStopped:
                pass
        return self.plan.take(tap, span), logits


class _Row:
    """The generation of one row."""

    def __init__(self, run: Run, sampler: Sampler, row: int, prompt: Sequence[int]) -> None:
        self._run = run
        self._sampler = sampler
        self._row = row
        self._prompt = prompt
        self._cache: list[Any] = make_prompt_cache(run.model.network)
        self._detokenizer = run.model.detokenizer()
        self._matcher = StopMatcher(sampler.stop)
        eos = frozenset() if sampler.ignore_eos else frozenset(run.model.description.eos_token_ids)
        self._ends = eos | sampler.stop_token_ids
        context = run.model.description.context_length
        self._max_tokens = min(sampler.max_tokens, context - len(prompt) + 1) if context else sampler.max_tokens

    def steps(self) -> Iterator[StepResult]:
        """Prefill chunks, then steps. The next step is already being computed while one is read, if credit allows."""
        draw: Draw | None = None
        pending: list[Pending] = []
        spans = list(self._run._chunks(self._row, self._prompt, whole=False))
        for span in spans:
            last = span is spans[-1]
            pending, draw = self._run._prefill_chunk(self._prompt, span, self._cache, self._sampler if last else None)
            if not last:
                yield _result(0, pending)
        step = 0
        while draw is not None:
            ahead = None
            if step + 1 < self._max_tokens and self._run.credit.allows(step + 1):
                ahead = self._launch(draw, step + 1)
            result = self._finish(step, pending, draw)
            yield result
            if result.token is not None and result.token.finish_reason:
                return
            step += 1
            pending, draw = ahead if ahead is not None else self._launch(draw, step)

    def _launch(self, draw: Draw, step: int) -> tuple[list[Pending], Draw]:
        """Starts the forward pass over a drawn token, which need not be known yet."""
        span = Span(self._row, step, len(self._prompt) + step - 1, 1, len(self._prompt))
        pending, logits = self._run._forward(draw.token[:, None], span, self._cache)
        assert logits is not None  # a generation runs all layers
        following = self._sampler.draw(logits[:, -1], self._row, step)
        mx.async_eval([p.array for p in pending], following.arrays)
        return pending, following

    def _finish(self, step: int, pending: list[Pending], draw: Draw) -> StepResult:
        """Waits for a step and puts its token into words."""
        started = time.perf_counter()
        with telemetry.tracer().start_as_current_span(
            "decode" if step else "sample", context=self._run.context
        ) as recorded:
            mx.eval([p.array for p in pending], draw.arrays)
            result = _result(step, pending)
            result.token = self._token(step, draw)
            recorded.set_attribute(telemetry.STEP, step)
            recorded.set_attribute(telemetry.TOKENS, 1)
            recorded.set_attribute(telemetry.BYTES, result.nbytes)
        if step:
            self._run.timing.decode_s += time.perf_counter() - started
        self._run.generated_tokens += 1
        return result

    def _token(self, step: int, draw: Draw) -> pb.TokenEvent:
        token_id = int(draw.token.item())
        event = pb.TokenEvent(row=self._row, step=step, token_id=token_id, logprob=float(draw.logprob.item()))
        if draw.top_tokens is not None and draw.top_logprobs is not None:
            ids: list[list[int]] = draw.top_tokens.tolist()  # type: ignore[assignment]  # (1, k)
            logprobs: list[list[float]] = draw.top_logprobs.tolist()  # type: ignore[assignment]
            for alternative, logprob in zip(ids[0], logprobs[0], strict=True):
                event.top_logprobs.add(token_id=alternative, text=self._run.model.text_of(alternative), logprob=logprob)
        if token_id in self._ends:
            self._detokenizer.finalize()
            event.text = self._final_text()
            event.finish_reason = pb.FINISH_REASON_STOP
            return event
        self._detokenizer.add_token(token_id)
        is_last = step + 1 >= self._max_tokens
        if is_last:
            self._detokenizer.finalize()
        event.text, stopped = self._matcher.feed(self._detokenizer.last_segment)
        if stopped:
            event.finish_reason = pb.FINISH_REASON_STOP
        elif is_last:
            event.text += self._matcher.flush()
            event.finish_reason = pb.FINISH_REASON_LENGTH
        return event

    def _final_text(self) -> str:
        text, stopped = self._matcher.feed(self._detokenizer.last_segment)
        return text if stopped else text + self._matcher.flush()


def _result(step: int, pending: list[Pending]) -> StepResult:
    tensors = [p.outgoing() for p in pending]
    return StepResult(step, tensors, sum(tensor.data.nbytes for tensor in tensors))
