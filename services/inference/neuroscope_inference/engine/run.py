"""The rows of one request: generators that the engine's thread advances; what they yield is ready to send.

Step 0 is the prefill, whose last logits give the first token; step s reads the s-th generated token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from neuroscope.errors import InvalidRequestError
from neuroscope_inference.engine.answer_format import FREE, AnswerFormat
from neuroscope_inference.engine.edits import EditPlan
from neuroscope_inference.engine.forward import ForwardRunner
from neuroscope_inference.engine.results import StepResult
from neuroscope_inference.engine.row import Row
from neuroscope_inference.engine.sampling import Sampler


@dataclass(slots=True)
class Credit:
    """How far a run may go. The engine's thread reads it, others add to it."""

    granted_steps: int | None = None  # None: as far as buffers allow

    def allows(self, step: int) -> bool:
        """Whether a step may be computed."""
        return self.granted_steps is None or step < self.granted_steps


@dataclass(slots=True)
class Run:
    """A request that has been checked.

    Args:
        forward: runs the model.
        prompts: token ids, of each row.
        credit: how far it may go.
        max_new_tokens: tokens that a generation may make.
    """

    forward: ForwardRunner
    prompts: Sequence[Sequence[int]]
    credit: Credit = field(default_factory=Credit)
    max_new_tokens: int = 0
    _rows: list[Row] = field(default_factory=list[Row])

    def capture(self) -> Iterator[StepResult]:
        """One forward pass over every prompt, in chunks."""
        for row in self.forward.steering.current.row_order:
            prompt = self.prompts[row]
            cache = self.forward.new_cache()
            compute = partial(self.forward.capture_chunk, prompt, cache)
            yield from self.forward.run_chunks(row, len(prompt), cache, compute, needs_logits=False)

    def generate(
        self, sampler: Sampler, answer_formats: Sequence[AnswerFormat] = ()
    ) -> Iterator[StepResult | list[Row]]:
        """Reads every prompt up to its first token; then the rows that go on, for the decoder.

        Args:
            sampler: draws tokens.
            answer_formats: of each prompt; empty: all text is free.
        """
        self._rows = [
            Row(
                self.forward,
                sampler,
                row,
                prompt,
                answer_formats[row // sampler.rows_per_prompt].copy() if answer_formats else FREE,
            )
            for row, prompt in enumerate(self.prompts)
        ]
        for row in self.forward.steering.current.row_order:
            first = self._rows[row - row % sampler.rows_per_prompt]
            if first is not self._rows[row] and self._is_prompt_untouched(row):
                yield self._rows[row].fork_from(first)
            else:
                yield from self._rows[row].prefill()
        for row in self._rows:
            row.drop_first_logits()
        yield [row for row in self._rows if row.has_next_step]

    def _is_prompt_untouched(self, row: int) -> bool:
        """Whether nothing reads or edits a row's prompt, so that rows of the same prompt need not compute it again."""
        length = len(self.prompts[row])
        return not self.forward.steering.has_edits and self.forward.plan.first_captured_position(row, length) == length

    def steer(self, plan: EditPlan) -> int:
        """Replaces the edits of a generation from its next step on; gives that step. On the engine's thread.

        Raises:
            InvalidRequestError: no step is left.
        """
        going = [row for row in self._rows if row.has_next_step]
        if not going:
            raise InvalidRequestError("the generation has no step left to edit", field="generation_id")
        first_step = max(1, *(row.next_step for row in going))
        self.forward.steering.replace_from(plan, first_step)
        return first_step
