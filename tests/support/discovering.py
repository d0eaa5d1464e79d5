"""Circuits found by the analysis service in the test's own process, as the messages that it sends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.analysis import AnalysisClient
from neuroscope.codec import Framed
from neuroscope.frames import FrameReader
from neuroscope.rpc import ANALYSIS_RPCS
from neuroscope.v1 import circuit_pb2 as pb


@dataclass
class Discovered:
    """What a search sends."""

    plan: pb.CircuitPlan
    result: Any
    partials: list[pb.CircuitPartial] = field(default_factory=list[pb.CircuitPartial])
    stages: dict[str, int] = field(default_factory=dict[str, int])
    """Of progress, how often each stage told."""
    scores: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def edges(self) -> dict[str, pb.CircuitEdge]:
        """Of the circuit, by name."""
        return {f"{edge.sender}->{edge.receiver}": edge for edge in self.result.circuit.edges if edge.in_circuit}


def discovered(client: AnalysisClient, request: pb.DiscoverCircuitRequest | pb.EvaluateCircuitRequest) -> Discovered:
    """Everything that a search or an evaluation sends."""
    rpc = ANALYSIS_RPCS["DiscoverCircuit" if isinstance(request, pb.DiscoverCircuitRequest) else "EvaluateCircuit"]
    found: Discovered | None = None
    reader: FrameReader | None = None
    for event in client._transport.stream(rpc, request):
        if isinstance(event, Framed):
            assert reader is not None
            assert found is not None
            (piece,) = reader.read(event)
            found.scores = np.array(piece.array[0])
            continue
        kind = event.WhichOneof("event")
        if kind == "plan":
            found, reader = Discovered(event.plan, None), FrameReader(event.plan.arrays)
        assert found is not None, "the plan comes first"
        assert found.result is None, "the result comes last"
        if kind == "partial":
            found.partials.append(event.partial)
        elif kind == "progress":
            found.stages[event.progress.stage] = found.stages.get(event.progress.stage, 0) + 1
        elif kind == "result":
            found.result = event.result
    assert found is not None
    assert found.result is not None
    return found


def local(folders: Sequence[Path], **settings: Any) -> AnalysisClient:
    """The analysis service in this process."""
    return AnalysisClient.local(model=[str(folder) for folder in folders], **settings)
