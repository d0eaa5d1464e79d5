"""Fixtures of the gateway's tests: one gateway before a scripted inference service for each test file."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the process that hands tests to workers imports this file too, and no gateway
    import httpx

    from tests.support.fake_inference import FakeInference
    from tests.support.running_gateway import RunningGateway


@pytest.fixture(scope="module")
def gateway() -> Generator[RunningGateway]:
    """The gateway with default settings."""
    from tests.support.running_gateway import running_gateway

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
    import httpx

    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client
