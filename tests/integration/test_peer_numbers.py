"""TransformerLens' numbers on the same weights, as `tests.bench.peers.fixtures` wrote them, beside ours.

python -m pytest tests/integration/test_peer_numbers.py
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from neuroscope import Client, Hook, Intervention, replace, zero
from neuroscope.analysis import AnalysisClient
from neuroscope.experiments import logit_diff
from tests.bench.peers import fixtures
from tests.bench.peers.weights import small_folder
from tests.bench.peers.workers.library import RESIDUAL, Arrays
from tests.support.compare import assert_close

TOLERANCE = 1e-4
"""Of the largest entry."""
MODELS = (fixtures.GPT2, "neuroscope-tiny")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, bundled_model_dir: Path) -> dict[str, Path]:
    gpt2 = small_folder(fixtures.GPT2, tmp_path_factory.mktemp("published") / fixtures.GPT2)
    return {fixtures.GPT2: gpt2, "neuroscope-tiny": bundled_model_dir}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def theirs(model: str) -> Arrays:
    return fixtures.read(model)[0]


@pytest.fixture(scope="module")
def client(model: str, folders: dict[str, Path]) -> Iterator[Client]:
    with Client.local(model=[str(folders[model])]) as client:
        yield client


@pytest.fixture(scope="module")
def layers(client: Client) -> int:
    return client.model().model.num_layers


def metric(client: Client, theirs: Arrays, prompt: str, *interventions: Intervention) -> float:
    """The difference of the two targets' logits at the last position."""
    right, wrong = theirs["targets"]
    hook = Hook("logits", positions=-1)
    cache = client.capture(theirs[prompt].tolist(), [hook], interventions=interventions)
    last = cache["logits"][0, -1]
    return float(last[right] - last[wrong])


def test_the_weights_are_those_that_the_numbers_were_computed_of(model: str, folders: dict[str, Path]) -> None:
    """If this fails the model has changed: `python -m tests.bench.peers.fixtures` makes the numbers anew."""
    _, provenance = fixtures.read(model)
    assert provenance["weights"] == fixtures.digest(folders[model])
    assert set(json.loads(provenance["versions"])) == {"torch", "transformers", "transformer-lens", "nnsight"}


def test_logits_residual_stream_and_patterns(client: Client, theirs: Arrays, layers: int) -> None:
    cache = client.capture(theirs["clean"].tolist(), [*RESIDUAL, "attention_pattern", "logits"])
    assert_close("logits", cache["logits"][0], theirs["logits"], tolerance=TOLERANCE)
    for layer in range(layers):
        for name in RESIDUAL:
            assert_close((name, layer), cache[name, layer][0], theirs[f"{name}.{layer}"], tolerance=TOLERANCE)
        pattern = theirs["attention_pattern"][layer]
        assert_close(("attention_pattern", layer), cache["attention_pattern", layer][0], pattern, tolerance=TOLERANCE)


def test_the_logit_lens(client: Client, theirs: Arrays, layers: int) -> None:
    seen = client.logit_lens(theirs["clean"].tolist(), top_k=fixtures.LENS_TOKENS)
    behind = [index for index, point in enumerate(seen.points) if point.component == "resid_post"]
    assert len(behind) == layers
    assert np.array_equal(seen.top_token_ids[behind], theirs["lens_token_ids"])
    found = seen.top_log_probabilities[behind]
    assert_close("log probabilities", found, theirs["lens_log_probabilities"], tolerance=TOLERANCE)


def test_what_every_head_does_to_the_metric(client: Client, theirs: Arrays) -> None:
    plain = metric(client, theirs, "clean")
    effects = np.zeros_like(theirs["head_ablation"])
    for layer, head in np.ndindex(effects.shape):
        effects[layer, head] = metric(client, theirs, "clean", zero("head_output", layer, heads=[head])) - plain
    assert_close("head ablation", effects, theirs["head_ablation"], tolerance=TOLERANCE)


def test_the_heatmap_of_residual_patches(client: Client, theirs: Arrays) -> None:
    clean = client.capture(theirs["clean"].tolist(), ["resid_pre"])
    found = np.zeros_like(theirs["patch"])
    for layer, position in np.ndindex(found.shape):
        donor = clean["resid_pre", layer][:, position : position + 1]
        patch = replace("resid_pre", layer, donor, positions=[position])
        found[layer, position] = metric(client, theirs, "corrupted", patch)
    assert_close("patch", found, theirs["patch"], tolerance=TOLERANCE)


def test_sweeps_find_the_same(client: Client, theirs: Arrays) -> None:
    """The heatmap and the effects of heads again, each as one sweep."""
    clean, corrupted = theirs["clean"].tolist(), theirs["corrupted"].tolist()
    right, wrong = map(int, theirs["targets"])
    patched = client.patch(clean, corrupted).residual().run(metric=logit_diff(right, wrong))
    assert_close("patch", patched.values, theirs["patch"], tolerance=TOLERANCE)
    ablated = client.ablate(clean).heads().run(metric=logit_diff(right, wrong))
    assert_close("head ablation", ablated.scores.effects().values, theirs["head_ablation"], tolerance=TOLERANCE)


def test_weights_and_vectors_give_the_same_lens(client: Client, theirs: Arrays, layers: int) -> None:
    """Given their residual streams, as vectors and through the matrices that were read."""
    streams = np.stack([theirs[f"resid_post.{layer}"] for layer in range(layers)])
    seen = client.project(streams, top_k=fixtures.LENS_TOKENS)
    assert np.array_equal(seen.top_token_ids, theirs["lens_token_ids"])
    assert_close("vectors", seen.top_log_probabilities, theirs["lens_log_probabilities"], tolerance=TOLERANCE)
    weights = client.weights("unembedding")
    logits = weights.normed("final_norm", streams) @ np.asarray(weights.W_U)
    assert_close("logits", logits[-1], theirs["logits"], tolerance=TOLERANCE)


def test_head_detectors_find_the_same(model: str, folders: dict[str, Path], theirs: Arrays) -> None:
    """Three patterns by both error measures; TransformerLens rounds one of them to thousandths."""
    with AnalysisClient.local(model=[str(folders[model])]) as client:
        found = client.analyze_attention([theirs["repeated"].tolist()], roles=())
    for kind in ("previous_token", "duplicate_token", "induction"):
        for name, measure in ((f"{kind}_detector", "mul"), (f"{kind}_detector_abs", "abs")):
            scores = theirs[f"detector.{kind}.{measure}"]
            np.testing.assert_allclose(found[name].values, scores, atol=1e-3, err_msg=name)
        assert scores.std() > 0.01


def test_the_residual_stream_and_attributed_logits(theirs: Arrays, model: str, folders: dict[str, Path]) -> None:
    """`accumulated_resid`, `decompose_resid`, `stack_head_results` and `logit_attrs`."""
    right, wrong = map(int, theirs["targets"])
    with AnalysisClient.local(model=[str(folders[model])]) as client:
        found = client.analyze_residual_stream(
            theirs["clean"].tolist(), parts=["contributions", "attribution"], answer=right, other=wrong
        )
    streams, components = theirs["accumulated_resid"], theirs["decompose_resid"]
    last = streams[-1]
    along = np.einsum("ctd,td->ct", components, last)
    for name, expected in (
        ("stream_norm", np.linalg.norm(streams, axis=-1)),
        ("norm", np.linalg.norm(components, axis=-1)),
        ("share", along / np.square(last).sum(axis=-1)),
        ("head_norm", theirs["head_norms"].mean(axis=-1)),
        ("direct", theirs["component_logit_attrs"]),
        ("direct_head", theirs["head_logit_attrs"]),
    ):
        assert_close(name, found[name].values, expected, tolerance=TOLERANCE)
    attribution = found.attributions[0]
    logits = theirs["logits"][-1]
    assert attribution.sum == pytest.approx(float(logits[right] - logits[wrong]), abs=TOLERANCE)
