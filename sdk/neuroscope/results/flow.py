"""Information flow between components by path patching, as a graph of writers and readers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError
from neuroscope.optional_import import optional_import
from neuroscope.v1 import residual_pb2 as pb

if TYPE_CHECKING:
    from rich.table import Table

_NODE = re.compile(r"(?P<kind>[am])(?P<layer>\d+)(?:\.h(?P<head>\d+))?")


@dataclass(frozen=True, slots=True)
class FlowWriter:
    """A component whose output differs between the two prompts."""

    name: str
    """input, a0.h3 or m0."""
    effect: float
    """Effect of patching its output on the metric, as a share of the difference between both runs."""
    written_norm: float
    """Norm of the difference in its output, over all positions."""
    survival: tuple[float, ...]
    """Share of the difference that remains in the stream before each layer and at the end; 0 before it is written."""
    rewriters: tuple[tuple[str, float], ...]
    """Components that change the difference, with the share of the change: -1 erases it."""


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """A direct path from a writer to a reader."""

    writer: str
    """input, a0.h3 or m0."""
    reader: str
    """a1.h0<q>, a1.h0<k>, a1.h0<v>, m1 or logits; for keys and values, the key/value head."""
    effect: float
    """Effect of patching the path on the metric, as a share of the difference between both runs."""
    layers_between: int
    """Number of layers between writer and reader."""
    read_between: float
    """Largest effect of the writer's paths to readers in between, relative to this edge."""
    reader_between: str
    """The reader with that effect; empty if it is within the tolerance."""
    survival: float
    """Share of the writer's output that remains at the reader."""
    is_skip: bool
    """Whether the edge skips layers: the output arrives unchanged and nothing in between reads it."""


@dataclass(frozen=True, slots=True)
class InformationFlow(Displayable):
    """Direct paths between components for one pair of prompts."""

    clean: float
    """Metric of the clean run."""
    corrupted: float
    """Metric of the corrupted run."""
    writers: tuple[FlowWriter, ...]
    """Writers, strongest effect first."""
    edges: tuple[FlowEdge, ...]
    """Edges, strongest first, without those below the least effect."""

    @classmethod
    def from_message(cls, message: pb.InformationFlow) -> InformationFlow:
        """From the contract's message."""
        writers = [
            FlowWriter(
                each.name,
                each.effect,
                each.written_norm,
                tuple(each.survival),
                tuple((rewriting.name, rewriting.share) for rewriting in each.rewriters),
            )
            for each in message.writers
        ]
        edges = [
            FlowEdge(
                edge.writer,
                edge.reader,
                edge.effect,
                edge.layers_between,
                edge.read_between,
                edge.reader_between,
                edge.survival,
                edge.is_skip,
            )
            for edge in message.edges
        ]
        return cls(message.clean, message.corrupted, tuple(writers), tuple(edges))

    @property
    def skips(self) -> tuple[FlowEdge, ...]:
        """Edges that skip layers."""
        return tuple(edge for edge in self.edges if edge.is_skip)

    @property
    def nodes(self) -> list[str]:
        """Components with an edge, sorted by depth."""
        return sorted({name for edge in self.edges for name in (edge.writer, component_of(edge.reader))}, key=depth)

    def writer(self, name: str) -> FlowWriter:
        """A writer by name.

        Raises:
            InvalidRequestError: there is no such writer.
        """
        for each in self.writers:
            if each.name == name:
                return each
        raise InvalidRequestError(f"there is no writer {name!r}", field="name")

    def to_networkx(self) -> Any:
        """A `networkx.MultiDiGraph`: nodes are components, edges have the attributes of `FlowEdge`.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        networkx = optional_import("networkx", "to_networkx")
        graph = networkx.MultiDiGraph(clean=self.clean, corrupted=self.corrupted)
        for node in self.nodes:
            graph.add_node(node, height=depth(node))
        for edge in self.edges:
            graph.add_edge(
                edge.writer,
                component_of(edge.reader),
                key=edge.reader,
                reader=edge.reader,
                effect=edge.effect,
                weight=abs(edge.effect),
                layers_between=edge.layers_between,
                read_between=edge.read_between,
                survival=edge.survival,
                is_skip=edge.is_skip,
            )
        return graph

    def table(self) -> Table:
        """A line for each edge."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: components from the input (bottom) to the logits (top), skip edges in colour.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)


def component_of(reader: str) -> str:
    """The component of a reader: a1.h0 for a1.h0<q>."""
    return reader.partition("<")[0]


def depth(node: str) -> float:
    """Depth of a component in half layers: -1 for the input, infinity for the logits."""
    match = _NODE.fullmatch(node)
    if match is None:
        return -1.0 if node == "input" else float("inf")
    return 2.0 * int(match["layer"]) + (match["kind"] == "m")
