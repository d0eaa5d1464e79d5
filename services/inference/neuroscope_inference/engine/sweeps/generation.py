"""What the runs of a sweep go on with: rows of one prompt that decode together, each with its own edits.

The prompt is read again from its first token, by the plain way, so that keys and values are those of every row's own
edits; the rows are equally long and share a batch without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope_inference.engine import caches, memory
from neuroscope_inference.engine.edit import EditResult
from neuroscope_inference.engine.forward import max_chunk_positions
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex, RowEdit
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.row_text import RowText
from neuroscope_inference.engine.sampling import Sampler
from neuroscope_inference.engine.sweeps.cell_plan import CellPlan


@dataclass(frozen=True, slots=True)
class GenerationEdits:
    """The edits of a row that goes on.

    Args:
        prompt: at the prompt's positions; None: there are none.
        generated: at generated tokens; likewise.
    """

    prompt: CellPlan | None = None
    generated: CellPlan | None = None

    def edits_for(self, position_range: PositionRange) -> tuple[dict[PointIndex, list[RowEdit]], EditResult]:
        """What is applied in one forward pass."""
        plan = self.generated if position_range.step else self.prompt
        return ({}, EditResult()) if plan is None else plan.edits_for(position_range)

    @property
    def edits_logits(self) -> bool:
        """Whether logits are edited."""
        return any(plan is not None and plan.edits_logits for plan in (self.prompt, self.generated))


@dataclass(frozen=True, slots=True)
class SweepGeneration:
    """How runs go on.

    Args:
        model: what runs.
        sampler: draws tokens.
        edits_generated: whether cells of all positions edit generated tokens, too.
    """

    model: LoadedModel
    sampler: Sampler
    edits_generated: bool

    @property
    def max_rows(self) -> int | None:
        """How many rows may run together; None: any number."""
        return None if self.model.capabilities.can_batch else 1

    def texts(self, tokens: Sequence[int], row: int, rows: Sequence[GenerationEdits]) -> list[pb.GeneratedText]:
        """What runs of one prompt go on with.

        Args:
            tokens: of the prompt.
            row: by which edits know it.
            rows: the edits of each run.

        Raises:
            DataConversionError: an edit made numbers that are not finite.
            OutOfMemoryError: it takes more memory than there is.
        """
        size = self.max_rows or len(rows)
        found: list[pb.GeneratedText] = []
        for first in range(0, len(rows), size):
            found += self._generate_together(tokens, row, rows[first : first + size])
        return found

    def _generate_together(
        self, tokens: Sequence[int], row: int, rows: Sequence[GenerationEdits]
    ) -> list[pb.GeneratedText]:
        length, cache = len(tokens), caches.new_cache(self.model.network)
        texts = [RowText(self.model, self.sampler, length) for _ in rows]
        found = [pb.GeneratedText() for _ in rows]
        logits: mx.array | None = None
        for first in range(0, length, max_chunk_positions()):
            position_range = PositionRange(row, 0, first, min(max_chunk_positions(), length - first), length)
            read = mx.broadcast_to(
                mx.array([list(tokens[first : position_range.end])]), (len(rows), position_range.length)
            )
            logits = self._forward(read, cache, position_range, rows)
        for step in range(texts[0].max_tokens):
            assert logits is not None
            drawn = mx.concatenate(
                [
                    self.sampler.draw(
                        logits[slot : slot + 1], 0, step, self._penalised_tokens(tokens, text.token_ids)
                    ).token
                    for slot, text in enumerate(found)
                ]
            )
            for text, of_row, token_id in zip(found, texts, cast("list[int]", drawn.tolist()), strict=True):
                if not text.finish_reason:
                    piece = of_row.add(token_id, step)
                    text.text += piece.text
                    text.finish_reason = piece.finish_reason
                    text.token_ids.append(token_id)
            if all(text.finish_reason for text in found):
                break
            logits = self._forward(drawn[:, None], cache, PositionRange(row, step + 1, length + step, 1, length), rows)
        return found

    def _forward(
        self, read: mx.array, cache: caches.Cache, position_range: PositionRange, rows: Sequence[GenerationEdits]
    ) -> mx.array | None:
        """The last logits (rows, vocabulary), evaluated; None where the prompt goes on."""
        edits: dict[PointIndex, list[RowEdit]] = {}
        outcomes: list[EditResult] = []
        for slot, edited in enumerate(rows):
            of_row, outcome = edited.edits_for(position_range)
            outcomes.append(outcome)
            for point, found in of_row.items():
                edits.setdefault(point, []).extend(replace(edit, slot=slot) for edit in found)
        hook_plan = HookPlan(self.model.layout.capture_mask(()), edits)
        if (
            position_range.ends_step
            and self.model.capabilities.can_cut
            and not any(edited.edits_logits for edited in rows)
        ):
            hook_plan.output_positions = mx.array([position_range.length - 1])
        call: Any = self.model.network
        with memory.limited(0):
            with self.model.layout.active_hooks.activate(hook_plan):
                logits: mx.array = call(read, cache=cache)
            last = logits[:, -1].astype(mx.float32) if position_range.ends_step else None
            mx.eval(last, [outcome.arrays for outcome in outcomes], [layer.state for layer in cache])
        for outcome in outcomes:
            outcome.check()
        return last

    def _penalised_tokens(self, tokens: Sequence[int], drawn: Sequence[int]) -> mx.array | None:
        """The tokens that penalties count."""
        penalties = self.sampler.penalties
        if not penalties.uses_history:
            return None
        known = list(drawn) if penalties.generated_only else [*tokens, *drawn]
        return mx.array(known[-penalties.context_size :], mx.int32)


def parse_generation(message: pb.SweepGeneration, model: LoadedModel) -> SweepGeneration:
    """The continuation that a request asks for.

    Raises:
        InvalidRequestError: a parameter is out of its range, or none of a sweep's.
    """
    sampling = inference_pb2.Sampling()
    sampling.CopyFrom(message.sampling)
    sampling.seed = message.sampling.seed  # 0 where there is none: a sweep that goes on draws the same
    if not sampling.max_tokens:
        raise InvalidRequestError("how many tokens are generated is missing", field="generation.sampling.max_tokens")
    refused: dict[str, object] = {
        "rows_per_prompt": sampling.rows_per_prompt > 1,
        "top_logprobs": sampling.top_logprobs,
    }
    refused |= {"json_schema": sampling.HasField("json_schema"), "grammar": sampling.HasField("grammar")}
    for name, unusual in refused.items():
        if unusual:
            raise InvalidRequestError(f"a sweep has no {name}", field=f"generation.sampling.{name}")
    if message.edited_tokens not in pb.EditedTokens.values():
        raise InvalidRequestError(
            f"the contract has no edited tokens {message.edited_tokens}", field="generation.edited_tokens"
        )
    try:
        sampler = Sampler.from_message(sampling)
        sampler.penalties.check_vocabulary(model.description.vocab_size)
    except InvalidRequestError as error:
        error.field = f"generation.{error.field}"
        raise
    return SweepGeneration(model, sampler, message.edited_tokens != pb.EDITED_TOKENS_PROMPT)
