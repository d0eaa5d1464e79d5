"""Dictionaries over gRPC, REST, the command line and the asynchronous client, on the bundled model.

python -m pytest tests/integration/test_dictionaries_real.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from neuroscope import AsyncClient, Client
from neuroscope.errors import UnknownIdError
from neuroscope.experiments import logit_diff
from neuroscope.experiments.attribution_result import AttributionResult
from tests.support.services import Service
from tests.support.shell import neuroscope

DICTIONARIES = Path(__file__).parents[2] / "models" / "dictionaries"
SAE = DICTIONARIES / "resid_post_2"
PROMPT = "The capital of France is"
CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"
METRIC = logit_diff(" Mary", " John")


@pytest.fixture(scope="module")
def client(tiny_inference: Service) -> Iterator[Client]:
    with Client(tiny_inference.target) as client:
        client.dictionaries.load(SAE)
        yield client
        for one in client.dictionaries:
            client.dictionaries.unload(one.dictionary_id)


@pytest.fixture(scope="module")
def http(tiny_gateway: Service, client: Client) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tiny_gateway.target, timeout=60) as http:
        yield http


@pytest.mark.parametrize("name", ["resid_post_2", "mlp_1"])
def test_what_the_training_record_says_is_so(client: Client, name: str) -> None:
    """On a few prompts of the skills, which are fewer and shorter than the held-out documents of the record."""
    record = json.loads((DICTIONARIES / name / "training.json").read_text())["held_out"]
    if name not in {one.dictionary_id for one in client.dictionaries}:
        client.dictionaries.load(DICTIONARIES / name)
    dictionary = client.dictionaries.get(name)
    texts = [PROMPT, CLEAN, "What is 12 + 30? The answer is", "Once upon a time there was a little dog."]
    seen = [dictionary.features(text, positions=slice(1, None)) for text in texts]
    l0 = float(np.mean(np.concatenate([one.l0 for one in seen])))
    assert abs(l0 - record["l0"]) < 0.6 * record["l0"]
    assert all(one.fvu < 0.3 for one in seen)
    assert record["fvu"] < 0.2
    assert record["loss_recovered"] > 0.9
    assert record["loss_clean"] < record["loss_reconstructed"] < record["loss_zeroed"]


def test_ablating_what_attribution_finds_changes_the_answer(client: Client) -> None:
    sae = client.dictionaries.get("resid_post_2")
    result = sae.attribute(CLEAN, CORRUPTED, metric=METRIC)
    (_, place, score), *_ = result.top(1)
    patched = client.patch(CLEAN, CORRUPTED, into="clean").features(
        sae, [place["feature"]], positions=[place["position"]]
    )
    found = patched.run(METRIC)["features=resid_post_2"]
    effect = float(found.values.reshape(-1)[0] - found.clean[0])
    assert score < 0
    assert effect < 0
    assert AttributionResult.from_json(result.to_json()).top(1) == result.top(1)


async def test_the_asynchronous_client_gives_the_same(tiny_inference: Service, client: Client) -> None:
    sync = client.dictionaries.get("resid_post_2")
    async with AsyncClient(tiny_inference.target) as aio:
        sae = await aio.dictionaries.get("resid_post_2")
        assert sae.description == sync.description
        assert "resid_post_2" in {one.dictionary_id for one in await aio.dictionaries.list()}
        seen, expected = await sae.features(PROMPT), sync.features(PROMPT)
        assert (seen.indices == expected.indices).all()
        assert (seen.values == expected.values).all()
        attributed = await sae.attribute(PROMPT, metric=METRIC)
        assert attributed.names == ["features=resid_post_2"]
        copy = await aio.dictionaries.load(SAE, dictionary_id="copy")
        await aio.dictionaries.unload(copy.dictionary_id)
        with pytest.raises(UnknownIdError):
            await aio.dictionaries.get("copy")


def test_both_namespaces_have_the_same_methods() -> None:
    from neuroscope.calls.dictionaries import AsyncDictionaries, AsyncLoadedDictionary, Dictionaries, LoadedDictionary

    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(Dictionaries) == public(AsyncDictionaries)
    assert public(LoadedDictionary) == public(AsyncLoadedDictionary)


def test_dictionaries_over_http(http: httpx.Client, client: Client) -> None:
    loaded = http.post("/v1/dictionaries", json={"path": str(SAE), "dictionary_id": "over-http", "dtype": "float16"})
    assert loaded.status_code == 200, loaded.text
    described = loaded.json()
    assert (described["site"], described["architecture"], described["dtype"]) == ("resid_post.2", "jumprelu", "float16")
    assert http.get("/v1/dictionaries/over-http").json() == described
    listed = http.get("/v1/dictionaries", params={"model": "neuroscope-tiny"}).json()["data"]
    assert {"over-http", "resid_post_2"} <= {entry["id"] for entry in listed}
    assert http.delete("/v1/dictionaries/over-http").json()["deleted"]
    missing = http.get("/v1/dictionaries/over-http")
    assert missing.status_code == 404
    assert missing.json()["error"]["param"] == "dictionary_id"
    wrong = http.post("/v1/dictionaries", json={"path": str(SAE), "dictionary_id": "x", "site": "resid_post.9"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "site.layer")
    nowhere = http.post("/v1/dictionaries", json={"path": "/nowhere"})
    assert (nowhere.status_code, nowhere.json()["error"]["param"]) == (404, "path")
    seen = http.post("/v1/dictionaries/resid_post_2/features", json={"prompt": PROMPT, "top": 4}).json()
    expected = client.dictionaries.get("resid_post_2").features(PROMPT, top=4)
    assert [[f["feature"] for f in place["features"]] for place in seen["positions"]] == [
        [int(f) for f in row if f >= 0] for row in expected.indices
    ]
    assert seen["fvu"] == pytest.approx(expected.fvu)
    assert [place["token"] for place in seen["positions"]][-1] == " is"


def chat(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 6} | changes


def test_features_of_a_chat_and_edits_of_them_over_http(http: httpx.Client) -> None:
    hook = {"hook_id": "f", "features": {"dictionary_id": "resid_post_2", "top_count": 3, "l0": True}}
    route = "/v1/chat/completions/with_activations"
    answer = http.post(route, json=chat(activation_hooks=[hook]))
    assert answer.status_code == 200, answer.text
    pieces = answer.json()["activations"]["f"]
    assert {piece["reduced"] for piece in pieces} == {"top_features", "top_features_indices", "features_l0"}
    indices = [piece for piece in pieces if piece["reduced"] == "top_features_indices"]
    assert len(indices) == len(pieces) // 3 >= 2
    feature = indices[-1]["data"][0][-1][0]
    edit = {"action": "features", "dictionary_id": "resid_post_2", "features": [feature], "value": 0}
    ablated = http.post(route, json=chat(activation_hooks=[hook], interventions=[edit]))
    assert ablated.status_code == 200, ablated.text
    of_edited = [p for p in ablated.json()["activations"]["f"] if p["reduced"] == "top_features_indices"]
    assert all(position[0] != feature for piece in of_edited for position in piece["data"][0])
    refused = http.post("/v1/chat/completions", json=chat(interventions=[edit | {"features": [512]}]))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "interventions[0].features"
    both = http.post("/v1/chat/completions", json=chat(interventions=[edit | {"factor": 2}]))
    assert both.status_code == 400
    unknown = http.post(
        route, json=chat(activation_hooks=[{"features": {"dictionary_id": "resid_post_3", "top_count": 3}}])
    )
    assert unknown.status_code == 404
    assert unknown.json()["error"]["param"] == "activation_hooks[0].features.dictionary_id"
    neither = http.post(route, json=chat(activation_hooks=[{"hook_id": "x"}]))
    assert (neither.status_code, neither.json()["error"]["param"]) == (400, "activation_hooks[0].component")
    registered = http.post("/v1/activations/hooks", json=hook)
    assert registered.json() == {"registered_hooks": ["f"]}
    assert http.get("/v1/activations/hooks").json()["hooks"][0]["features"]["top_count"] == 3
    again = http.post(route, json=chat(activation_hooks=["f"]))
    assert again.json()["activations"]["f"][0]["reduced"] == "top_features"
    http.delete("/v1/activations/hooks")


def test_feature_sweeps_and_attributions_over_http(http: httpx.Client) -> None:
    metric = {"kind": "logit_difference", "answers": [" Mary"], "others": [" John"]}
    pairs = [{"clean": CLEAN, "corrupted": CORRUPTED}]
    grid = {"features": {"dictionary_id": "resid_post_2", "axis": [1, 2, 3]}, "positions": [-1]}
    swept = http.post("/v1/experiments/sweeps", json={"pairs": pairs, "metric": metric, "grids": [grid]})
    assert swept.status_code == 200, swept.text
    (found,) = swept.json()["grids"]
    assert found["name"] == "features=resid_post_2"
    assert found["coords"]["feature"] == [1, 2, 3]
    wrong = grid | {"features": {"dictionary_id": "nothing"}}
    refused = http.post("/v1/experiments/sweeps", json={"pairs": pairs, "metric": metric, "grids": [wrong]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "grids[0].features.dictionary_id")
    sites = ["features=resid_post_2:unit"]
    scored = http.post("/v1/experiments/attributions", json={"pairs": pairs, "metric": metric, "sites": sites})
    assert scored.status_code == 200, scored.text
    (scores,) = scored.json()["scores"]
    assert (scores["dims"], len(scores["values"])) == (["feature"], 512)


def test_the_commands(tiny_inference: Service, client: Client, tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        done = neuroscope(*arguments, target=tiny_inference.target)
        assert done.exit_code == code, done.stderr
        return done.stdout + done.stderr

    assert "shell" in run("dictionaries", "load", str(SAE), "--name", "shell")
    assert "shell" in run("dictionaries", "list")
    picture = tmp_path / "features.png"
    assert "FVU" in run("dictionaries", "features", "shell", PROMPT, "--save", str(picture))
    assert picture.exists()
    rows = json.loads(run("dictionaries", "features", "shell", PROMPT, "--top", "2", "--json"))
    assert {"position", "token", "feature", "value"} == set(rows[0])
    shown = run("dictionaries", "attribute", "shell", CLEAN, CORRUPTED, "-a", " Mary", "--other", " John", "--top", "3")
    assert shown.count("feature ") == 3
    plain = run("generate", PROMPT, "--max-tokens", "4")
    clamped = run("generate", PROMPT, "--max-tokens", "4", "--edit", f"clamp_feature shell {rows[-1]['feature']} 40")
    assert plain != clamped
    assert "512" in run("generate", PROMPT, "--edit", "ablate_feature shell 512", code=1)
    run("dictionaries", "unload", "shell")
    assert "shell" in run("dictionaries", "unload", "shell", code=1)
