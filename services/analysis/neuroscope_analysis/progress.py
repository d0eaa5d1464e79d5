"""Progress of an analysis."""

from __future__ import annotations

import time

from neuroscope.v1 import progress_pb2 as pb


class ProgressTimer:
    """Measures the time since the plan of an analysis."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def elapsed_s(self) -> float:
        """Seconds since the plan."""
        return time.monotonic() - self._began_s

    def progress(self, stage: str, done: int, count: int, remaining_s: float | None = None) -> pb.AnalysisProgress:
        """The progress of a stage.

        Args:
            stage: its name.
            done: parts that are done.
            count: all parts.
            remaining_s: how long the analysis will still take; None: not known.
        """
        return pb.AnalysisProgress(
            stage=stage, done=done, count=count, elapsed_seconds=self.elapsed_s(), remaining_seconds=remaining_s
        )
