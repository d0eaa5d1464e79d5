"""What a search for a circuit found, and what an evaluation measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neuroscope.circuits import Circuit, ComponentGraph
from neuroscope.display import show
from neuroscope.errors import InvalidRequestError
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2

if TYPE_CHECKING:
    from rich.table import Table


class DiscoveryResult(
    AnalysisResult[pb.DiscoverCircuitRequest, pb.CircuitPlan, pb.DiscoverCircuitResponse, pb.DiscoveryResult]
):
    """A search for a circuit. It is filled as the stream comes, so it holds what there is when a call breaks off.

    `result.circuit` is the circuit; `result["edge_score"]` are the scores of all edges over sender and receiver,
    `result["node_score"]` those of nodes.

    Args:
        request: what was asked for.
    """

    rpc = "DiscoverCircuit"
    noun = "a search for a circuit"
    request_type = pb.DiscoverCircuitRequest
    response_type = pb.DiscoverCircuitResponse

    def __init__(self, request: pb.DiscoverCircuitRequest) -> None:
        super().__init__(request)
        self.baselines: list[experiment_pb2.PairBaseline] = []
        """The metric of the unedited runs, pair by pair."""
        self.points: list[pb.FaithfulnessPoint] = []
        """Points of the curve, as they came."""
        self.edges: list[pb.CircuitEdge] = []
        """Edges that were patched or whose fate was decided, as they came."""
        self.measured: pb.CircuitEvaluation | None = None
        """What has been measured of the circuit so far; None: nothing."""

    def _on_partial(self, response: pb.DiscoverCircuitResponse) -> None:
        if response.partial.HasField("baseline"):
            self.baselines.append(response.partial.baseline)
        if response.partial.HasField("point"):
            self.points.append(response.partial.point)
        if response.partial.HasField("evaluation"):
            self.measured = response.partial.evaluation
        self.edges.extend(response.partial.edges.edges)

    def _on_result(self, end: pb.DiscoveryResult) -> None:
        self._circuit = Circuit(end.circuit)

    @property
    def circuit(self) -> Circuit:
        """The circuit; without edges where there was nothing to find.

        Raises:
            InvalidRequestError: the search has not come to its end.
        """
        if self.end is None:
            raise InvalidRequestError("the search has not come to its end: it has no circuit", field="result")
        return self._circuit

    @property
    def is_found(self) -> bool:
        """Whether there was something to find; `reason` says why not."""
        return self.end is not None and self.end.verdict == pb.DISCOVERY_VERDICT_FOUND

    @property
    def reason(self) -> str:
        """Why there was nothing to find; empty where there was."""
        return "" if self.end is None else self.end.reason

    def __getitem__(self, name: str) -> LabelledArray:
        plan = self._require_plan()
        if name not in self.names:
            raise InvalidRequestError(
                f"the result has {', '.join(self.names) or 'no arrays'}, not {name!r}", field="name", valid=self.names
            )
        index = self.names.index(name)
        if (index, 0) not in self._tensors:
            raise InvalidRequestError(f"{name} has not come", field="name")
        graph = ComponentGraph.from_plan(plan.senders, plan.receivers)
        values = np.array(self._tensors[index, 0])
        coords = {"sender": graph.senders, "receiver": graph.receivers}
        dims = ("sender", "receiver")[: values.ndim]
        if len(dims) == 2:
            values[~graph.mask] = np.nan
        return LabelledArray(name, values, dims, {dim: coords[dim] for dim in dims})

    def table(self) -> Table:
        """The circuit's facts; where there is none, why."""
        return show(self, "table")

    def __repr__(self) -> str:
        if self.end is None:
            return f"DiscoveryResult({'not begun' if self.plan is None else 'not complete'})"
        return f"DiscoveryResult({self.circuit!r}{'' if self.is_found else ', no effect'})"


class EvaluationResult(
    AnalysisResult[pb.EvaluateCircuitRequest, pb.CircuitPlan, pb.EvaluateCircuitResponse, pb.EvaluationResult]
):
    """An evaluation of a circuit: `result.circuit` is the circuit with its evaluation.

    Args:
        request: what was asked for.
    """

    rpc = "EvaluateCircuit"
    noun = "an evaluation of a circuit"
    request_type = pb.EvaluateCircuitRequest
    response_type = pb.EvaluateCircuitResponse

    def __init__(self, request: pb.EvaluateCircuitRequest) -> None:
        super().__init__(request)
        self.points: list[pb.FaithfulnessPoint] = []
        """Points of the curve, as they came."""
        self.measured: pb.CircuitEvaluation | None = None
        """What has been measured so far; None: nothing."""

    def _on_partial(self, response: pb.EvaluateCircuitResponse) -> None:
        if response.partial.HasField("point"):
            self.points.append(response.partial.point)
        if response.partial.HasField("evaluation"):
            self.measured = response.partial.evaluation

    def _on_result(self, end: pb.EvaluationResult) -> None:
        self._circuit = Circuit(end.circuit)

    @property
    def circuit(self) -> Circuit:
        """The circuit, evaluated.

        Raises:
            InvalidRequestError: the evaluation has not come to its end.
        """
        if self.end is None:
            raise InvalidRequestError("the evaluation has not come to its end", field="result")
        return self._circuit

    def table(self) -> Table:
        """The circuit's facts."""
        return show(self, "table")

    def __repr__(self) -> str:
        return f"EvaluationResult({self.circuit!r})" if self.end is not None else "EvaluationResult(not complete)"
