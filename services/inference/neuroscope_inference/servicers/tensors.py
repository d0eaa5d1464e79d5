"""TensorService: uploads, which only interventions and reductions refer to."""

from __future__ import annotations

from collections.abc import AsyncIterator

from opentelemetry.context import Context

from neuroscope.codec import Event
from neuroscope.errors import NotImplementedByEngineError
from neuroscope.v1 import inference_pb2 as pb


class TensorServicer:
    """Implements neuroscope.v1.TensorService."""

    async def PutTensor(self, requests: AsyncIterator[Event], context: Context) -> pb.PutTensorResponse:
        """Nothing in this version's engine reads an uploaded tensor."""
        raise NotImplementedByEngineError("this version's engine applies no interventions, so it keeps no uploads")
