"""The rows of one request as a generator that the engine's thread advances; what it yields is ready to send.

Step 0 is the prefill, whose last logits give the first token; step s reads the s-th generated token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mlx_lm.models.cache import make_prompt_cache

from neuroscope_inference.engine.forward import Forward
from neuroscope_inference.engine.reads import StepResult
from neuroscope_inference.engine.row import Row
from neuroscope_inference.engine.sampling import Sampler


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
class Run:
    """A request that has been checked.

    Args:
        forward: runs the model.
        prompts: token ids, a row each.
        credit: how far it may go.
    """

    forward: Forward
    prompts: Sequence[Sequence[int]]
    credit: Credit = field(default_factory=Credit)
    generated_tokens: int = 0

    def capture(self) -> Iterator[StepResult]:
        """One forward pass over every prompt, in chunks."""
        for row, prompt in enumerate(self.prompts):
            cache = make_prompt_cache(self.forward.model.network)
            for span in self.forward.chunks(row, len(prompt), needs_logits=False):
                yield self.forward.chunk(prompt, span, cache)

    def generate(self, sampler: Sampler) -> Iterator[StepResult]:
        """Generates every row, one step of each in turn."""
        rows = [
            Row(self.forward, sampler, row, prompt, self.credit.allows).steps()
            for row, prompt in enumerate(self.prompts)
        ]
        while rows:
            going: list[Iterator[StepResult]] = []
            for row in rows:
                for result in row:
                    if result.token is None:
                        yield result
                        continue
                    # Counted before it is handed out: the engine asks for credit before this generator goes on.
                    self.generated_tokens += 1
                    if not result.token.finish_reason:
                        going.append(row)
                    if row is rows[-1] and going:  # where no row goes on, the end of the run needs no credit
                        self.credit.next_step += 1
                    yield result
                    break
            rows = going
