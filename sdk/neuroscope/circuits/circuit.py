"""A circuit as a value: the part of a model's graph that a behaviour needs, where it comes from, how well it does."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from neuroscope.activations.stream import warn
from neuroscope.circuits import formats
from neuroscope.circuits.comparison import CircuitComparison
from neuroscope.circuits.content import CircuitContent
from neuroscope.circuits.extent import Extent
from neuroscope.circuits.graph import ComponentGraph, Mask
from neuroscope.circuits.model_match import other_shape
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.vocabulary.component_names import Place

if TYPE_CHECKING:
    from rich.table import Table

    from neuroscope.directions import Directions
    from neuroscope.experiments import AttributionResult, SweepResult
    from neuroscope.vocabulary.model_info import ModelInfo

MOST_EDGES = 200_000
"""Edges that a circuit lists; of those outside of it, the weakest are left out beyond that."""


class Circuit(CircuitContent):
    """Nodes and edges of a model's graph, those of the circuit marked. A value: methods give other circuits.

    Args:
        message: as the contract carries it; it is kept as it is.

    `nodes` and `edges` are those of the circuit, by name; `all_nodes` and `all_edges` are those of the graph.
    """

    @classmethod
    def assembled(
        cls,
        graph: ComponentGraph,
        in_circuit: Mask,
        *,
        model: pb.CircuitModel,
        name: str = "",
        description: str = "",
        edge_scores: NDArray[np.floating] | None = None,
        node_scores: Mapping[str, float] | None = None,
        provenance: pb.CircuitProvenance | None = None,
        evaluation: pb.CircuitEvaluation | None = None,
    ) -> Self:
        """From matrices.

        Args:
            graph: of the model.
            in_circuit: the circuit's edges (sender, receiver); nodes at their ends, input and logits are in it too.
            model: the model.
            name: of the circuit.
            description: what it does.
            edge_scores: of edges (sender, receiver); NaN where there is none.
            node_scores: by name.
            provenance: where it comes from.
            evaluation: how well it does.
        """
        kept = set(graph.on_edges(in_circuit))
        message = pb.Circuit(
            name=name,
            description=description,
            edge_count=graph.edge_count,
            model=model,
            provenance=provenance,
            evaluation=evaluation,
        )
        for node in graph.nodes:
            place, score = Place.of(node), (node_scores or {}).get(node)
            message.nodes.add(
                name=node,
                kind=place.kind,
                layer=place.layer,
                head=place.head,
                score=None if score is None else float(score),
                in_circuit=node in kept,
            )
        listed = in_circuit.copy()
        if edge_scores is not None:
            others = np.where(in_circuit, np.nan, edge_scores)
            listed |= graph.strongest(others, max(MOST_EDGES - int(in_circuit.sum()), 0))
        for row, column in np.argwhere(listed):
            score = np.nan if edge_scores is None else edge_scores[row, column]
            message.edges.add(
                sender=graph.senders[row],
                receiver=graph.receivers[column],
                score=float(score) if np.isfinite(score) else None,
                in_circuit=bool(in_circuit[row, column]),
            )
        return cls(message)

    # Other circuits of the same graph.

    def strongest(
        self, *, size: float | None = None, count: int | None = None, threshold: float | None = None, prune: bool = True
    ) -> Self:
        """The circuit of the strongest edges by their scores; it has no evaluation.

        Args:
            size: share of the graph's edges, above 0, at most 1.
            count: so many edges.
            threshold: least magnitude of a score.
            prune: leaves out edges that no path of the circuit leads through from input to logits.

        Raises:
            InvalidRequestError: none or several are given, or one is out of its range.
        """
        extent, graph = Extent(size, count, threshold), self.graph
        chosen = extent.edges(graph, self.edge_scores.values, self.message.edge_count)
        return self.with_edges(graph.names(graph.live(chosen) if prune else chosen))

    def with_edges(self, edges: Iterable[str | tuple[str, str]]) -> Self:
        """The circuit of these edges of the same graph: their names, or sender and receiver. It has no evaluation.

        Raises:
            InvalidRequestError: the graph has no such edge.
        """
        graph = self.graph
        pairs = [_ends(edge) for edge in edges]
        for sender, receiver in pairs:
            if sender not in graph.rows or receiver not in graph.columns:
                missing, known = (sender, graph.rows) if sender not in graph.rows else (receiver, graph.columns)
                close = nearest(missing, known)
                raise InvalidRequestError(
                    f"the graph has no {missing!r}; nearest: {', '.join(close)}", field="edges", valid=close
                )
        mask = graph.marked(pairs)
        if mask.sum() != len(set(pairs)):
            row, column = next(pair for pair in pairs if not graph.mask[graph.rows[pair[0]], graph.columns[pair[1]]])
            raise InvalidRequestError(f"{row} does not reach {column}", field="edges")
        made = type(self).assembled(
            graph,
            mask,
            model=self.model,
            name=self.name,
            description=self.message.description,
            edge_scores=self.edge_scores.values,
            node_scores={node.name: node.score for node in self.message.nodes if node.HasField("score")},
            provenance=self.provenance if self.message.HasField("provenance") else None,
        )
        for node in made.message.nodes:
            before = self.all_nodes[node.name]
            node.label = before.label
            node.metadata.update(before.metadata)
        return made

    # In other forms.

    def to_networkx(self, *, whole: bool = False) -> Any:
        """A MultiDiGraph of networkx: nodes by name; of an edge the key is what a head reads: q, k or v.

        An edge to keys or values goes to every head that reads them. Attributes are those of the contract.

        Args:
            whole: all listed edges, not those of the circuit alone.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        from neuroscope.circuits import networkx_form

        return networkx_form.to_networkx(self, whole=whole)

    def to_json(self) -> dict[str, Any]:
        """Protobuf's JSON of the contract's message, with the contract's field names."""
        return {"format": formats.OWN, **json_format.MessageToDict(self.message, preserving_proto_field_name=True)}

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
        if formats.checked(format) not in formats.TEXTS:
            raise InvalidRequestError(
                f"{format} is a picture: `save` writes it", field="format", valid=tuple(formats.TEXTS)
            )
        return formats.TEXTS[format](self)

    def to_bytes(self, format: str) -> bytes:
        """What a file of it holds, in any format of `to_text`, or png, svg, pdf.

        Raises:
            InvalidRequestError: there is no such format, or matplotlib is not installed.
        """
        if formats.checked(format) in formats.TEXTS:
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
        return cls(formats.parsed(text))

    def save(self, path: str | Path, format: str = "") -> None:
        """Writes a file.

        Args:
            path: its ending says the format: .json (ours), .graphml, .dot, .mmd, .html, .png, .svg, .pdf.
            format: of `neuroscope.circuits.formats`, in place of what the ending says: mib and lazarus are JSON, too.

        Raises:
            InvalidRequestError: there is no such format.
        """
        Path(path).write_bytes(self.to_bytes(formats.of_path(path, format)))

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
        from neuroscope.circuits import sources

        return sources.of_attribution(result, model, extent)

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
        from neuroscope.circuits import sources

        return sources.of_sweep(result, model, extent)

    @staticmethod
    def from_directions(directions: Directions, name: str = "") -> Circuit:
        """Directions of several layers as a chain from input to logits: of nodes how well they tell apart, of edges the
        cosine between neighbours.
        """
        from neuroscope.circuits import sources

        return sources.of_directions(directions, name)

    def compare(self, other: Circuit) -> CircuitComparison:
        """What both share, and what only one has. Circuits of two checkpoints are compared with a warning.

        Raises:
            InvalidRequestError: they are of models of two shapes.
        """
        if shape := other_shape(self.message.model, other.message.model):
            raise InvalidRequestError(
                f"circuits of two graphs have nothing in common: the first is of {shape}", field="model"
            )
        found = CircuitComparison(self, other)
        warn(found.warnings)
        return found

    # Looking at it.

    def table(self) -> Table:
        """What is known of it, and its strongest edges."""
        from neuroscope.viz import circuit_tables as tables

        return tables.circuit_table(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: the graph by layers, and the curve of faithfulness if there is one.

        Args:
            path: where to write it, in the format of the ending: .png, .svg, .pdf. (`save` writes pages.)

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        try:
            from neuroscope.viz import circuit_picture
        except ImportError:
            raise InvalidRequestError("plot needs matplotlib: pip install 'neuroscope-mlx[viz]'", field="viz") from None
        return circuit_picture.draw(self, path)

    def __rich__(self) -> Table:
        return self.table()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        from neuroscope.viz.tables import as_mimebundle

        return {**as_mimebundle(self.__rich__(), **options), "text/html": formats.page.fragment(self)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Circuit) and self.message == other.message

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as that of protobuf's messages

    def __repr__(self) -> str:
        measured = self.evaluation
        faithful = "" if measured is None else f", faithfulness {measured.faithfulness:.3f}"
        return f"Circuit({self.summary}{faithful})"


def _ends(edge: str | tuple[str, str]) -> tuple[str, str]:
    if not isinstance(edge, str):
        return edge
    sender, arrow, receiver = edge.partition("->")
    if not arrow:
        raise InvalidRequestError(f"{edge!r} is no edge such as input->a0.h0<q>", field="edges")
    return sender, receiver
