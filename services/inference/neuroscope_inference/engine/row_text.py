"""The text of one row, token by token, and when it ends."""

from __future__ import annotations

from typing import NamedTuple

from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.answer_format import FREE, AnswerFormat
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sampling import Sampler
from neuroscope_inference.engine.stop_matcher import StopMatcher
from neuroscope_inference.engine.tool_calls.parser import ToolCallParser


class RowPiece(NamedTuple):
    """What became final with a token."""

    text: str
    finish_reason: pb.FinishReason.ValueType
    """Why the row ends with it; unspecified if it goes on."""
    tool_calls: list[pb.ToolCall]


class RowText:
    """What a row's tokens mean.

    Args:
        model: whose tokens they are.
        sampler: says what ends the row.
        prompt_length: tokens of its prompt.
        answer_format: says what is a tool call.

    Attributes:
        max_tokens: so many are drawn at most; fewer than the sampler's where the context ends before.
    """

    def __init__(
        self, model: LoadedModel, sampler: Sampler, prompt_length: int, answer_format: AnswerFormat = FREE
    ) -> None:
        self._detokenizer = model.detokenizer()
        self._matcher = StopMatcher(sampler.stop)
        self._calls = ToolCallParser(answer_format.tool_format) if answer_format.tool_format else None
        self._single_call = answer_format.single_call
        description = model.description
        eos: frozenset[int] = frozenset() if sampler.ignore_eos else frozenset(description.eos_token_ids)
        self._ends = eos | sampler.stop_token_ids
        room = description.context_length - prompt_length + 1
        self.max_tokens = min(sampler.max_tokens, room) if description.context_length else sampler.max_tokens

    def add(self, token_id: int, step: int, *, is_complete: bool = False) -> RowPiece:
        """What became final with a token.

        Args:
            token_id: the token.
            step: whose logits gave it.
            is_complete: nothing can follow it, by the row's constraint.
        """
        is_stop_token, is_last = token_id in self._ends, step + 1 >= self.max_tokens
        is_end = is_stop_token or is_complete
        if not is_stop_token:
            self._detokenizer.add_token(token_id)
        if is_end or is_last:
            self._detokenizer.finalize()
        text, is_stopped = self._matcher.feed(self._detokenizer.last_segment)
        if (is_end or is_last) and not is_stopped:
            text += self._matcher.flush()
        calls: list[pb.ToolCall] = []
        if self._calls is not None:
            text, calls = self._find_calls(self._calls, text, is_final=is_end or is_last or is_stopped)
        if is_end or is_stopped or (calls and self._single_call):
            return RowPiece(text, pb.FINISH_REASON_STOP, calls)
        return RowPiece(text, pb.FINISH_REASON_LENGTH if is_last else pb.FINISH_REASON_UNSPECIFIED, calls)

    def _find_calls(self, parser: ToolCallParser, text: str, *, is_final: bool) -> tuple[str, list[pb.ToolCall]]:
        """Text and calls of a text."""
        text, calls = parser.feed(text)
        if is_final and not (calls and self._single_call):
            rest, more = parser.flush()
            text, calls = text + rest, calls + more
        return text, calls[:1] if self._single_call else calls
