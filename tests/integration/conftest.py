"""Running services that all integration tests of a worker share, unless they need some of their own.

`inference`, `analysis` and `gateway` are one set; `tiny_inference` and `tiny_gateway` are what a user has who starts
them with the bundled model. Whoever leaves something behind in one of them (models, hooks, captures) starts their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from neuroscope.wire.transport import GrpcTransport
from tests.support.services import Service, inference_service, running

if TYPE_CHECKING:
    from neuroscope_inference.engine.model import LoadedModel


@pytest.fixture(scope="session")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's random model, made when it is first asked for."""
    from tests.support.random_models import make_model

    folder = tmp_path_factory.mktemp("families")
    return cache(lambda family: make_model(family, folder / family))


@pytest.fixture(scope="session")
def family_model(family_dir: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    """The same model, loaded into the test's own process and thread; whoever changes it loads their own."""
    from tests.support.loaded import load_here

    return cache(lambda family: load_here(family_dir(family)))


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
def frugal_analysis(inference: Service) -> Iterator[Service]:
    """Another one, which reads no weights that take more than a kilobyte."""
    arguments = ("--port", "0", "--inference", inference.target, "--weights-budget-bytes", "1000")
    with running("neuroscope_analysis", *arguments) as service:
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
