"""A circuit: the part of a model's graph that a behaviour needs, with provenance and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from neuroscope.activations.stream import warn
from neuroscope.circuits import formats, networkx_graph, sources
from neuroscope.circuits.comparison import CircuitComparison
from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.model_match import shape_difference
from neuroscope.display import show
from neuroscope.errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.table import Table

    from neuroscope.directions import Directions
    from neuroscope.experiments import AttributionResult, SweepResult
    from neuroscope.vocabulary.model_info import ModelInfo


class Circuit(CircuitContent):
    """The nodes and edges of a model's graph, with the circuit's marked. Immutable: methods return new circuits.

    Args:
        message: the contract's message. It is kept, not copied.

    `nodes` and `edges` are the circuit's, by name; `all_nodes` and `all_edges` are the graph's.
    """

    # Formats.

    def to_networkx(self, *, whole: bool = False) -> Any:
        """A networkx MultiDiGraph. Nodes are named; the key of an edge is the input of the head: q, k or v.

        An edge to shared keys or values leads to every head that reads them. Attributes are the contract's fields.

        Args:
            whole: includes the listed edges outside of the circuit.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        return networkx_graph.to_networkx(self, whole=whole)

    def to_json(self) -> dict[str, Any]:
        """Protobuf's JSON of the contract's message, with the contract's field names."""
        return formats.to_object(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads the result of `to_json`, or the JSON layouts of MIB and chuk-lazarus.

        Raises:
            InvalidRequestError: the object is not a circuit; the message names the offending field.
        """
        return cls(formats.from_object(value))

    def to_text(self, format: str) -> str:
        """The circuit in a text format.

        Args:
            format: json, mib, lazarus, graphml, dot, mermaid or html; see `neuroscope.circuits.formats`.

        Raises:
            InvalidRequestError: the format is unknown, or not a text format.
        """
        if formats.check_format(format) not in formats.TEXTS:
            raise InvalidRequestError(
                f"{format} is a picture: `save` writes it", field="format", valid=tuple(formats.TEXTS)
            )
        return formats.TEXTS[format](self)

    def to_bytes(self, format: str) -> bytes:
        """The circuit as the content of a file: any format of `to_text`, or png, svg, pdf.

        Raises:
            InvalidRequestError: the format is unknown, or matplotlib is not installed.
        """
        if formats.check_format(format) in formats.TEXTS:
            return self.to_text(format).encode()
        return show(self, "image", format)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Reads text: our JSON, MIB's, chuk-lazarus' or GraphML. The format is detected.

        Raises:
            InvalidRequestError: the text is in none of these formats.
        """
        return cls(formats.parse(text))

    def save(self, path: str | Path, format: str = "") -> None:
        """Writes a file.

        Args:
            path: the suffix selects the format: .json (ours), .graphml, .dot, .mmd, .html, .png, .svg, .pdf.
            format: overrides the suffix, for the JSON layouts mib and lazarus; see `neuroscope.circuits.formats`.

        Raises:
            InvalidRequestError: the format is unknown.
        """
        Path(path).write_bytes(self.to_bytes(formats.format_of(path, format)))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a file: our JSON, MIB's, chuk-lazarus' or GraphML. The format is detected.

        Raises:
            InvalidRequestError: the file cannot be read, or holds no circuit.
        """
        return cls(formats.read(path))

    # Other results.

    @staticmethod
    def from_attribution(result: AttributionResult, *, model: ModelInfo | None = None, **extent: Any) -> Circuit:
        """The circuit of the edges or nodes with the largest attribution scores.

        Args:
            result: scores of edges (eap, eap-ig), or of components by head and layer.
            model: the attributed model; required if components were scored.
            extent: `size`, `count`, `threshold` and `prune` of `strongest`; the default is a size of 0.2.

        Raises:
            InvalidRequestError: the result has neither kind of score, or the extent is out of range.
        """
        return Circuit(sources.of_attribution(result, model, extent))

    @staticmethod
    def from_sweep(result: SweepResult, *, model: ModelInfo, **extent: Any) -> Circuit:
        """The circuit of the nodes with the largest effects in a sweep over heads and MLPs, or of the edges in a sweep
        over paths.

        Args:
            result: has grids over layer and head (head_output), over layer (mlp_out), or over senders and receivers.
                The largest effect over positions counts, and the mean over pairs.
            model: the swept model.
            extent: as in `from_attribution`; for nodes, a share or number of nodes.

        Raises:
            InvalidRequestError: the result has no such grid, or the extent is out of range.
        """
        return Circuit(sources.of_sweep(result, model, extent))

    @staticmethod
    def from_directions(directions: Directions, name: str = "") -> Circuit:
        """A chain of directions from input to logits. Node scores are the directions' accuracies, edge scores the
        cosines of neighbouring directions.
        """
        return Circuit(sources.of_directions(directions, name))

    def compare(self, other: Circuit) -> CircuitComparison:
        """Compares two circuits. Warns if they are of different checkpoints.

        Raises:
            InvalidRequestError: the models have different shapes.
        """
        if shape := shape_difference(self.message.model, other.message.model):
            raise InvalidRequestError(
                f"circuits of two graphs have nothing in common: the first is of {shape}", field="model"
            )
        found = CircuitComparison(self, other)
        warn(found.warnings)
        return found

    # Display.

    def table(self) -> Table:
        """Provenance, evaluation and the strongest edges."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None, *, edges: int = 60) -> Any:
        """A matplotlib figure at the width of a page: the graph by layer, and the faithfulness curve if there is one.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf. (`save` writes HTML pages.)
            edges: the number of edges, strongest first; the title says how many there are. The HTML page has all.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path, edges=edges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Circuit) and self.message == other.message

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages

    def __repr__(self) -> str:
        measured = self.evaluation
        faithful = "" if measured is None else f", faithfulness {measured.faithfulness:.3f}"
        return f"Circuit({self.summary}{faithful})"
