"""The generation of one row: its prompt in chunks, then what each drawn token means."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from neuroscope.tracing import telemetry
from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.answer_format import FREE, AnswerFormat
from neuroscope_inference.engine.arrays import from_numpy, scalar
from neuroscope_inference.engine.caches import Cache
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.forward import ForwardRunner
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.results import PendingTensor, StepResult
from neuroscope_inference.engine.row_text import RowText
from neuroscope_inference.engine.sampling import Draw, Sampler


@dataclass(slots=True, eq=False)
class LaunchedStep:
    """A step that has been launched: what it reads and the token it draws, lazy."""

    step: int
    pending: list[PendingTensor]
    draw: Draw | None
    """None until the tokens before it are known, where a constraint depends on them."""
    outcome: EditResult
    logits: mx.array | None = None
    """(1, vocab): what is drawn from then."""
    row_count: int = 1
    """How many rows are computed with it."""
    undo: Sequence[Callable[[], None]] = ()
    """What brings the reads back to where they were before."""

    @property
    def arrays(self) -> list[mx.array]:
        """All that is to be evaluated."""
        drawn = self.draw.arrays if self.draw is not None else []
        logits = [self.logits] if self.logits is not None else []
        return [*(p.array for p in self.pending), *drawn, *logits, *self.outcome.arrays]


class Row:
    """One row of a generation: a prompt, or one of several continuations of it.

    Args:
        forward: runs the model.
        sampler: draws tokens.
        row: which one it is.
        prompt: token ids of its prompt.
        answer_format: what its text may be, and what of it is a tool call.
    """

    def __init__(
        self,
        forward: ForwardRunner,
        sampler: Sampler,
        row: int,
        prompt: Sequence[int],
        answer_format: AnswerFormat = FREE,
    ) -> None:
        self.forward = forward
        self.sampler = sampler
        self.index = row
        self.cache: Cache | None = forward.new_cache()
        """Its own; None while a batch holds it."""
        self.launched_steps: list[LaunchedStep] = []
        """Steps that are being computed: at most the next to land and the one after it."""
        self.ended = False
        self.has_lost_cache = False
        """Whether its cache must be computed again."""
        self._prompt = prompt
        self._constraint = answer_format.constraint
        self._text = RowText(forward.model, sampler, len(prompt), answer_format)
        self._last: Draw | None = None
        self._finished: Draw | None = None
        self._steps = 0
        self._drawn: list[int] = []
        self._tokens = array("i", prompt)
        self._first_logits: mx.array | None = None

    @property
    def last(self) -> Draw:
        """The newest token: what the next step reads, known or not."""
        if self._last is None:
            raise AssertionError("a row is prefilled before it goes on")
        return self._last

    @property
    def next_step(self) -> int:
        """The step that would be launched next."""
        return self._steps

    @property
    def has_next_step(self) -> bool:
        """Whether there is a next step, as far as is known."""
        return not self.ended and self._steps < self._text.max_tokens

    def prefill(self) -> Iterator[StepResult]:
        """Results of the prompt's chunks, the last of them with the first token."""
        if self.cache is None:
            raise AssertionError("a prompt is read before its row joins a batch")
        needed = self.forward.first_needed(self.index, len(self._prompt))
        known, first = self.forward.model.prompt_cache.fetch(self._prompt[:needed])
        if known is not None:
            self.cache = known
        compute = partial(self._chunk, self.cache)
        yield from self.forward.run_chunks(
            self.index, len(self._prompt), self.cache, compute, first=first, needs_logits=True
        )

    def _chunk(self, cache: Cache, position_range: PositionRange) -> StepResult:
        """Computes a chunk; the last one draws the first token. Only the result holds the memory of what was read."""
        if position_range.end < len(self._prompt):
            return self.forward.capture_chunk(self._prompt, cache, position_range)
        pending, draw = self.forward.prefill(self._prompt, position_range, cache, self._draw_first)
        if draw is None:
            raise AssertionError("a generation runs all layers")
        return self._finish_prefill(pending, draw)

    def fork_from(self, other: Row) -> StepResult:
        """Begins where another row of the same prompt began, which has just been prefilled and read nothing there."""
        if other.cache is None or other._first_logits is None:
            raise AssertionError("rows of one prompt begin one after the other")
        self.cache = copy.deepcopy(other.cache)  # arrays are shared, not copied
        draw = self.draw(other._first_logits, 0)
        mx.eval(draw.arrays)
        return self._finish_prefill([], draw)

    def drop_first_logits(self) -> None:
        """Forgets what only `prefill_like` needs."""
        self._first_logits = None

    def draw(self, logits: mx.array, step: int) -> Draw:
        """Draws the row's next token from its logits (1, vocab), lazy.

        Raises:
            InvalidRequestError: the row's constraint cannot go on.
        """
        allowed = None if self._constraint is None else self._constraint.allowed(logits.shape[-1])
        return self.sampler.draw(logits, self.index, step, self._penalised_tokens(), allowed)

    def draw_launched(self) -> list[mx.array]:
        """Draws the token of the step that was launched before the tokens ahead of it were known; what to evaluate.

        Raises:
            InvalidRequestError: the row's constraint cannot go on.
        """
        launched = self.launched_steps[-1] if self.launched_steps else None
        if self.ended or launched is None or launched.logits is None:
            return []
        logits, launched.logits = launched.logits, None
        self._last = launched.draw = self.draw(logits, launched.step)
        return launched.draw.arrays

    def _penalised_tokens(self) -> mx.array | None:
        """What penalties count, (n,): the tokens that are known, and those that have been drawn and not landed yet."""
        penalties = self.sampler.penalties
        if not penalties.uses_history:
            return None
        known = np.frombuffer(self._tokens, np.int32)[len(self._prompt) if penalties.generated_only else 0 :]
        drawn = [launched.draw.token.astype(mx.int32) for launched in self.launched_steps if launched.draw is not None]
        return mx.concatenate([from_numpy(known[-penalties.context_size :]), *drawn])

    def _draw_first(self, logits: mx.array) -> Draw:
        if self.sampler.rows_per_prompt > 1:
            self._first_logits = logits
        return self.draw(logits, 0)

    def _finish_prefill(self, pending: list[PendingTensor], draw: Draw) -> StepResult:
        """Lands the first token."""
        self._last, self._steps = draw, 1
        with telemetry.child_span("sample", self.forward.context) as recorded:
            result = self.finish(LaunchedStep(0, pending, draw, EditResult()))
            recorded.set_attribute(telemetry.STEP, 0)
            recorded.set_attribute(telemetry.TOKENS, 1)
            recorded.set_attribute(telemetry.BYTES, result.nbytes)
        return result

    def cached_tokens(self) -> list[int] | None:
        """The tokens that the row's cache holds; None if what they left there is not what others would leave."""
        if self.forward.steering.has_edits or self.forward.quantization is not None or self.has_lost_cache:
            return None
        return [*self._prompt, *self._drawn][: len(self._prompt) + self._steps - 1]

    def next_range(self) -> PositionRange:
        """Where the next step is: it reads the token that was drawn last."""
        length = len(self._prompt)
        return PositionRange(self.index, self._steps, length + self._steps - 1, 1, length)

    def launch(
        self,
        pending: list[PendingTensor],
        logits: mx.array,
        outcome: EditResult,
        row_count: int,
        undo: Sequence[Callable[[], None]],
    ) -> LaunchedStep:
        """Takes a step whose graph has been built, and draws from its logits (1, vocab).

        With a constraint `draw_launched` draws, when the token before is known. The forward pass runs meanwhile.
        """
        draw = self.draw(logits, self._steps) if self._constraint is None else None
        launched = LaunchedStep(self._steps, pending, draw, outcome, None if draw else logits, row_count, undo)
        self.launched_steps.append(launched)
        self._last = draw
        self._steps += 1
        return launched

    def discard_steps(self, step: int) -> None:
        """Forgets the steps from this one on, which failed, and the cache, in which they left what nobody can use."""
        while self.launched_steps and self.launched_steps[-1].step >= step:
            for function in self.launched_steps.pop().undo:
                function()
        self._last = self.launched_steps[-1].draw if self.launched_steps else self._finished
        self._steps = step
        self.cache, self.has_lost_cache = None, True

    def recompute_cache(self) -> None:
        """Computes a lost cache from the prompt and the tokens that the model has read.

        Raises:
            OutOfMemoryError: memory does not hold it.
        """
        cache = self.forward.new_cache()
        self.forward.replay(self.index, self._prompt, self._drawn[: self._steps - 1], cache)
        self.cache, self.has_lost_cache = cache, False

    def finish(self, launched: LaunchedStep) -> StepResult:
        """The result of a step that has been evaluated.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
        """
        if launched in self.launched_steps:
            self.launched_steps.remove(launched)
        launched.outcome.check()
        if launched.draw is None:
            raise AssertionError("a step's token is drawn before it lands")
        token = self._token(launched.step, launched.draw)
        self._finished = launched.draw
        self.ended = bool(token.finish_reason)
        self.forward.generated_tokens += 1
        return StepResult.from_pending(launched.step, launched.pending, token)

    def _token(self, step: int, draw: Draw) -> pb.TokenEvent:
        token_id = int(scalar(draw.token))
        self._drawn.append(token_id)
        self._tokens.append(token_id)
        event = pb.TokenEvent(row=self.index, step=step, token_id=token_id, logprob=scalar(draw.logprob))
        for alternative, logprob in draw.alternatives():
            text = self.forward.model.token_text(alternative)
            event.top_logprobs.add(token_id=alternative, text=text, logprob=logprob)
        if self._constraint is not None:
            self._constraint.accept(token_id)
        is_complete = self._constraint is not None and self._constraint.is_complete
        event.text, event.finish_reason, calls = self._text.add(token_id, step, is_complete=is_complete)
        event.tool_calls.extend(calls)
        return event
