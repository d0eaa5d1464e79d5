"""The calls of the contract, from its descriptors: the one list that clients and servers use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from neuroscope.v1 import analysis_pb2, dictionary_pb2, experiment_pb2, inference_pb2, telemetry_pb2
from neuroscope.wire.codec import Event, decoder, encode


@dataclass(frozen=True, slots=True)
class Rpc:
    """One call of the contract."""

    service: str  # full name, such as neuroscope.v1.GenerationService
    method: str
    request: type[Message]
    response: type[Message]
    streams_requests: bool
    streams_responses: bool

    @property
    def path(self) -> str:
        """The call's HTTP/2 path."""
        return f"/{self.service}/{self.method}"

    @property
    def serialize(self) -> Callable[[Event], bytes]:
        """Writes a request or a response."""
        return encode

    @property
    def deserialize_request(self) -> Callable[[bytes], Event]:
        """Reads a request."""
        return decoder(self.request)

    @property
    def deserialize_response(self) -> Callable[[bytes], Event]:
        """Reads a response."""
        return decoder(self.response)


def rpcs_of(file: FileDescriptor) -> Iterator[Rpc]:
    """The calls of every service of a proto file."""
    services: Mapping[str, ServiceDescriptor] = file.services_by_name
    for service in services.values():
        for method in service.methods:
            yield Rpc(
                service.full_name,
                method.name,
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
                method.client_streaming,
                method.server_streaming,
            )


def _calls(*files: FileDescriptor) -> dict[str, Rpc]:
    return {rpc.method: rpc for file in files for rpc in rpcs_of(file)}


RPCS = _calls(inference_pb2.DESCRIPTOR, experiment_pb2.DESCRIPTOR, dictionary_pb2.DESCRIPTOR, telemetry_pb2.DESCRIPTOR)
"""Every call of the inference service by its method name, which is unique over the services."""
ANALYSIS_RPCS = _calls(analysis_pb2.DESCRIPTOR, telemetry_pb2.DESCRIPTOR)
"""Every call of the analysis service."""
