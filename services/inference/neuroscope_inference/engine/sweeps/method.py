"""How the patches of a sweep are run, and why not in a faster way."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import experiment_pb2 as pb


@dataclass(frozen=True, slots=True)
class SweepMethod:
    """A way to run patches on a model.

    Args:
        kind: which.
        reason: why not a faster one; empty where there is none.
        cuts_tail: whether the last block may be computed for the metric's positions alone.
    """

    kind: pb.SweepMethod.ValueType
    reason: str = ""
    cuts_tail: bool = False

    @property
    def reuses_layers(self) -> bool:
        """Whether rows enter a batch at the layer that they edit."""
        return self.kind != pb.SWEEP_METHOD_PLAIN

    @property
    def reuses_positions(self) -> bool:
        """Whether the keys and values before the first edited position are those of the unedited run."""
        return self.kind == pb.SWEEP_METHOD_LAYERS_AND_POSITIONS
