"""The residual stream of a model whose components write to known subspaces, through the real services.

python -m pytest tests/truth/test_residual.py
"""

from collections.abc import Iterator

import numpy as np
import pytest

from neuroscope.analysis import AnalysisClient, ResidualResult
from tests.support.services import inference_service, running
from tests.truth.residual import model
from tests.truth.residual.model import LAYERS, NOISE_NORM, PLANTED_LOGIT, SUBJECT_IDS, WRITES

CLEAN, CORRUPTED = 2, 5
PROMPT = model.prompt(CLEAN)
LAST = len(PROMPT) - 1
PARTS = ("contributions", "attribution", "lens", "routing", "ablation", "flow")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalysisClient]:
    folder = model.build(tmp_path_factory.mktemp("truth") / "residual")
    with (
        inference_service(folder) as inference,
        running("neuroscope_analysis", "--port", "0", "--inference", inference.target) as analysis,
        AnalysisClient(analysis.target) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def found(client: AnalysisClient) -> ResidualResult:
    return client.analyze_residual_stream(
        PROMPT,
        parts=PARTS,
        answer=SUBJECT_IDS[CLEAN],
        other=SUBJECT_IDS[CORRUPTED],
        corrupted=model.prompt(CORRUPTED),
        neurons=1,
    )


def test_contributions_are_the_analytic_ones(found: ResidualResult) -> None:
    """Norms of every component at every position, within 1e-5; the pads are the embedding's."""
    pads = 2 * model.STREAM.pad**2
    norms = found["norm"]
    # TOK, SUBJECT and OTHER of the subject; TOK and OTHER of words; one of the rest.
    expected = {"embed": np.sqrt(pads + np.array([2, 3, 2, 2, 2, 1])), "m0": np.array([0, 1, 1, 1, 1, 0]) * NOISE_NORM}
    for layer in range(LAYERS):
        heads: dict[str, float] = {}
        for name, (room, gain) in WRITES.items():
            if name.startswith(f"a{layer}."):
                heads[room] = heads.get(room, 0.0) + gain
        expected[f"a{layer}"] = np.eye(len(PROMPT))[LAST] * np.sqrt(sum(gain**2 for gain in heads.values()))
    expected["m3"] = np.eye(len(PROMPT))[LAST] * WRITES["m3"][1]
    for name in found.components:
        wanted = expected.get(name, np.zeros(len(PROMPT)))
        np.testing.assert_allclose(norms.sel(component=name).values, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    for layer, head in np.ndindex(LAYERS, model.HEADS):
        gain = abs(WRITES.get(f"a{layer}.h{head}", ("", 0.0))[1])
        assert found["head_norm"].sel(layer=layer, head=head).values == pytest.approx(gain / len(PROMPT), abs=1e-5)


def test_contributions_sum_to_the_last_stream(found: ResidualResult) -> None:
    print(found.errors)
    assert found.errors[0].components < 1e-6
    assert found.errors[0].heads is not None
    assert found.errors[0].heads < 1e-5
    np.testing.assert_allclose(found["share"].values.sum(axis=0), 1, atol=1e-6)


def test_logits_are_attributed_to_what_writes_to_out(found: ResidualResult) -> None:
    """The difference is what each component writes for the subject; all else is 0."""
    attribution, direct, heads = found.attributions[0], found["direct"], found["direct_head"]
    assert attribution.sum == pytest.approx(PLANTED_LOGIT, rel=1e-5)
    assert attribution.answer.logit - (attribution.other.logit if attribution.other else 0) == pytest.approx(
        attribution.sum, rel=1e-5
    )
    assert direct.values.sum() + attribution.constant == pytest.approx(attribution.sum, abs=1e-5)
    for name, value in zip(found.components, direct.values.tolist(), strict=True):
        outs = [gain for each, (room, gain) in WRITES.items() if room == "OUT" and each.partition(".")[0] == name]
        assert value == pytest.approx(sum(outs), abs=1e-4), name
    for layer, head in np.ndindex(LAYERS, model.HEADS):
        room, gain = WRITES.get(f"a{layer}.h{head}", ("", 0.0))
        assert heads.sel(layer=layer, head=head).values == pytest.approx(gain if room == "OUT" else 0, abs=1e-4)
    (neuron,) = attribution.neurons
    assert (neuron.layer, neuron.logit) == (3, pytest.approx(WRITES["m3"][1], abs=1e-4))
