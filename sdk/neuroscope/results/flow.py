"""The flow of information between components: who reads what others wrote, by path patching, as a graph."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import residual_pb2 as pb

if TYPE_CHECKING:
    from rich.table import Table

_NODE = re.compile(r"(?P<kind>[am])(?P<layer>\d+)(?:\.h(?P<head>\d+))?")


@dataclass(frozen=True, slots=True)
class FlowWriter:
    """A component that carries something of the difference between both prompts."""

    name: str
    """input, a0.h3 or m0."""
    effect: float
    """What replacing its output does to the metric, as a share of the difference."""
    written_norm: float
    """Norm of the difference that it writes, over all positions."""
    survival: tuple[float, ...]
    """What is left of that in the stream before each layer, then at the end: 1 for all, 0 before it is written."""
    rewriters: tuple[tuple[str, float], ...]
    """Components that change it, and by which share of it: -1 erases it."""


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """A direct path from a writer to a reader."""

    writer: str
    """input, a0.h3 or m0."""
    reader: str
    """a1.h0<q>, a1.h0<k>, a1.h0<v>, m1 or logits; of keys and values a key/value head."""
    effect: float
    """What the path does to the metric, as a share of the difference between both runs."""
    layers_between: int
    """Whole layers between both."""
    read_between: float
    """The largest effect of the writer's paths to readers between, as a share of this one's."""
    reader_between: str
    """Which reader has it; empty where it is within the tolerance."""
    survival: float
    """What is left of the write where the reader reads."""
    is_skip: bool
    """A layer at least lies between, the write arrives as it was, and nothing between reads it."""


@dataclass(frozen=True, slots=True)
class InformationFlow(Displayable):
    """Who reads what others wrote, of one pair of prompts: nodes are components, edges direct paths."""

    clean: float
    """The metric of the clean run."""
    corrupted: float
    """That of the corrupted one."""
    writers: tuple[FlowWriter, ...]
    """Strongest effect first."""
    edges: tuple[FlowEdge, ...]
    """Strongest first; those below the least effect are left out."""

    @classmethod
    def from_message(cls, told: pb.InformationFlow) -> InformationFlow:
        """As the contract carries it."""
        writers = [
            FlowWriter(
                each.name,
                each.effect,
                each.written_norm,
                tuple(each.survival),
                tuple((rewriting.name, rewriting.share) for rewriting in each.rewriters),
            )
            for each in told.writers
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
            for edge in told.edges
        ]
        return cls(told.clean, told.corrupted, tuple(writers), tuple(edges))

    @property
    def skips(self) -> tuple[FlowEdge, ...]:
        """Edges that skip layers: written early, read late, untouched between."""
        return tuple(edge for edge in self.edges if edge.is_skip)

    @property
    def nodes(self) -> list[str]:
        """Components that an edge touches, from the input up."""
        return sorted({name for edge in self.edges for name in (edge.writer, component_of(edge.reader))}, key=depth)

    def writer(self, name: str) -> FlowWriter:
        """A writer by its name.

        Raises:
            InvalidRequestError: there is none of it.
        """
        for each in self.writers:
            if each.name == name:
                return each
        raise InvalidRequestError(f"{name!r} writes nothing of the difference", field="name")

    def to_networkx(self) -> Any:
        """A `networkx.MultiDiGraph`: nodes are components, edges have the attributes of `FlowEdge`.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        try:
            networkx = importlib.import_module("networkx")
        except ImportError:
            raise InvalidRequestError("to_networkx needs networkx: pip install networkx", field="networkx") from None
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
        """A matplotlib figure: components from the input at the bottom to the logits at the top, skip edges in colour.

        Args:
            path: where to write it, in the format of the ending: .png, .svg, .pdf, or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)


def component_of(reader: str) -> str:
    """The component that a reader belongs to: a1.h0 of a1.h0<q>."""
    return reader.partition("<")[0]


def depth(node: str) -> float:
    """Where a component stands, in half layers: the input at -1, the logits on top."""
    match = _NODE.fullmatch(node)
    if match is None:
        return -1.0 if node == "input" else float("inf")
    return 2.0 * int(match["layer"]) + (match["kind"] == "m")
