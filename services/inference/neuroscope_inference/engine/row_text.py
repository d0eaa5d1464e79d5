"""The text of one row, token by token, and when it ends."""

from __future__ import annotations

from neuroscope.v1 import inference_pb2 as pb
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sampling import Sampler
from neuroscope_inference.engine.stop_matcher import StopMatcher


class RowText:
    """What a row's tokens mean.

    Args:
        model: whose tokens they are.
        sampler: says what ends the row.
        prompt_length: tokens of its prompt.

    Attributes:
        max_tokens: so many are drawn at most; fewer than the sampler's where the context ends before.
    """

    def __init__(self, model: LoadedModel, sampler: Sampler, prompt_length: int) -> None:
        self._detokenizer = model.detokenizer()
        self._matcher = StopMatcher(sampler.stop)
        description = model.description
        eos: frozenset[int] = frozenset() if sampler.ignore_eos else frozenset(description.eos_token_ids)
        self._ends = eos | sampler.stop_token_ids
        room = description.context_length - prompt_length + 1
        self.max_tokens = min(sampler.max_tokens, room) if description.context_length else sampler.max_tokens

    def add(self, token_id: int, step: int, *, is_complete: bool = False) -> tuple[str, pb.FinishReason.ValueType]:
        """The text that became final with a token, and whether the row ends with it.

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
        if is_end or is_stopped:
            return text, pb.FINISH_REASON_STOP
        return text, pb.FINISH_REASON_LENGTH if is_last else pb.FINISH_REASON_UNSPECIFIED
