"""Running services that all integration tests of a worker share, unless they need some of their own.

`inference`, `analysis` and `gateway` are one set; `tiny_inference` and `tiny_gateway` are what a user has who starts
them with the bundled model. Whoever leaves something behind in one of them (models, hooks, captures) starts their own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuroscope.wire.transport import GrpcTransport
from tests.support.services import Service, inference_service, running


@pytest.fixture(scope="session")
def inference(llama_dir: Path, gpt2_dir: Path, bundled_model_dir: Path) -> Iterator[Service]:
    """A service with the models llama (the default), gpt2 and neuroscope-tiny."""
    with inference_service(llama_dir, gpt2_dir, bundled_model_dir) as service:
        yield service


@pytest.fixture(scope="session")
def grpc_transport(inference: Service) -> Iterator[GrpcTransport]:
    """A channel to it."""
    transport = GrpcTransport(inference.target)
    yield transport
    transport.close()


@pytest.fixture(scope="session")
def analysis(inference: Service) -> Iterator[Service]:
    """An analysis service of it."""
    with running("neuroscope_analysis", "--port", "0", "--inference", inference.target) as service:
        yield service


@pytest.fixture(scope="session")
def gateway(inference: Service, analysis: Service) -> Iterator[Service]:
    """A gateway of both."""
    arguments = ("--port", "0", "--inference", inference.target, "--analysis", analysis.target)
    with running("neuroscope_gateway", *arguments) as service:
        yield service


@pytest.fixture(scope="session")
def tiny_inference(bundled_model_dir: Path) -> Iterator[Service]:
    """A service with neuroscope-tiny alone."""
    with inference_service(bundled_model_dir) as service:
        yield service


@pytest.fixture(scope="session")
def tiny_gateway(tiny_inference: Service) -> Iterator[Service]:
    """A gateway of it."""
    with running("neuroscope_gateway", "--port", "0", "--inference", tiny_inference.target) as service:
        yield service
