"""The logit lens as the service computes it: every family's own end, while generating too, and what is refused.

python -m pytest tests/integration/test_logit_lens.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope import AsyncClient, Client, zero
from neuroscope.activations.lens import LogitLens
from neuroscope.errors import InvalidRequestError
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.sites import Point
from neuroscope.wire.transport import GrpcTransport
from neuroscope_inference.local import LocalTransport
from tests.support.compare import relative_error
from tests.support.random_models import FAMILIES, make_model
from tests.support.recording import capture_request, generate_request, prompt, record
from tests.support.services import Service

IDS = [0, *np.random.default_rng(3).integers(5, 500, 20).tolist()]
ASKED = [7, 300]
LENS = {"top_k": 5, "token_ids": ASKED, "kl": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: make_model(family, root / family) for family in FAMILIES}


@pytest.fixture(scope="module")
def transport(folders: dict[str, Path]) -> Iterator[LocalTransport]:
    transport = LocalTransport(model=[str(folder) for folder in folders.values()])
    yield transport
    transport.close()


@pytest.fixture(scope="module")
def client(transport: LocalTransport) -> Client:
    return Client(transport=transport)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_the_models_own_prediction(client: Client, family: str) -> None:
    """Norm, head, scale, bias and softcap are the architecture's own."""
    seen = client.logit_lens(IDS, tokens=ASKED, model_id=family)
    logits = client.capture(IDS, ["logits"], model_id=family)["logits"][0]
    expected = log_softmax(logits)
    order = np.argsort(-expected, axis=-1)[:, :5]
    assert np.array_equal(seen.top_token_ids[-1], order)
    assert relative_error(seen.top_log_probabilities[-1], np.take_along_axis(expected, order, -1)) < 1e-5
    assert relative_error(seen.log_probabilities[-1], expected[:, ASKED]) < 1e-5
    assert np.array_equal(seen.ranks[-1], (expected[:, None] > expected[:, ASKED, None]).sum(-1))
    assert np.abs(seen.kl[-1]).max() < 1e-5
    assert (seen.kl[0] > 1e-3).all()
    assert seen.points[0] == Point("resid_pre", 0)
    assert seen.positions == tuple(range(len(IDS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_tell_how_likely_the_prompt_is(client: Client, family: str) -> None:
    """Of the logits as they are, whatever chunks the prompt runs in, and through the last layer's lens the same."""
    following = IDS[1:]
    lens = {"lens": {"top_k": 3, "next_token_ids": following}}
    last = client.model(family).model.num_layers - 1
    hooks = [Hook("logits", reduce=lens), Hook("resid_post", last, reduce=lens)]
    expected = log_softmax(client.capture(IDS, ["logits"], model_id=family)["logits"][0])
    chosen = expected[np.arange(len(following)), following]
    for budget in (0, 4 * 500 * 7):
        cache = client.capture(IDS, hooks, model_id=family, chunk_budget_bytes=budget)
        for name in ("logits", f"resid_post.{last}"):
            seen = cache[f"{name}:lens_next_log_probability"]
            assert seen.shape == (1, len(following))
            assert np.abs(seen[0] - chosen).max() < 1e-4
            assert np.array_equal(cache[f"{name}:lens_top_k_tokens"][0], np.argsort(-expected, axis=-1)[:, :3])


def test_positions_may_be_chosen(client: Client) -> None:
    lens = {"lens": {"next_token_ids": IDS[1:]}}
    name = "logits:lens_next_log_probability"
    whole = client.capture(IDS, [Hook("logits", reduce=lens)], model_id="llama")[name]
    some = client.capture(IDS, [Hook("logits", positions=[20, 2, 19, 5], reduce=lens)], model_id="llama")[name]
    assert np.allclose(some[0], whole[0][[2, 19, 5]], atol=1e-5)


@pytest.mark.parametrize(
    ("lens", "field"),
    [
        ({"kl": True}, "hooks[0].reduction.lens.kl"),
        ({"next_token_ids": [1, 10**6]}, "hooks[0].reduction.lens.next_token_ids[1]"),
        ({}, "hooks[0].reduction.lens"),
    ],
)
def test_a_lens_of_logits_that_makes_no_sense(client: Client, lens: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.capture(IDS, [Hook("logits", reduce={"lens": lens})], model_id="llama")
    assert caught.value.field == field


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_token_needs_the_last_positions_logits_alone(transport: LocalTransport, family: str) -> None:
    """A prompt whose logits nobody reads has its unembedding computed for one position, and draws the same token."""
    request = generate_request(prompt(IDS), model_id=family, max_tokens=1, top_logprobs=10)
    cut = record(transport, request)
    request.hooks.extend(capture_request(prompt(IDS), Hook("logits", positions=-1)).hooks)
    whole = record(transport, request)
    assert cut.token_ids() == whole.token_ids()
    expected = log_softmax(whole.array("logits")[0, 0])
    (token,) = cut.tokens
    for alternative in token.top_logprobs:
        assert alternative.logprob == pytest.approx(expected[alternative.token_id], abs=1e-4)


def test_every_layer_against_numpy(client: Client, folders: dict[str, Path]) -> None:
    lens = LogitLens.from_folder(folders["llama"])
    cache = client.capture(IDS, ["resid_pre.0", "resid_post", "logits"], model_id="llama")
    seen = client.logit_lens(IDS, top_k=3, tokens=ASKED, model_id="llama")
    own = log_softmax(cache["logits"][0])
    for index, point in enumerate(seen.points):
        expected = log_softmax(lens.logits(cache[str(point)])[0])
        assert relative_error(seen.log_probabilities[index], expected[:, ASKED]) < 1e-5
        divergence = (np.exp(own) * (own - expected)).sum(-1)
        assert np.abs(seen.kl[index] - divergence).max() < 1e-4 * max(1, divergence.max())
        assert np.array_equal(seen.top_token_ids[index, :, 0], expected.argmax(-1))


def test_positions_and_chunks_choose_and_change_nothing(client: Client) -> None:
    whole = client.logit_lens(IDS, tokens=ASKED, model_id="gpt2")
    some = client.logit_lens(IDS, tokens=ASKED, positions=[4, -1], model_id="gpt2")
    assert some.positions == (4, len(IDS) - 1)
    assert some.token_ids == (IDS[4], IDS[-1])
    assert relative_error(some.kl, whole.kl[:, [4, -1]]) < 1e-5
    assert np.array_equal(some.ranks, whole.ranks[:, [4, -1]])
    hook = Hook("resid_post", reduce={"lens": LENS})
    chunked = client.capture(IDS, [hook], model_id="gpt2", chunk_budget_bytes=200)
    assert relative_error(chunked["resid_post:lens_kl", 1][0], whole.kl[2]) < 1e-5


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_while_generating_in_company(transport: LocalTransport, family: str) -> None:
    """Rows of a batch; each position as one forward pass over the whole text sees it."""
    hook = Hook("resid_post", 1, reduce={"lens": LENS})
    request = generate_request([prompt(IDS), prompt(IDS[5:])], hook, model_id=family, max_tokens=6, ignore_eos=True)
    together = record(transport, request)
    for row in range(2):
        ids = [*together.prompt_ids(row), *together.token_ids(row)[:-1]]
        once = record(transport, capture_request(prompt(ids), hook, model_id=family))
        assert together.plan is not None
        assert once.plan is not None
        for spec, plan in zip(together.plan.tensors, once.plan.tensors, strict=True):
            assert spec.reduced == plan.reduced
            pieces = [p.array for p in together.pieces if (p.spec.plan_index, p.row) == (spec.plan_index, row)]
            expected = [p.array for p in once.pieces if p.spec.plan_index == spec.plan_index]
            one, other = np.concatenate(pieces, axis=1), np.concatenate(expected, axis=1)
            if other.dtype == np.int32:
                assert np.array_equal(one, other)
            else:
                assert relative_error(one, other) < 2e-5


def test_edits_show_in_the_lens(client: Client) -> None:
    plain = client.logit_lens(IDS, model_id="llama")
    edited = client.logit_lens(IDS, interventions=[zero("mlp_out", 2)], model_id="llama")
    assert np.array_equal(plain.kl[0] > 0, edited.kl[0] > 0)
    assert np.array_equal(plain.top_log_probabilities[2], edited.top_log_probabilities[2])  # behind layer 1
    assert not np.array_equal(plain.top_log_probabilities[3], edited.top_log_probabilities[3])


def test_on_the_bundled_model_facts_emerge(bundled_model_dir: Path, tmp_path: Path) -> None:
    with Client.local(model=[str(bundled_model_dir)]) as client:
        seen = client.logit_lens("The capital of Norway is", tokens=[" Oslo"])
        assert seen.texts[seen.requested_token_ids[0]] == " Oslo"
        assert seen.ranks[-1, -1, 0] == 0
        assert seen.ranks[0, -1, 0] > 10
        emerged = seen.emergence()[-1]
        assert emerged is not None
        assert emerged.component == "resid_post"
        assert seen.emergence()[0] is None
        table = seen.table()
        assert table.row_count == len(seen.points) == 5
        figure = seen.plot(tmp_path / "lens.png")
        drawn = [text.get_text() for text in figure.axes[0].texts]
        assert len(drawn) == len(seen.points) * len(seen.positions)
        assert drawn[len(seen.positions) - 1] == "·Oslo"  # the last layer is on top
        assert (tmp_path / "lens.png").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(InvalidRequestError, match="is not one token but 2"):
            client.logit_lens("The capital of Norway is", tokens=[" Oslo Oslo"])


async def test_the_asynchronous_client(inference: Service, grpc_transport: GrpcTransport) -> None:
    async with AsyncClient(inference.target) as client:
        one = await client.logit_lens(IDS, tokens=ASKED, model_id="llama")
    other = Client(transport=grpc_transport).logit_lens(IDS, tokens=ASKED, model_id="llama")
    assert np.array_equal(one.top_log_probabilities, other.top_log_probabilities)
    assert one.texts == other.texts


@pytest.mark.parametrize(
    ("call", "field", "says"),
    [
        ({"sites": [Hook("head_output", reduce={"lens": LENS})]}, "reduction.lens", "not as wide as the residual"),
        ({"sites": [Hook("resid_post", reduce={"lens": {}})]}, "reduction.lens", "asked for nothing"),
        ({"sites": [Hook("resid_post", reduce={"lens": {"top_k": 513}})]}, "lens.top_k", "has 512 tokens"),
        (
            {"sites": [Hook("resid_post", reduce={"lens": {"token_ids": [3, 512]}})]},
            "lens.token_ids[1]",
            "token 512 is not among",
        ),
        (
            {"sites": [Hook("resid_post", 0, reduce={"lens": LENS})], "stop_at_layer": 1},
            "hooks[0].reduction",
            "no logits to compare with",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(client: Client, call: dict[str, Any], field: str, says: str) -> None:
    sites = call.pop("sites")
    with pytest.raises(InvalidRequestError, match=says) as caught:
        client.capture(IDS, sites, model_id="llama", **call)
    assert caught.value.field.endswith(field)


def test_mistakes_do_not_leave_the_client(client: Client) -> None:
    for reduce in ({"lens": {"topk": 5}}, {"lens": 5}, {"lens": {"top_k": -1}}, {"lens": {"top_k": "many"}}):
        with pytest.raises(InvalidRequestError) as caught:
            Hook("resid_post", reduce=reduce).to_message()
        assert caught.value.field == "reduce.lens"
    with pytest.raises(InvalidRequestError, match="one prompt, not 2"):
        client.logit_lens([IDS, IDS], model_id="llama")
