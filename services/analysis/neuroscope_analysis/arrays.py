"""The arrays of a result on their way to the client: a plan of named ones, then frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from neuroscope.codec import Event
from neuroscope.frames import FramePacker, Outgoing
from neuroscope.v1 import site_pb2, tensor_pb2

Layout: TypeAlias = "tuple[Sequence[tensor_pb2.Axis.ValueType], Sequence[int]]"
"""Axes of an array and its shape."""


class NamedArrays:
    """Arrays of float32, known by name.

    Args:
        names: of arrays of one shape, in the order of the plan.
        component: what they are about.
        axes: of each of them.
        shape: of each of them.
        others: arrays of other shapes, which come behind.
    """

    def __init__(
        self,
        names: Iterable[str],
        component: str,
        axes: Sequence[tensor_pb2.Axis.ValueType],
        shape: Sequence[int],
        others: Mapping[str, Layout] | None = None,
    ) -> None:
        layouts: dict[str, Layout] = dict.fromkeys(names, (axes, shape)) | dict(others or {})
        self._specs = {
            name: tensor_pb2.TensorSpec(
                plan_index=index,
                hook_id=name,
                site=site_pb2.Site(component=component),
                dtype=tensor_pb2.DATA_TYPE_FLOAT32,
                axes=[tensor_pb2.AXIS_BATCH, *axes],
                shape=[1, *shape],
            )
            for index, (name, (axes, shape)) in enumerate(layouts.items())
        }
        self.plan = tensor_pb2.TensorPlan(tensors=self._specs.values())
        self._packer = FramePacker(list(self.plan.tensors))

    def frames(self, arrays: Mapping[str, NDArray[np.floating]], row: int = 0) -> Iterator[Event]:
        """Some of the arrays, of one row."""
        outgoing = [
            Outgoing(
                self._specs[name].plan_index,
                row,
                tuple(self._specs[name].shape),
                0,
                np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8).data,
            )
            for name, array in arrays.items()
        ]
        return self._packer.pack(0, outgoing)
