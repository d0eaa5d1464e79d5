"""Positions of one row that a forward pass computes, and which of them a selector names."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import site_pb2


@dataclass(frozen=True, slots=True)
class Span:
    """Positions that one forward pass computes in one row."""

    row: int
    step: int
    first: int
    length: int
    prompt_length: int

    @property
    def end(self) -> int:
        """One after the last position."""
        return self.first + self.length

    @property
    def ends_step(self) -> bool:
        """Whether no further chunk of the step comes."""
        return self.step > 0 or self.first + self.length >= self.prompt_length


def selected(selector: site_pb2.PositionSelector, span: Span) -> list[int]:
    """Absolute positions within the span that a selector names, in the order wanted."""
    end = span.first + span.length
    if selector.WhichOneof("which") == "range":
        start = _absolute(selector.range.start, span.prompt_length)
        stop = _absolute(selector.range.stop, span.prompt_length) if selector.range.HasField("stop") else end
        return list(range(max(start, span.first), min(stop, end)))
    wanted = (_absolute(position, span.prompt_length) for position in selector.list.positions)
    return [position for position in wanted if span.first <= position < end]


def _absolute(position: int, prompt_length: int) -> int:
    return position if position >= 0 else prompt_length + position
