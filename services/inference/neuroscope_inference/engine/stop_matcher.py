"""Stop texts across token boundaries: holds back what may become one."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feeds on text segments and gives out text that certainly belongs to the output."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, segment: str) -> tuple[str, bool]:
        """The text that became final, and whether a stop text was completed; what follows it is dropped."""
        text = self._held + segment
        found = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        final = text[: len(text) - keep]
        self._held = text[len(text) - keep :]
        return final, False

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
