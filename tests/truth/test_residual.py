"""The residual stream of a model whose components write to known subspaces, through the real services.

python -m pytest tests/truth/test_residual.py
"""

from collections.abc import Iterator

import numpy as np
import pytest

from neuroscope.analysis import AnalysisClient, ResidualResult
from tests.truth.residual import model
from tests.truth.residual.model import (
    EDGES,
    ERASED,
    ERASER,
    LAYERS,
    NOISE_NORM,
    PLANTED_LOGIT,
    SKIPS,
    SUBJECT_IDS,
    WRITES,
)
from tests.truth.running import Bench

CLEAN, CORRUPTED = 2, 5
PROMPT = model.prompt(CLEAN)
LAST = len(PROMPT) - 1
PARTS = ("contributions", "attribution", "lens", "routing", "ablation", "flow")


@pytest.fixture(scope="module")
def client(services: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AnalysisClient]:
    folder = model.build(tmp_path_factory.mktemp("truth") / "residual")
    with services.model(folder):
        yield services.analysis


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


def test_the_answer_emerges_in_the_layer_that_writes_it(found: ResidualResult) -> None:
    """From layer 1 on, whose a1.h1 is the first to write to OUT; and probabilities are those of the sum so far."""
    assert found.lenses[0].emergence == 2
    gains = np.cumsum([0.0, 0.0, *(_out_of(layer) for layer in range(1, LAYERS))])
    others = model.planted.VOCABULARY - 1
    expected = np.exp(gains) / (np.exp(gains) + others)
    np.testing.assert_allclose(found["lens_answer_probability"].values[:, LAST], expected, rtol=1e-4)
    entropy = -expected * np.log(expected) - (1 - expected) * np.log((1 - expected) / others)
    np.testing.assert_allclose(found["lens_entropy"].values[:, LAST], entropy, rtol=1e-4)


def _out_of(layer: int) -> float:
    return sum(gain for name, (room, gain) in WRITES.items() if room == "OUT" and name[1] == str(layer))


def test_routes_are_what_attention_moves(found: ResidualResult) -> None:
    """Not where it looks: every token that is not told to look elsewhere looks at START, which holds nothing."""
    told = {route[:3] for route in found.routes(0.1)}
    true = model.routes(len(PROMPT))
    assert told == true  # F1 1.0
    moved = {
        (layer, query, key): np.sqrt(np.square([gain for name, (_, gain) in WRITES.items() if name in heads]).sum())
        for (layer, query, key), heads in {
            (0, LAST, 1): ("a0.h0", "a0.h1", "a0.h2", "a0.h3"),
            (1, LAST, 1): ("a1.h0",),
            (1, LAST, LAST): ("a1.h1", "a1.h2"),
        }.items()
    }
    for layer, query, key, norm in found.routes(0.1):
        if layer < 2:
            assert norm == pytest.approx(moved[layer, query, key], rel=1e-5)
        else:  # both heads write the same way
            assert norm == pytest.approx(WRITES["a3.h0"][1] + WRITES["a3.h1"][1], rel=1e-5)


def test_routes_of_heads_and_the_rollout(client: AnalysisClient) -> None:
    found = client.analyze_residual_stream(
        PROMPT, parts=["contributions", "routing"], answer=SUBJECT_IDS[CLEAN], by_head=True
    )
    by_head = found["routing_head"]
    for layer, head in np.ndindex(LAYERS, model.HEADS):
        gain = abs(WRITES.get(f"a{layer}.h{head}", ("", 0.0))[1])
        assert by_head.sel(layer=layer, head=head, query=LAST).values.max() == pytest.approx(gain, abs=1e-5)
    rolled = found.rollout().values
    np.testing.assert_allclose(rolled.sum(axis=1), 1, rtol=1e-5)
    assert rolled[LAST, 1] > 1e-4
    assert np.count_nonzero(rolled > 1e-9) == len(PROMPT) + 1
    assert client.analyze_residual_stream(PROMPT, parts=["routing"], queries=-1)["routing"].shape == (4, 1, 6)


def test_ablation_stands_beside_the_direct_effect(found: ResidualResult) -> None:
    """a0 writes nothing to OUT, and all of the answer needs it; the decoy m0 is worth nothing."""
    attention, mlps = found["ablated_attention"].values, found["ablated_mlp"].values
    direct = dict(zip(found.components, found["direct"].values.tolist(), strict=True))
    # The mean is over the prompt's tokens, one of which is QUERY.
    kept = 1 - 1 / len(PROMPT)
    for layer in range(LAYERS):
        assert mlps[layer] == pytest.approx(kept * direct[f"m{layer}"], abs=1e-4)
    assert attention[3] == pytest.approx(kept * direct["a3"], abs=1e-4)
    assert direct["a0"] == pytest.approx(0, abs=1e-4)
    # OUT by way of SKIP and MID, each read on.
    assert attention[0] == pytest.approx(kept * (WRITES["a3.h0"][1] + WRITES["a3.h1"][1] + WRITES["a1.h1"][1]), abs=0.5)
    assert attention[2] == pytest.approx(0, abs=1e-4)


def test_skips_are_found_and_nothing_else_is_taken_for_one(found: ResidualResult) -> None:
    """Precision and recall 1.0 of skips, and of all edges; decoys have none."""
    flow = found.flows[0]
    assert {(edge.writer, edge.reader) for edge in flow.skips} == SKIPS
    assert {(edge.writer, edge.reader) for edge in flow.edges} == EDGES
    (read_between,) = (edge for edge in flow.edges if (edge.writer, edge.reader) == ("a0.h1", "a3.h1<v>"))
    assert (read_between.reader_between, read_between.is_skip) == ("a1.h1<v>", False)
    assert read_between.survival == pytest.approx(1, abs=1e-5)
    assert flow.clean - flow.corrupted == pytest.approx(2 * PLANTED_LOGIT, rel=1e-4)


def test_the_erase_head_is_known_by_its_numbers(found: ResidualResult) -> None:
    """It takes away all of what it reads; the path around it has an effect, and is no skip."""
    writer = found.flows[0].writer(ERASED)
    ((name, share),) = writer.rewriters
    assert (name, share) == (ERASER, pytest.approx(-1, abs=1e-5))
    np.testing.assert_allclose(writer.survival, [0, 1, 0, 0, 0], atol=1e-5)
    (around,) = (edge for edge in found.flows[0].edges if edge.writer == ERASED and edge.layers_between)
    assert around.survival == pytest.approx(0, abs=1e-5)
    assert not around.is_skip
    assert all(not each.rewriters for each in found.flows[0].writers if each.name != ERASED)


def test_the_graph_has_the_edges(found: ResidualResult) -> None:
    graph = found.flows[0].to_networkx()
    assert {(writer, data["reader"]) for writer, _, data in graph.edges(data=True)} == EDGES
    first, *_, last = graph.nodes
    assert (first, last) == ("input", "logits")
    assert sum(data["is_skip"] for *_, data in graph.edges(data=True)) == len(SKIPS)
