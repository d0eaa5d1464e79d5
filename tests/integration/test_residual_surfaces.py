"""The residual analysis by every surface, what it refuses before anything runs, how it ends.

python -m pytest tests/integration/test_residual_surfaces.py
"""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import Client
from neuroscope.analysis import AnalysisClient, AsyncAnalysisClient, ResidualResult, TunedLensResult
from neuroscope.errors import (
    ContextLengthError,
    DataConversionError,
    InvalidRequestError,
    MLXIntegrationError,
    UnavailableSiteError,
)
from neuroscope.v1 import experiment_pb2, inference_pb2, tuned_lens_pb2
from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary import tensors
from tests.support.patience import eventually
from tests.support.random_models import make_model
from tests.support.services import Service
from tests.support.shell import neuroscope

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
ALL: dict[str, Any] = {
    "parts": ["contributions", "attribution", "lens", "routing", "ablation", "flow"],
    "corrupted": CORRUPTED,
    "neurons": 3,
    "max_writers": 4,
}
TINY: dict[str, Any] = {"model_id": "neuroscope-tiny"}


@pytest.fixture(scope="module")
def client(analysis: Service) -> Iterator[AnalysisClient]:
    with AnalysisClient(analysis.target) as found:
        yield found


@pytest.fixture(scope="module")
def here(client: AnalysisClient) -> ResidualResult:
    return client.analyze_residual_stream(CLEAN, answer=" Mary", other=" John", **ALL, **TINY)


def same(one: ResidualResult, other: ResidualResult) -> None:
    """Equal arrays bit for bit, and equal findings; but for sweeps, whose batches are as large as the moment allows."""
    assert one.names == other.names
    for name in one.names:
        if name.startswith("ablated"):
            np.testing.assert_allclose(one[name].values, other[name].values, rtol=1e-4, atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)
    assert one.attributions == other.attributions
    assert one.lenses == other.lenses
    assert one.errors == other.errors
    assert one.metrics == pytest.approx(other.metrics, rel=1e-5)
    found, expected = (
        {(edge.writer, edge.reader): (edge.effect, edge.survival) for edge in result.flows[0].edges}
        for result in (one, other)
    )
    assert found.keys() == expected.keys()
    for edge, numbers in found.items():
        assert numbers == pytest.approx(expected[edge], abs=1e-4)


# ------------------------------------------------------------------------------------------------ every surface


def test_both_clients_this_process_and_rest_agree(
    analysis: Service, gateway: Service, here: ResidualResult, bundled_model_dir: Path
) -> None:
    async def asynchronous() -> ResidualResult:
        async with AsyncAnalysisClient(analysis.target) as other:
            return await other.analyze_residual_stream(CLEAN, answer=" Mary", other=" John", **ALL, **TINY)

    same(asyncio.run(asynchronous()), here)
    with AnalysisClient.local(model=[str(bundled_model_dir)]) as local:
        same(local.analyze_residual_stream(CLEAN, answer=" Mary", other=" John", **ALL), here)
    body: dict[str, Any] = {
        "prompts": [CLEAN],
        "model": "neuroscope-tiny",
        "answers": [" Mary"],
        "others": [" John"],
        "parts": ALL["parts"],
        "corrupted": [CORRUPTED],
        "strongest_neurons": 3,
        "max_writers": 4,
    }
    with httpx.Client(base_url=gateway.target, timeout=120) as rest:
        plain = {**body, "parts": ["contributions", "attribution", "lens"], "corrupted": [], "max_writers": 0}
        answer = rest.post("/v1/analysis/residual_stream", json=plain).json()
        streamed = rest.post("/v1/analysis/residual_stream", json=body | {"stream": True})
        refused = {
            field: rest.post("/v1/analysis/residual_stream", json=body | change)
            for field, change in {
                "answers[0]": {"answers": ["several tokens"]},
                "position": {"position": 99},
                "corrupted[0]": {"corrupted": ["Hello"]},
                "neurons[0].layer": {"neurons": [{"layer": 9, "neuron": 0}]},
                "queries[0]": {"queries": [99]},
                "top_k": {"top_k": 100_000},
            }.items()
        }
        few = rest.post("/v1/analysis/tuned_lens", json={"texts": ["Hello", "there"]})
        texts = [[*range(5, 105)]] * 3
        trained = rest.post("/v1/analysis/tuned_lens", json={"texts": texts, "objective": "ridge"}).json()
        looked = rest.post(
            "/v1/analysis/residual_stream",
            json={"prompts": [[5, 6, 7]], "parts": ["lens"], "tuned_lens": trained["lens"]},
        ).json()
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert {"plan", "progress", "sum", "attribution", "lens", "routed", "ablated", "flow", "result"} == {
        event["type"] for event in events
    }
    (prompt,) = events[-1]["prompts"]
    for name in ("error", "attribution", "lens"):
        assert answer["prompts"][0][name] == prompt[name]
    for array in prompt["arrays"]:
        values = np.asarray(array["values"], np.float32)
        np.testing.assert_allclose(values, here[array["name"]].values, rtol=1e-4, atol=1e-4, err_msg=array["name"])
    assert prompt["attribution"]["answer"]["sum"] == here.attributions[0].answer.sum
    edges = {(edge["writer"], edge["reader"]) for edge in prompt["flow"]["edges"]}
    assert edges == {(edge.writer, edge.reader) for edge in here.flows[0].edges}
    for field, response in refused.items():
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
    assert (few.status_code, few.json()["error"]["param"]) == (400, "texts")
    assert [layer["point"] for layer in trained["layers"]] == [0, 1, 2, 3]
    assert any(array["name"] == "tuned_kl" for array in looked["prompts"][0]["arrays"])


def test_the_shell(here: ResidualResult, analysis: Service, tmp_path: Path) -> None:
    pictures = [tmp_path / f"found.{ending}" for ending in ("png", "html")]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join([CLEAN, CORRUPTED] * 8), encoding="utf-8")
    lens = tmp_path / "lens.safetensors"
    common = ["--target", analysis.target, "--model", "neuroscope-tiny"]
    train = ["analyze", "tuned-lens", str(texts), "--objective", "ridge", "--save", str(lens), *common]
    shown = _shell(*train)
    assert "KL before" in shown
    saves = [argument for path in pictures for argument in ("--save", str(path))]
    asked = [CLEAN, "-a", " Mary", "--other", " John", "-c", CORRUPTED, "-p", "attribution", "-p", "lens", "-p", "flow"]
    shown = _shell("analyze", "residual", *asked, "--tuned-lens", str(lens), *saves, *common)
    assert "Tuned lens" in shown
    assert "Flow of information" in shown
    for path, magic in zip(pictures, (b"\x89PNG", b"<!doctype html>"), strict=True):
        assert path.read_bytes().startswith(magic)
    found = json.loads(_shell("analyze", "residual", CLEAN, "-a", " Mary", "-p", "attribution", "--json", *common))
    same_sum = ResidualResult.from_json(found).attributions[0].answer.sum
    assert same_sum == here.attributions[0].answer.sum


def _shell(*arguments: str) -> str:
    done = neuroscope(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_result_is_kept_shown_and_drawn(here: ResidualResult, tmp_path: Path) -> None:
    here.save(tmp_path / "found.json")
    same(ResidualResult.load(tmp_path / "found.json"), here)
    for part in here.parts:
        assert here.plot(part=part).axes
    here.flows[0].plot(tmp_path / "flow.svg")
    assert "skip" in here.flows[0]._repr_mimebundle_()["text/plain"]
    assert "m3" in here._repr_mimebundle_()["text/plain"]
    assert here.rollout().values.sum(axis=1) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InvalidRequestError, match="nearest: share"):
        here["shar"]
    with pytest.raises(InvalidRequestError, match="no prompt 1"):
        here.array("share", 1)
    with pytest.raises(InvalidRequestError, match=r"no writer 'a9\.h9'"):
        here.flows[0].writer("a9.h9")


def test_prompts_of_several_lengths(client: AnalysisClient) -> None:
    """By default the answer is what the model finds likeliest, of each prompt its own."""
    found = client.analyze_residual_stream(["The capital of France is", CLEAN], **TINY)
    with pytest.raises(InvalidRequestError, match="one by one"):
        found["share"]
    assert found.array("share", 1).shape[1] > found.array("share", 0).shape[1]
    assert found["direct"].dims == ("prompt", "component")
    assert [found.array("lens_answer_rank", prompt).values[-1, -1] for prompt in (0, 1)] == [0, 0]


# ------------------------------------------------------------------------------------------------ what it refuses

_PROMPT = inference_pb2.Prompt(text="Once upon a time")
_IDS = inference_pb2.TokenIds
_TOKEN = experiment_pb2.TokenChoice
SPOILT: dict[str, tuple[dict[str, Any], type[MLXIntegrationError], str]] = {
    "no prompt": ({"prompts": []}, InvalidRequestError, "prompts"),
    "no such part": ({"parts": [77]}, InvalidRequestError, "parts[0]"),
    "too long a prompt": (
        {"prompts": [_PROMPT, inference_pb2.Prompt(token_ids=_IDS(ids=[7] * 5000))]},
        ContextLengthError,
        "prompts[1]",
    ),
    "no such position": ({"position": -9999}, InvalidRequestError, "position"),
    "several tokens": ({"answers": [_TOKEN(text=" several tokens")]}, InvalidRequestError, "answers[0].text"),
    "no such token": ({"answers": [_TOKEN(id=9999)]}, InvalidRequestError, "answers[0].id"),
    "a token that is none": ({"answers": [_TOKEN()]}, InvalidRequestError, "answers[0]"),
    "too many answers": ({"answers": [_TOKEN(id=7)] * 3}, InvalidRequestError, "answers"),
    "the answer against itself": (
        {"answers": [_TOKEN(id=7)], "others": [_TOKEN(id=7)]},
        InvalidRequestError,
        "others[0]",
    ),
    "another token and no answer": ({"others": [_TOKEN(id=7)]}, InvalidRequestError, "answers"),
    "more tokens than there are": ({"lens": pb.ResidualLens(top_k=9999)}, InvalidRequestError, "lens.top_k"),
    "no such layer": (
        {"neurons": pb.NeuronSelection(neurons=[pb.Neuron(layer=4)])},
        InvalidRequestError,
        "neurons.neurons[0].layer",
    ),
    "no such neuron": (
        {"neurons": pb.NeuronSelection(neurons=[pb.Neuron(layer=1, neuron=320)])},
        InvalidRequestError,
        "neurons.neurons[0].neuron",
    ),
    "neurons without attribution": (
        {"parts": [pb.RESIDUAL_PART_LENS], "neurons": pb.NeuronSelection(strongest=1)},
        InvalidRequestError,
        "neurons",
    ),
    "no such query": (
        {"parts": [pb.RESIDUAL_PART_ROUTING], "routing": pb.RoutingSelection(queries=[99])},
        InvalidRequestError,
        "routing.queries[0]",
    ),
    "no corrupted prompt": ({"parts": [pb.RESIDUAL_PART_FLOW]}, InvalidRequestError, "flow.corrupted"),
    "prompts of two lengths": (
        {"parts": [pb.RESIDUAL_PART_FLOW], "flow": pb.FlowSearch(corrupted=[inference_pb2.Prompt(text="Hello")])},
        InvalidRequestError,
        "flow.corrupted[0]",
    ),
    "no difference": (
        {"parts": [pb.RESIDUAL_PART_FLOW], "flow": pb.FlowSearch(corrupted=[_PROMPT])},
        InvalidRequestError,
        "flow.corrupted[0]",
    ),
    "an effect out of its range": (
        {"parts": [pb.RESIDUAL_PART_FLOW], "flow": pb.FlowSearch(corrupted=[_PROMPT], least_effect=2.0)},
        InvalidRequestError,
        "flow.least_effect",
    ),
    "a tolerance that is no number": (
        {"parts": [pb.RESIDUAL_PART_FLOW], "flow": pb.FlowSearch(corrupted=[_PROMPT], tolerance=float("nan"))},
        InvalidRequestError,
        "flow.tolerance",
    ),
    "an empty lens": (
        {"lens": pb.ResidualLens(tuned=tuned_lens_pb2.TunedLens())},
        InvalidRequestError,
        "lens.tuned.translators",
    ),
    "a reference that is empty": (
        {
            "parts": [pb.RESIDUAL_PART_ABLATION],
            "ablation": pb.LayerAblation(references=[_PROMPT, inference_pb2.Prompt()]),
        },
        InvalidRequestError,
        "ablation.references[1]",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_mistakes_are_told_before_anything_runs(client: AnalysisClient, case: str) -> None:
    fields, kind, field = SPOILT[case]
    good: dict[str, Any] = {"prompts": [_PROMPT], "model_id": "llama"}
    result = ResidualResult(pb.AnalyzeResidualStreamRequest(**(good | fields)))
    with pytest.raises(kind) as caught:
        list(client.events(result))
    assert (type(caught.value), caught.value.field) == (kind, field)
    assert result.plan is None


def test_a_tuned_lens_of_another_model_is_refused(client: AnalysisClient, tmp_path: Path) -> None:
    """Of other weights, and of another width; a file of something else."""
    texts = [[*range(5, 205)]] * 3
    other = str(make_model("llama", tmp_path / "other", seed=9))
    with AnalysisClient.local(model=[other]) as local:
        lens = local.train_tuned_lens(texts, objective="ridge").lens
        with pytest.raises(InvalidRequestError, match="vocabulary is large, or the texts are short"):
            local.train_tuned_lens([[*range(5, 205)]] * 2, objective="kl")
    with pytest.raises(InvalidRequestError, match="trained on 'other', not on 'llama'") as caught:
        client.analyze_residual_stream([5, 6, 7], tuned_lens=lens, model_id="llama")
    assert caught.value.field == "lens.tuned.model_id"
    message = tuned_lens_pb2.TunedLens(
        translators=[
            tuned_lens_pb2.Translator(
                weight=tensors.to_message(np.eye(3, dtype=np.float32)), bias=tensors.to_message(np.zeros(3, np.float32))
            )
        ]
    )
    request = pb.AnalyzeResidualStreamRequest(prompts=[_PROMPT], lens=pb.ResidualLens(tuned=message))
    with pytest.raises(InvalidRequestError, match="is the lens of another model") as caught:
        list(client.events(ResidualResult(request)))
    assert caught.value.field == "lens.tuned.translators[0].weight"
    (tmp_path / "no.safetensors").write_bytes(b"something else")
    with pytest.raises(DataConversionError, match="is not a tuned lens"):
        type(lens).load(tmp_path / "no.safetensors")
    with pytest.raises(InvalidRequestError, match="too few") as caught:
        client.train_tuned_lens(["Hello there", "and here"], model_id="llama")
    assert caught.value.field == "texts"
    with pytest.raises(InvalidRequestError, match="one held out"):
        client.train_tuned_lens("Hello there", model_id="llama")


def test_weights_beyond_the_budget_are_left_out_or_refused(frugal_analysis: Service) -> None:
    with AnalysisClient(frugal_analysis.target) as client:
        with pytest.warns(UserWarning, match="skipped"):
            found = client.analyze_residual_stream([5, 6, 7], model_id="llama")
        assert "direct" not in found.names
        assert "head_norm" not in found.names
        assert found.errors[0].heads is None
        with pytest.raises(UnavailableSiteError, match="weights_budget_bytes") as caught:
            client.analyze_residual_stream([5, 6, 7], parts=["lens", "attribution"], model_id="llama")
        assert caught.value.field == "parts[1]"
        with pytest.raises(UnavailableSiteError, match="weights_budget_bytes") as caught:
            client.analyze_residual_stream([5, 6, 7], parts=["routing"], model_id="llama")
        assert caught.value.field == "parts[0]"


# ------------------------------------------------------------------------------------------------ how it ends


def test_a_training_that_nobody_waits_for_ends(analysis: Service, inference: Service) -> None:
    ids = np.random.default_rng(0).integers(5, 500, (6, 400)).tolist()
    request = tuned_lens_pb2.TrainTunedLensRequest(
        model_id="llama",
        texts=[inference_pb2.Prompt(token_ids=_IDS(ids=each)) for each in ids],
        objective=tuned_lens_pb2.TUNED_LENS_OBJECTIVE_KL,
        max_iterations=1000,
    )
    with AnalysisClient(analysis.target) as client, Client(inference.target) as below:
        events = client.events(TunedLensResult(request))
        while next(events).progress.stage != "fitting translators":
            pass
        events.close()
        before_s = analysis.cpu_seconds()
        eventually(lambda: below.workload().streams == 0)
        time.sleep(1.0)
        settled_s = analysis.cpu_seconds()
        time.sleep(0.5)
        assert analysis.cpu_seconds() - settled_s < 0.25, analysis.cpu_seconds() - before_s


def test_long_prompts_are_summed_up_in_bounded_memory(analysis: Service, client: AnalysisClient) -> None:
    """Every position's numbers, and no stream is kept."""
    ids = np.random.default_rng(0).integers(5, 500, (3, 1000)).tolist()
    client.analyze_residual_stream(ids[:1], parts=["contributions", "attribution"], answer=7, model_id="llama")
    before_s, before_bytes = analysis.cpu_seconds(), analysis.resident_bytes()
    client.analyze_residual_stream(ids, parts=["contributions", "attribution"], answer=7, model_id="llama")
    took_s = analysis.cpu_seconds() - before_s
    print(f"{took_s:.2f} s, {analysis.resident_bytes() / 1e6:.0f} MB, before {before_bytes / 1e6:.0f}")
    assert analysis.resident_bytes() < 500e6
    assert took_s < 8
