"""One request, one answer: over gRPC and in process, by both kinds of client, once and again, to the last checksum.

REST against gRPC stands in test_gateway.py.

    python -m pytest tests/integration/test_congruence.py
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import AsyncClient, Client
from neuroscope.errors import InvalidRequestError
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.local import AsyncLocalTransport, LocalTransport
from tests.support.recording import Recording, capture_request, generate_request, prompt, record
from tests.support.services import Service

TEXT = "Once upon a time Alice and Bob went to the park"
MODELS = ["llama", "gpt2"]
SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "attention_scores", "attention_pattern", "head_output")
SHORT_CHUNKS_BYTES = 20_000
GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "top_p": 0.9, "seed": 5},
    "in chunks": {"chunk_budget_bytes": SHORT_CHUNKS_BYTES},
    "in bfloat16": {"hooks": [Hook("resid_post", dtype="bfloat16")]},
}


@pytest.fixture(scope="module")
def local(llama_dir: Path, gpt2_dir: Path) -> Iterator[LocalTransport]:
    """The same models in this process."""
    transport = LocalTransport(model=[str(llama_dir), str(gpt2_dir)])
    try:
        yield transport
    finally:
        transport.close()


def said(recording: Recording) -> Any:
    """All of an answer that may not depend on the way it took."""
    assert recording.started is not None
    assert recording.checksums()
    tokens = [(token.row, token.step, token.token_id, token.text, token.logprob) for token in recording.tokens]
    return recording.prompt_ids(), tokens, recording.checksums(), recording.frames


def test_a_client_names_the_models_of_its_own_engine(llama_dir: Path, gpt2_dir: Path) -> None:
    with Client.local(llama_dir, str(gpt2_dir), max_streams=3) as client:
        assert [model.model_id for model in client.models()] == ["llama", "gpt2"]
    wrong: dict[str, Any]
    for wrong, field in (({"model": "here"}, "model"), ({"max_streems": 3}, "max_streems"), ({"port": -1}, "port")):
        with pytest.raises(InvalidRequestError) as told:
            Client.local(*[llama_dir] * (field == "model"), **wrong)
        assert told.value.field == field
        assert (told.value.valid[:1] == ("max_streams",)) == (field == "max_streems")


@pytest.mark.parametrize("model_id", MODELS)
@pytest.mark.parametrize("case", GENERATIONS)
def test_a_generation_is_the_same_in_process(
    grpc_transport: GrpcTransport, local: LocalTransport, model_id: str, case: str
) -> None:
    fields: dict[str, Any] = {"hooks": SITES, **GENERATIONS[case]}
    request = generate_request(prompt(TEXT), *fields.pop("hooks"), model_id=model_id, max_tokens=12, **fields)
    assert said(record(local, request)) == said(record(grpc_transport, request))


@pytest.mark.parametrize("model_id", MODELS)
@pytest.mark.parametrize("chunk_budget_bytes", [0, SHORT_CHUNKS_BYTES])
def test_a_capture_is_the_same_in_process(
    grpc_transport: GrpcTransport, local: LocalTransport, model_id: str, chunk_budget_bytes: int
) -> None:
    request = capture_request(prompt(TEXT), *SITES, model_id=model_id, chunk_budget_bytes=chunk_budget_bytes)
    over_grpc = record(grpc_transport, request)
    assert said(record(local, request)) == said(over_grpc)
    assert said(record(grpc_transport, request)) == said(over_grpc), "the same request twice"


def test_both_kinds_of_client_give_the_same_arrays_everywhere(
    inference: Service, llama_dir: Path, local: LocalTransport
) -> None:
    with Client(inference.target) as client:
        expected = client.capture(TEXT, list(SITES), model_id="llama")
    with Client(transport=local) as client:
        in_process = client.capture(TEXT, list(SITES), model_id="llama")

    async def captured(client: AsyncClient) -> Any:
        async with client:
            return await client.capture(TEXT, list(SITES), model_id="llama")

    over_aio = asyncio.run(captured(AsyncClient(inference.target)))

    async def captured_here() -> Any:
        return await captured(AsyncClient(transport=AsyncLocalTransport(model=[str(llama_dir)])))

    in_process_aio = asyncio.run(captured_here())
    assert expected.keys()
    for other in (in_process, over_aio, in_process_aio):
        assert list(other.keys()) == list(expected.keys())
        for key in expected:
            assert other[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(other[key], expected[key])
