"""What a search for interactions found: a graph of heads whose edges are paths that matter."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuroscope.display import show
from neuroscope.errors import InvalidRequestError
from neuroscope.labelled_array import LabelledArray
from neuroscope.results.result import AnalysisResult
from neuroscope.v1 import interaction_pb2 as pb

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
    """A head, what reads its output, and the effect of that."""

    sender: Head
    """The head that writes."""
    receiver: Head | None
    """What reads: a head for q, a key/value head for k and v; None: the logits."""
    part: str
    """q, k, v or logits."""
    effect: float
    """Part of the metric that is lost by replacing what is read; negative where the metric gains."""
    standard_error: float
    """Of that mean over the pairs."""
    p_value: float
    """Chance of so large an effect where there is none, by a t-test over the pairs."""

    @property
    def name(self) -> str:
        """As paths are named: `a0.h3 -> a1.h0<k>`."""
        return f"a{self.sender[0]}.h{self.sender[1]} -> {self.reader}"

    @property
    def reader(self) -> str:
        """Such as `a1.h0<k>`, or logits."""
        return "logits" if self.receiver is None else f"a{self.receiver[0]}.h{self.receiver[1]}<{self.part}>"

    @classmethod
    def from_message(cls, message: pb.HeadInteraction) -> Interaction:
        """As the contract carries it."""
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
    """Heads and what they read of each other.

    `interactions` are those that are more than noise; arrays hold every effect that was tried: `head_effect` and
    `direct_effect` over layer and head, `q_effect`, `k_effect` and `v_effect` over sender_layer, sender_head,
    receiver_layer and receiver_head.

    Args:
        request: what was asked for.
    """

    rpc = "MapInteractions"
    noun = "a search for interactions"
    request_type = pb.MapInteractionsRequest
    response_type = pb.MapInteractionsResponse

    def __init__(self, request: pb.MapInteractionsRequest) -> None:
        super().__init__(request)
        self.interactions: list[Interaction] = []
        """Those that are more than noise, strongest first; before the search is complete, all that were tried."""

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
        """Every path that the model has between these heads, by its name: its effect, 0 where it was not tried."""
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
        """A networkx.MultiDiGraph: heads such as (1, 0) and `logits`, edges keyed by part with effect and its error.

        Keys and values that heads share are edges to each of these.

        Raises:
            InvalidRequestError: networkx is not installed.
        """
        try:
            networkx: Any = importlib.import_module("networkx")
        except ImportError:
            raise InvalidRequestError("to_networkx needs networkx: pip install networkx", field="networkx") from None
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
        """The interactions."""
        return show(self, "table")

    def plot(self, path: str | Path | None = None) -> Any:
        """A matplotlib figure: heads by layer, arrows for what they read, as wide as their effect.

        Args:
            path: where to write it, in the format of the ending: .png, .svg, .pdf, or .html.

        Raises:
            InvalidRequestError: matplotlib is not installed (the extra `viz`).
        """
        return show(self, "picture", path)

    def __repr__(self) -> str:
        if self.plan is None:
            return "InteractionGraph(not begun)"
        return (
            f"InteractionGraph({self.plan.model_id}: {len(self.interactions)} interactions, "
            f"{self.plan.pair_count} pairs{'' if self.end else ', not complete'})"
        )
