"""Sweeps in the test's own process and thread, by the engine's own code and without its thread."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.request import SweepLimits, parse_sweep
from neuroscope_inference.tensor_references import TensorReferences
from neuroscope_inference.tensor_store import TensorStore

ALLOWED = SweepLimits(max_prompts=64, max_patches=10_000, batch_bytes=2**28)
EACH = pb.SweepAxis(each=pb.EachIndex())


def prompt(ids: Sequence[int]) -> inference_pb2.Prompt:
    return inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=ids))


def one_by_one(*indices: int) -> pb.SweepAxis:
    return pb.SweepAxis(one_by_one=pb.Indices(indices=indices))


def together(*indices: int) -> pb.SweepAxis:
    return pb.SweepAxis(together=pb.Indices(indices=indices))


def events_here(
    model: LoadedModel, request: pb.RunSweepRequest, allowed: SweepLimits = ALLOWED
) -> list[pb.RunSweepResponse]:
    """Everything that a sweep would send."""
    references = TensorReferences(TensorStore(2**20, 60))
    sweep = parse_sweep(request, model, references.resolve_tensor, allowed)
    return [event for event in sweep.run() if event is not None]


def values_of(events: Sequence[pb.RunSweepResponse]) -> NDArray[np.float32]:
    """(pairs, cells); NaN where a patch was not run."""
    plan = events[0].plan
    values = np.full(len(plan.pairs) * plan.cell_count, np.nan, np.float32)
    for event in events:
        if event.HasField("values"):
            values[list(event.values.patches)] = event.values.values
    return values.reshape(len(plan.pairs), plan.cell_count)


def sweep_here(model: LoadedModel, request: pb.RunSweepRequest, **changes: Any) -> NDArray[np.float32]:
    """The values of a sweep, with fields of the request changed."""
    changed = pb.RunSweepRequest()
    changed.CopyFrom(request)
    changed.MergeFrom(pb.RunSweepRequest(**changes))
    return values_of(events_here(model, changed))
