"""Positions of one row that a forward pass computes, and which of them a selector names."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import site_pb2


@dataclass(frozen=True, slots=True)
class PositionRange:
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


def selected_positions(selector: site_pb2.PositionSelector, position_range: PositionRange) -> list[int]:
    """Absolute positions within the range of positions that a selector names, in the order wanted."""
    end = position_range.first + position_range.length
    if selector.WhichOneof("which") == "range":
        start = _absolute(selector.range.start, position_range.prompt_length)
        stop = _absolute(selector.range.stop, position_range.prompt_length) if selector.range.HasField("stop") else end
        return list(range(max(start, position_range.first), min(stop, end)))
    wanted = (_absolute(position, position_range.prompt_length) for position in selector.list.positions)
    return [position for position in wanted if position_range.first <= position < end]


def _absolute(position: int, prompt_length: int) -> int:
    return position if position >= 0 else prompt_length + position
