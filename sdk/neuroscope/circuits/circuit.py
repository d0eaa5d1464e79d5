"""A circuit as a value: the part of a model's graph that a behaviour needs, where it comes from, how well it does."""

from __future__ import annotations

import io
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
    """Nodes and edges of a model's graph, those of the circuit marked. A value: methods give other circuits.

    Args:
        message: as the contract carries it; it is kept as it is.

    `nodes` and `edges` are those of the circuit, by name; `all_nodes` and `all_edges` are those of the graph.
    """

    # In other forms.

    def to_networkx(self, *, whole: bool = False) -> Any:
        """A MultiDiGraph of networkx: nodes by name; of an edge the key is what a head reads: q, k or v.

        An edge to keys or values goes to every head that reads them. Attributes are those of the contract.

        Args:
            whole: all listed edges, not those of the circuit alone.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        return networkx_graph.to_networkx(self, whole=whole)

    def to_json(self) -> dict[str, Any]:
        """Protobuf's JSON of the contract's message, with the contract's field names."""
        return formats.to_object(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From the form of `to_json`, or the JSON layouts of MIB and chuk-lazarus.

        Raises:
            InvalidRequestError: it is no circuit; says what is unknown or malformed.
        """
        return cls(formats.from_object(value))

    def to_text(self, format: str) -> str:
        """The text of a file of it.

        Args:
            format: json, mib, lazarus, graphml, dot, mermaid or html; see `neuroscope.circuits.formats`.

        Raises:
            InvalidRequestError: there is no such format, or it is a picture's.
        """
        if formats.check_format(format) not in formats.TEXTS:
            raise InvalidRequestError(
                f"{format} is a picture: `save` writes it", field="format", valid=tuple(formats.TEXTS)
            )
        return formats.TEXTS[format](self)

    def to_bytes(self, format: str) -> bytes:
        """What a file of it holds, in any format of `to_text`, or png, svg, pdf.

        Raises:
            InvalidRequestError: there is no such format, or matplotlib is not installed.
        """
        if formats.check_format(format) in formats.TEXTS:
            return self.to_text(format).encode()
        written = io.BytesIO()
        self.plot().savefig(written, format=format, dpi=150)
        return written.getvalue()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From the text of a file: our JSON, MIB's, chuk-lazarus', or GraphML, told by what is in it.

        Raises:
            InvalidRequestError: it is none of these.
        """
        return cls(formats.parse(text))

    def save(self, path: str | Path, format: str = "") -> None:
        """Writes a file.

        Args:
            path: its ending says the format: .json (ours), .graphml, .dot, .mmd, .html, .png, .svg, .pdf.
            format: of `neuroscope.circuits.formats`, in place of what the ending says: mib and lazarus are JSON, too.

        Raises:
            InvalidRequestError: there is no such format.
        """
        Path(path).write_bytes(self.to_bytes(formats.format_of(path, format)))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a file: our JSON, MIB's, chuk-lazarus', or GraphML, told by what is in it.

        Raises:
            InvalidRequestError: it cannot be read, or holds no circuit.
        """
        return cls(formats.read(path))

    # From other results, and beside other circuits.

    @staticmethod
    def from_attribution(result: AttributionResult, *, model: ModelInfo | None = None, **extent: Any) -> Circuit:
        """The strongest edges, or nodes, of an attribution.

        Args:
            result: of edges (eap, eap-ig), or of places by head and layer.
            model: whose result it is; needed where places were scored.
            extent: `size`, `count`, `threshold` and `prune` of `strongest`; by default a size of 0.2.

        Raises:
            InvalidRequestError: it scored neither, or the extent is out of its range.
        """
        return Circuit(sources.of_attribution(result, model, extent))

    @staticmethod
    def from_sweep(result: SweepResult, *, model: ModelInfo, **extent: Any) -> Circuit:
        """The strongest nodes of a sweep over heads and MLPs, or the strongest edges of one over paths.

        Args:
            result: its grids over layer and head (head_output), over layer (mlp_out), or over senders and receivers; of
                several positions the largest effect counts, of several pairs their mean.
            model: whose result it is.
            extent: as of `from_attribution`; of nodes, a share or number of these.

        Raises:
            InvalidRequestError: it has no such grid, or the extent is out of its range.
        """
        return Circuit(sources.of_sweep(result, model, extent))

    @staticmethod
    def from_directions(directions: Directions, name: str = "") -> Circuit:
        """Directions of several layers as a chain from input to logits: of nodes how well they tell apart, of edges the
        cosine between neighbours.
        """
        return Circuit(sources.of_directions(directions, name))

    def compare(self, other: Circuit) -> CircuitComparison:
        """What both share, and what only one has. Circuits of two checkpoints are compared with a warning.

        Raises:
            InvalidRequestError: they are of models of two shapes.
        """
        if shape := shape_difference(self.message.model, other.message.model):
            raise InvalidRequestError(
                f"circuits of two graphs have nothing in common: the first is of {shape}", field="model"
            )
        found = CircuitComparison(self, other)
        warn(found.warnings)
        return found

    # Looking at it.

    def table(self) -> Table:
        """What is known of it, and its strongest edges."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: the graph by layers, and the curve of faithfulness if there is one.

        Args:
            path: where to write it, in the format of the ending: .png, .svg, .pdf. (`save` writes pages.)

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Circuit) and self.message == other.message

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages

    def __repr__(self) -> str:
        measured = self.evaluation
        faithful = "" if measured is None else f", faithfulness {measured.faithfulness:.3f}"
        return f"Circuit({self.summary}{faithful})"
