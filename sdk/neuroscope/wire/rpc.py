"""The RPCs of the contract, read from its descriptors. Clients and servers use this list."""

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
    """One RPC of the contract."""

    service: str  # full name, such as neuroscope.v1.GenerationService
    method: str
    request: type[Message]
    response: type[Message]
    streams_requests: bool
    streams_responses: bool

    @property
    def path(self) -> str:
        """The HTTP/2 path."""
        return f"/{self.service}/{self.method}"

    @property
    def serialize(self) -> Callable[[Event], bytes]:
        """Serialises a request or a response."""
        return encode

    @property
    def deserialize_request(self) -> Callable[[bytes], Event]:
        """Parses a request."""
        return decoder(self.request)

    @property
    def deserialize_response(self) -> Callable[[bytes], Event]:
        """Parses a response."""
        return decoder(self.response)


def rpcs_of(file: FileDescriptor) -> Iterator[Rpc]:
    """The RPCs of every service of a proto file."""
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


def _by_method(*files: FileDescriptor) -> dict[str, Rpc]:
    return {rpc.method: rpc for file in files for rpc in rpcs_of(file)}


RPCS = _by_method(
    inference_pb2.DESCRIPTOR, experiment_pb2.DESCRIPTOR, dictionary_pb2.DESCRIPTOR, telemetry_pb2.DESCRIPTOR
)
"""RPCs of the inference service, by method name, which is unique."""
ANALYSIS_RPCS = _by_method(analysis_pb2.DESCRIPTOR, telemetry_pb2.DESCRIPTOR)
"""RPCs of the analysis service, by method name."""
