"""What a search for a circuit is worth where the circuit is known, as numbers for the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from neuroscope.analysis import DiscoveryResult
from tests.truth.ranking import auroc
from tests.truth.tasks import Edge, Task

EXACT = "edge-patching"
"""What other scores are compared with."""
_Z = 1.959964  # of a two-sided interval of 95 %


def edge_scores(found: DiscoveryResult) -> dict[Edge, float]:
    """Of every edge of the graph, its score's magnitude; 0 where it has none."""
    grid = found["edge_score"]
    scores = np.nan_to_num(np.abs(grid.values))
    plan = found.plan
    assert plan is not None
    reached = [receiver.sender_count for receiver in plan.receivers]
    return {
        (sender, receiver): float(scores[row, column])
        for column, receiver in enumerate(grid.coords["receiver"])
        for row, sender in enumerate(grid.coords["sender"][: reached[column]])
    }


def node_scores(found: DiscoveryResult) -> dict[str, float]:
    """Of every node that writes, its score's magnitude."""
    grid = found["node_score"]
    return dict(zip(grid.coords["sender"], np.nan_to_num(np.abs(grid.values)).tolist(), strict=True))


def of_search(task: Task, found: DiscoveryResult, exact: Mapping[Edge, float] | None) -> dict[str, Any]:
    """The row of a search: how its scores rank what is planted, and how well its circuit does."""
    circuit = found.circuit
    true = task.circuit
    row: dict[str, Any] = {"is_found": found.is_found}
    if "edge_score" in found.names:
        scores = edge_scores(found)
        strongest = sorted(scores, key=lambda edge: -scores[edge])[: len(true)]
        row["auroc"] = auroc(scores, true)
        row["precision"] = len(true & set(strongest)) / len(true)
        row["pearson"] = None if exact is None else pearson(scores, exact)
        kept = {(edge.sender, edge.receiver) for edge in circuit.message.edges if edge.in_circuit}
        row["missing"], row["extra"] = len(true - kept - task.cancelling), len(kept - true)
    else:
        nodes = {sender for sender, _ in true}
        scored = node_scores(found)
        strongest_nodes = sorted(scored, key=lambda node: -scored[node])[: len(nodes)]
        row["auroc"] = auroc(scored, nodes)
        row["precision"] = len(nodes & set(strongest_nodes)) / len(nodes)
    evaluation = circuit.evaluation
    if evaluation is not None:
        row["faithfulness"] = evaluation.faithfulness
        row["completeness"] = evaluation.completeness
        row["minimality"] = evaluation.minimality if evaluation.HasField("minimality") else None
        row["cpr"] = evaluation.cpr if evaluation.HasField("cpr") else None
        row["cmd"] = evaluation.cmd if evaluation.HasField("cmd") else None
    provenance = circuit.provenance
    row["calls"], row["seconds"] = provenance.call_count, provenance.elapsed_seconds
    row["forward_passes"] = provenance.forward_passes
    return row


def wilson(found: int, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % of a share."""
    share = found / count
    middle = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    whole = 1 + _Z**2 / count
    return max(0.0, (middle - half) / whole), (middle + half) / whole


def pearson(scores: Mapping[Edge, float], exact: Mapping[Edge, float]) -> float:
    """Of the scores of all edges."""
    return float(np.corrcoef(list(scores.values()), [exact[edge] for edge in scores])[0, 1])
