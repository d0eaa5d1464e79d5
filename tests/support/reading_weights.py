"""Weights read in the test's own process and thread, by the engine's own code and without its thread."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import weights_pb2 as pb
from neuroscope.vocabulary import tensors
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import PortionResult, StepResult
from neuroscope_inference.engine.weights.reader import parse_reading


@dataclass
class WeightsRead:
    """What a reading sends."""

    plan: pb.WeightsPlan
    end: pb.WeightsEnd
    arrays: dict[tuple[str, int | None], NDArray[Any]] = field(default_factory=dict[tuple[str, int | None], Any])
    """By name and layer."""
    summaries: list[pb.WeightSummary] = field(default_factory=list[pb.WeightSummary])
    largest_part_bytes: int = 0
    """Of what was made at a time."""

    def __getitem__(self, place: tuple[str, int | None]) -> NDArray[Any]:
        return self.arrays[place]

    def get(self, name: str, layer: int | None) -> NDArray[Any]:
        """A weight that may be missing: zero then."""
        return self.arrays.get((name, layer), np.zeros((), np.float32))


def read_here(model: LoadedModel, request: pb.ReadWeightsRequest | None = None) -> WeightsRead:
    """Everything that a reading sends."""
    events = list(parse_reading(request or pb.ReadWeightsRequest(), model).run())
    messages = [event for event in events if isinstance(event, pb.ReadWeightsResponse)]
    found = WeightsRead(messages[0].plan, messages[-1].end)
    found.summaries = [message.summary for message in messages if message.HasField("summary")]
    data: dict[int, bytearray] = {}
    for event in events:
        if isinstance(event, PortionResult):
            portion = event.portion
            sofar = data.setdefault(portion.plan_index, bytearray())
            assert len(sofar) == portion.offset_bytes
            sofar += portion.data
            found.largest_part_bytes = max(found.largest_part_bytes, portion.data.nbytes)
        elif isinstance(event, StepResult):
            data |= {tensor.plan_index: bytearray(tensor.data) for tensor in event.tensors}
            found.largest_part_bytes = max(found.largest_part_bytes, event.nbytes)
    for index, content in data.items():
        spec = found.plan.tensors.tensors[index]
        layer = spec.site.layer if spec.site.HasField("layer") else None
        array = np.frombuffer(content, tensors.numpy_dtype(spec.dtype)).reshape(tuple(spec.shape))
        found.arrays[spec.hook_id, layer] = array
    return found
