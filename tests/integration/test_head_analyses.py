"""Heads beside each other, by the analysis service against a real inference service: what is found and refused.

python -m pytest tests/integration/test_head_analyses.py
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import Client
from neuroscope.analysis import (
    AnalysisClient,
    AnalysisResult,
    AsyncAnalysisClient,
    AttentionComparison,
    AttentionResult,
    CompositionResult,
    InteractionGraph,
)
from neuroscope.errors import (
    ContextLengthError,
    InvalidRequestError,
    MLXIntegrationError,
    ModelNotFoundError,
    UnavailableSiteError,
)
from neuroscope.experiments import logit_diff
from neuroscope.v1 import answered_pair_pb2, attention_pb2, composition_pb2, experiment_pb2, inference_pb2
from neuroscope.v1 import attention_comparison_pb2 as comparison_pb2
from neuroscope.v1 import interaction_pb2 as pb
from neuroscope.viz import pattern_picture
from tests.support.random_models import FAMILIES, make_model
from tests.support.services import Service, running
from tests.support.shell import neuroscope

CLEAN = "When Mary and John went to the store, John gave a drink to"
SERVICE = ("neuroscope_analysis", "--port", "0", "--inference")
PAIRS = [
    {"clean": f"When{a} and{b} went to the {place},{b} gave a drink to", "answer": a, "other": b}
    | {"corrupted": f"When{c} and{d} went to the {place},{e} gave a drink to"}
    for a, b, c, d, e, place in (
        (" Mary", " John", " Tom", " Alice", " Bob", "store"),
        (" Alice", " Tom", " Mary", " Bob", " John", "park"),
        (" Bob", " Mary", " John", " Tom", " Alice", "school"),
    )
]


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


@pytest.fixture(scope="module")
def rest(gateway: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def bundled(bundled_model_dir: Path) -> Iterator[AnalysisClient]:
    """The bundled model in this process."""
    with AnalysisClient.local(bundled_model_dir) as found:
        yield found


# ------------------------------------------------------------------------------------------------ what is found


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_composition_is_that_of_the_matrices_multiplied_out(family: str, family_dir: Callable[[str], Path]) -> None:
    """With the norm's gain and centring, and shared key/value heads; every family."""
    folder = str(family_dir(family))
    with Client.local(model=[folder]) as below:
        weights = below.weights("attention", "norms")
    with AnalysisClient.local(model=[folder]) as client:
        found = client.measure_composition(layers=[1, 3], random_pairs=2)
    read = {layer: _reading(weights, layer) for layer in (1, 3)}
    for head in range(weights.plan.head_count):
        ov = weights.ov(1, head).AB.astype(np.float64)
        if "ln1_post.w" in weights.names:
            ov = ov * weights.of("ln1_post.w", 1)
        ov = ov - ov.mean(axis=1, keepdims=True) if _is_centred(weights) else ov
        ov = read[1].T @ ov  # what the writer reads through its own norm
        for reader in (0, weights.plan.head_count - 1):
            qk = read[3].T @ weights.qk(3, reader).AB.astype(np.float64) @ read[3]
            vo = read[3].T @ weights.ov(3, reader).AB.astype(np.float64)
            if "ln1_post.w" in weights.names:
                vo = vo * weights.of("ln1_post.w", 3)
            vo = vo - vo.mean(axis=1, keepdims=True) if _is_centred(weights) else vo
            for kind, matrix in (("q", qk), ("k", qk.T), ("v", vo)):
                expected = np.linalg.norm(ov @ matrix) / (np.linalg.norm(ov) * np.linalg.norm(matrix))
                score = found[f"{kind}_composition"].sel(
                    writer_layer=1, writer_head=head, reader_layer=3, reader_head=reader
                )
                assert score.values == pytest.approx(expected, rel=1e-4), (kind, head, reader)
    assert np.isnan(found["q_composition"].sel(writer_layer=3).values).all()


def _reading(weights: Any, layer: int) -> Any:
    """The norm before attention, but for what it divides by: x @ this.T is what matrices read of x."""
    width = weights.W_O.shape[-1]
    gain = np.diag(weights.of("ln1.w", layer).astype(np.float64)) if "ln1.w" in weights.names else np.eye(width)
    return gain @ (np.eye(width) - 1 / width) if _is_centred(weights) else gain


def _is_centred(weights: Any) -> bool:
    return any(norm.name == "ln1" and norm.is_centred for norm in weights.plan.norms)


def test_what_weights_leave_out_is_said_and_random_heads_are_what_they_score(client: AnalysisClient) -> None:
    with pytest.warns(UserWarning, match="turned by their positions"):
        found = client.measure_composition(model_id="llama", seed=3)
    for kind in "qkv":
        mean, deviation = found.baseline(kind)
        assert 0 < deviation < mean < 0.5
        scores = found[f"{kind}_composition"].values
        assert np.nanmean(scores) == pytest.approx(mean, abs=0.02)  # the model is random
        np.testing.assert_allclose(found.excess(kind).values, scores - np.float32(mean), atol=1e-6)
    with pytest.warns(UserWarning, match="turned"):
        again = client.measure_composition(model_id="llama", seed=3)
    assert [again.baseline(kind) for kind in "qkv"] == [found.baseline(kind) for kind in "qkv"]


def test_a_comparison_is_that_of_the_captured_patterns(client: AnalysisClient, inference: Service) -> None:
    """In one part, in parts of some layers, and in parts of some queries; two lengths, and the same prompt twice."""
    longer = "When Mary and John went to the old store, then John gave a drink to"
    with Client(inference.target) as below:
        both = [below.capture(text, ["attention_pattern"], model_id="gpt2") for text in (CLEAN, longer)]
    found = client.compare_attention(CLEAN, longer, model_id="gpt2")
    first, second = (np.array(each) for each in zip(*found.alignment, strict=True))
    assert len(first) < len(both[1]["attention_pattern", 0][0, 0])
    for layer in range(4):
        left, right = (cache["attention_pattern", layer][0].astype(np.float64) for cache in both)
        p, q = left[:, first][:, :, first], right[:, second][:, :, second]
        p, q = (np.concatenate([x, 1 - x.sum(2, keepdims=True)], axis=2) for x in (p, q))
        expected = np.abs(p - q).sum(2).mean(1) / 2
        np.testing.assert_allclose(found["total_variation"].sel(layer=layer).values, expected, atol=1e-5)
    for budget in (20_000, 2_000):
        with (
            running(*SERVICE, inference.target, "--chunk-budget-bytes", str(budget)) as small,
            AnalysisClient(small.target) as other,
        ):
            parts = other.compare_attention(CLEAN, longer, model_id="gpt2")
        for name in found.names:
            np.testing.assert_allclose(parts[name].values, found[name].values, atol=2e-5, err_msg=name)
    same = client.compare_attention(CLEAN, CLEAN, model_id="gpt2")
    assert same["jensen_shannon"].values.max() < 1e-6
    assert np.abs(same.difference("entropy").values).max() == 0


def test_effects_are_those_of_the_paths_and_heads_by_themselves(client: AnalysisClient, inference: Service) -> None:
    """Grouped heads: keys and values are those of key/value heads."""
    graph = client.map_interactions(PAIRS, model_id="neuroscope-tiny", layers=[2, 3], every_head=True)
    cleans, corrupted = [pair["clean"] for pair in PAIRS], [pair["corrupted"] for pair in PAIRS]
    metric = logit_diff([pair["answer"] for pair in PAIRS], [pair["other"] for pair in PAIRS])
    with Client(inference.target) as below:
        patching = below.patch(cleans, corrupted, into="clean", model_id="neuroscope-tiny")
        paths = patching.paths(["a2.h6"], ["a3.h5<q>", "a3.h3<k>", "a3.h0<v>"]).run(metric=metric)["paths"]
        direct = patching.paths(["a3.h6"], "logits").run(metric=metric)["paths"]
        heads = patching.heads(layers=[2, 3]).run(metric=metric)["head_output"]
    lost = -paths.effects().values.mean(axis=0)[0]
    names = ("q_effect", "k_effect", "v_effect")
    for name, head, expected in zip(names, (5, 3, 0), lost, strict=True):
        place = graph[name].sel(sender_layer=2, sender_head=6, receiver_layer=3, receiver_head=head)
        assert place.values == pytest.approx(expected, abs=1e-4), name
    assert graph["k_effect"].sizes["receiver_head"] == 4
    at_logits = graph["direct_effect"].sel(layer=3, head=6).values
    assert at_logits == pytest.approx(-direct.effects().values.mean(), abs=1e-4)
    np.testing.assert_allclose(graph["head_effect"].values, -heads.effects().values.mean(axis=0), atol=1e-4)
    assert graph.end is not None
    assert graph.end.tested_count == 8 * (8 + 4 + 4) + 16 == len(graph.effects())


def test_on_random_sequences_previous_token_heads_feed_induction_keys(client: AnalysisClient) -> None:
    graph = client.map_interactions(model_id="neuroscope-tiny", block_length=8)
    print(graph.interactions)
    best = graph.interactions[0]
    assert (best.part, best.sender[0] < 3, best.receiver[0] if best.receiver else 0) == ("k", True, 3)
    assert best.effect > 1
    found = client.analyze_attention(roles=["previous_token"], test=False, model_id="neuroscope-tiny", block_length=8)
    assert best.sender in found.heads("previous_token", confirmed=False)


def test_name_movers_of_the_bundled_model(client: AnalysisClient) -> None:
    """Beside roles that random sequences tell, in one analysis."""
    found = client.analyze_attention(named_pairs=PAIRS * 3, model_id="neuroscope-tiny", sequences=2, block_length=8)
    assert {"induction_score", "name_mover_score", "s_inhibition_score", "direct_effect"} <= set(found.names)
    movers = [label for label in found.labels if label.role == "name_mover" and label.is_confirmed]
    assert movers
    for mover in movers:
        (evidence,) = mover.evidence
        direct = found["direct_effect"].sel(layer=mover.layer, head=mover.head).values
        assert (evidence.probe, evidence.effect_nats) == ("patched", pytest.approx(float(direct), abs=1e-5))
    assert "patched" in found._repr_mimebundle_()["text/plain"]


def test_a_model_whose_heads_write_through_a_norm_has_no_surprises(tmp_path: Path) -> None:
    """gemma2: paths go through the norm behind attention."""
    folder = str(make_model("gemma2", tmp_path / "gemma2"))
    ids = [[2, 9, 30, 31, 32, 9, 40], [2, 11, 31, 30, 33, 11, 41]]
    pairs = [{"clean": each, "corrupted": each[::-1], "answer": each[2], "other": each[1]} for each in ids]
    with AnalysisClient.local(model=[folder]) as client:
        graph = client.map_interactions(pairs, layers=[2, 3], every_head=True)
        named = client.analyze_attention(roles=["name_mover", "s_inhibition"], named_pairs=pairs)
    assert np.isfinite(graph["direct_effect"].values).all()
    assert np.isfinite(named["name_mover_score"].values).all()


# ------------------------------------------------------------------------------------------------ by every surface

ASKED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "comparison": ("compare_attention", "attention/comparison", {"first": CLEAN, "second": PAIRS[1]["clean"]}),
    "composition": ("measure_composition", "composition", {"layers": [1, 3], "random_pairs": 4}),
    "interactions": ("map_interactions", "interactions", {"pairs": PAIRS, "layers": [2, 3]}),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", ASKED)
def test_clients_this_process_rest_and_files_agree(
    client: AnalysisClient, analysis: Service, bundled: AnalysisClient, rest: httpx.Client, tmp_path: Path, case: str
) -> None:
    method, route, fields = ASKED[case]
    there = {**fields, "model_id": "neuroscope-tiny"}
    found = getattr(client, method)(**there)

    async def asynchronous() -> Any:
        async with AsyncAnalysisClient(analysis.target) as other:
            return await getattr(other, method)(**there)

    here = getattr(bundled, method)(**fields)
    found.save(tmp_path / "found.json")
    for other in (asyncio.run(asynchronous()), here, type(found).load(tmp_path / "found.json")):
        for name in found.names:
            np.testing.assert_allclose(other[name].values, found[name].values, atol=1e-4, err_msg=name)
    for ending, magic in (("png", b"\x89PNG"), ("html", b"<!doctype html>")):
        found.plot(tmp_path / f"found.{ending}")
        assert (tmp_path / f"found.{ending}").read_bytes().startswith(magic)
    assert found.plan.model_id in found._repr_mimebundle_()["text/plain"].replace("\n", "")
    body = {**fields, "model": "neuroscope-tiny"}
    answer = rest.post(f"/v1/analysis/{route}", json=body).json()
    streamed = rest.post(f"/v1/analysis/{route}", json=body | {"stream": True})
    refused = rest.post(f"/v1/analysis/{route}", json=body | {"layers": [1, 99]})
    drawn = rest.post(f"/v1/analysis/{route}", json=body | {"format": "png"})
    assert drawn.content.startswith(b"\x89PNG")
    arrays = {array["name"]: np.asarray(array["values"], np.float32) for array in answer["arrays"]}
    assert list(arrays) == found.names
    for name, values in arrays.items():
        np.testing.assert_allclose(values, found[name].values, atol=1e-4, err_msg=name)
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert [events[0]["type"], events[-1]["type"]] == ["plan", "result"]
    assert "progress" in {event["type"] for event in events}
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "layers[1]")


@pytest.mark.filterwarnings("ignore:Q and K:UserWarning")
def test_from_the_shell(analysis: Service, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))

    def run(*arguments: str) -> Any:
        common = ("--target", analysis.target, "--model", "neuroscope-tiny")
        return neuroscope("analyze", *arguments, *common, COLUMNS="150")

    compared = run("attention", CLEAN, PAIRS[1]["clean"], "--compare", "--save", str(tmp_path / "compared.png"))
    assert "AttentionComparison" in compared.output
    assert (tmp_path / "compared.png").exists()
    named = run("attention", "--pairs", str(pairs), "-r", "name_mover", "--no-test")
    assert "name mover" in named.output
    composed = run("composition").output
    assert "random heads" in composed
    graph = run("interactions", "--pairs", str(pairs), "--layers", "3", "--save", str(tmp_path / "graph.json"))
    assert graph.exit_code == 0
    assert InteractionGraph.load(tmp_path / "graph.json").plan is not None
    for spoilt, told in (
        (("attention", CLEAN, "--compare"), "--compare takes two prompts"),
        (("attention", "--pairs", "nowhere"), "nowhere"),
    ):
        refused = run(*spoilt)
        assert (refused.exit_code, told in refused.output) == (1, True), refused.output


def test_patterns_of_chosen_heads_are_drawn(inference: Service, tmp_path: Path) -> None:
    with Client(inference.target) as below:
        cache = below.capture(CLEAN, ["attention_pattern"], model_id="neuroscope-tiny")
        tokens = below.tokenize(CLEAN, model_id="neuroscope-tiny").tokens
    figure = pattern_picture.draw(cache, [(2, 6), (3, 6)], tokens=tokens, path=tmp_path / "patterns.svg")
    assert (tmp_path / "patterns.svg").read_text().startswith("<?xml")
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, cache["attention_pattern", 2][0, 6])
    for heads, given, field in (([], tokens, "heads"), ([(2, 8)], tokens, "heads"), ([(2, 6)], tokens[1:], "tokens")):
        with pytest.raises(InvalidRequestError) as caught:
            pattern_picture.draw(cache, heads, tokens=given)
        assert caught.value.field == field


# ------------------------------------------------------------------------------------------------ what is refused


def _prompt(text: str = CLEAN) -> inference_pb2.Prompt:
    return inference_pb2.Prompt(text=text)


def _token(text: str) -> experiment_pb2.TokenChoice:
    return experiment_pb2.TokenChoice(text=text)


def _pair(**changed: Any) -> answered_pair_pb2.AnsweredPair:
    good: dict[str, Any] = {
        "clean": _prompt(),
        "corrupted": _prompt("When Mary and John went to the store, Mary gave a drink to"),
        "answer": _token(" Mary"),
        "other": _token(" John"),
    }
    return answered_pair_pb2.AnsweredPair(**(good | changed))


def _named(**changed: Any) -> attention_pb2.NamedPair:
    positions = {name: changed.pop(name) for name in ("answer_position", "repeated_position") if name in changed}
    return attention_pb2.NamedPair(pair=_pair(**changed), **positions)


def _compare(**fields: Any) -> AttentionComparison:
    good: dict[str, Any] = {"model_id": "neuroscope-tiny", "first": _prompt(), "second": _prompt("Hello there")}
    return AttentionComparison(comparison_pb2.CompareAttentionRequest(**(good | fields)))


def _compose(**fields: Any) -> CompositionResult:
    good: dict[str, Any] = {"model_id": "llama"}
    return CompositionResult(composition_pb2.MeasureCompositionRequest(**(good | fields)))


def _interact(**fields: Any) -> InteractionGraph:
    good: dict[str, Any] = {"model_id": "neuroscope-tiny", "pairs": [_pair(), _pair()]}
    return InteractionGraph(pb.MapInteractionsRequest(**(good | fields)))


def _attention(**fields: Any) -> AttentionResult:
    good: dict[str, Any] = {"model_id": "neuroscope-tiny", "named_pairs": [_named(), _named()]}
    return AttentionResult(attention_pb2.AnalyzeAttentionRequest(**(good | fields)))


LONG = inference_pb2.Prompt(token_ids=inference_pb2.TokenIds(ids=[7] * 5000))
SPOILT: dict[str, tuple[AnalysisResult[Any, Any, Any, Any], type[MLXIntegrationError], str]] = {
    "compare: no such model": (_compare(model_id="nobody"), ModelNotFoundError, "model_id"),
    "compare: no first prompt": (_compare(first=None), InvalidRequestError, "first"),
    "compare: a long prompt": (_compare(second=LONG), ContextLengthError, "second"),
    "compare: other lengths": (
        _compare(alignment=comparison_pb2.ALIGNMENT_POSITIONS),
        InvalidRequestError,
        "alignment",
    ),
    "compare: no such alignment": (_compare(alignment=9), InvalidRequestError, "alignment"),
    "compare: no such layer": (_compare(layers=[9]), InvalidRequestError, "layers[0]"),
    "compose: one layer": (_compose(layers=[1]), InvalidRequestError, "layers"),
    "compose: no such layer": (_compose(layers=[0, -5]), InvalidRequestError, "layers[1]"),
    "compose: one random pair": (_compose(random_pairs=1), InvalidRequestError, "random_pairs"),
    "interact: one pair": (_interact(pairs=[_pair()]), InvalidRequestError, "pairs[0]"),
    "interact: unequal lengths": (
        _interact(pairs=[_pair(), _pair(corrupted=_prompt("Hello there"))]),
        InvalidRequestError,
        "pairs[1].corrupted",
    ),
    "interact: several tokens": (
        _interact(pairs=[_pair(), _pair(answer=_token(" Mary Poppins"))]),
        InvalidRequestError,
        "pairs[1].answer",
    ),
    "interact: no such token": (
        _interact(pairs=[_pair(other=experiment_pb2.TokenChoice(id=10**6)), _pair()]),
        InvalidRequestError,
        "pairs[0].other",
    ),
    "interact: no answer": (_interact(pairs=[_pair(answer=None), _pair()]), InvalidRequestError, "pairs[0].answer"),
    "interact: itself": (
        _interact(pairs=[_pair(other=_token(" Mary")), _pair()]),
        InvalidRequestError,
        "pairs[0].other",
    ),
    "interact: pairs and sequences": (
        _interact(sequences=attention_pb2.RandomSequences(seed=1)),
        InvalidRequestError,
        "sequences",
    ),
    "interact: a share of 1": (_interact(false_discovery_rate=1.0), InvalidRequestError, "false_discovery_rate"),
    "interact: no number": (_interact(least_effect=float("inf")), InvalidRequestError, "least_effect"),
    "names: one pair": (_attention(named_pairs=[_named()]), InvalidRequestError, "named_pairs[0].pair"),
    "names: none where a role needs them": (
        _attention(named_pairs=[], roles=[attention_pb2.HEAD_ROLE_NAME_MOVER]),
        InvalidRequestError,
        "named_pairs",
    ),
    "names: no role needs them": (_attention(roles=[attention_pb2.HEAD_ROLE_UNIFORM]), InvalidRequestError, "roles"),
    "names: s_inhibition alone": (
        _attention(roles=[attention_pb2.HEAD_ROLE_S_INHIBITION]),
        InvalidRequestError,
        "roles",
    ),
    "names: statistics alone": (_attention(statistics_only=True), InvalidRequestError, "statistics_only"),
    "names: the answer comes twice": (
        _attention(named_pairs=[_named(answer=_token(" John"), other=_token(" Mary")), _named()]),
        InvalidRequestError,
        "named_pairs[0].pair.answer",
    ),
    "names: the other comes once": (
        _attention(named_pairs=[_named(other=_token(" store")), _named()]),
        InvalidRequestError,
        "named_pairs[0].pair.other",
    ),
    "names: behind the end": (
        _attention(named_pairs=[_named(), _named(repeated_position=99)]),
        InvalidRequestError,
        "named_pairs[1].repeated_position",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_mistakes_are_told_before_anything_runs(client: AnalysisClient, case: str) -> None:
    result, kind, field = SPOILT[case]
    fresh = type(result)(result.request)
    with pytest.raises(kind) as caught:
        list(client.events(fresh))
    assert (type(caught.value), caught.value.field) == (kind, field), caught.value.message
    assert fresh.plan is None


def test_weights_that_are_too_large_are_refused(frugal_analysis: Service) -> None:
    with AnalysisClient(frugal_analysis.target) as client:
        with pytest.raises(UnavailableSiteError, match="weights_budget_bytes") as caught:
            client.measure_composition(model_id="llama")
        assert caught.value.field == "layers"
        with (
            pytest.warns(UserWarning, match="copying and suppression are left out"),
            pytest.warns(UserWarning, match="name mover and s inhibition are left out"),
        ):
            found = client.analyze_attention(
                ["Hello there"], named_pairs=PAIRS, model_id="neuroscope-tiny", sequences=2, block_length=4
            )
        assert "name_mover" not in found.roles


EXAMPLES: dict[str, Any] = {
    "Prompt": [_prompt()],
    "TokenChoice": [_token(" Mary"), experiment_pb2.TokenChoice(id=9)],
    "AnsweredPair": [_pair(), _pair(answer=experiment_pb2.TokenChoice(id=9))],
    "RandomSequences": [attention_pb2.RandomSequences(count=2, block_length=4)],
    "MapInteractionsRequest.pairs": [...],
    "MapInteractionsRequest.sequences": [None],
    "MapInteractionsRequest.layers": [(2, 3)],
    "MeasureCompositionRequest.layers": [(), (0, -1)],
    "MeasureCompositionRequest.random_pairs": [0, 2],
    "CompareAttentionRequest.layers": [(), (0,)],
    **{f"{name}Request.model_id": ["neuroscope-tiny"] for name in ("MapInteractions", "MeasureComposition")},
    "CompareAttentionRequest.model_id": ["neuroscope-tiny"],
}
