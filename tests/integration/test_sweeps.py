"""Sweeps through a running service: what clients see of them, what is refused, how they stop and go on.

python -m pytest tests/integration/test_sweeps.py
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import AsyncClient, Client, edit, errors, noise, tensor
from neuroscope.experiments import (
    EACH,
    Experiment,
    Patching,
    SweepResult,
    kl_divergence,
    log_prob,
    logit_diff,
    mean,
    projection,
    resample,
    together,
)
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.wire.rpc import RPCS
from tests.support.services import Service
from tests.support.shell import neuroscope

CLEAN = [0, 141, 59, 26, 53, 58, 97, 93, 23, 84]
CORRUPTED = [0, 18, 28, 18, 28, 45, 90, 45, 23, 53]
METRIC = logit_diff(7, 9)


@pytest.fixture(scope="module")
def client(inference: Service) -> Iterator[Client]:
    with Client(inference.target) as client:
        yield client


@pytest.fixture
def patching(client: Client) -> Patching[SweepResult]:
    return client.patch(CLEAN, CORRUPTED)


# ------------------------------------------------------------------------------------------------ what clients see


def test_a_sweep_has_named_axes(patching: Patching[SweepResult]) -> None:
    reports: list[pb.SweepProgress] = []
    result = patching.residual().heads().run(METRIC, progress=reports.append)
    assert result.names == ["resid_pre", "head_output"]
    stream, heads = result["resid_pre"], result["head_output"]
    assert stream.sizes == {"layer": 4, "position": 10}
    assert heads.sizes == {"layer": 4, "head": 8}
    assert result.is_complete
    assert reports[-1].patches_done == reports[-1].patch_count == 72
    assert stream.sel(layer=0).normalised().values.sum() != 0
    assert len(result.tokens) == 10
    whole = patching.residual(layers=[0], positions=None).run(METRIC)
    assert whole.values[0] == pytest.approx(stream.clean[0], abs=1e-4)
    assert whole.normalised().values[0] == pytest.approx(1, abs=1e-5)


def test_both_clients_and_both_ways_agree(inference: Service, patching: Patching[SweepResult], llama_dir: Path) -> None:
    swept = patching.residual().mlps()
    result = swept.run(METRIC)
    plain = swept.run(METRIC, method="plain")
    with Client.local(model=[str(llama_dir)]) as local:
        here = local.sweep(swept.scored_by(METRIC))
    for name in result.names:
        np.testing.assert_allclose(result[name], plain[name], atol=1e-4)
        np.testing.assert_array_equal(result[name].clean, plain[name].clean)
        np.testing.assert_allclose(result[name], here[name], atol=1e-4)


async def test_the_asynchronous_client(inference: Service, patching: Patching[SweepResult]) -> None:
    result = patching.residual(layers=[1]).run(METRIC)
    async with AsyncClient(inference.target) as client:
        found = await client.patch(CLEAN, CORRUPTED).residual(layers=[1]).run(METRIC)
    np.testing.assert_array_equal(result.values, found.values)


def test_an_experiment_is_a_value(client: Client, patching: Patching[SweepResult], tmp_path: Path) -> None:
    scale = edit("mlp_out", 2, lambda act: act * 0.5, positions=[-1])
    experiment = patching.heads(heads=[0, 3], positions=-1).cell(scale, name="half").scored_by(METRIC.normalised())
    experiment.save(tmp_path / "experiment.json")
    again = Experiment.load(tmp_path / "experiment.json")
    assert again == experiment
    result, found = client.sweep(experiment), client.sweep(again)
    assert result.names == ["head_output", "cells"]
    assert result["cells"].coords["cell"] == ["half"]
    np.testing.assert_array_equal(result["head_output"], found["head_output"])
    result.save(tmp_path / "result.json")
    kept = SweepResult.load(tmp_path / "result.json")
    np.testing.assert_array_equal(kept["head_output"], result["head_output"])
    assert kept["head_output"].is_normalised


def test_ablation(client: Client) -> None:
    ablation = client.ablate([CLEAN, CORRUPTED]).references([CORRUPTED, CLEAN])
    result = (
        ablation.heads()
        .site("mlp_neurons", layers=[1], units=[0, 5], value=mean(by_position=True))
        .site("attn_out", layers=1, value=resample(3))
        .mlps(positions=together(-1, -2), value=lambda act: act + noise(0.5, seed=1))
        .run(kl_divergence())
    )
    assert result["head_output"].dims == ("pair", "layer", "head")
    assert result["head_output"].mean("pair").dims == ("layer", "head")
    assert (result["head_output"].values >= -1e-6).all()
    assert result["mlp_neurons"].sizes == {"pair": 2, "layer": 1, "unit": 2}
    assert (result["mlp_out"].values > 0).all()


# ------------------------------------------------------------------------------------------------ stopping, going on


def test_a_cancelled_sweep_stops_and_goes_on(client: Client, patching: Patching[SweepResult]) -> None:
    experiment = patching.heads(positions=EACH).scored_by(METRIC)
    experiment.request.limits.batch_bytes = 1  # one patch a submission
    result = SweepResult(experiment)
    events = client.sweep_events(result)
    for event in events:
        if event.HasField("progress") and event.progress.patches_done >= 5:
            break
    events.close()
    done = int(np.isfinite(result["head_output"].values).sum())
    assert 5 <= done < 320
    assert not result.is_complete
    assert len(result.request().done_patches) == done
    deadline = time.monotonic() + 10
    while client.workload().streams and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not client.workload().streams
    again = client.sweep(experiment, result=result)
    assert again is result
    assert result.is_complete
    assert result.end is not None
    assert result.end.patches_done == 320 - done
    whole = client.sweep(patching.heads(positions=EACH).scored_by(METRIC))
    np.testing.assert_allclose(result["head_output"], whole["head_output"], atol=1e-4)


def test_others_have_their_turn_during_a_sweep(
    inference: Service, client: Client, patching: Patching[SweepResult]
) -> None:
    experiment = patching.heads(positions=EACH).scored_by(METRIC, method="plain")
    ended = threading.Event()

    def run() -> None:
        client.sweep(experiment)
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    with Client(inference.target) as other:
        other.generate(CLEAN, max_tokens=2).wait()
        assert not ended.is_set()
    thread.join()


# ------------------------------------------------------------------------------------------------ what is refused

REFUSED: dict[str, tuple[Callable[[Patching[Any]], Patching[Any]], Any, str, str]] = {
    "a token that is several": (lambda p: p.residual(), logit_diff(" perplexity", 9), "answers[0].text", "not one"),
    "a token outside the vocabulary": (lambda p: p.residual(), log_prob(5000), "answers[0].id", "vocabulary of 512"),
    "two equal tokens": (lambda p: p.residual(), logit_diff(7, 7), "others", "same"),
    "too many tokens": (lambda p: p.residual(), logit_diff([7, 8, 9], 5), "answers", "one for each"),
    "a position outside": (lambda p: p.residual(positions=[3, 10]), METRIC, "grids[0].positions", "out of range"),
    "a position twice": (lambda p: p.residual(positions=[3, -7]), METRIC, "grids[0].positions", "twice"),
    "a head outside": (lambda p: p.heads(heads=[8]), METRIC, "grids[0].heads", "heads 0 to 7"),
    "heads where there are none": (lambda p: p.site("mlp_out", heads=EACH), METRIC, "grids[0].heads", "no heads"),
    "a layer outside": (lambda p: p.residual(layers=[4]), METRIC, "grids[0].layers", "layers 0 to 3"),
    "a unit outside": (lambda p: p.neurons([0], units=[320]), METRIC, "grids[0].units", "units 0 to 319"),
    "units of keys": (lambda p: p.site("attention_pattern", units=[0]), METRIC, "grids[0].units", "keys"),
    "a point that there is not": (lambda p: p.site("router_logits"), METRIC, "grids[0].site.component", "mixture"),
    "a metric's position outside": (lambda p: p.residual(), METRIC.at(12), "metric.positions[0]", "outside"),
    "a direction of another width": (lambda p: p.residual(), projection(np.ones(5)), "direction", "128 entries"),
    "a tensor of another width": (
        lambda p: p.mlps(value=np.ones(5, np.float32)),  # type: ignore[arg-type]
        METRIC,
        "grids[0].value.expression.tensor",
        "does not fit",
    ),
    "a mean without references": (lambda p: p.mlps(value=mean()), METRIC, "references", "no reference"),
    "a draw without references": (lambda p: p.mlps(value=resample()), METRIC, "references", "no reference"),
    "a reference of another length": (
        lambda p: p.mlps(value=mean(by_position=True)).references([CLEAN[:4]]),
        METRIC,
        "references[0]",
        "equal lengths",
    ),
    "an edit of rows": (lambda p: p.cell(edit("mlp_out", 2, 0.0, rows=[0])), METRIC, "select.rows", "which run"),
    "an edit of steps": (lambda p: p.cell(edit("mlp_out", 2, 0.0, steps=0)), METRIC, "select.steps", "generates"),
    "nothing swept": (lambda p: p, METRIC, "grids", "edits nothing"),
    "no metric": (lambda p: p.residual(), None, "metric", "missing"),
    "negative noise": (
        lambda p: p.mlps(value=lambda act: act + noise(-1.0)),
        METRIC,
        "standard_deviation",
        "standard deviation",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_before_anything_runs(client: Client, name: str) -> None:
    write, metric, field, said = REFUSED[name]

    def sweep() -> None:
        experiment = write(client.patch(CLEAN, CORRUPTED)).scored_by(metric or METRIC)
        if metric is None:
            experiment.request.ClearField("metric")
        client.sweep(experiment)

    with pytest.raises(errors.MLXIntegrationError) as caught:
        sweep()
    assert caught.value.http_status == 400, caught.value
    assert field in caught.value.field
    assert said in caught.value.message


def test_prompts_that_do_not_pair(client: Client) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"10 tokens.* 9|9.*10 tokens") as caught:
        client.patch(CLEAN, CORRUPTED[:9]).residual().run(METRIC)
    assert caught.value.field == "pairs[0]"
    assert client.patch(CLEAN, CORRUPTED[:9]).residual(positions=[-1, -2]).run(METRIC).is_complete


def test_a_sweep_that_is_too_large_is_refused_with_the_estimate(patching: Patching[SweepResult]) -> None:
    with pytest.raises(
        errors.ResourceExhaustedError, match=r"40 patches .* about \d+ s.* forward passes.* MB"
    ) as caught:
        patching.residual().limits(max_patches=39).run(METRIC)
    assert caught.value.field == "limits.max_patches"
    with pytest.raises(errors.ResourceExhaustedError, match="estimated") as caught:
        patching.residual().limits(max_seconds=1e-9).run(METRIC)
    assert caught.value.field == "limits.max_seconds"


def test_two_runs_that_score_the_same_cannot_be_scaled_between(client: Client) -> None:
    with pytest.raises(errors.InvalidRequestError, match="nothing to scale") as caught:
        client.patch(CLEAN, CLEAN).residual().run(METRIC.normalised())
    assert caught.value.field == "metric.normalised"


def test_every_enum_of_the_future_is_refused(client: Client, patching: Patching[SweepResult]) -> None:
    for field in ("method", "edited_run"):
        experiment = patching.residual().scored_by(METRIC)
        setattr(experiment.request, field, 99)
        with pytest.raises(errors.InvalidRequestError) as caught:
            client.sweep(experiment)
        assert caught.value.field == field


def test_the_call_is_part_of_the_contract() -> None:
    assert RPCS["RunSweep"].service == "neuroscope.v1.ExperimentService"
    assert RPCS["RunSweep"].streams_responses


# ------------------------------------------------------------------------------------------------ shell and HTTP


def test_the_command(inference: Service, tmp_path: Path) -> None:
    prompts = ["one two three", "one six three", "-a", "#7", "--other", "#9", "-s", "heads", "-s", "mlp_out"]
    kept = tmp_path / "result.json"
    saves = ["--save", kept, "--save", tmp_path / "p.png"]
    shown = neuroscope("sweep", *prompts, *saves, "--positions=-1", target=inference.target)
    assert shown.exit_code == 0, shown.stderr
    assert "head_output" in shown.stdout
    assert (tmp_path / "p-head_output.png").exists()
    assert SweepResult.load(kept).is_complete
    again = neuroscope("sweep", *prompts, "--positions=-1", "--json", target=inference.target)
    assert again.exit_code == 0, again.stderr
    found = SweepResult.from_json(json.loads(again.stdout))
    np.testing.assert_allclose(found["head_output"], SweepResult.load(kept)["head_output"], atol=1e-4)
    wrong = neuroscope("sweep", "a", "b", "-a", "#7", target=inference.target)
    assert wrong.exit_code == 1
    assert "--other" in wrong.stderr


def body(**changes: Any) -> dict[str, Any]:
    return {
        "pairs": [{"clean": CLEAN, "corrupted": CORRUPTED}],
        "grids": [{"component": "resid_pre", "positions": "each"}, {"component": "head_output", "heads": [1, 2]}],
        "metric": {"answers": [7], "others": [9]},
    } | changes


def test_the_route_gives_what_the_client_gets(gateway: Service, patching: Patching[SweepResult]) -> None:
    answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=body(), timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    result = patching.residual().heads(heads=[1, 2]).run(METRIC)
    for grid in found["grids"]:
        assert grid["dims"] == list(result[grid["name"]].dims)
        np.testing.assert_allclose(grid["values"], result[grid["name"]], atol=1e-4)
    assert found["clean"] == pytest.approx(result["resid_pre"].clean)
    assert found["method"] == "layers_and_positions"


def test_the_route_streams(gateway: Service) -> None:
    with httpx.stream("POST", f"{gateway.target}/v1/experiments/sweeps", json=body(stream=True), timeout=60) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [lines[0]["type"], lines[1]["type"], lines[-1]["type"]] == ["plan", "baseline", "end"]
    assert sum(len(line["patches"]) for line in lines if line["type"] == "values") == 48


def test_the_route_takes_sets_of_edges(gateway: Service, patching: Patching[SweepResult]) -> None:
    """In a sweep of their own: runs of edges do not go on with texts."""
    cells = {"one": ["m0->logits"], "two": ["a0.h1->m2", "input->a1.h0<v>"]}
    edges = [{"cells": [{"name": name, "edges": cell} for name, cell in cells.items()]}, {"value": 0.0}]
    answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=body(grids=[], edges=edges), timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()["grids"]
    result = patching.edges(cells).edges(value=0.0).run(METRIC)
    assert [grid["name"] for grid in found] == result.names == ["edges", "edges#2"]
    for grid in found:
        assert grid["coords"] == {dim: list(names) for dim, names in result[grid["name"]].coords.items()}
        np.testing.assert_allclose(grid["values"], result[grid["name"]].values, atol=1e-4)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"metric": {"answers": [" perplexity"], "others": [9]}}, "metric.answers[0]"),
        ({"grids": [{"component": "head_output", "heads": [99]}]}, "grids[0].heads"),
        ({"grids": [{"component": "nowhere"}]}, "grids[0].component"),
        ({"grids": [{"component": "mlp_out", "value": "median"}]}, "grids[0].value"),
        ({"pairs": []}, "pairs"),
        ({"metric": {"kind": "beauty"}}, "metric.kind"),
        ({"edges": [{"cells": [{"edges": ["m1->m0"]}]}]}, "edges[0].cells[0].edges"),
        ({"edges": [{"cells": [{"edges": ["m1=>m2"]}]}]}, "edges[0].edges"),
        ({"edges": [{"value": "median"}]}, "edges[0].value"),
        ({"max_patches": 3}, "max_patches"),
    ],
)
def test_the_route_refuses(gateway: Service, changes: dict[str, Any], param: str, stream: bool) -> None:
    answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=body(stream=stream, **changes), timeout=60)
    assert answer.status_code == (429 if param == "max_patches" else 400), answer.text
    assert answer.json()["error"]["param"].startswith(param)


EVERYTHING: dict[str, Any] = {
    "grids": [
        {"component": "mlp_out", "layer_window": 2, "value": {"noise": 0.5, "seed": 3}},
        {"component": "attn_out", "layers": [1], "value": {"expression": {"constant": 0.25}}},
        {"component": "resid_post", "layers": [0], "value": {"tensor": [0.5] * 128}},
    ],
    "paths": [{"senders": ["input", "a0.h1", "m0"], "receivers": ["logits", ["a2.h0<q>", "a3.h1<v>"]]}],
    "cells": [{"name": "silent", "interventions": [{"component": "mlp", "layer_name": "h.1", "action": "zero"}]}],
    "metric": {"kind": "projection", "direction": [0.1] * 128},
    "generation": {"max_tokens": 3},
    "criterion": "contains:zebra",
    "method": "layers",
    "done_patches": [1],
}


def test_the_route_takes_what_the_contract_takes(gateway: Service, client: Client) -> None:
    """Every value, paths, single cells, a projection, texts and what judges them."""
    answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=body(**EVERYTHING), timeout=60)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    silent = edit("mlp_out", 1, lambda act: act * 0.0)
    result = (
        client.patch(CLEAN, CORRUPTED)
        .site("mlp_out", window=2, value=lambda act: act + noise(0.5, seed=3))
        .site("attn_out", layers=[1], value=0.25)
        .site("resid_post", layers=[0], value=tensor(np.full(128, 0.5, np.float32)))
        .paths(["input", "a0.h1", "m0"], ["logits", ("a2.h0<q>", "a3.h1<v>")])
        .cell(silent, name="silent")
        .generating(3)
        .run(projection(np.full(128, 0.1, np.float32)))
    )
    assert [grid["name"] for grid in found["grids"]] == ["mlp_out", "attn_out", "resid_post", "paths", "cells"]
    assert found["method"] == "layers"
    for grid in found["grids"]:
        scores = result[grid["name"]]
        values = np.array(grid["values"], np.float64)  # null: it was not run
        assert grid["dims"] == list(scores.dims)
        there = np.isfinite(values)
        assert there.sum() == values.size - (grid["name"] == "mlp_out")
        np.testing.assert_allclose(values[there], scores.values[there], atol=1e-4)
        assert np.array(grid["texts"])[there].tolist() == np.array(scores.texts)[there].tolist()
        assert set(np.array(grid["scores"], object).flat) <= {0.0, None}
    assert found["grids"][3]["coords"]["receiver"] == ["logits", "a2.h0<q> + a3.h1<v>"]
    assert len(found["clean_texts"]) == len(found["corrupted_texts"]) == 1


def test_the_route_traces_causally(gateway: Service, client: Client) -> None:
    text = "When Mary and John went to the store"
    noisy = [{"clean": text, "noise": {"subject": "Mary", "seed": seed}} for seed in (4, 5)]
    sent = body(pairs=noisy, grids=[{"component": "resid_pre", "positions": "each"}])
    answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=sent, timeout=60)
    assert answer.status_code == 200, answer.text
    result = client.causal_trace(text, "Mary", samples=2, seed=4).residual().run(METRIC)
    np.testing.assert_allclose(answer.json()["grids"][0]["values"], result.values, atol=1e-4)
    assert result.dims == ("pair", "layer", "position")
    embedded = result.scores.sel(layer=0)
    changed = [position for position, token in enumerate(result.tokens) if "Mary" in token]
    if len(changed) == 1:
        np.testing.assert_allclose(embedded.sel(position=changed[0]).values, result.scores.clean, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"paths": [{"senders": ["a9"]}]}, "paths[0].senders"),
        ({"paths": [{"senders": ["m1"], "receivers": ["a1<q>"]}]}, "paths[0].senders"),
        ({"paths": [{"senders": ["heads"], "receivers": ["a1.h99<q>"]}]}, "paths[0].receivers"),
        ({"paths": [{"senders": ["wings"]}]}, "paths[0].senders"),
        ({"cells": [{"interventions": [{"component": "mlp", "action": "sleep"}]}]}, "cells[0].interventions[0]"),
        ({"cells": [{"interventions": [{"component": "mlp", "action": "clamp"}]}]}, "cells[0].interventions[0]"),
        ({"pairs": [{"clean": "fox", "noise": {"subject": "cat"}}]}, "pairs[0].noise.subject"),
        ({"metric": {"kind": "projection", "direction": [1.0]}}, "metric.direction"),
        ({"grids": [{"component": "mlp_out", "value": {"expression": {"what": 1}}}]}, "grids[0].value"),
        ({"generation": {"max_tokens": 0}}, "generation.max_tokens"),
        ({"generation": {"max_tokens": 2}, "criterion": "beauty"}, "criterion"),
        ({"generation": {"max_tokens": 2}, "criterion": "regex:a+"}, "criterion"),
        ({"criterion": "json"}, "criterion"),
    ],
)
def test_the_route_names_what_is_wrong(gateway: Service, changes: dict[str, Any], param: str) -> None:
    answer = httpx.post(f"{gateway.target}/v1/experiments/sweeps", json=body(**changes), timeout=60)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param), answer.text


# ------------------------------------------------------------------------------------------------ texts and paths


def test_texts_are_those_of_generations_with_the_same_edits(client: Client) -> None:
    ablation = client.ablate(CLEAN).heads(layers=[0, 3], heads=[1, 6]).generating(4)
    result = ablation.run(kl_divergence())
    texts = np.array(result.scores.texts)
    for row, layer in enumerate((0, 3)):
        for column, head in enumerate((1, 6)):
            silent = edit("head_output", layer, lambda act: act * 0.0, heads=[head])
            whole = client.generate(CLEAN, max_tokens=4, temperature=0, interventions=[silent])
            assert texts[row, column] == "".join(event.text for event in whole)
    judged = result.by(lambda text, tokens: len(tokens))
    assert judged.metric == "<lambda>"
    assert (judged.values == 4).all()
    assert judged.clean.tolist() == [4]


def test_texts_are_kept(client: Client, tmp_path: Path) -> None:
    result = client.patch(CLEAN, CORRUPTED).residual(positions=None).generating(2).run(METRIC)
    result.save(tmp_path / "result.json")
    kept = SweepResult.load(tmp_path / "result.json")
    assert np.array(kept.scores.texts).tolist() == np.array(result.scores.texts).tolist()
    np.testing.assert_array_equal(kept.by("contains:a").values, result.by("contains:a").values)
    first = result.scores.sel(layer=0)
    assert first.texts is not None
    assert first.texts.edited.item() == first.texts.clean[0]
    with pytest.raises(errors.InvalidRequestError, match="function_call"):
        result.by("function_cal")
    plain = client.patch(CLEAN, CORRUPTED).residual(positions=None).run(METRIC)
    with pytest.raises(errors.InvalidRequestError, match="generated no texts"):
        plain.by("json")


def test_paths_have_named_ends(patching: Patching[SweepResult]) -> None:
    result = patching.paths(["input", "heads", "mlps"], "logits").run(METRIC)
    assert result.names == ["paths"]
    assert result.dims == ("sender", "receiver")
    assert result.scores.sizes == {"sender": 1 + 4 * 8 + 4, "receiver": 1}
    assert list(result.coords["sender"][:2]) == ["input", "a0.h0"]
    with pytest.raises(errors.InvalidRequestError, match="names no receiver"):
        patching.paths("heads", "a1.h0")
    with pytest.raises(errors.InvalidRequestError, match="writes behind"):
        patching.paths("m3", "a1<q>").run(METRIC)


async def test_sets_of_edges(inference: Service, patching: Patching[SweepResult]) -> None:
    cells = {"nothing": [], "a path": ["a0.h1->a2.h3<q>", ("a2.h3", "logits")]}
    result = patching.edges(cells).edges([("m0", "logits"), "m1->m2"], value=0.0).run(METRIC)
    assert result.names == ["edges", "edges#2"]
    assert result["edges"].dims == ("cell",)
    assert result["edges"].coords["cell"] == ["nothing", "a path"]
    assert result["edges"].values[0] == result["edges"].corrupted[0]
    async with AsyncClient(inference.target) as client:
        graph = await client.edge_graph()
        assert graph.senders[:2] == ("input", "a0.h0")
        everything = np.stack([graph.mask, np.zeros_like(graph.mask)])
        whole = await client.patch(CLEAN, CORRUPTED).edges(everything).run(METRIC)
    np.testing.assert_allclose(whole.values, [whole.scores.clean[0], whole.scores.corrupted[0]], atol=1e-4)


def test_each_edge_is_cancelled_and_goes_on(client: Client, patching: Patching[SweepResult]) -> None:
    graph = client.edge_graph()
    experiment = patching.edges().scored_by(METRIC)
    result = SweepResult(experiment)
    events = client.sweep_events(result)
    for event in events:
        if event.HasField("progress"):
            break
    events.close()
    done = int(np.isfinite(result.values).sum())
    assert 0 < done < graph.edge_count
    client.sweep(experiment, result=result)
    assert result.is_complete
    assert list(result.coords["edge"]) == ["->".join(edge) for edge in graph.edge_pairs(graph.mask)]
    one = patching.paths("m0", "a3.h0<v>").run(METRIC)
    assert result.scores.sel(edge="m0->a3.h0<v>").values == pytest.approx(one.values[0, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["a0.h1"], "names no edge"),
        (["a0.h1->a0.h2"], "receives no edge"),
        (["logits->m1"], "sends no edge"),
        (["m9->nowhere"], "no name of a node"),
        ([["m1->m0"]], "no edge leads from m1 to m0"),
        (np.zeros((1, 3, 4), bool), "bytes, not 2"),
        (np.zeros((3, 4)), "masks are boolean"),
    ],
)
def test_what_is_no_edge_is_refused(patching: Patching[SweepResult], cells: Any, said: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match=said):
        patching.edges(cells).run(METRIC)


def test_edits_corrupt_the_clean_prompt(client: Client) -> None:
    corrupting = edit("embedding", None, lambda act: act * 0.0, positions=[2])
    result = client.patch(CLEAN, corruptions=[corrupting]).residual(layers=[0]).run(METRIC)
    assert result.values[0, 2] == pytest.approx(result.scores.clean[0], abs=1e-4)
    assert result.scores.clean[0] != result.scores.corrupted[0]
    with pytest.raises(errors.InvalidRequestError, match="corrupted prompt is missing"):
        client.patch(CLEAN)


@pytest.mark.parametrize(
    "options",
    [
        ["--subject", "Mary", "--samples", "2", "-s", "mlps", "--window", "3", "-a", "#7", "--other", "#9"],
        ["--sender", "mlps", "--receiver", "logits", "--metric", "kl_divergence"],
        ["--generate", "3", "--criterion", "function_call", "-s", "heads"],
    ],
    ids=["subject", "paths", "criterion"],
)
def test_the_shell_has_it(inference: Service, options: list[str]) -> None:
    if "--sender" in options:
        options = ["--value", "0", *options]
    done = neuroscope("sweep", "Mary went home", *options, target=inference.target)
    assert done.exit_code == 0, done.stderr
    assert ("function_call" if "--criterion" in options else "clean") in done.stdout
