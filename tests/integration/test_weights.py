"""Weights and what vectors predict, through running services: every client, every form, what is refused.

python -m pytest tests/integration/test_weights.py
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import Result

from neuroscope import AsyncClient, Client, errors
from neuroscope.weights import Weights
from tests.support.compare import assert_close
from tests.support.services import Service
from tests.support.shell import neuroscope

TEXT = [0, 141, 59, 26, 53, 58, 97, 93]


@pytest.fixture(scope="module")
def client(inference: Service) -> Iterator[Client]:
    with Client(inference.target) as client:
        yield client


@pytest.fixture(scope="module")
def weights(client: Client) -> Weights:
    return client.weights()


@pytest.fixture(scope="module")
def http(gateway: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.target, timeout=60) as http:
        yield http


def test_weights_make_what_was_captured(client: Client, weights: Weights) -> None:
    cache = client.capture(TEXT, ["ln1", "q_proj", "resid_post", "final_norm", "logits"])
    x = cache["ln1", 2][0]
    assert_close("q_proj", x @ weights.W_Q[2, 5], cache["q_proj", 2][0][:, 5], tolerance=1e-5)
    normed = weights.normed("final_norm", cache["resid_post", 3][0])
    assert_close("final_norm", normed, cache["final_norm"][0], tolerance=1e-5)
    assert_close("logits", normed @ np.asarray(weights.W_U), cache["logits"][0], tolerance=1e-5)


def test_axes_have_names(client: Client, weights: Weights) -> None:
    assert weights.W_Q.sizes == {"layer": 4, "head": 8, "d_model": 128, "d_head": 16}
    assert weights.W_K.dims == ("layer", "key_value_head", "d_model", "d_head")
    assert weights["ln1.w"].shape == (4, 128)
    assert weights.layer(-1).score_scale == pytest.approx(0.25)
    some = client.weights("W_Q", "W_K", layers=[1, 3], heads=[6])
    assert (sorted(some), len(some), "W_Q" in some, "W_V" in some) == (["W_K", "W_Q"], 2, True, False)
    assert np.array_equal(some.W_Q[3, 6], weights.W_Q[3, 6])
    assert np.array_equal(some.W_Q[-1, -2], weights.W_Q[3, 6])
    assert np.array_equal(some.W_K.sel(layer=1, key_value_head=1), weights.W_K[1, 1])
    with pytest.raises(errors.InvalidRequestError, match="no layer 2; there were read 1, 3"):
        some.W_Q[2]
    with pytest.raises(errors.InvalidRequestError, match="no key_value_head 6; there are 0, 1"):
        _ = weights.W_K[0, 6]
    with pytest.raises(AttributeError, match=r"W_k was not read; nearest: .*W_K"):
        _ = weights.W_k
    with pytest.raises(errors.InvalidRequestError, match="positions are not embedded"):
        _ = weights["W_pos"]


def test_heads_have_factors(weights: Weights) -> None:
    """A head's key/value head is the right one, and nothing is multiplied out on the way."""
    qk, ov = weights.qk(2, 5), weights.ov(2, 5)
    dense = weights.W_V[2, 1] @ weights.W_O[2, 5]
    assert_close("ov", ov.dense(), dense, tolerance=1e-6)
    assert_close("qk", qk.AB, weights.W_Q[2, 5] @ weights.W_K[2, 1].T, tolerance=1e-6)
    assert weights.OV.shape == (4, 8, 128, 128)
    assert_close("one of all", weights.OV[2, 5].dense(), dense, tolerance=1e-6)
    assert_close("composed", (weights.ov(0, 1) @ qk).dense(), weights.ov(0, 1).dense() @ qk.dense(), tolerance=1e-4)


async def test_both_clients_agree(inference: Service, weights: Weights) -> None:
    async with AsyncClient(inference.target) as other:
        found = await other.weights("ov", layers=1)
        seen = await other.project(weights.W_E[:5], tokens=[7])
    assert np.array_equal(found.W_V[1], weights.W_V[1])
    assert seen.ranks.shape == (5, 1)


def test_in_process_and_over_a_wire(client: Client, llama_dir: Path, weights: Weights) -> None:
    with Client.local(model=[str(llama_dir)]) as local:
        here = local.weights()
        vectors = local.capture(TEXT, ["resid_post"])["resid_post", 1]
        mine, theirs = local.project(vectors, tokens=[3]), client.project(vectors, tokens=[3])
    assert here.plan.tensors == weights.plan.tensors
    for name, layer in weights.places:
        assert np.array_equal(here.of(name, layer), weights.of(name, layer)), (name, layer)
    assert np.array_equal(mine.top_token_ids, theirs.top_token_ids)


def test_a_file_holds_them(weights: Weights, tmp_path: Path) -> None:
    weights.save(tmp_path / "weights.safetensors")
    again = Weights.load(tmp_path / "weights.safetensors")
    assert again.plan == weights.plan
    assert np.array_equal(np.asarray(again.W_out), np.asarray(weights.W_out))
    assert "W_Q.3" in load_file(tmp_path / "weights.safetensors")
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(errors.DataConversionError, match="no file of weights"):
        Weights.load(tmp_path / "other")


BAD: tuple[tuple[tuple[str, ...], dict[str, Any], str, str], ...] = (
    (("W_X",), {}, "names[0]", "no weight is called"),
    (("experts",), {}, "names[0]", "not a mixture of experts"),
    (("W_Q",), {"layers": 4}, "layers[0]", "layers 0 to 3"),
    (("W_Q",), {"heads": [-9]}, "heads[0]", "heads 0 to 7"),
    (("W_Q",), {"layers": ["one"]}, "layers", "must be integers"),
    (("W_Q",), {"dtype": "int8"}, "dtype", "cast to float32"),
    (("W_Q",), {"content": "all"}, "content", "no content"),
    (("W_Q",), {"limit_bytes": 1000}, "limit_bytes", "raise the limit"),
    (("W_Q",), {"model_id": "nobody"}, "model_id", "nobody"),
)


@pytest.mark.parametrize(("names", "changes", "field", "text"), BAD, ids=[f"{f}: {t}" for _, _, f, t in BAD])
def test_bad_readings(client: Client, names: tuple[str, ...], changes: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(errors.MLXIntegrationError, match=text) as refused:
        client.weights(*names, **changes)
    assert refused.value.field == field


# ------------------------------------------------------------------------------------------- what vectors predict


def test_the_last_stream_predicts_what_the_model_does(client: Client) -> None:
    cache = client.capture(TEXT, ["resid_post", "logits"])
    logits = cache["logits"][0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    seen = client.project(cache["resid_post", 3], top_k=4, tokens=[7, 300], reference=2)
    assert seen.shape == (1, len(TEXT))
    order = np.argsort(-logs, axis=-1)
    assert np.array_equal(seen.top_token_ids[0], order[:, :4])
    assert_close("top", seen.top_logits[0], np.take_along_axis(logits, order[:, :4], axis=-1), tolerance=1e-5)
    assert_close("chosen", seen.log_probabilities[0], logs[:, [7, 300]], tolerance=1e-5)
    assert_close("logits", seen.logits[0], logits[:, [7, 300]], tolerance=1e-5)
    ranks = (logs[:, :, None] > logs[:, None, [7, 300]]).sum(axis=1)
    assert np.array_equal(seen.ranks[0], ranks)
    divergence = (np.exp(logs[2]) * (logs[2] - logs)).sum(axis=-1)
    assert seen.kl is not None
    assert seen.kl[0] == pytest.approx(divergence, abs=1e-5)
    assert seen.entropies[0] == pytest.approx(-(np.exp(logs) * logs).sum(axis=-1), abs=1e-5)
    paired = client.project(cache["resid_post", 1], top_k=0, reference=cache["resid_post", 3][0])
    early = client.project(cache["resid_post", 1], top_k=512)
    seen_early = np.empty_like(logs)
    np.put_along_axis(seen_early, early.top_token_ids[0].astype(np.int64), early.top_log_probabilities[0], axis=-1)
    assert paired.kl is not None
    assert paired.kl[0] == pytest.approx((np.exp(logs) * (logs - seen_early)).sum(axis=-1), abs=1e-5)
    assert set(map(int, seen.top_token_ids.ravel())) <= set(seen.texts)
    assert seen.table().row_count == len(TEXT)


def test_directions_without_the_norm(client: Client, weights: Weights) -> None:
    """As the unembedding sees them, uploaded first where there are many."""
    neurons = np.asarray(weights.W_out).reshape(-1, 128)
    many = np.tile(neurons, (3, 1))
    assert many.nbytes > 2**20
    seen = client.project(many, norm=False, top_k=3, tokens=[9])
    logits = neurons @ np.asarray(weights.W_U)
    assert np.array_equal(seen.top_token_ids[: len(neurons), 0], logits.argmax(axis=1))
    assert_close("logits", seen.logits[: len(neurons), 0], logits[:, 9], tolerance=1e-5)
    assert np.array_equal(seen.top_token_ids[-len(neurons) :], seen.top_token_ids[: len(neurons)])
    one = client.project(neurons[4], norm=False, top_k=1, reference=neurons[4])
    assert one.shape == ()
    assert one.kl == pytest.approx(0, abs=1e-5)


BAD_VECTORS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"vectors": np.ones((2, 127), np.float32)}, "vectors", "have 128 entries"),
    ({"vectors": np.full(128, np.nan)}, "vectors", "nan"),
    ({"vectors": "nothing"}, "vectors.tensor_id", "nothing"),
    ({"top_k": 0}, "top_k", "nothing is asked for"),
    ({"top_k": 513}, "top_k", "512 tokens"),
    ({"tokens": [512]}, "tokens[0].id", "outside the vocabulary"),
    ({"tokens": [" a b"]}, "tokens[0].text", "not one"),
    ({"reference": 3}, "reference_row", "there are 2 vectors"),
    ({"reference": np.ones((3, 128), np.float32)}, "reference_vector", "one for each of the 2, not 3"),
)


@pytest.mark.parametrize(("changes", "field", "text"), BAD_VECTORS, ids=[f"{f}: {t}" for _, f, t in BAD_VECTORS])
def test_bad_vectors(client: Client, changes: dict[str, Any], field: str, text: str) -> None:
    asked: dict[str, Any] = {"vectors": np.ones((2, 128), np.float32), "top_k": 2} | changes
    with pytest.raises(errors.MLXIntegrationError, match=text) as refused:
        client.project(asked.pop("vectors"), **asked)
    assert refused.value.field == field


# ------------------------------------------------------------------------------------------- REST and commands


def test_weights_over_http(http: httpx.Client, weights: Weights) -> None:
    listed = http.get("/v1/experiments/weights", params={"names": ["W_Q", "W_U"], "summaries": True}).json()
    assert [(each["name"], each["layer"]) for each in listed["data"]] == [
        *(("W_Q", n) for n in range(4)),
        ("W_U", None),
    ]
    norm = np.linalg.norm(weights.W_Q[0])
    assert listed["data"][0]["measures"]["norm"] == pytest.approx(norm, rel=1e-5)
    url = "/v1/experiments/weights/W_Q"
    whole = http.get(url, params={"layer": 3, "heads": [6, 1]})
    assert whole.headers["x-neuroscope-shape"] == "2,128,16"
    assert whole.headers["x-neuroscope-axes"] == "head,d_model,d_head"
    array = np.frombuffer(whole.content, whole.headers["x-neuroscope-dtype"]).reshape(2, 128, 16)
    assert np.array_equal(array, weights.W_Q[3][[6, 1]])
    for form in ("list", "base64"):
        told = http.get(url, params={"layer": -1, "heads": 6, "format": form, "dtype": "float16"}).json()
        data: Any = told["data"]
        found = np.frombuffer(base64.b64decode(data), np.float16).reshape(told["shape"]) if form == "base64" else data
        assert np.array_equal(np.array(found, np.float16), weights.W_Q[3][[6]].astype(np.float16))
        assert (told["name"], told["layer"], told["heads"]) == ("W_Q", 3, [6])


@pytest.mark.parametrize(
    ("wanted", "part"),
    [("bytes=0-9", slice(0, 10)), ("bytes=-7", slice(-7, None)), ("bytes=600000-", slice(600000, None))],
)
def test_ranges_of_a_weight(http: httpx.Client, wanted: str, part: slice) -> None:
    url = "/v1/experiments/weights/W_gate"
    params = {"layer": 0, "dtype": "float32"}
    whole = http.get(url, params=params)
    bigger = http.get("/v1/experiments/weights/W_O", params={"layer": 0})
    assert whole.headers["etag"] != bigger.headers["etag"]
    some = http.get(url, params=params, headers={"Range": wanted})
    if part.start == 600000:  # beyond its 163,840 bytes
        assert some.status_code == 416
        assert some.headers["content-range"] == f"bytes */{len(whole.content)}"
        return
    assert some.status_code == 206
    assert some.content == whole.content[part]
    assert some.headers["content-range"].endswith(f"/{len(whole.content)}")
    changed = http.get(url, params=params, headers={"Range": wanted, "If-Range": '"other"'})
    assert changed.status_code == 200
    kept = http.get(url, params=params, headers={"Range": wanted, "If-Range": whole.headers["etag"]})
    assert kept.content == some.content


@pytest.mark.parametrize(
    ("path", "params", "param"),
    [
        ("/W_X", {"layer": 0}, "weight"),
        ("/qk", {"layer": 0}, "weight"),
        ("/W_Q", {}, "layer"),
        ("/W_Q", {"layer": 9}, "layer"),
        ("/W_pos", {}, "weight"),
        ("/W_Q", {"layer": 0, "dtype": "float8"}, "dtype"),
        ("/W_Q", {"layer": 0, "model": "nobody"}, "model"),
        ("", {"names": "W_X"}, "names[0]"),
    ],
)
def test_bad_readings_over_http(http: httpx.Client, path: str, params: dict[str, Any], param: str) -> None:
    answer = http.get(f"/v1/experiments/weights{path}", params=params)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["param"] in (param, "weight" if param == "names[0]" else param)


def test_vectors_over_http(http: httpx.Client, client: Client, weights: Weights) -> None:
    vectors = np.asarray(weights.W_E)[:3]
    body = {"vectors": vectors.tolist(), "top_k": 2, "tokens": [7], "reference": 1}
    answer = http.post("/v1/experiments/vocabulary", json=body)
    assert answer.status_code == 200, answer.text
    seen = client.project(vectors, top_k=2, tokens=[7], reference=1)
    data = answer.json()["data"]
    assert [[token["id"] for token in each["top"]] for each in data] == seen.top_token_ids.tolist()
    assert [each["tokens"][0]["rank"] for each in data] == seen.ranks[:, 0].tolist()
    assert [each["kl"] for each in data] == pytest.approx(np.asarray(seen.kl).tolist(), abs=1e-6)
    for changes, param in (
        ({"vectors": [1.0, 2.0]}, "vectors"),
        ({"vectors": [[1.0], [1.0, 2.0]]}, "vectors"),
        ({"top_k": 0, "tokens": [], "reference": None}, "top_k"),
        ({"reference": 8}, "reference"),
        ({"tokens": [4096]}, "tokens[0]"),
        ({"model": "nobody"}, "model"),
    ):
        refused = http.post("/v1/experiments/vocabulary", json=body | changes)
        assert 400 <= refused.status_code < 500, refused.text
        assert refused.json()["error"]["param"] == param, refused.text


def command(inference: Service, *words: str) -> Result:
    return neuroscope(*words, target=inference.target, COLUMNS="200")


def test_the_commands(inference: Service, weights: Weights, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    shown = command(inference, "weights", "W_Q", "W_out", "-l", "1", "--norms", "--save", str(file))
    assert shown.exit_code == 0, shown.stderr
    assert f"{np.linalg.norm(weights.W_Q[1]):.4g}" in shown.stdout
    assert np.array_equal(load_file(file)["W_Q.1"], weights.W_Q[1])
    vectors = tmp_path / "vectors.safetensors"
    save_file({"a": weights.W_E[:2].copy(), "b": weights.W_E[5:6].copy()}, vectors)
    seen = command(inference, "project", str(vectors), "--tensor", "a", "--rank", "#7", "--reference", "0")
    assert "KL, nats" in seen.stdout, seen.stderr
    several = command(inference, "project", str(vectors))
    assert several.exit_code == 1
    assert "several tensors: a, b" in several.stderr
