"""Methods of both clients for uploaded tensors, workload and traces."""

from __future__ import annotations

from numpy.typing import ArrayLike

from neuroscope.base_client.call import Call, Upload
from neuroscope.base_client.client_method import client_method
from neuroscope.calls import requests
from neuroscope.v1 import telemetry_pb2


class ServiceCalls:
    """Methods for uploaded tensors, workload and traces."""

    @client_method
    def put_tensor(self, tensor: ArrayLike, *, time_to_live_s: float | None = None) -> Upload[str]:
        """Uploads a tensor for interventions: a direction, a donor activation, a reference.

        Args:
            tensor: array-like; float64 is sent as float32.
            time_to_live_s: how long the service stores it; None: the service's default.

        Returns:
            The id for `neuroscope.tensor(id)`; equal content has the same id.

        Raises:
            DataConversionError: it has NaN or infinity, or is not numeric.
            ResourceExhaustedError: the service's storage for tensors is full.
        """
        return requests.put_tensor(tensor, time_to_live_s)

    @client_method
    def workload(self) -> Call[telemetry_pb2.GetWorkloadResponse]:
        """The current load: streams, rows, tokens, bytes, memory."""
        return requests.workload()

    @client_method
    def trace(self, trace_id: str) -> Call[bytes]:
        """The service's spans of a recent trace as a serialised `opentelemetry.proto.trace.v1.TracesData`.

        Raises:
            UnknownIdError: the service has no span of that trace.
        """
        return requests.trace(trace_id)
