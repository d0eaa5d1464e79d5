"""What the demo shows of circuits: one is found, and does without the rest of the model."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.analysis import AnalysisClient
from neuroscope.circuits import Circuit
from neuroscope.cli.demo.verification import Verification
from neuroscope.errors import MLXIntegrationError

DATASET = "copying"
PAIR_COUNT = 16
SIZE = 0.05
"""Share of the edges that is kept."""
LEAST_FAITHFULNESS = 0.9
_SIZES = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class FoundCircuit:
    """What a search gave."""

    circuit: Circuit | None
    why_not: str = ""
    """Why there is none: the model's tokenizer or graph does not fit, or the prompts make no difference."""

    def detail(self) -> str:
        """Its size and how well it does, in a line."""
        measured = None if self.circuit is None else self.circuit.evaluation
        if self.circuit is None or measured is None:
            return self.why_not
        points = ", ".join(f"{point.faithfulness:.2f} at {100 * point.size:g} %" for point in measured.curve)
        return (
            f"{len(self.circuit.edges)} of {self.circuit.message.edge_count} edges, {len(self.circuit.heads)} heads; "
            f"faithfulness {points}"
        )

    def verified(self) -> list[Verification]:
        """Whether the circuit does what the model does, and the rest of the model does not."""
        measured = None if self.circuit is None else self.circuit.evaluation
        if measured is None:
            return []
        detail = (
            f"faithfulness {measured.faithfulness:.3f} at {100 * SIZE:g} % of the edges; of all others "
            f"{1 - measured.completeness:.3f}"
        )
        is_found = measured.faithfulness > LEAST_FAITHFULNESS and measured.completeness > LEAST_FAITHFULNESS
        return [Verification("a circuit copies without the rest of the model", is_found, detail)]


def find_circuit(client: AnalysisClient) -> FoundCircuit:
    """The circuit that copies words, on the model that is loaded first."""
    try:
        found = client.discover_circuit(DATASET, pairs=PAIR_COUNT, size=SIZE, curve_sizes=_SIZES, name="copying words")
    except MLXIntegrationError as error:
        return FoundCircuit(None, error.message)
    return FoundCircuit(found.circuit) if found.is_found else FoundCircuit(None, found.reason)
