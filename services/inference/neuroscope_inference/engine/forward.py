"""Forward passes of one request: graphs with their reads, and prefill chunks under a byte budget."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from opentelemetry.context import Context

from neuroscope.errors import ResourceExhaustedError
from neuroscope.tracing import telemetry
from neuroscope_inference.engine import caches, memory
from neuroscope_inference.engine.caches import Cache, CacheQuantization
from neuroscope_inference.engine.capture_plan import CapturePlan
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.hook_plan import HookPlan
from neuroscope_inference.engine.layout import ForwardStopped
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.results import PendingTensor, StepResult
from neuroscope_inference.engine.sampling import Draw
from neuroscope_inference.engine.steering import Steering
from neuroscope_inference.engine.unembedding import LAST

_LOGITS_BUDGET_BYTES = 64 * 1024 * 1024


def max_chunk_positions() -> int:
    """Positions of a prefill chunk, at most.

    MLX's CPU backend computes every score of a chunk before it masks later keys: short chunks compute fewer of them.
    """
    return 128 if mx.default_device() == mx.cpu else 512


@dataclass(slots=True)
class Timing:
    """Durations of a run, in seconds."""

    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(slots=True)
class ForwardRunner:
    """Builds and evaluates the forward passes of one request.

    Args:
        model: what runs.
        plan: what is read.
        steering: what is edited.
        chunk_budget_bytes: captures of one prefill chunk may take this many bytes.
        context: the trace that ranges of positions belong to.
        longest_prompt: tokens of the request's longest prompt.
        memory_limit_bytes: memory that MLX may hold after a prefill chunk; 0 for no limit.
        quantization: of the key/value caches; None: they are exact.
    """

    model: LoadedModel
    plan: CapturePlan
    steering: Steering
    chunk_budget_bytes: int
    context: Context
    longest_prompt: int
    memory_limit_bytes: int = 0
    quantization: CacheQuantization | None = None
    timing: Timing = field(default_factory=Timing)
    generated_tokens: int = 0
    memory_warning: str = ""
    """What is said of memory that ran short; empty as long as it did not."""
    _max_positions: int = field(default_factory=max_chunk_positions)

    @property
    def chunk_positions(self) -> int:
        """Positions of one prefill chunk: what the byte budget holds, from the model and the request alone.

        Where memory ran short they are fewer from then on.
        """
        per_position = max(self.plan.bytes_per_position(self.longest_prompt), 1)
        return max(1, min(self._max_positions, self.chunk_budget_bytes // per_position))

    def new_cache(self) -> Cache:
        """An empty cache of one row."""
        return caches.new_cache(self.model.network, self.quantization)

    def first_needed(self, row: int, length: int) -> int:
        """The first position of a prompt that must be computed: one that is read, or the last, which gives logits."""
        if self.steering.has_edits or self.quantization is not None:
            return 0
        return min(self.plan.first_captured_position(row, length), length - 1)

    def run_chunks(
        self,
        row: int,
        length: int,
        cache: Cache,
        compute: Callable[[PositionRange], StepResult],
        *,
        first: int = 0,
        needs_logits: bool,
    ) -> Iterator[StepResult]:
        """Results of a prefill's chunks. One for which memory runs short is halved and computed again.

        Raises:
            ResourceExhaustedError: memory does not hold a single position.
        """
        while first < length:
            position_range = next(self.chunks(row, length, first, needs_logits=needs_logits))
            restore: Callable[[], None] | None = self._checkpoint(row, cache)
            reason = ""
            results: list[StepResult] = []
            try:
                results.append(compute(position_range))
            except memory.OutOfMemoryError as error:
                reason = str(error)
            if results:
                first, restore = (
                    position_range.end,
                    None,
                )  # nobody holds two caches, or a result, while others have their turn
                yield results.pop()
                continue
            restore()
            mx.clear_cache()
            self._shrink(position_range, reason)

    def _checkpoint(self, row: int, cache: Cache) -> Callable[[], None]:
        """What brings a row back to where it is now; arrays are shared, not copied."""
        kept = copy.deepcopy(cache)
        undo = [*self.plan.checkpoints(row), *self.steering.plan_at(0).checkpoints(row)]

        def restore() -> None:
            cache[:] = kept
            for function in undo:
                function()

        return restore

    def _shrink(self, position_range: PositionRange, reason: str) -> None:
        if position_range.length == 1:
            raise ResourceExhaustedError(
                f"memory does not hold position {position_range.first} of prompt {position_range.row}: {reason}; "
                "capture less, or wait for other requests to end"
            )
        self._max_positions = position_range.length // 2
        self.memory_warning = (
            f"memory ran short at position {position_range.first} of prompt {position_range.row} ({reason}): "
            f"prefill chunks have had at most {self._max_positions} positions since"
        )

    def chunks(self, row: int, length: int, start: int = 0, *, needs_logits: bool) -> Iterator[PositionRange]:
        """Spans of a prefill, from a position on.

        Where logits of all positions are computed with those of the last one, and are dear, that is a chunk of its own.
        """
        positions = self.chunk_positions
        logits_bytes = 4 * self.model.description.vocab_size * min(length, positions)
        is_dear = needs_logits and logits_bytes > _LOGITS_BUDGET_BYTES and not self._last_logits_suffice
        body = length - 1 if is_dear else length
        for first in range(start, body, positions):
            yield PositionRange(row, 0, first, min(positions, body - first), length)
        if start <= body < length:
            yield PositionRange(row, 0, body, 1, length)

    def prefill(
        self,
        prompt: Sequence[int],
        position_range: PositionRange,
        cache: Cache,
        draws: Callable[[mx.array], Draw] | None = None,
    ) -> tuple[list[PendingTensor], Draw | None]:
        """Computes one chunk. What draws the first token gets the last logits, (1, vocab), lazy.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
            OutOfMemoryError: it takes more memory than there is.
        """
        started = time.perf_counter()
        span_of = telemetry.child_span("prefill", self.context)
        with span_of as recorded, memory.limited(self.memory_limit_bytes):
            pending, logits, outcome = self.build(
                prompt, position_range, cache, cuts=draws is not None and self._last_logits_suffice
            )
            draw = draws(logits[:, -1]) if draws is not None and logits is not None else None
            held = [p.array for p in pending] + outcome.arrays
            mx.eval(held, draw.arrays if draw else [], [layer.state for layer in cache])
            recorded.set_attribute(telemetry.STEP, 0)
            recorded.set_attribute(telemetry.TOKENS, position_range.length)
            recorded.set_attribute(telemetry.BYTES, sum(p.array.nbytes for p in pending))
        outcome.check()
        self.timing.prefill_s += time.perf_counter() - started
        return pending, draw

    def capture_chunk(self, prompt: Sequence[int], cache: Cache, position_range: PositionRange) -> StepResult:
        """Computes one chunk of which nothing but its captures is wanted. Only the result holds their memory."""
        pending, _ = self.prefill(prompt, position_range, cache)
        return StepResult.from_pending(position_range.step, pending)

    @property
    def _last_logits_suffice(self) -> bool:
        """Whether a prefill needs the last position's logits only, and the model can give them alone."""
        return (
            not self.plan.captures_logits
            and not self.steering.plan_at(0).edits_logits
            and self.model.capabilities.can_cut
        )

    def build(
        self, prompt: Sequence[int], position_range: PositionRange, cache: Cache, *, cuts: bool = False
    ) -> tuple[list[PendingTensor], mx.array | None, EditResult]:
        """Builds the graph of one chunk; nothing is computed yet. No logits if the plan stops before them.

        Args:
            prompt: token ids.
            position_range: the chunk.
            cache: of the row.
            cuts: logits are those of the last position alone.
        """
        hook_plan, outcome = self.hook_plan(position_range)
        if cuts:
            hook_plan = hook_plan or HookPlan(self.model.layout.capture_mask(()))
            hook_plan.output_positions = LAST
        call: Any = self.model.network
        logits: mx.array | None = None
        with self.model.layout.active_hooks.activate(hook_plan), contextlib.suppress(ForwardStopped):
            logits = call(mx.array([prompt[position_range.first : position_range.end]]), cache=cache)
        return self.collect(hook_plan, position_range, logits=logits), logits, outcome

    def replay(self, row: int, prompt: Sequence[int], drawn: Sequence[int], cache: Cache) -> None:
        """Fills an empty cache as it was after a prompt and generated tokens, with every edit and no read.

        Raises:
            OutOfMemoryError: it takes more memory than there is.
        """
        tokens, length = [*prompt, *drawn], len(prompt)
        alike = length if self.steering.has_edits else len(tokens)  # without edits no step differs from another
        position_ranges = [*self.chunks(row, alike, needs_logits=False)]
        position_ranges += [PositionRange(row, p - length + 1, p, 1, length) for p in range(alike, len(tokens))]
        undo = [*self.steering.plan_at(0).checkpoints(row)]
        call: Any = self.model.network
        for position_range in position_ranges:
            edits, _ = self.steering.plan_at(position_range.step).edits_for(position_range)
            hook_plan = HookPlan(self.model.layout.capture_mask(()), edits) if edits else None
            with memory.limited(0), self.model.layout.active_hooks.activate(hook_plan):
                call(mx.array([tokens[position_range.first : position_range.end]]), cache=cache)
                mx.eval([layer.state for layer in cache])
        for function in undo:
            function()

    def hook_plan(self, position_range: PositionRange) -> tuple[HookPlan | None, EditResult]:
        """The hook plan of one forward pass of one row, None where nothing is read or edited; and how its edits end."""
        wanted = self.plan.points_at(position_range)
        edits, outcome = self.steering.plan_at(position_range.step).edits_for(position_range)
        if not edits and not wanted and self.plan.stop_before is None:
            return None, outcome
        return HookPlan(self.model.layout.capture_mask(wanted), edits, self.plan.stop_before), outcome

    def collect(
        self,
        hook_plan: HookPlan | None,
        position_range: PositionRange,
        slot: int | None = None,
        logits: mx.array | None = None,
    ) -> list[PendingTensor]:
        """What the plan reads of a forward pass, lazy; of a batch the row in that slot."""
        with telemetry.child_span("capture", self.context) as recorded:
            pending = self.plan.collect(hook_plan, position_range, slot, logits)
            recorded.set_attribute(telemetry.STEP, position_range.step)
            recorded.set_attribute("neuroscope.tensors", len(pending))
            recorded.set_attribute(telemetry.BYTES, sum(p.array.nbytes for p in pending))
        return pending
