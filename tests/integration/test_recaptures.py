"""Bytes that are changed on their way from the inference service: asked for again, and given up when it happens twice.

python -m pytest tests/integration/test_recaptures.py
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import AsyncClient
from neuroscope.analysis import AnalysisClient, AnalysisResult, AttentionResult
from neuroscope.errors import ChecksumError
from neuroscope.v1 import attention_pb2, inference_pb2
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.rpc import Rpc
from neuroscope_analysis.service import AnalysisService
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_inference.local import AsyncLocalTransport
from neuroscope_serving.in_process import AsyncInProcessTransport, InProcessTransport
from tests.support.analyses import CASES, Case

IDS = np.random.default_rng(0).integers(5, 500, 40).tolist()
OTHER = np.random.default_rng(1).integers(5, 500, 40).tolist()


@dataclass(frozen=True)
class Chunk:
    """A frame of tensors: of which call, the number of it among those of its name, and its own in its stream."""

    method: str
    call: int
    frame: int


class ChangingTransport(AsyncLocalTransport):
    """An engine in this process, whose frames come with a changed byte where the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(model=[str(folder)])
        self.calls: Counter[str] = Counter()
        self.chunks: list[Chunk] = []
        """Sent since `begin`."""
        self.changed: Callable[[Chunk], bool] = lambda chunk: False

    def begin(self, changed: Callable[[Chunk], bool]) -> None:
        """Counts anew."""
        self.calls, self.chunks, self.changed = Counter(), [], changed

    async def stream(self, rpc: Rpc, request: Any, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """The engine's events; of a frame that is to be changed the last byte is another one."""
        call, frames = self.calls[rpc.method], 0
        self.calls[rpc.method] += 1
        async for event in super().stream(rpc, request, timeout_s=timeout_s):
            if isinstance(event, Frame):
                self.chunks.append(chunk := Chunk(rpc.method, call, frames))
                frames += 1
                if self.changed(chunk):
                    payload = bytearray(event.payload)
                    payload[-1] ^= 1
                    yield Frame(event.header, (memoryview(payload),))
                    continue
            yield event


@pytest.fixture(scope="module")
def transport(llama_dir: Path) -> ChangingTransport:
    return ChangingTransport(llama_dir)


@pytest.fixture(scope="module")
def client(transport: ChangingTransport) -> Iterator[AnalysisClient]:
    """Patterns come in chunks of a few queries."""
    settings = AnalysisSettings(chunk_budget_bytes=30_000)

    def service() -> AsyncInProcessTransport:
        return AsyncInProcessTransport(AnalysisService(settings, AsyncClient(transport=transport)))

    with AnalysisClient(transport=InProcessTransport(service)) as found:
        yield found


@pytest.mark.filterwarnings("ignore:Q and K")
@pytest.mark.parametrize("case", [case for case in CASES if case.is_stream], ids=str)
def test_a_changed_chunk_is_asked_for_again(client: AnalysisClient, transport: ChangingTransport, case: Case) -> None:
    """One in the middle of all that each call sends: with equal numbers, and one call more."""

    def run(changed: Callable[[Chunk], bool]) -> AnalysisResult[Any, Any, Any, Any]:
        transport.begin(changed)
        result = case.result(long=False)
        assert result is not None
        return client.run(result)

    whole = run(lambda _: False)
    sent, calls = transport.chunks, transport.calls
    assert {chunk.method for chunk in sent} == set(case.reads)
    for method in case.reads:
        of_method = [chunk for chunk in sent if chunk.method == method]
        found = run(of_method[len(of_method) // 2].__eq__)
        assert transport.calls == calls + Counter([method])
        for name in whole.names:  # sweeps run in batches of what there is room for, and these round
            np.testing.assert_allclose(
                found._stacked(name)[1], whole._stacked(name)[1], rtol=1e-4, atol=1e-5, err_msg=name
            )


def test_twice_changed_it_is_given_up_and_said(client: AnalysisClient, transport: ChangingTransport) -> None:
    """What was found before is there; the next analysis goes well."""
    transport.begin(lambda _: False)
    whole = client.analyze_attention([IDS, OTHER], roles=())
    transport.begin(lambda chunk: chunk.call > 0 and chunk.frame == 1)
    prompts = [inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=ids)) for ids in (IDS, OTHER)]
    result = AttentionResult(attention_pb2.AnalyzeAttentionRequest(prompts=prompts, statistics_only=True))
    with pytest.raises(
        ChecksumError, match="this analysis was reading prompt 2 of 2, and again in the retry"
    ) as caught:
        list(client.events(result))
    assert "this process" in caught.value.message
    assert transport.calls["Capture"] == 3
    assert result.end is None
    np.testing.assert_array_equal(result["entropy"].values[0], whole["entropy"].values[0])
    transport.begin(lambda _: False)
    again = client.analyze_attention([IDS], roles=())
    np.testing.assert_array_equal(again["entropy"].values, whole["entropy"].values[0])
