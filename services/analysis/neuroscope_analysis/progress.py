"""How far an analysis is."""

from __future__ import annotations

import time

from neuroscope.v1 import progress_pb2 as pb


class ProgressTimer:
    """Counts from the plan of an analysis on."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def elapsed_s(self) -> float:
        """Since the plan."""
        return time.monotonic() - self._began_s

    def progress(self, stage: str, done: int, count: int) -> pb.AnalysisProgress:
        """How far a stage is."""
        return pb.AnalysisProgress(stage=stage, done=done, count=count, elapsed_seconds=self.elapsed_s())
