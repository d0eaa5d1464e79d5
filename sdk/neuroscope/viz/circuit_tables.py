"""Tables of circuits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from neuroscope.viz.text_table import TextTable

if TYPE_CHECKING:
    from neuroscope.circuits.comparison import CircuitComparison
    from neuroscope.circuits.content import CircuitContent
    from neuroscope.results.discovery import DiscoveryResult, EvaluationResult

_EDGES = 10


def circuit_table(circuit: CircuitContent) -> Table:
    """Provenance, evaluation and the strongest edges."""
    title = circuit.summary
    table = TextTable(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=False, min_width=len(title))
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in circuit.facts.items():
        table.add_row(name, Text(_written(value)))
    edges = sorted(circuit.edges.items(), key=lambda entry: -abs(entry[1].score))
    if edges and any(edge.HasField("score") for _, edge in edges):
        table.add_section()
        for name, edge in edges[:_EDGES]:
            table.add_row(Text(name), f"{edge.score:+.4f}")
        if len(edges) > _EDGES:
            table.add_row(f"and {len(edges) - _EDGES} more", "", style="dim")
    return table


def discovery_table(result: DiscoveryResult) -> Table:
    """The circuit's table; if none was found, with the reason."""
    table = circuit_table(result.circuit)
    if not result.is_found:
        table.caption = f"no effect: {result.reason}"
    return table


def evaluation_table(result: EvaluationResult) -> Table:
    """The circuit's table."""
    return circuit_table(result.circuit)


def comparison_table(comparison: CircuitComparison) -> Table:
    """Sizes and overlap of two circuits, and the strongest edges of each side."""
    first, second = comparison.first.name or "first", comparison.second.name or "second"
    table = TextTable(title=f"{first} and {second}", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", first, second, "both", "Jaccard"):
        table.add_column(Text(name), justify="right" if name else "left")
    nodes, edges = comparison.shared_nodes, comparison.shared_edges
    table.add_row(
        "nodes",
        str(len(comparison.first.nodes)),
        str(len(comparison.second.nodes)),
        str(len(nodes)),
        f"{comparison.node_jaccard:.3f}",
    )
    table.add_row(
        "edges",
        str(len(comparison.first.edges)),
        str(len(comparison.second.edges)),
        str(len(edges)),
        f"{comparison.edge_jaccard:.3f}",
    )
    count = len(comparison.scored_edges)
    table.caption = (
        f"scores of {count} edges: Pearson {comparison.pearson:.3f}, Spearman {comparison.spearman:.3f}"
        if count > 1
        else "no scores to compare"
    )
    for warning in comparison.warnings:
        table.caption = f"{warning}; {table.caption}"
    return table


def _written(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
