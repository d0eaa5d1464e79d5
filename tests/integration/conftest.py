"""One running inference service for all integration tests that do not need one of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuroscope.wire.transport import GrpcTransport
from tests.support.services import Service, inference_service

_BUNDLED = Path(__file__).parents[2] / "models" / "neuroscope-tiny"


@pytest.fixture(scope="session")
def inference(llama_dir: Path, gpt2_dir: Path) -> Iterator[Service]:
    """A service with the models llama (the default), gpt2 and, where the checkout has it, neuroscope-tiny."""
    bundled = [_BUNDLED] if (_BUNDLED / "config.json").is_file() else []
    with inference_service(llama_dir, gpt2_dir, *bundled) as service:
        yield service


@pytest.fixture(scope="session")
def grpc_transport(inference: Service) -> Iterator[GrpcTransport]:
    """A channel to the shared service."""
    transport = GrpcTransport(inference.target)
    yield transport
    transport.close()
