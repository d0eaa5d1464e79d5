"""A trained model, SmolLM2-135M-Instruct in 4 bits: our numbers beside those of TransformerLens and Hugging Face.

`tests.bench.peers.real_model` wrote theirs, of the same file. `make real-model` fetches it; without it nothing is run.

python -m pytest tests/integration/test_real_model.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from neuroscope import Client
from neuroscope.analysis import AnalysisClient
from neuroscope.experiments import logit_diff
from neuroscope.named_models.catalogue import CATALOGUE
from neuroscope.v1.inference_pb2 import Quantization
from tests.bench.peers import fixtures
from tests.bench.peers.real_model import NAME
from tests.bench.peers.workers.library import Arrays
from tests.bench.peers.workers.summary import summarise
from tests.support.compare import assert_close

MODEL = CATALOGUE[NAME]
TOLERANCES = {"float32": 2e-4, "float16": 2e-2, "bfloat16": 0.1}
"""Of the largest entry, where the weights are plain."""
FOUR_BITS_TOLERANCE = 2e-4
"""The same numbers, multiplied by their scale in another order."""

QUANTIZED = [
    Quantization(bits=bits, group_size=32, mode="affine", matrices=count) for bits, count in ((4, 210), (8, 1))
]
"""Seven matrices of each of 30 layers, and the embedding, which is the head too."""

pytestmark = [
    pytest.mark.skipif(not MODEL.is_fetched, reason=f"{NAME} is not fetched: neuroscope models get {NAME}"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def theirs() -> Arrays:
    return fixtures.read(NAME)[0]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """The model in plain float32, which is what a GGUF file becomes on the CPU."""
    with Client.local() as client:
        client.load_model(NAME, dtype="float32", dequantize=True)
        yield client


def test_the_numbers_are_of_this_file() -> None:
    """If this fails: `python -m tests.bench.peers.real_model` computes them anew."""
    _, provenance = fixtures.read(NAME)
    assert provenance["weights"] == MODEL.file_sha256
    assert set(json.loads(provenance["versions"])) == {"torch", "transformers", "transformer-lens", "nnsight"}


def test_every_point(client: Client, theirs: Arrays) -> None:
    names = [name.removeprefix("point.") for name in theirs if name.startswith("point.")]
    layers = client.model().model.num_layers
    hooks = [f"blocks.{layer}.{name}" for name in names for layer in range(layers)]
    cache = client.capture(theirs["clean"].tolist(), [*hooks, "logits"])
    assert_close("logits", summarise(cache["logits"][0], values=32), theirs["logits"], tolerance=TOLERANCES["float32"])
    for name in names:
        found = np.stack([summarise(by_position(cache[f"blocks.{layer}.{name}"][0])) for layer in range(layers)])
        assert_close(name, found, theirs[f"point.{name}"], tolerance=TOLERANCES["float32"])


def by_position(array: np.ndarray) -> np.ndarray:
    """Heads have their axis before that of positions here, and behind it in TransformerLens."""
    return array.swapaxes(0, 1) if array.ndim == 3 else array


@pytest.mark.parametrize(
    ("dtype", "dequantize", "tolerance"),
    [
        ("float16", True, TOLERANCES["float16"]),
        ("bfloat16", True, TOLERANCES["bfloat16"]),
        ("float32", False, FOUR_BITS_TOLERANCE),
    ],
)
def test_logits_in_other_forms(theirs: Arrays, dtype: str, dequantize: bool, tolerance: float) -> None:
    with Client.local() as client:
        model = client.load_model(NAME, dtype=dtype, dequantize=dequantize)
        assert list(model.quantization) == ([] if dequantize else QUANTIZED)
        logits = client.capture(theirs["clean"].tolist(), ["logits"])["logits"][0].astype(np.float32)
    assert_close("logits", summarise(logits, values=32), theirs["logits"], tolerance=tolerance)


def test_the_logit_lens(client: Client, theirs: Arrays) -> None:
    seen = client.logit_lens(theirs["clean"].tolist(), top_k=theirs["lens_token_ids"].shape[-1])
    behind = [index for index, point in enumerate(seen.points) if point.component == "resid_post"]
    assert np.mean(seen.top_token_ids[behind] == theirs["lens_token_ids"]) > 0.999  # two that are nearly equal may swap
    found = seen.top_log_probabilities[behind]
    assert_close("log probabilities", found, theirs["lens_log_probabilities"], tolerance=TOLERANCES["float32"])


def test_patches_and_ablations(client: Client, theirs: Arrays) -> None:
    clean, corrupted = theirs["clean"].tolist(), theirs["corrupted"].tolist()
    metric = logit_diff(*map(int, theirs["targets"]))
    patched = client.patch(clean, corrupted).residual().run(metric=metric)
    assert_close("patch", patched.values, theirs["patch"], tolerance=TOLERANCES["float32"])
    ablated = client.ablate(clean).heads().run(metric=metric)
    effects = ablated.scores.effects().values
    assert_close("head ablation", effects, theirs["head_ablation"], tolerance=TOLERANCES["float32"])


def test_attributions(client: Client, theirs: Arrays) -> None:
    found = client.attribute(
        theirs["clean"].tolist(),
        theirs["corrupted"].tolist(),
        metric=logit_diff(*map(int, theirs["targets"])),
        into="corrupted",
        sites=["head_output:head"],
    )
    scores = found.scores.values
    assert_close("head attribution", scores, theirs["head_attribution"], tolerance=1e-3)


def test_scores_of_heads_and_direct_logit_attribution(theirs: Arrays) -> None:
    right, wrong = map(int, theirs["targets"])
    with AnalysisClient.local(NAME) as client:
        attention = client.analyze_attention([theirs["repeated"].tolist()], roles=())
        residual = client.analyze_residual_stream(
            theirs["clean"].tolist(), parts=["contributions", "attribution"], answer=right, other=wrong
        )
    for kind in ("previous_token", "duplicate_token", "induction"):
        for name, measure in ((f"{kind}_detector", "mul"), (f"{kind}_detector_abs", "abs")):
            scores = theirs[f"detector.{kind}.{measure}"]
            np.testing.assert_allclose(attention[name].values, scores, atol=1e-3, err_msg=name)
    for name, expected in (("direct", "component_logit_attrs"), ("direct_head", "head_logit_attrs")):
        assert_close(name, residual[name].values, theirs[expected], tolerance=TOLERANCES["float32"])


def test_the_greedy_text(client: Client, theirs: Arrays) -> None:
    asked, drawn = theirs["asked"].tolist(), theirs["greedy"].tolist()
    with client.generate(asked, max_tokens=len(drawn)) as generation:
        found = [token.token_id for token in generation]
    assert len(drawn) == 64
    assert found == drawn
