"""The analysis service against a real inference service: what it finds, refuses, gives up and survives.

python -m pytest tests/integration/test_analysis.py
"""

import asyncio
import importlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import mlx.core as mx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mlx.utils import tree_flatten

from neuroscope import Client
from neuroscope.analysis import AnalysisClient, AsyncAnalysisClient, AttentionResult
from neuroscope.errors import (
    ContextLengthError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelNotFoundError,
    NeuroScopeIntegrationError,
    UnauthenticatedError,
    UnavailableSiteError,
)
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import inference_pb2
from neuroscope.wire.rpc import ANALYSIS_RPCS
from neuroscope_inference.engine.model import LoadedModel
from tests.support import tracing
from tests.support.byte_bpe import save_tokenizer
from tests.support.loaded import capture_here
from tests.support.patience import eventually
from tests.support.random_models import FAMILIES
from tests.support.services import Service, inference_service, running
from tests.support.tiny_configs import tiny_config

TEXTS = ["When Mary and John went to the store, John gave a drink to", "The capital of France is"]
FEW: dict[str, Any] = {"sequences": 3, "block_length": 8}


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


def same(one: AttentionResult, other: AttentionResult) -> None:
    """Equal arrays bit for bit, and equal labels."""
    assert one.names == other.names
    for name in one.names:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)
    assert one.labels == other.labels


# ------------------------------------------------------------------------------------------------ what it finds


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_the_captured_patterns(
    family: str, family_dir: Callable[[str], Path], family_model: Callable[[str], LoadedModel]
) -> None:
    """Of a prompt that takes many chunks, longer than sliding windows; layers without patterns are left out."""
    folder = family_dir(family)
    ids = np.random.default_rng(0).integers(5, 500, 40).tolist()
    captured = {p.layer or 0: x[0] for p, x in capture_here(family_model(family), ids).items() if _is_pattern(p)}
    with AnalysisClient.local(model=[str(folder)], chunk_budget_bytes=20_000) as client:
        found = client.analyze_attention([ids], roles=())
    assert found["entropy"].coords["layer"] == sorted(captured)
    queries = np.arange(len(ids))
    for layer, pattern in captured.items():
        p = np.asarray(pattern, np.float64)
        totals = p.sum(-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(p > 0, np.log(p / totals[..., None]), 0)
        entropy = -(p * logs).sum(-1) / totals
        distance = queries - (p * queries).sum(-1) / totals
        for name, values in (
            ("entropy", entropy.mean(1)),
            ("distance", distance.mean(1)),
            ("first_token", p[:, 1:, 0].mean(1)),
            ("focus", p.max(-1).mean(1)),
            ("previous_token_detector", p[:, queries[1:], queries[:-1]].sum(1) / p.sum((1, 2))),
        ):
            np.testing.assert_allclose(found[name].sel(layer=layer).values, values, rtol=2e-3, atol=1e-4, err_msg=name)


def _is_pattern(point: Any) -> bool:
    return point.component == "attention_pattern"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_copying_is_that_of_the_whole_circuit(family: str, family_dir: Callable[[str], Path]) -> None:
    """Eigenvalues of the circuit as it is written, vocabulary squared."""
    folder = str(family_dir(family))
    with Client.local(model=[folder]) as below:
        weights = below.weights("W_E", "W_U", "W_V", "W_O", "ln1.w", "final_norm.w")
    with AnalysisClient.local(model=[folder]) as client:
        found = client.analyze_attention(roles=["copying", "suppression"], layers=[1], test=False, **FEW)
    unembedding = weights.of("final_norm.w")[:, None] * weights.of("W_U")
    for head in range(found.plan.head_count if found.plan else 0):
        ov = weights.ov(1, head)
        dense = (weights.of("W_E") * weights.of("ln1.w", 1)) @ ov.A @ (ov.B @ unembedding)
        eigenvalues = np.linalg.eigvals(dense.astype(np.float64))
        expected = eigenvalues.sum().real / np.abs(eigenvalues).sum()
        assert found["copying_score"].sel(layer=1, head=head).values == pytest.approx(expected, abs=1e-3)
        assert found["suppression_score"].sel(layer=1, head=head).values == pytest.approx(-expected, abs=1e-3)


def test_roles_by_weights_are_left_out_where_weights_are_too_large(frugal_analysis: Service) -> None:
    with AnalysisClient(frugal_analysis.target) as client:
        with pytest.warns(UserWarning, match="left out: its weights take"):
            found = client.analyze_attention(model_id="llama", test=False, **FEW)
        assert "copying" not in found.roles
        assert "induction" in found.roles
        with pytest.raises(UnavailableSiteError, match="weights_budget_bytes") as caught:
            client.analyze_attention(roles=["induction", "copying"], model_id="llama", **FEW)
        assert caught.value.field == "roles[1]"


def test_long_prompts_are_summed_up_in_bounded_memory(analysis: Service, client: AnalysisClient) -> None:
    """And cost a small part of what inference takes; 10,000 tokens were measured at a twentieth, and 153 MB."""
    ids = np.random.default_rng(0).integers(5, 500, (3, 1000)).tolist()
    client.analyze_attention(ids[:1], roles=(), model_id="llama")
    before_s = analysis.cpu_seconds()
    client.analyze_attention(ids, roles=(), model_id="llama")
    took_s = analysis.cpu_seconds() - before_s
    print(f"{took_s:.2f} s, {analysis.resident_bytes() / 1e6:.0f} MB")
    assert analysis.resident_bytes() < 500e6
    assert took_s < 5


def test_the_bundled_model_has_induction_heads_that_stand_in_for_each_other(client: AnalysisClient) -> None:
    """Each can be spared, and each does the work alone: the second test finds what the first does not."""
    found = client.analyze_attention(roles=["induction", "previous_token"], model_id="neuroscope-tiny")
    print(found.labels)
    assert found.plan is not None
    assert found.heads("induction")
    restored = [each for label in found.labels for each in label.evidence if each.probe == "restored"]
    assert max(each.effect_nats for each in restored) > 5
    scores = found["induction_score"]
    for label in found.labels:
        if label.role == "induction":
            assert scores.sel(layer=label.layer, head=label.head).values == pytest.approx(label.score)


def test_both_clients_and_this_process_and_rest_agree(
    client: AnalysisClient, analysis: Service, gateway: Service, llama_dir: Path
) -> None:
    here = client.analyze_attention(TEXTS, model_id="llama", **FEW)
    assert here["entropy"].dims == ("prompt", "layer", "head")
    assert here["induction_score"].dims == ("layer", "head")
    same(client.analyze_attention(TEXTS, model_id="llama", **FEW), here)

    async def asynchronous() -> AttentionResult:
        async with AsyncAnalysisClient(analysis.target) as other:
            return await other.analyze_attention(TEXTS, model_id="llama", **FEW)

    same(asyncio.run(asynchronous()), here)
    with AnalysisClient.local(model=[str(llama_dir)]) as local:
        same(local.analyze_attention(TEXTS, **FEW), here)
    body = {"prompts": TEXTS, "model": "llama", **FEW}
    with httpx.Client(base_url=gateway.target, timeout=120) as rest:
        answer = rest.post("/v1/analysis/attention", json=body).json()
        streamed = rest.post("/v1/analysis/attention", json=body | {"stream": True})
        refused = rest.post("/v1/analysis/attention", json=body | {"layers": [99]})
        missing = rest.post("/v1/analysis/attention", json=body | {"roles": ["inductoin"]})
        drawn = {
            format: rest.post("/v1/analysis/attention", json=body | {"format": format})
            for format in ("png", "svg", "pdf", "html")
        }
        torn = rest.post("/v1/analysis/attention", json=body | {"stream": True, "format": "png"})
    for array in answer["arrays"]:
        np.testing.assert_array_equal(np.asarray(array["values"], np.float32), here[array["name"]].values)
    assert [(label["role"], label["layer"], label["head"]) for label in answer["labels"]] == [
        (label.role, label.layer, label.head) for label in here.labels
    ]
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert events[0]["type"] == "plan"
    assert {"progress", "prompt"} <= {event["type"] for event in events}
    told = {name: value for name, value in events[-1].items() if name not in ("type", "elapsed_seconds", "token_count")}
    assert told == {name: answer[name] for name in told}
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "layers[0]")
    assert missing.status_code == 400
    media = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "html": "text/html"}
    for format, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("html", b"<!doctype html>")):
        assert drawn[format].headers["content-type"].startswith(media[format])
        assert drawn[format].content.startswith(magic)
    assert (torn.status_code, torn.json()["error"]["param"]) == (400, "format")


def test_a_result_is_kept_shown_and_drawn(client: AnalysisClient, tmp_path: Path) -> None:
    found = client.analyze_attention(TEXTS, model_id="neuroscope-tiny", roles=["induction"], **FEW)
    found.save(tmp_path / "found.json")
    same(AttentionResult.load(tmp_path / "found.json"), found)
    for ending, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype html>")):
        found.plot(tmp_path / f"found.{ending}")
        assert (tmp_path / f"found.{ending}").read_bytes().startswith(magic)
    assert "induction" in found._repr_mimebundle_()["text/plain"]
    with pytest.raises(InvalidRequestError, match="nearest: entropy"):
        found["entrpy"]
    with pytest.raises(InvalidRequestError, match="was not scored"):
        found.heads("uniform")


# ------------------------------------------------------------------------------------------------ what it refuses

SPOILT: dict[str, tuple[dict[str, Any], type[MLXIntegrationError], str]] = {
    "no such model": ({"model_id": "lama"}, ModelNotFoundError, "model_id"),
    "neither a prompt nor a role": ({"prompts": [], "statistics_only": True}, InvalidRequestError, "prompts"),
    "roles and no roles": ({"roles": [1], "statistics_only": True}, InvalidRequestError, "statistics_only"),
    "no such role": ({"roles": [77]}, InvalidRequestError, "roles[0]"),
    "no such layer": ({"layers": [0, 4]}, InvalidRequestError, "layers[1]"),
    "a layer twice": ({"layers": [3, -1]}, InvalidRequestError, "layers[1]"),
    "an empty prompt": ({"prompts": [inference_pb2.Prompt()]}, InvalidRequestError, "prompts[0]"),
    "one token": (
        {"prompts": [inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=[7]))]},
        InvalidRequestError,
        "prompts[0]",
    ),
    "no such token": (
        {"prompts": [inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=[7, 9999]))]},
        InvalidRequestError,
        "prompts[0].token_ids.ids[1]",
    ),
    "too long a prompt": (
        {"prompts": [inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=[7] * 5000))]},
        ContextLengthError,
        "prompts[0]",
    ),
    "a threshold out of its range": (
        {"thresholds": [pb.RoleThreshold(role=pb.HEAD_ROLE_INDUCTION, score=1.5)]},
        InvalidRequestError,
        "thresholds[0].score",
    ),
    "a threshold that is no number": (
        {"thresholds": [pb.RoleThreshold(role=pb.HEAD_ROLE_INDUCTION, score=float("nan"))]},
        InvalidRequestError,
        "thresholds[0].score",
    ),
    "an effect that is no number": (
        {"causal_test": pb.CausalTest(least_effect_nats=float("nan"))},
        InvalidRequestError,
        "causal_test.least_effect_nats",
    ),
    "a significance out of its range": (
        {"causal_test": pb.CausalTest(significance=1.0)},
        InvalidRequestError,
        "causal_test.significance",
    ),
    "one sequence": ({"sequences": pb.RandomSequences(count=1)}, InvalidRequestError, "sequences.count"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_mistakes_are_told_before_anything_runs(analysis: Service, case: str) -> None:
    fields, kind, field = SPOILT[case]
    good: dict[str, Any] = {"prompts": [inference_pb2.Prompt(text="Once upon a time")], "model_id": "llama"}
    request = pb.AnalyzeAttentionRequest(**(good | fields))
    with AnalysisClient(analysis.target) as client, pytest.raises(kind) as caught:
        list(client.events(AttentionResult(request)))
    assert (type(caught.value), caught.value.field) == (kind, field)


def test_a_model_without_patterns_says_why(tmp_path: Path) -> None:
    """A state space model: it has no attention at all."""
    network = importlib.import_module("mlx_lm.models.mamba2")
    config = tiny_config("mamba2") | {"vocab_size": 512, "head_dim": 32}
    model = network.Model(network.ModelArgs.from_dict(config))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_tokenizer(tmp_path, vocab_size=512, prepends_bos=False)
    with (
        AnalysisClient.local(model=[str(tmp_path)]) as client,
        pytest.raises(UnavailableSiteError, match="no attention patterns") as caught,
    ):
        client.analyze_attention([[1, 2, 3]])
    assert caught.value.field == "model_id"


# ------------------------------------------------------------------------------------------------ how it ends


def test_cancelling_stops_the_work_in_both_services(analysis: Service, inference: Service) -> None:
    request = pb.AnalyzeAttentionRequest(model_id="neuroscope-tiny", sequences=pb.RandomSequences(count=64))
    with AnalysisClient(analysis.target) as client, Client(inference.target) as below:
        events = client.events(AttentionResult(request))
        for event in events:
            if event.progress.stage == "testing labels":
                break
        eventually(lambda: below.workload().streams > 0)
        events.close()
        eventually(lambda: below.workload().streams == 0)
        found: Any = client._transport.unary(ANALYSIS_RPCS["GetWorkload"], ANALYSIS_RPCS["GetWorkload"].request())
        assert found.streams == 0


def test_an_inference_service_that_dies_ends_it_with_what_was_found(bundled_model_dir: Path) -> None:
    with (
        inference_service(bundled_model_dir) as below,
        running("neuroscope_analysis", "--port", "0", "--inference", below.target) as service,
        AnalysisClient(service.target) as client,
    ):
        result = AttentionResult(pb.AnalyzeAttentionRequest(prompts=[inference_pb2.Prompt(text=TEXTS[0])]))
        events = client.events(result)
        while next(events).progress.stage != "testing labels":
            pass
        below.process.send_signal(signal.SIGKILL)
        with pytest.raises(NeuroScopeIntegrationError, match="went away while this analysis was") as caught:
            list(events)
        assert below.target in caught.value.message
        assert result.end is None
        assert result["entropy"].values.shape == (4, 8)
        assert result["induction_score"].top(1)[0][1] > 0.9
        with pytest.raises(NeuroScopeIntegrationError, match="no inference service answers"):
            client.analyze_attention(TEXTS)
        assert service.process.poll() is None
        below.process.wait()


def test_health_tokens_traces_and_the_end(inference: Service) -> None:
    arguments = ("--port", "0", "--inference", inference.target, "--token", "secret")
    with running("neuroscope_analysis", *arguments) as service:
        with grpc.insecure_channel(service.target) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(service="neuroscope.v1.AnalysisService"), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with AnalysisClient(service.target) as client, pytest.raises(UnauthenticatedError):
            client.analyze_attention(TEXTS)
        with (
            AnalysisClient(service.target, token="secret") as client,
            Client(inference.target) as below,
            tracing.traced() as (trace_id, _),
        ):
            client.analyze_attention(TEXTS, model_id="llama", roles=())
            span = tracing.ended_span(client._transport, trace_id, "AnalyzeAttention")
            pieces = tracing.ended_span(client._transport, trace_id, "neuroscope.capture_pieces")
            assert pieces.parent_span_id == span.span_id
            assert tracing.ended_span(below._transport, trace_id, "Capture").parent_span_id == pieces.span_id
        assert service.stop() == 0
