"""The arrays of a result: their plan, then frames."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import MLXIntegrationError
from neuroscope.v1 import site_pb2, tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope.wire.frames import FramePacker, Outgoing


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """The specification of a float32 array.

    Args:
        name: its name.
        component: the component that it describes.
        axes: its axes.
        shape: its shape; -1 for extents that differ between rows.
    """

    name: str
    component: str
    axes: tuple[tensor_pb2.Axis.ValueType, ...]
    shape: tuple[int, ...]


class ResultArrays:
    """Named arrays in the order of the plan."""

    def __init__(self, arrays: Sequence[ArraySpec]) -> None:
        self._indices = {array.name: index for index, array in enumerate(arrays)}
        self.plan = tensor_pb2.TensorPlan(
            tensors=[
                tensor_pb2.TensorSpec(
                    plan_index=index,
                    hook_id=array.name,
                    site=site_pb2.Site(component=array.component),
                    dtype=tensor_pb2.DATA_TYPE_FLOAT32,
                    axes=[tensor_pb2.AXIS_BATCH, *array.axes],
                    shape=(1, *array.shape),
                )
                for index, array in enumerate(arrays)
            ]
        )
        self._packer = FramePacker(list(self.plan.tensors))

    @classmethod
    def of_shape(
        cls,
        names: Sequence[str],
        component: str,
        axes: Sequence[tensor_pb2.Axis.ValueType],
        shape: Sequence[int],
    ) -> ResultArrays:
        """Arrays with the same shape."""
        return cls([ArraySpec(name, component, tuple(axes), tuple(shape)) for name in names])

    def frames(self, arrays: Mapping[str, NDArray[np.floating]], row: int = 0) -> Iterator[Event]:
        """The frames of some arrays of one row."""
        outgoing = [
            Outgoing(
                self._indices[name],
                row,
                (1, *array.shape),
                0,
                np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8).data,
            )
            for name, array in arrays.items()
        ]
        return self._packer.pack(0, outgoing)

    async def stream(
        self, work: AsyncGenerator[Event, None], arrays: Callable[[], Mapping[str, NDArray[np.floating]]]
    ) -> AsyncGenerator[Event, None]:
        """The events of work that fills arrays, then the arrays; also after an error, as far as they are filled.

        Args:
            work: its events.
            arrays: returns the arrays, with NaN for missing values.
        """
        try:
            async with aclosing(work) as events:
                async for event in events:
                    yield event
        except MLXIntegrationError:
            for frame in self.frames(arrays()):
                yield frame
            raise
        for frame in self.frames(arrays()):
            yield frame
