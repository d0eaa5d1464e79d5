"""Tensors that a service keeps, its workload and its traces: a part of both clients."""

from __future__ import annotations

from numpy.typing import ArrayLike

from neuroscope.base_client.call import Call, Upload
from neuroscope.base_client.client_method import client_method
from neuroscope.calls import requests
from neuroscope.v1 import telemetry_pb2


class ServiceCalls:
    """What both clients do with the service itself."""

    @client_method
    def put_tensor(self, tensor: ArrayLike, *, time_to_live_s: float | None = None) -> Upload[str]:
        """Uploads a tensor that interventions refer to: a direction, a donor, a reference.

        Args:
            tensor: a numpy array, or what numpy makes one of. float64 is sent as float32.
            time_to_live_s: how long the service keeps it; None: the service's default.

        Returns:
            Its id, the same for the same content, for `neuroscope.tensor(id)`.

        Raises:
            DataConversionError: it holds NaN, infinity or no numbers.
            ResourceExhaustedError: the service keeps too many bytes already.
        """
        return requests.put_tensor(tensor, time_to_live_s)

    @client_method
    def workload(self) -> Call[telemetry_pb2.GetWorkloadResponse]:
        """What the service is busy with: streams, rows, tokens and bytes so far, memory."""
        return requests.workload()

    @client_method
    def trace(self, trace_id: str) -> Call[bytes]:
        """The service's spans of a recent trace, a serialised `opentelemetry.proto.trace.v1.TracesData`.

        Raises:
            UnknownIdError: the service keeps no span of that trace.
        """
        return requests.trace(trace_id)
