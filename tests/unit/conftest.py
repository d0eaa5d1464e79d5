"""Fixtures of the gateway's tests: one gateway before a scripted inference service for each test file."""

from collections.abc import Generator

import httpx
import pytest

from tests.support.fake_inference import FakeInference
from tests.support.running_gateway import RunningGateway, running_gateway


@pytest.fixture(scope="module")
def gateway() -> Generator[RunningGateway]:
    """The gateway with default settings."""
    with running_gateway() as running:
        yield running


@pytest.fixture
def fake(gateway: RunningGateway) -> FakeInference:
    """The scripted service behind it, as new."""
    gateway.fake.reset()
    return gateway.fake


@pytest.fixture
def http(gateway: RunningGateway, fake: FakeInference) -> Generator[httpx.Client]:
    """A plain HTTP client of it."""
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client
