"""Scores of attributions are derivatives: held to central differences of an independent float64 forward pass.

python -m pytest tests/integration/test_engine_attributions.py
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError, MLXIntegrationError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.attributions.norms import ClosedFormNorm, backpropagate_norm
from neuroscope_inference.engine.attributions.support import why_no_edges, why_no_gradients
from neuroscope_inference.engine.model import LoadedModel
from tests.support.attributing import ALLOWED, WITHOUT_EDGES, attribute_here, labels
from tests.support.compare import assert_close
from tests.support.loaded import load_here
from tests.support.numpy_forward import forward
from tests.support.numpy_paths import Paths
from tests.support.random_models import FAMILIES, make_model
from tests.support.sweeping import one_by_one, prompt, sweep_here
from tests.support.variants import quantise

_RANDOM = np.random.default_rng(3)
CLEAN = [0, *_RANDOM.integers(5, 500, 11).tolist()]
CORRUPTED = [0, *_RANDOM.integers(5, 500, 11).tolist()]
PAIR = pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED))
ANSWER, OTHER = 7, 9
METRIC = pb.Metric(
    logit_difference=pb.LogitDifference(answers=[pb.TokenChoice(id=ANSWER)], others=[pb.TokenChoice(id=OTHER)])
)
DELTA = 1e-4
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=("llama", "gpt2"))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_here(folder)


def request_of(**fields: object) -> pb.AttributeRequest:
    return pb.AttributeRequest(**({"pairs": [PAIR], "metric": METRIC} | fields))  # type: ignore[arg-type]


def node(component: str, **fields: object) -> pb.NodeSite:
    return pb.NodeSite(site=site_pb2.Site(component=component), **fields)  # type: ignore[arg-type]


def difference_of(logits: NDArray[np.float64]) -> float:
    last = logits.reshape(-1, logits.shape[-1])[-1]
    return float(last[ANSWER] - last[OTHER])


def slope(folder: Path, component: str, layer: int, change: NDArray[np.float64]) -> float:
    """Of the metric of the clean run along a change of an activation, by central differences."""
    values = [
        difference_of(forward(folder, CLEAN, {(component, layer): lambda x: x + sign * DELTA * change})["logits", None])  # noqa: B023
        for sign in (1, -1)
    ]
    return (values[0] - values[1]) / (2 * DELTA)


@pytest.mark.parametrize("component", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "mlp_neurons", "ln2"])
def test_streams_by_position(folder: Path, model: LoadedModel, component: str) -> None:
    layer = 1
    found = attribute_here(model, request_of(nodes=pb.NodeAttribution(sites=[node(component, by_position=True)])))
    clean, corrupted = (forward(folder, ids)[component, layer] for ids in (CLEAN, CORRUPTED))
    expected = np.zeros(len(CLEAN))
    for position in range(len(CLEAN)):
        change = np.zeros_like(clean)
        change[:, position] = (corrupted - clean)[:, position]
        expected[position] = slope(folder, component, layer, change)
    assert_close(component, found[0][layer], expected, tolerance=TOLERANCE)


@pytest.mark.parametrize("component", ["q_proj", "k_proj", "query", "key", "value", "head_output"])
def test_heads(folder: Path, model: LoadedModel, component: str) -> None:
    layer = 2
    found = attribute_here(model, request_of(nodes=pb.NodeAttribution(sites=[node(component, by_head=True)])))
    clean, corrupted = (forward(folder, ids)[component, layer] for ids in (CLEAN, CORRUPTED))
    expected = np.zeros(clean.shape[2])
    for head in range(clean.shape[2]):
        change = np.zeros_like(clean)
        change[:, :, head] = (corrupted - clean)[:, :, head]
        expected[head] = slope(folder, component, layer, change)
    assert_close(component, found[0][layer], expected, tolerance=TOLERANCE)


@pytest.mark.parametrize("component", ["attention_scores", "attention_pattern"])
def test_attention(folder: Path, model: LoadedModel, component: str) -> None:
    sites = [node(component, by_head=True)]
    found = attribute_here(model, request_of(nodes=pb.NodeAttribution(sites=sites)))
    clean, corrupted = (forward(folder, ids)[component, 0] for ids in (CLEAN, CORRUPTED))
    change = np.zeros_like(clean)
    change[:, 3] = (corrupted - clean)[:, 3]
    assert_close(component, found[0][0, 3], slope(folder, component, 0, change), tolerance=TOLERANCE)


def test_gradient_times_activation_needs_no_other_run(folder: Path, model: LoadedModel) -> None:
    nodes = pb.NodeAttribution(sites=[node("mlp_neurons", by_unit=True)], gradient_times_activation=True)
    found = attribute_here(model, request_of(pairs=[pb.PromptPair(clean=prompt(CLEAN))], nodes=nodes))
    clean = forward(folder, CLEAN)["mlp_neurons", 1]
    unit = int(np.abs(found[0][1]).argmax())
    change = np.zeros_like(clean)
    change[..., unit] = clean[..., unit]
    assert_close("mlp_neurons", found[0][1, unit], slope(folder, "mlp_neurons", 1, change), tolerance=TOLERANCE)
    assert found.plan.forward_count == 0


def test_edges(folder: Path, model: LoadedModel) -> None:
    found = attribute_here(model, request_of(edges=pb.EdgeAttribution(steps=1)))
    paths, others = Paths(folder, CLEAN), Paths(folder, CORRUPTED).run()
    clean = paths.run()
    assert_close("metric", found.baselines[0].clean, difference_of(clean.logits), tolerance=TOLERANCE)
    assert labels(found.plan.senders) == list(clean.written)
    assert labels(found.plan.receivers) == list(clean.reach)
    assert [receiver.sender_count for receiver in found.plan.receivers] == list(clean.reach.values())
    edges = list(clean.edges())
    scores = np.array([found[0][list(clean.written).index(s), list(clean.reach).index(r)] for s, r in edges])
    some = _RANDOM.choice(len(edges), 60, replace=False)
    expected: list[float] = []
    for sender, receiver in (edges[index] for index in some):
        change = DELTA * (others.written[sender] - clean.written[sender])
        up, down = (difference_of(paths.run({receiver: sign * change}).logits) for sign in (1, -1))
        expected.append((up - down) / (2 * DELTA))
    assert_close("edges", scores[some], expected, tolerance=TOLERANCE)
    assert (found[0] == 0).sum() >= found[0].size - len(edges)  # what a sender does not reach


def test_edges_are_the_same_some_positions_at_a_time(model: LoadedModel) -> None:
    request = request_of(edges=pb.EdgeAttribution(steps=2))
    whole = attribute_here(model, request)
    request.batch_bytes = 1
    assert_close("edges", attribute_here(model, request)[0], whole[0], tolerance=1e-5)


def test_a_node_is_the_sum_of_its_edges_where_one_reads(model: LoadedModel) -> None:
    """What a head writes is read over its edges, so its score as a node is the sum of those of its edges."""
    edges = attribute_here(model, request_of(edges=pb.EdgeAttribution(steps=3)))
    sites = [node("head_output", by_head=True)]
    nodes = attribute_here(model, request_of(nodes=pb.NodeAttribution(sites=sites, steps=3)))
    heads = [index for index, sender in enumerate(edges.plan.senders) if sender.HasField("head")]
    last = model.layout.num_layers - 1  # above it nothing but an MLP and the logits
    direct = [index for index in heads if edges.plan.senders[index].site.layer == last]
    through = edges[0][direct].sum(axis=1)
    assert_close("head_output", through, nodes[0][last], tolerance=TOLERANCE)


def test_inputs_are_complete(model: LoadedModel) -> None:
    for pair in (PAIR, pb.PromptPair(clean=prompt(CLEAN))):
        found = attribute_here(model, request_of(pairs=[pair], inputs=pb.IntegratedGradients(steps=256)))
        (total,) = found.completeness
        assert total.change == pytest.approx(found.baselines[0].clean - found.baselines[0].corrupted, abs=1e-5)
        assert total.attributed == pytest.approx(found[0].sum(), abs=1e-4)
        if pair is PAIR:  # an RMS norm undoes the scale of its input, so all of a line from zero lies at its beginning
            assert total.attributed == pytest.approx(total.change, abs=0.05)
        assert found[0].shape == (len(CLEAN),)


def test_both_runs_and_scales(model: LoadedModel) -> None:
    nodes = pb.NodeAttribution(sites=[node("resid_pre", layers=[0])])
    clean = attribute_here(model, request_of(nodes=nodes))
    corrupted = attribute_here(model, request_of(nodes=nodes, edited_run=pb.SWEPT_RUN_CORRUPTED))
    assert clean.plan.edited_run == pb.SWEPT_RUN_CLEAN
    assert abs(clean[0] + corrupted[0]).max() > 1e-3  # gradients differ
    scaled = pb.Metric()
    scaled.CopyFrom(METRIC)
    scaled.normalised = True
    found = attribute_here(model, request_of(nodes=nodes, metric=scaled))
    between = clean.baselines[0].clean - clean.baselines[0].corrupted
    assert_close("normalised", found[0] * between, clean[0], tolerance=1e-5)


def test_pairs_together_are_pairs_alone(model: LoadedModel) -> None:
    shorter = pb.PromptPair(clean=prompt(CLEAN[:9]), corrupted=prompt(CORRUPTED[:9]))
    pairs = [PAIR, shorter, pb.PromptPair(clean=PAIR.corrupted, corrupted=PAIR.clean)]
    for method in (
        {"nodes": pb.NodeAttribution(sites=[node("head_output", by_head=True)], steps=2)},
        {"edges": pb.EdgeAttribution(steps=2)},
    ):
        alone = [attribute_here(model, request_of(pairs=[pair], **method))[0] for pair in pairs]
        each = attribute_here(model, request_of(pairs=pairs, each_pair=True, **method))
        for index, scores in enumerate(alone):
            assert_close(f"pair {index}", each.tensors[0, index], scores, tolerance=1e-4)
        mean = attribute_here(model, request_of(pairs=pairs, **method))
        assert_close("mean", mean[0], np.mean(alone, axis=0), tolerance=1e-4)


def scaled(layer: int, factor: float) -> pb.SweepCell:
    """The residual stream behind a layer, times a factor."""
    value = intervention_pb2.Expression(
        binary=intervention_pb2.BinaryOperation(
            operator=intervention_pb2.BINARY_OPERATOR_MULTIPLY,
            left=intervention_pb2.Expression(activation=intervention_pb2.Activation()),
            right=intervention_pb2.Expression(constant=factor),
        )
    )
    site = Point("resid_post", layer).to_message()
    return pb.SweepCell(interventions=[intervention_pb2.Intervention(site=site, value=value)])


@pytest.mark.parametrize("family", [*FAMILIES, "llama in 4 bits"])
def test_a_gradient_is_what_small_steps_of_a_sweep_find(family: str, tmp_path: Path) -> None:
    name, _, is_quantised = family.partition(" in ")
    folder = make_model(name, tmp_path / name)
    model = load_here(quantise(folder, bits=4) if is_quantised else folder)
    nodes = pb.NodeAttribution(sites=[node("resid_post")], gradient_times_activation=True)
    slopes = attribute_here(model, request_of(nodes=nodes))[0]
    step, layers = 1e-3, range(model.layout.num_layers)  # small: where experts change places there is no slope
    cells = [scaled(layer, 1 + sign * step) for layer in layers for sign in (1, -1)]
    request = pb.RunSweepRequest(pairs=[PAIR], cells=cells, metric=METRIC, edited_run=pb.SWEPT_RUN_CLEAN)
    values = sweep_here(model, request)[0].reshape(-1, 2)
    assert_close(family, slopes, (values[:, 0] - values[:, 1]) / (2 * step), tolerance=2e-2)
    assert np.abs(slopes[:-1]).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, family_model: Callable[[str], LoadedModel]) -> None:
    model = family_model(family)
    assert not why_no_gradients(model)
    long = np.random.default_rng(1).integers(5, 500, (2, 20))  # longer than the windows of 16
    pair = pb.PromptPair(clean=prompt([0, *long[0]]), corrupted=prompt([0, *long[1]]))
    sites = [node("resid_post", by_position=True)]
    everywhere = request_of(pairs=[pair], nodes=pb.NodeAttribution(sites=sites))
    found = attribute_here(model, everywhere)
    assert model.cuts_last_mlp
    whole = replace(model, cuts_last_mlp=False)
    assert_close(family, found[0], attribute_here(whole, everywhere)[0], tolerance=1e-5)
    # Behind the last block there is but the norm and the head, so a small step of a sweep's edit says the same.
    last = model.layout.num_layers - 1
    grid = pb.SweepGrid(
        site=site_pb2.Site(component="resid_post", layer=last),
        positions=one_by_one(20),
        value=pb.SweepValue(other_run=pb.OtherRun()),
    )
    (value,) = sweep_here(
        model, pb.RunSweepRequest(pairs=[pair], grids=[grid], metric=METRIC, edited_run=pb.SWEPT_RUN_CLEAN)
    )[0]
    assert value == pytest.approx(found.baselines[0].corrupted, abs=1e-4)
    assert np.abs(found[0][last, :20]).max() == 0.0
    assert found[0][last, 20] != 0.0
    if family in WITHOUT_EDGES:
        assert "a norm stands behind the attention of layer 0" in why_no_edges(model)
        with pytest.raises(UnavailableSiteError, match="have no scores") as refused:
            attribute_here(model, request_of(pairs=[pair], edges=pb.EdgeAttribution()))
        assert refused.value.field == "edges"
    else:
        edges = attribute_here(model, request_of(pairs=[pair], edges=pb.EdgeAttribution(steps=1)))
        to_logits = edges[0][:, -1].sum()
        assert to_logits == pytest.approx(found[0][last].sum(), abs=1e-3)  # the stream is the sum of what is written
    if model.layout.blocks[-1].routing is not None:
        assert "chosen by a router" in found.plan.warnings[0]


BAD = (
    (request_of(), "nodes", "what is scored is missing"),
    (request_of(pairs=[], nodes=pb.NodeAttribution()), "pairs", "no pair"),
    (request_of(pairs=[pb.PromptPair(clean=prompt(CLEAN))], edges=pb.EdgeAttribution()), "pairs[0].corrupted", "no"),
    (
        request_of(pairs=[pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CLEAN[:5]))], nodes=pb.NodeAttribution()),
        "pairs[0].corrupted",
        "12 and 5 tokens",
    ),
    (
        request_of(metric=pb.Metric(rank=pb.Rank(answers=[pb.TokenChoice(id=3)])), nodes=pb.NodeAttribution()),
        "metric.rank",
        "no gradient",
    ),
    (
        request_of(metric=pb.Metric(kl_divergence=pb.KlDivergence()), edges=pb.EdgeAttribution(steps=1)),
        "metric.kl_divergence",
        "gradient is zero",
    ),
    (request_of(edges=pb.EdgeAttribution(steps=5000)), "edges.steps", "at most"),
    (request_of(nodes=pb.NodeAttribution(sites=[node("resid_post", by_head=True)])), "nodes.sites[0].by_head", "heads"),
    (request_of(nodes=pb.NodeAttribution(sites=[node("mlp")], steps=2000)), "nodes.steps", "at most"),
    (request_of(nodes=pb.NodeAttribution(sites=[node("nose")])), "nodes.sites[0].site.component", "unknown"),
    (request_of(nodes=pb.NodeAttribution(sites=[node("mlp_out", layers=[9])])), "nodes.sites[0].layers", "range"),
    (
        request_of(nodes=pb.NodeAttribution(sites=[node("mlp_out")], steps=3, gradient_times_activation=True)),
        "nodes.steps",
        "one run",
    ),
    (
        request_of(
            pairs=[pb.PromptPair(clean=prompt(CLEAN))],
            inputs=pb.IntegratedGradients(),
            edited_run=pb.SWEPT_RUN_CLEAN,
        ),
        "edited_run",
        "zero embeddings",
    ),
)


@pytest.mark.parametrize(("request_", "field", "text"), BAD, ids=[f"{field}: {text}" for _, field, text in BAD])
def test_bad_input(model: LoadedModel, request_: pb.AttributeRequest, field: str, text: str) -> None:
    with pytest.raises(MLXIntegrationError, match=text) as refused:
        attribute_here(model, request_)
    assert refused.value.field == field


def test_no_gradient_goes_through_a_choice(family_model: Callable[[str], LoadedModel]) -> None:
    model = family_model("mixtral")
    for component, text in (("expert_indices", "a choice has no gradient"), ("expert_weights", "computes nothing")):
        with pytest.raises(UnavailableSiteError, match=text) as refused:
            attribute_here(model, request_of(nodes=pb.NodeAttribution(sites=[node(component)])))
        assert refused.value.field == "nodes.sites[0].site.component"


def test_positions_have_no_mean_over_prompts_of_other_lengths(model: LoadedModel) -> None:
    shorter = pb.PromptPair(clean=prompt(CLEAN[:9]), corrupted=prompt(CORRUPTED[:9]))
    request = request_of(pairs=[PAIR, shorter], nodes=pb.NodeAttribution())
    with pytest.raises(InvalidRequestError, match="9 to 12 tokens") as refused:
        attribute_here(model, request, ALLOWED)
    assert refused.value.field == "nodes.sites[0].by_position"


def test_a_known_norm_is_the_norm(model: LoadedModel) -> None:
    """The closed form of a norm's gradient is what its own code gives."""
    norm = model.layout.blocks[1].norm1
    assert norm is not None
    stream, gradients, matrix = (mx.random.normal(shape) for shape in ((2, 5, 128), (2, 5, 8, 16), (8, 16, 128)))
    known = ClosedFormNorm.from_module(norm, stream)
    assert known is not None
    expected = backpropagate_norm(norm, stream, gradients.swapaxes(1, 2) @ matrix)
    assert_close("norm", np.array(known.backpropagate(gradients, matrix)), np.array(expected), tolerance=1e-5)
