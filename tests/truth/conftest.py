"""Both services, which all planted models of a worker share."""

from collections.abc import Iterator

import pytest

from tests.truth.running import Bench, bench


@pytest.fixture(scope="session")
def services() -> Iterator[Bench]:
    """An inference service without a model, and an analysis service of it. Whoever loads a model frees it."""
    with bench() as found:
        yield found
