"""The arrays of a result on their way to the client: a plan of named ones, then frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from neuroscope.codec import Event
from neuroscope.frames import FramePacker, Outgoing
from neuroscope.v1 import site_pb2, tensor_pb2


class NamedArrays:
    """Arrays of one shape, float32, known by name.

    Args:
        names: of the arrays, in the order of the plan.
        component: what they are about.
        axes: of each array.
        shape: of each array.
    """

    def __init__(
        self,
        names: Sequence[str],
        component: str,
        axes: Sequence[tensor_pb2.Axis.ValueType],
        shape: Sequence[int],
    ) -> None:
        self._shape = (1, *shape)
        self._indices = {name: index for index, name in enumerate(names)}
        self.plan = tensor_pb2.TensorPlan(
            tensors=[
                tensor_pb2.TensorSpec(
                    plan_index=index,
                    hook_id=name,
                    site=site_pb2.Site(component=component),
                    dtype=tensor_pb2.DATA_TYPE_FLOAT32,
                    axes=[tensor_pb2.AXIS_BATCH, *axes],
                    shape=self._shape,
                )
                for name, index in self._indices.items()
            ]
        )
        self._packer = FramePacker(list(self.plan.tensors))

    def frames(self, arrays: Mapping[str, NDArray[np.floating]], row: int = 0) -> Iterator[Event]:
        """Some of the arrays, of one row."""
        outgoing = [
            Outgoing(
                self._indices[name],
                row,
                self._shape,
                0,
                np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8).data,
            )
            for name, array in arrays.items()
        ]
        return self._packer.pack(0, outgoing)
