"""The results of circuit discovery and of circuit evaluation."""

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
    """The result of a circuit discovery.

    `result.circuit` is the circuit; `result["edge_score"]` holds the scores of all edges over sender and receiver,
    `result["node_score"]` those of nodes.

    Args:
        request: the request of the search.
    """

    rpc = "DiscoverCircuit"
    noun = "a search for a circuit"
    request_type = pb.DiscoverCircuitRequest
    response_type = pb.DiscoverCircuitResponse

    def __init__(self, request: pb.DiscoverCircuitRequest) -> None:
        super().__init__(request)
        self.baselines: list[experiment_pb2.PairBaseline] = []
        """Metric of the unedited runs, by pair."""
        self.points: list[pb.FaithfulnessPoint] = []
        """Points of the faithfulness curve, in the order received."""
        self.edges: list[pb.CircuitEdge] = []
        """Patched or decided edges, in the order received."""
        self.measured: pb.CircuitEvaluation | None = None
        """The evaluation so far; None before it begins."""

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
        """The circuit; without edges if none was found.

        Raises:
            InvalidRequestError: the search is not complete.
        """
        if self.end is None:
            raise InvalidRequestError("the search is not complete: it has no circuit", field="result")
        return self._circuit

    @property
    def is_found(self) -> bool:
        """Whether a circuit was found; if not, `reason` says why."""
        return self.end is not None and self.end.verdict == pb.DISCOVERY_VERDICT_FOUND

    @property
    def reason(self) -> str:
        """Why no circuit was found; empty if one was."""
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
        """The circuit's table; if none was found, with the reason."""
        return show(self, "table")

    def __repr__(self) -> str:
        if self.end is None:
            return f"DiscoveryResult({'not begun' if self.plan is None else 'not complete'})"
        return f"DiscoveryResult({self.circuit!r}{'' if self.is_found else ', no effect'})"


class EvaluationResult(
    AnalysisResult[pb.EvaluateCircuitRequest, pb.CircuitPlan, pb.EvaluateCircuitResponse, pb.EvaluationResult]
):
    """The result of a circuit evaluation: `result.circuit` is the circuit with its evaluation.

    Args:
        request: the request of the evaluation.
    """

    rpc = "EvaluateCircuit"
    noun = "an evaluation of a circuit"
    request_type = pb.EvaluateCircuitRequest
    response_type = pb.EvaluateCircuitResponse

    def __init__(self, request: pb.EvaluateCircuitRequest) -> None:
        super().__init__(request)
        self.points: list[pb.FaithfulnessPoint] = []
        """Points of the faithfulness curve, in the order received."""
        self.measured: pb.CircuitEvaluation | None = None
        """The evaluation so far; None before it begins."""

    def _on_partial(self, response: pb.EvaluateCircuitResponse) -> None:
        if response.partial.HasField("point"):
            self.points.append(response.partial.point)
        if response.partial.HasField("evaluation"):
            self.measured = response.partial.evaluation

    def _on_result(self, end: pb.EvaluationResult) -> None:
        self._circuit = Circuit(end.circuit)

    @property
    def circuit(self) -> Circuit:
        """The evaluated circuit.

        Raises:
            InvalidRequestError: the evaluation is not complete.
        """
        if self.end is None:
            raise InvalidRequestError("the evaluation is not complete", field="result")
        return self._circuit

    def table(self) -> Table:
        """The circuit's table."""
        return show(self, "table")

    def __repr__(self) -> str:
        return f"EvaluationResult({self.circuit!r})" if self.end is not None else "EvaluationResult(not complete)"
