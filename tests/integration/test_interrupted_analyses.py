"""Every call of the analysis service, broken off in its middle: its inference service is killed, or its caller leaves.

python -m pytest tests/integration/test_interrupted_analyses.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from neuroscope import AsyncClient
from neuroscope.analysis import AnalysisResult, AsyncAnalysisClient
from neuroscope.errors import NeuroScopeIntegrationError
from neuroscope.v1 import analysis_pb2, telemetry_pb2
from neuroscope.wire.rpc import ANALYSIS_RPCS
from neuroscope_analysis.service import AnalysisService
from neuroscope_serving.in_process import AsyncInProcessTransport
from tests.support.analyses import CASES, Case
from tests.support.held_transport import HeldTransport
from tests.support.services import Service, inference_service

PATIENCE_S = 60.0
pytestmark = pytest.mark.filterwarnings("ignore:Q and K")  # of composition on a model that turns them


def test_there_is_a_case_of_every_call() -> None:
    calls = analysis_pb2.DESCRIPTOR.services_by_name["AnalysisService"].methods_by_name
    assert {case.rpc for case in CASES} == set(calls)


@dataclass
class Running:
    """An analysis that is held in its middle."""

    below: HeldTransport
    service: AsyncInProcessTransport
    task: asyncio.Task[None]

    async def is_idle(self) -> bool:
        """Whether the analysis service has nothing to do."""
        answer = await self.service.unary(ANALYSIS_RPCS["GetWorkload"], telemetry_pb2.GetWorkloadRequest())
        assert isinstance(answer, telemetry_pb2.GetWorkloadResponse)
        return answer.streams == 0


@asynccontextmanager
async def running(case: Case, target: str, *, before: bool = False) -> AsyncGenerator[Running]:
    """A long analysis, by a service of its own in this process, in front of a real inference service."""
    below = HeldTransport(target, case.held_at, before=before)
    service = AsyncInProcessTransport(AnalysisService(case.settings, AsyncClient(transport=below)))
    async with AsyncAnalysisClient(transport=service) as client:

        async def run() -> None:
            if (result := case.result(long=True)) is None:
                await service.unary(ANALYSIS_RPCS[case.rpc], case.make(True))
            else:
                await client.run(result)

        task = asyncio.create_task(run())
        held = asyncio.create_task(below.held.wait())
        try:
            await asyncio.wait([task, held], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            assert held.done(), (case, below.calls, task)
            yield Running(below, service, task)
        finally:
            below.release()
            task.cancel()
            held.cancel()
            await asyncio.wait([task, held])


# ------------------------------------------------------------------------------------------------ it dies


@pytest.fixture(scope="module")
def broken(llama_dir: Path) -> dict[str, BaseException | None]:
    """What became of every case: all of them were in their middle as their one inference service was killed."""

    async def killed(below: Service) -> dict[str, BaseException | None]:
        cases: dict[str, Running] = {}
        async with AsyncExitStack() as stack:
            for case in CASES:
                is_sweep = case.held_at[0] == "RunSweep"  # one that runs would keep the engine from the next case
                held = running(case, below.target, before=is_sweep)
                cases[str(case)] = await stack.enter_async_context(held)
            below.process.kill()
            below.process.wait()
            for each in cases.values():
                each.below.release()
            await asyncio.wait([each.task for each in cases.values()], timeout=PATIENCE_S)
            return {name: each.task.exception() for name, each in cases.items()}

    with inference_service(llama_dir) as below:
        return asyncio.run(killed(below))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_inference_service_that_dies_ends_it_with_what_was_found(
    broken: dict[str, BaseException | None], case: Case
) -> None:
    error = broken[str(case)]
    assert type(error) is NeuroScopeIntegrationError, error
    assert error.grpc_status is grpc.StatusCode.UNAVAILABLE
    assert "inference service" in error.message
    assert "was lost while this analysis was" in error.message
    if case.is_stream:
        assert "earlier results were sent" in error.message
        assert isinstance(error.partial, AnalysisResult)
        result: AnalysisResult[Any, Any, Any, Any] = error.partial
        assert (result.plan is not None, result.end) == (True, None)
        assert case.found(result)
    else:
        assert error.partial is None


# ------------------------------------------------------------------------------------------------ its caller leaves


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cancelling_stops_the_work_in_both_services(inference: Service, case: Case) -> None:
    async def cancelled() -> None:
        async with running(case, inference.target) as analysis, AsyncClient(inference.target) as below:
            if case.is_stream:
                assert (await below.workload()).streams > 0, "the inference service has done it all"
            analysis.task.cancel()
            await asyncio.wait([analysis.task], timeout=PATIENCE_S)
            assert analysis.task.cancelled()
            assert await analysis.is_idle()
            assert analysis.below.running == 0
            begun = analysis.below.calls.total()
            analysis.below.release()
            deadline = time.monotonic() + PATIENCE_S
            while (await below.workload()).streams:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            assert analysis.below.calls.total() == begun, "nothing else is asked for"

    asyncio.run(cancelled())
