"""Bytes that are changed on their way from the inference service: captured again, and given up when it happens twice.

python -m pytest tests/integration/test_recaptures.py
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import AsyncClient
from neuroscope.analysis import AnalysisClient, AttentionComparison, AttentionResult
from neuroscope.codec import Event, Framed
from neuroscope.errors import ChecksumError
from neuroscope.rpc import Rpc
from neuroscope.serving.local import AsyncInProcessTransport, InProcessTransport
from neuroscope.v1 import attention_pb2, inference_pb2
from neuroscope_analysis.service import AnalysisService
from neuroscope_analysis.settings import AnalysisSettings
from neuroscope_inference.local import AsyncLocalTransport

IDS = np.random.default_rng(0).integers(5, 500, 40).tolist()
OTHER = np.random.default_rng(1).integers(5, 500, 40).tolist()


class ChangingTransport(AsyncLocalTransport):
    """An engine in this process, whose captures come with a changed byte where the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(model=[str(folder)])
        self.captures = 0
        self.changed: Callable[[int], bool] = lambda capture: False
        """By the number of the capture, from 0 and since `begin`."""

    def begin(self, changed: Callable[[int], bool]) -> None:
        """Counts anew."""
        self.captures, self.changed = 0, changed

    async def stream(self, rpc: Rpc, request: Any, *, timeout_s: float | None = None) -> AsyncGenerator[Event, None]:
        """The engine's events; of a capture that is to be changed, the last byte of its second frame is another one."""
        is_changed = rpc.method == "Capture" and self.changed(self.captures)
        self.captures += rpc.method == "Capture"
        frames = 0
        async for event in super().stream(rpc, request, timeout_s=timeout_s):
            if isinstance(event, Framed):
                frames += 1
                if is_changed and frames == 2:
                    payload = bytearray(event.payload)
                    payload[-1] ^= 1
                    yield Framed(event.frame, (memoryview(payload),))
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


def statistics(client: AnalysisClient) -> AttentionResult:
    return client.analyze_attention([IDS], roles=())


def scores(client: AnalysisClient) -> AttentionResult:
    return client.analyze_attention(roles=["induction"], test=False, sequences=3, block_length=12)


def comparison(client: AnalysisClient) -> AttentionComparison:
    return client.compare_attention(IDS, OTHER)


@pytest.mark.parametrize("run", [statistics, scores, comparison])
def test_a_changed_chunk_is_captured_again(
    client: AnalysisClient, transport: ChangingTransport, run: Callable[[AnalysisClient], Any]
) -> None:
    """The first capture, and one in the middle: with equal numbers, and one call more."""
    transport.begin(lambda capture: False)
    whole = run(client)
    captures = transport.captures
    for changed in (0, captures // 2):
        transport.begin(lambda capture, changed=changed: capture == changed)
        found = run(client)
        assert transport.captures == captures + 1
        assert found.end.call_count == whole.end.call_count + 1
        assert found.end.token_count == whole.end.token_count
        for name in whole.names:
            np.testing.assert_array_equal(found[name].values, whole[name].values, err_msg=name)


def test_twice_changed_it_is_given_up_and_said(client: AnalysisClient, transport: ChangingTransport) -> None:
    """What was found before is there; the next analysis goes well."""
    transport.begin(lambda capture: False)
    whole = client.analyze_attention([IDS, OTHER], roles=())
    transport.begin(lambda capture: capture > 0)
    prompts = [inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=ids)) for ids in (IDS, OTHER)]
    result = AttentionResult(attention_pb2.AnalyzeAttentionRequest(prompts=prompts, statistics_only=True))
    with pytest.raises(ChecksumError, match="this analysis was reading prompt 2 of 2, and again when") as caught:
        list(client.events(result))
    assert "this process" in caught.value.message
    assert transport.captures == 3
    assert result.end is None
    np.testing.assert_array_equal(result["entropy"].values[0], whole["entropy"].values[0])
    transport.begin(lambda capture: False)
    np.testing.assert_array_equal(statistics(client)["entropy"].values, whole["entropy"].values[0])
