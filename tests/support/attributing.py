"""Attributions in the test's own process and thread, by the engine's own code and without its thread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope_inference.engine.attributions.request import AttributionLimits, parse_attribution
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import StepResult
from neuroscope_inference.tensor_references import TensorReferences
from neuroscope_inference.tensor_store import TensorStore

WITHOUT_EDGES = ("gemma2", "gemma3_text", "olmo2")
"""Families with a norm behind attention: what their heads write into the stream does not add up."""
ALLOWED = AttributionLimits(max_prompts=64, batch_bytes=2**28)


@dataclass
class Attributed:
    """What an attribution sends."""

    plan: pb.AttributionPlan
    baselines: list[pb.PairBaseline]
    completeness: list[pb.Completeness]
    end: pb.AttributionEnd
    tensors: dict[tuple[int, int], NDArray[np.float32]]
    """By plan index and row, without the batch axis."""

    def __getitem__(self, plan_index: int) -> NDArray[np.float32]:
        return self.tensors[plan_index, 0]


def attribute_here(
    model: LoadedModel, request: pb.AttributeRequest, allowed: AttributionLimits = ALLOWED
) -> Attributed:
    """Everything that an attribution sends."""
    references = TensorReferences(TensorStore(2**20, 60))
    events = list(parse_attribution(request, model, references.resolve_tensor, allowed).run())
    messages = [event for event in events if isinstance(event, pb.AttributeResponse)]
    tensors = {
        (tensor.plan_index, tensor.row): np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)[0]
        for event in events
        if isinstance(event, StepResult)
        for tensor in event.tensors
    }
    return Attributed(
        messages[0].plan,
        [event.baseline for event in messages if event.HasField("baseline")],
        [event.completeness for event in messages if event.HasField("completeness")],
        messages[-1].end,
        tensors,
    )


def labels(nodes: Sequence[pb.EdgeSender] | Sequence[pb.EdgeReceiver]) -> list[tuple[str, int | None, int | None]]:
    """(component, layer, head) of senders or receivers."""
    return [
        (
            node.site.component,
            node.site.layer if node.site.HasField("layer") else None,
            node.head if node.HasField("head") else None,
        )
        for node in nodes
    ]
