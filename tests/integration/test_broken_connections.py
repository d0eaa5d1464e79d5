"""Connections that are cut, that change bytes, and that fall silent: what clients make of them.

python -m pytest tests/integration/test_broken_connections.py
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from neuroscope import AsyncClient, Client, Retry
from neuroscope.activations.cache import ActivationCache
from neuroscope.errors import (
    ChecksumError,
    InvalidRequestError,
    MLXIntegrationError,
    NeuroScopeIntegrationError,
    StreamingError,
    UnknownIdError,
    UnknownSiteError,
)
from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import inference_pb2_grpc
from neuroscope.wire import grpc_transport
from tests.support.cutting_proxy import CuttingProxy
from tests.support.services import Service, inference_service

PROMPT = [0, *range(10, 40)]
SITES: list[Any] = ["resid_post", "attention_pattern"]
SMALL: dict[str, Any] = {"chunk_budget_bytes": 20_000}
QUICK = Retry(attempts=12, first_pause_s=0.05, longest_pause_s=0.4)


@pytest.fixture(scope="module")
def expected(inference: Service) -> ActivationCache:
    with Client(inference.target) as client:
        return client.capture(PROMPT, SITES, **SMALL)


@pytest.fixture
def proxy(inference: Service) -> Iterator[CuttingProxy]:
    with CuttingProxy(inference.target) as running:
        yield running


def connected(proxy: CuttingProxy, retry: Retry = QUICK) -> Client:
    """A client over the proxy, which sees every byte."""
    return Client(proxy.target, shared_memory=False, retry=retry)


def assert_same(cache: ActivationCache, expected: ActivationCache) -> None:
    assert cache.checksums() == expected.checksums()
    for key in expected:
        np.testing.assert_array_equal(cache[key], expected[key])


def frame_count(client: Client, proxy: CuttingProxy, call: Any) -> int:
    proxy.pass_on()
    call()
    return proxy.data_frames


def test_a_resumable_capture_that_is_cut_behind_any_frame_comes_whole(
    proxy: CuttingProxy, expected: ActivationCache
) -> None:
    with connected(proxy) as client:
        total = frame_count(client, proxy, lambda: client.capture(PROMPT, SITES, resumable=True, **SMALL))
        assert total > 4
        for frames in range(total):
            proxy.cut_after(frames)
            cache = client.capture(PROMPT, SITES, resumable=True, capture_id=f"cut-{frames}", **SMALL)
            assert_same(cache, expected)
            assert_same(client.resume_capture(f"cut-{frames}"), expected)
        assert proxy.acted == total


def test_a_kept_stream_that_is_cut_behind_any_frame_is_resumed_there(
    proxy: CuttingProxy, expected: ActivationCache
) -> None:
    with connected(proxy) as client:
        client.capture(PROMPT, SITES, resumable=True, capture_id="kept", **SMALL)
        total = frame_count(client, proxy, lambda: client.resume_capture("kept"))
        for frames in range(total):
            proxy.cut_after(frames)
            assert_same(client.resume_capture("kept"), expected)
        assert proxy.acted == total


@pytest.mark.parametrize("resumable", [False, True])
def test_tensors_that_were_changed_are_asked_for_again_and_the_user_is_told(
    proxy: CuttingProxy, expected: ActivationCache, resumable: bool
) -> None:
    with connected(proxy) as client:
        total = frame_count(client, proxy, lambda: client.capture(PROMPT, SITES, **SMALL))
        for frame in range(3, total):  # behind what is about to be sent and the plan, before the manifest
            proxy.corrupt(frame)
            with pytest.warns(UserWarning, match="sent again" if resumable else "captured again") as told:
                cache = client.capture(PROMPT, SITES, resumable=resumable, **SMALL)
            assert told[0].filename == __file__
            assert_same(cache, expected)
        assert proxy.acted == total - 3


def test_what_is_changed_every_time_is_an_error(proxy: CuttingProxy) -> None:
    with connected(proxy, retry=Retry(recaptures=0)) as client:
        proxy.corrupt(4)
        with pytest.raises(ChecksumError, match="corrupted in transit"):
            client.capture(PROMPT, SITES, **SMALL)


def test_without_an_id_a_cut_capture_is_an_error(proxy: CuttingProxy) -> None:
    with connected(proxy) as client:
        proxy.cut_after(2)
        with pytest.raises(StreamingError, match="disconnected after"):
            client.capture(PROMPT, SITES, **SMALL)
        assert proxy.acted == 1


def test_the_asynchronous_client_does_the_same(proxy: CuttingProxy, expected: ActivationCache) -> None:
    async def run() -> None:
        async with AsyncClient(proxy.target, shared_memory=False, retry=QUICK) as client:
            for frames in (0, 1, 3):
                proxy.cut_after(frames)
                cache = await client.capture(PROMPT, SITES, resumable=True, **SMALL)
                assert_same(cache, expected)
            assert proxy.acted == 3

    asyncio.run(run())


def test_a_resumable_generation_goes_on_if_the_service_had_finished(proxy: CuttingProxy, inference: Service) -> None:
    options: dict[str, Any] = {"hooks": SITES, "max_tokens": 4, "ignore_eos": True, "resumable": True, **SMALL}
    with connected(proxy) as client, Client(inference.target) as direct:
        whole = direct.generate(PROMPT, generation_id="whole", **options).wait()
        total = frame_count(client, proxy, lambda: client.generate(PROMPT, generation_id="whole", **options).wait())
        for frames in range(total):
            proxy.cut_after(frames)
            generation = client.generate(PROMPT, generation_id="whole", **options)
            tokens = [(token.step, token.token_id) for token in generation]
            assert [step for step, _ in tokens] == [0, 1, 2, 3]
            assert generation.text == whole.text
            assert_same(generation.cache, whole.cache)
        assert proxy.acted == total


@pytest.mark.parametrize("auto_advance", [False, True])
def test_a_generation_that_broke_off_is_not_spliced(proxy: CuttingProxy, auto_advance: bool) -> None:
    """Also where the connection breaks as credit is given."""
    options: dict[str, Any] = {
        "max_tokens": 200,
        "ignore_eos": True,
        "max_steps_ahead": 1,
        "auto_advance": auto_advance,
        "resumable": True,
    }
    with connected(proxy, retry=Retry(attempts=3, first_pause_s=0.05)) as client:
        generation = client.generate(PROMPT, **options)
        assert next(generation).step == 0
        proxy.cut_after(0)
        proxy.drop()
        with pytest.raises(StreamingError) as caught:
            generation.wait()
        assert caught.value.restart_token


def test_a_generation_in_lockstep_goes_on_if_the_service_had_finished(proxy: CuttingProxy, inference: Service) -> None:
    options: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True, "resumable": True, "max_steps_ahead": 4}
    with connected(proxy) as client, Client(inference.target) as direct:
        whole = direct.generate(PROMPT, **options).wait()
        proxy.pass_on()
        generation = client.generate(PROMPT, **options)
        assert next(generation).step == 0
        deadline = time.monotonic() + 20
        while direct.get_capture(generation.started.stream_id).state != pb.CAPTURE_STATE_COMMITTED:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        proxy.cut_after(0)
        proxy.drop()
        assert [token.step for token in generation] == [1, 2, 3]
        assert generation.text == whole.text


def test_mistakes_are_not_tried_twice(inference: Service) -> None:
    with Client(inference.target, retry=Retry(attempts=5, first_pause_s=5)) as client:
        begin = time.monotonic()
        for call, error in (
            (lambda: client.capture(PROMPT, ["resid_pots"], resumable=True), UnknownSiteError),
            (lambda: client.capture([], SITES, resumable=True), InvalidRequestError),
            (lambda: client.resume_capture("nothing"), UnknownIdError),
            (lambda: client.generate(PROMPT, max_tokens=4, top_p=7.0, resumable=True).wait(), InvalidRequestError),
        ):
            with pytest.raises(error):
                call()
        assert time.monotonic() - begin < 4


def test_a_connection_that_falls_silent_is_given_up(proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = {grpc_transport.KEEPALIVE_MS: 500, grpc_transport.KEEPALIVE_TIMEOUT_MS: 500}
    options = [(name, quick.get(value, value)) for name, value in grpc_transport._SYNC_OPTIONS]
    monkeypatch.setattr(grpc_transport, "_SYNC_OPTIONS", options)
    assert grpc_transport.KEEPALIVE_MS >= 10_000  # what the service allows
    with connected(proxy) as client:
        proxy.freeze_after(0)
        begin = time.monotonic()
        with pytest.raises(MLXIntegrationError, match="ping timeout"):
            client.generate(PROMPT, max_tokens=3).wait()
        assert time.monotonic() - begin < 10


def test_a_killed_service_is_reported_at_once_and_keeps_what_was_whole(
    llama_dir: Path, tmp_path: Path, expected: ActivationCache
) -> None:
    environment = {"NEUROSCOPE_INFERENCE_SPOOL_DIR": str(tmp_path)}
    with inference_service(llama_dir, environment=environment) as service, Client(service.target) as client:
        client.capture(PROMPT, SITES, resumable=True, capture_id="whole", **SMALL)
        options: dict[str, Any] = {"ignore_eos": True, "max_steps_ahead": 1, "auto_advance": False}
        generation = client.generate(PROMPT, hooks=SITES, max_tokens=100, **options)
        kept = client.generate(
            PROMPT, hooks=SITES, max_tokens=200, resumable=True, generation_id="half", ignore_eos=True
        )
        assert next(kept).step == next(generation).step == 0
        service.process.kill()
        begin = time.monotonic()
        with pytest.raises(StreamingError, match="disconnected"):
            generation.wait()
        assert time.monotonic() - begin < 3  # a ping timeout takes 10 s and more
        for call in (client.models, lambda: client.capture(PROMPT, SITES), client.workload):
            begin = time.monotonic()
            with pytest.raises(NeuroScopeIntegrationError, match="no inference service answers"):
                call()
            assert time.monotonic() - begin < 1
    with inference_service(llama_dir, environment=environment) as service, Client(service.target) as client:
        assert_same(client.resume_capture("whole"), expected)
        with pytest.raises(StreamingError) as caught:
            client.resume_capture("half")
        assert client.resume_capture("half", restart_token=caught.value.restart_token).manifest


def test_who_pings_too_often_is_sent_away(inference: Service) -> None:
    options = [("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0)]
    with grpc.insecure_channel(inference.target, options=options) as channel:
        sampling = pb.Sampling(max_tokens=5, ignore_eos=True)
        request = pb.GenerateRequest(
            prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=PROMPT))], sampling=sampling, max_steps_ahead=1
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(inference_pb2_grpc.GenerationServiceStub(channel).Generate(request, timeout=20))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
