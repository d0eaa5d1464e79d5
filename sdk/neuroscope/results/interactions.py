"""The result of mapping interactions: a graph of heads, connected by paths with a significant effect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.display import show
from neuroscope.labelled_array import LabelledArray
from neuroscope.optional_import import optional_import
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import interaction_pb2 as pb
from neuroscope.vocabulary.counts import counted

if TYPE_CHECKING:
    from rich.table import Table

Head = tuple[int, int]
"""Layer and head."""
_PARTS = {
    pb.RECEIVER_PART_Q: "q",
    pb.RECEIVER_PART_K: "k",
    pb.RECEIVER_PART_V: "v",
    pb.RECEIVER_PART_LOGITS: "logits",
}
_TWO = ("sender_layer", "sender_head", "receiver_layer", "receiver_head")


@dataclass(frozen=True, slots=True)
class Interaction:
    """A path from a head to a reader of its output, with its effect."""

    sender: Head
    """The sending head."""
    receiver: Head | None
    """The receiving head (q) or key/value head (k, v); None for the logits."""
    part: str
    """q, k, v or logits."""
    effect: float
    """Share of the metric that is lost when the path is patched; negative if the metric grows."""
    standard_error: float
    """Standard error of the mean over pairs."""
    p_value: float
    """p-value of a t-test over pairs against no effect."""

    @property
    def name(self) -> str:
        """Name of the path, such as `a0.h3 -> a1.h0<k>`."""
        return f"a{self.sender[0]}.h{self.sender[1]} -> {self.reader}"

    @property
    def reader(self) -> str:
        """The receiver, such as `a1.h0<k>`, or logits."""
        return "logits" if self.receiver is None else f"a{self.receiver[0]}.h{self.receiver[1]}<{self.part}>"

    @classmethod
    def from_message(cls, message: pb.HeadInteraction) -> Interaction:
        """From the contract's message."""
        is_head = message.HasField("receiver_layer")
        return cls(
            sender=(message.sender_layer, message.sender_head),
            receiver=(message.receiver_layer, message.receiver_head) if is_head else None,
            part=_PARTS[message.part],
            effect=message.effect,
            standard_error=message.standard_error,
            p_value=message.p_value,
        )


class InteractionGraph(
    AnalysisResult[pb.MapInteractionsRequest, pb.InteractionPlan, pb.MapInteractionsResponse, pb.InteractionResult]
):
    """Paths between heads.

    `interactions` are the significant paths. Arrays hold every tested effect: `head_effect` and `direct_effect` over
    layer and head; `q_effect`, `k_effect` and `v_effect` over sender_layer, sender_head, receiver_layer and
    receiver_head.

    Args:
        request: the request of the search.
    """

    rpc = "MapInteractions"
    noun = "a search for interactions"
    request_type = pb.MapInteractionsRequest
    response_type = pb.MapInteractionsResponse

    def __init__(self, request: pb.MapInteractionsRequest) -> None:
        super().__init__(request)
        self.interactions: list[Interaction] = []
        """Significant paths, strongest first; until the search is complete, all tested paths."""

    def _on_partial(self, response: pb.MapInteractionsResponse) -> None:
        self.interactions += map(Interaction.from_message, response.partial.tried)

    def _on_result(self, end: pb.InteractionResult) -> None:
        self.interactions = [Interaction.from_message(each) for each in end.interactions]

    def __getitem__(self, name: str) -> LabelledArray:
        _, values = self._stacked(name)
        plan = self._require_plan()
        layers = list(plan.layers)
        if values.ndim == 3:
            coords: dict[str, Any] = {"layer": layers, "head": list(range(plan.head_count))}
            return LabelledArray(name, values[0], ("layer", "head"), coords)
        counts = (plan.head_count, values.shape[-1])
        axes = (layers, list(range(counts[0])), layers, list(range(counts[1])))
        return LabelledArray(name, values[0], _TWO, dict(zip(_TWO, axes, strict=True)))

    def __iter__(self) -> Iterator[LabelledArray]:
        return (self[name] for name in self.names)

    def effects(self) -> dict[str, float]:
        """Effects of all paths between these heads by name; 0 for untested paths."""
        found: dict[str, float] = {}
        for part in ("q", "k", "v"):
            grid = self[f"{part}_effect"]
            for index, effect in np.ndenumerate(grid.values):
                writer, sender, reader, receiver = (grid.coords[dim][at] for dim, at in zip(_TWO, index, strict=True))
                if writer < reader:
                    path = Interaction((writer, sender), (reader, receiver), part, float(effect), 0.0, 0.0)
                    found[path.name] = float(np.nan_to_num(effect))
        direct = self["direct_effect"]
        for (layer, head), effect in np.ndenumerate(direct.values):
            path = Interaction((direct.coords["layer"][layer], head), None, "logits", float(effect), 0.0, 0.0)
            found[path.name] = float(np.nan_to_num(effect))
        return found

    def to_networkx(self) -> Any:
        """A networkx.MultiDiGraph: nodes are heads such as (1, 0) and `logits`; edges are keyed by part (q, k, v) and
        have `effect` and `standard_error`.

        A path to shared keys or values becomes an edge to each head that shares them.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        networkx = optional_import("networkx", "to_networkx")
        graph = networkx.MultiDiGraph()
        for each in self.interactions:
            for receiver in self._heads_of(each):
                graph.add_edge(
                    each.sender, receiver, key=each.part, effect=each.effect, standard_error=each.standard_error
                )
        return graph

    def _heads_of(self, interaction: Interaction) -> list[Head | str]:
        if interaction.receiver is None:
            return ["logits"]
        plan = self._require_plan()
        layer, head = interaction.receiver
        if interaction.part == "q":
            return [(layer, head)]
        shared = plan.head_count // max(plan.key_value_head_count, 1)
        return [(layer, head * shared + at) for at in range(shared)]

    def table(self) -> Table:
        """A line for each interaction."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: heads by layer, with arrows whose width is the effect.

        Args:
            path: file to write; the suffix selects the format: .png, .svg, .pdf or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def __repr__(self) -> str:
        if self.plan is None:
            return "InteractionGraph(not begun)"
        return (
            f"InteractionGraph({self.plan.model_id}: {counted(len(self.interactions), 'interaction')}, "
            f"{counted(self.plan.pair_count, 'pair')}{'' if self.end else ', not complete'})"
        )
