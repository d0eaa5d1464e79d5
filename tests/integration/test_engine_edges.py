"""Sets of edges against their definition: a float64 forward pass of its own, and runs by hooks on every family.

python -m pytest tests/integration/test_engine_edges.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from neuroscope.errors import InvalidRequestError, MLXIntegrationError, ResourceExhaustedError, UnavailableSiteError
from neuroscope.experiments import projection
from neuroscope.experiments.edges import to_edge_grid
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, intervention_pb2, site_pb2
from neuroscope_inference.engine.attributions.graph import EdgeGraph
from neuroscope_inference.engine.edges.model_graph import describe_edge_graph
from neuroscope_inference.engine.model import LoadedModel
from tests.support.attributing import WITHOUT_EDGES, labels
from tests.support.edge_runs import EdgeRuns, random_sets, reach
from tests.support.freezing import hooked
from tests.support.loaded import load_here
from tests.support.numpy_paths import Node, Paths
from tests.support.random_models import FAMILIES, make_model
from tests.support.sweeping import ALLOWED, events_here, prompt, sweep_here, values_of

_RANDOM = np.random.default_rng(11)
_PREFIX = [0, *_RANDOM.integers(5, 500, 6).tolist()]  # both prompts begin with it
CLEAN = [*_PREFIX, *_RANDOM.integers(5, 500, 12).tolist()]  # longer than the windows of 16
CORRUPTED = [*_PREFIX, *_RANDOM.integers(5, 500, 12).tolist()]
PAIR = pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED))
TOLERANCE = 1e-5  # of the largest logit
ANSWER, OTHER = 7, 9
METRIC = pb.Metric(
    logit_difference=pb.LogitDifference(answers=[pb.TokenChoice(id=ANSWER)], others=[pb.TokenChoice(id=OTHER)])
)
PATCH = pb.SweepValue(other_run=pb.OtherRun())
SHARES = (0.003, 0.2, 0.9)


@pytest.fixture(scope="module", params=[family for family in FAMILIES if family not in WITHOUT_EDGES])
def model(request: pytest.FixtureRequest, family_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return family_model(request.param)


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> LoadedModel:
    return load_here(llama_dir)


@pytest.fixture(scope="module")
def graph(llama: LoadedModel) -> EdgeGraph:
    return EdgeGraph(llama.layout)


def request_of(*edges: pb.EdgeGrid, **fields: Any) -> pb.RunSweepRequest:
    fields.setdefault("pairs", [PAIR])
    fields.setdefault("edited_run", pb.SWEPT_RUN_CLEAN)
    fields.setdefault("metric", METRIC)
    return pb.RunSweepRequest(edges=edges, **fields)


def masks(sets: NDArray[np.bool_], value: pb.SweepValue = PATCH) -> pb.EdgeGrid:
    return to_edge_grid(sets, value)


def difference(logits: NDArray[Any]) -> float:
    return float(logits[-1, ANSWER] - logits[-1, OTHER])


def baseline_of(events: list[pb.RunSweepResponse]) -> pb.PairBaseline:
    (found,) = [event.baseline for event in events if event.HasField("baseline")]
    return found


# ------------------------------------------------------------------------------------------------ of every family


def test_sets_are_what_their_definition_says(model: LoadedModel) -> None:
    graph = EdgeGraph(model.layout)
    sets = random_sets(graph, SHARES, 3)
    everything = np.stack([reach(graph), np.zeros_like(reach(graph))])
    request = request_of(masks(np.concatenate([sets, everything])))
    events = events_here(model, request)
    baseline, found = baseline_of(events), values_of(events)[0]
    assert events[-1].end.most_rows > 1
    logits, _ = hooked(model, CLEAN, {}, [])
    scale = float(mx.abs(logits.astype(mx.float32)).max())
    runs = EdgeRuns(model, CLEAN, CORRUPTED)
    expected = [difference(runs.logits(changed)) for changed in sets]
    np.testing.assert_allclose(found[: len(sets)], expected, atol=TOLERANCE * scale)
    assert (np.abs(np.array(expected) - baseline.clean) > 20 * TOLERANCE * scale).all(), "nothing is tested"
    np.testing.assert_allclose(found[-2], baseline.corrupted, atol=TOLERANCE * scale)
    assert found[-1] == np.float32(baseline.clean), "no edge changed is the edited run itself"
    plain = sweep_here(model, request, method=pb.SWEEP_METHOD_PLAIN)
    np.testing.assert_allclose(found, plain[0], atol=TOLERANCE * scale)


@pytest.mark.parametrize("family", WITHOUT_EDGES)
def test_what_has_no_graph_is_refused(family: str, family_model: Callable[[str], LoadedModel]) -> None:
    model = family_model(family)
    for ask in (
        lambda: events_here(model, request_of(to_edge_grid(None, PATCH))),
        lambda: describe_edge_graph(model, "edges[0]"),
    ):
        with pytest.raises(UnavailableSiteError, match="a norm stands behind") as caught:
            ask()
        assert caught.value.field == "edges[0]"


# ------------------------------------------------------------------------------------------------ in float64


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sets_in_float64(family: str, tmp_path: Path) -> None:
    folder = make_model(family, tmp_path / family)
    model = load_here(folder)
    graph = describe_edge_graph(model, "")
    senders, receivers = labels(graph.senders), labels(graph.receivers)
    paths, other = Paths(folder, CLEAN), Paths(folder, CORRUPTED).run().written
    clean = paths.run()
    assert senders == list(clean.written)
    assert receivers == list(clean.reach)
    assert graph.edge_count == len(list(clean.edges()))
    sets = random_sets(EdgeGraph(model.layout), [*SHARES, 0.02, 0.3, 0.7, 1.0], 5)
    found = sweep_here(model, request_of(masks(sets)))[0]
    expected: list[float] = []
    for changed in sets:
        of_receivers: dict[Node, dict[Node, NDArray[np.float64]]] = {}
        for row, column in np.argwhere(changed):
            of_receivers.setdefault(receivers[column], {})[senders[row]] = other[senders[row]]
        expected.append(difference(paths.run(changed=of_receivers).logits))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(clean.logits).max())


def test_edges_alone_are_direct_paths(llama: LoadedModel, graph: EdgeGraph) -> None:
    """A sender that nothing reaches writes what it writes in the edited run, as in path patching."""
    receivers = ["a2.h3<q>", "a3.h0<k>", "a1.h1<v>", "m2", "logits"]
    senders = ["input", *(f"a{layer}.h{head}" for layer in range(4) for head in range(8)), "m0", "m1", "m2", "m3"]
    from neuroscope.experiments.paths import to_receivers, to_senders

    events = events_here(llama, request_of(to_edge_grid(None, PATCH)))
    (axis,) = events[0].plan.grids[0].axes
    assert (axis.name, events[0].plan.grids[0].component) == ("edge", "edges")
    assert len(axis.labels) == reach(graph).sum()
    found = dict(zip(axis.labels, values_of(events)[0], strict=True))
    compared = 0
    for receiver in receivers:
        reaching = [sender for sender in senders if f"{sender}->{receiver}" in found]
        paths = pb.PathGrid(senders=to_senders(reaching), receivers=to_receivers(receiver), value=PATCH)
        expected = sweep_here(
            llama, pb.RunSweepRequest(pairs=[PAIR], edited_run=pb.SWEPT_RUN_CLEAN, metric=METRIC, paths=[paths])
        )
        np.testing.assert_allclose([found[f"{sender}->{receiver}"] for sender in reaching], expected[0], atol=1e-5)
        compared += len(reaching)
    assert compared > 90


# ------------------------------------------------------------------------------------------------ ways, values, metrics


def test_every_way_gives_the_same(llama: LoadedModel, graph: EdgeGraph) -> None:
    """So do batches of one row, and cells in another order; cells of each edge and of many stand side by side."""
    sets = random_sets(graph, np.linspace(0.001, 1, 12).tolist(), 8)
    pairs = [PAIR, pb.PromptPair(clean=prompt(CORRUPTED), corrupted=prompt(CLEAN))]
    request = request_of(masks(sets), to_edge_grid(["m0->m2", "input->logits"], PATCH), pairs=pairs)
    whole = sweep_here(llama, request)
    for method in (pb.SWEEP_METHOD_PLAIN, pb.SWEEP_METHOD_LAYERS, pb.SWEEP_METHOD_LAYERS_AND_POSITIONS):
        np.testing.assert_allclose(sweep_here(llama, request, method=method), whole, atol=2e-5)
    events = events_here(
        llama,
        pb.RunSweepRequest.FromString(
            request.SerializeToString() + pb.RunSweepRequest(limits=pb.SweepLimits(batch_bytes=1)).SerializeToString()
        ),
    )
    assert events[-1].end.most_rows == 1
    np.testing.assert_allclose(values_of(events), whole, atol=2e-5)
    backwards = request_of(masks(sets[::-1]), pairs=pairs)
    np.testing.assert_allclose(sweep_here(llama, backwards)[:, ::-1], whole[:, :12], atol=2e-5)


def test_what_is_done_is_not_run_again(llama: LoadedModel, graph: EdgeGraph) -> None:
    request = request_of(masks(random_sets(graph, (0.1, 0.2, 0.3, 0.4), 9)))
    whole = sweep_here(llama, request)
    rest = sweep_here(llama, request, done_patches=[0, 2])
    assert np.isnan(rest[0, [0, 2]]).all()
    np.testing.assert_allclose(rest[0, [1, 3]], whole[0, [1, 3]], atol=1e-5)


@pytest.mark.parametrize(
    "value",
    [
        pb.SweepValue(constant=0),
        pb.SweepValue(mean=pb.MeanOfReferences()),
        pb.SweepValue(mean=pb.MeanOfReferences(by_position=True)),
        pb.SweepValue(resample=pb.ResampleReference(seed=4)),
    ],
    ids=["zero", "mean", "mean by position", "resample"],
)
def test_edges_carry_every_value(llama: LoadedModel, graph: EdgeGraph, value: pb.SweepValue) -> None:
    """All edges into the logits: then the last stream is what is written with the value, and the attention's biases."""
    into_logits = reach(graph)
    into_logits[:, :-1] = False
    half = into_logits & (np.arange(len(graph.senders)) % 2 == 0)[:, None]
    direction = np.random.default_rng(5).standard_normal(128).astype(np.float32)
    references = [prompt(CORRUPTED), prompt(CORRUPTED[::-1])]
    events = events_here(
        llama,
        request_of(
            masks(np.stack([into_logits, half, into_logits & ~half]), value),
            pairs=[pb.PromptPair(clean=prompt(CLEAN))],
            references=references,
            metric=projection(direction).message,
        ),
    )
    whole, *parts = values_of(events)[0] - baseline_of(events).clean
    if value.WhichOneof("value") == "resample":
        assert len({float(part) for part in (whole, *parts)}) == 3
        return
    assert sum(parts) == pytest.approx(whole, abs=1e-3), "the logits' input is linear in what is written"
    if value.WhichOneof("value") == "constant":
        assert values_of(events)[0, 0] == pytest.approx(0, abs=1e-4)


METRICS = {
    "probability": pb.Metric(probability=pb.Probability(answers=[pb.TokenChoice(id=ANSWER)])),
    "rank": pb.Metric(rank=pb.Rank(answers=[pb.TokenChoice(id=ANSWER)])),
    "kl": pb.Metric(kl_divergence=pb.KlDivergence(), positions=[3, 8, -1]),
    "normalised": pb.Metric(logit_difference=METRIC.logit_difference, normalised=True),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_sees_the_other_run_behind_all_edges(
    llama: LoadedModel, graph: EdgeGraph, metric: pb.Metric
) -> None:
    sets = np.stack([reach(graph), np.zeros_like(reach(graph)), *random_sets(graph, (0.5,), 1)])
    for run in (pb.SWEPT_RUN_CLEAN, pb.SWEPT_RUN_CORRUPTED):
        events = events_here(llama, request_of(masks(sets), metric=metric, edited_run=run))
        ends = np.array([baseline_of(events).corrupted, baseline_of(events).clean])
        if metric.normalised:
            ends = np.array([0, 1])
        found = values_of(events)[0]
        expected = ends if run == pb.SWEPT_RUN_CLEAN else ends[::-1]
        np.testing.assert_allclose(found[:2], expected, atol=1e-5 * max(1, np.abs(ends).max()))
        assert np.isfinite(found[2])


def test_other_runs_may_be_made_by_noise(llama: LoadedModel, graph: EdgeGraph) -> None:
    pair = pb.PromptPair(clean=inference_pb2.Prompt(text="Once upon a time"), noise=pb.SubjectNoise(subject="upon"))
    events = events_here(llama, request_of(masks(reach(graph)[None]), pairs=[pair]))
    assert baseline_of(events).clean != baseline_of(events).corrupted
    assert values_of(events)[0, 0] == pytest.approx(baseline_of(events).corrupted, abs=1e-4)
    with pytest.raises(InvalidRequestError, match="edit the clean run") as caught:
        events_here(llama, request_of(masks(reach(graph)[None]), pairs=[pair], edited_run=pb.SWEPT_RUN_CORRUPTED))
    assert caught.value.field == "pairs[0].noise"


# ------------------------------------------------------------------------------------------------ what is refused


def cell(**fields: Any) -> pb.EdgeGrid:
    return pb.EdgeGrid(value=PATCH, cells=pb.EdgeCells(cells=[pb.EdgeCell(**fields)]))


def between(senders: list[pb.EdgeSender], receivers: list[pb.EdgeReceiver], **fields: Any) -> pb.EdgeGrid:
    fields.setdefault("each", pb.EachIndex())
    return pb.EdgeGrid(senders=senders, receivers=receivers, value=PATCH, **fields)


def node(kind: Any, component: str, layer: int | None = None, head: int | None = None) -> Any:
    side = site_pb2.SIDE_INPUT if component == "mlp_out" else site_pb2.SIDE_UNSPECIFIED
    return kind(site=site_pb2.Site(component=component, layer=layer, side=side), head=head)


MLP = node(pb.EdgeSender, "mlp_contrib", 1)
LOGITS = node(pb.EdgeReceiver, "logits")
COUNT = 37 * (4 * (8 + 2 * 2 + 1) + 1)


@pytest.mark.parametrize(
    ("edges", "field", "said"),
    [
        (pb.EdgeGrid(value=PATCH), "edges[0]", "each or cells"),
        (pb.EdgeGrid(value=PATCH, cells=pb.EdgeCells()), "edges[0].cells.cells", "no set"),
        (pb.EdgeGrid(each=pb.EachIndex()), "edges[0].value", "missing"),
        (cell(edges=[COUNT]), "edges[0].cells.cells[0].edges", f"edge {COUNT} is out of range"),
        (cell(edges=[COUNT - 2]), "edges[0].cells.cells[0].edges", "no edge leads from m3 to m3"),
        (cell(bitmap=b"12"), "edges[0].cells.cells[0].bitmap", "bytes, not 2"),
        (cell(bitmap=b"1", edges=[0]), "edges[0].cells.cells[0].bitmap", "not both"),
        (between([MLP], [node(pb.EdgeReceiver, "q_proj", 1, 0)]), "edges[0].senders", "no sender reaches"),
        (between([MLP, MLP], [LOGITS]), "edges[0].senders[1]", "twice"),
        (between([node(pb.EdgeSender, "mlp_contrib")], [LOGITS]), "edges[0].senders[0].site.layer", "layer of mlp"),
        (
            between([node(pb.EdgeSender, "attn_out", 1)], [LOGITS]),
            "edges[0].senders[0].site.component",
            "no sender of the graph",
        ),
        (
            between([node(pb.EdgeSender, "head_output", 1, 8)], [LOGITS]),
            "edges[0].senders[0].head",
            "heads 0 to 7",
        ),
        (between([node(pb.EdgeSender, "head_output", 1)], [LOGITS]), "edges[0].senders[0].head", "missing"),
        (between([node(pb.EdgeSender, "mlp_contrib", 1, 0)], [LOGITS]), "edges[0].senders[0].head", "no heads"),
        (between([MLP], [node(pb.EdgeReceiver, "q_proj", 9, 0)]), "edges[0].receivers[0].site", "layer"),
        (between([node(pb.EdgeSender, "nonsense", 1)], [LOGITS]), "edges[0].senders[0].site", "nonsense"),
    ],
)
def test_what_is_no_set_is_refused(llama: LoadedModel, edges: pb.EdgeGrid, field: str, said: str) -> None:
    with pytest.raises(MLXIntegrationError) as caught:
        events_here(llama, request_of(edges))
    assert caught.value.grpc_status.name == "INVALID_ARGUMENT"
    assert caught.value.field.startswith(field), caught.value
    assert said in str(caught.value)


def test_bits_behind_the_last_edge_are_refused(llama: LoadedModel) -> None:
    assert COUNT % 8, "there are such bits"
    with pytest.raises(InvalidRequestError, match="behind the last edge"):
        events_here(llama, request_of(cell(bitmap=bytes(COUNT // 8) + b"\x80")))


def test_sets_do_not_go_on(llama: LoadedModel) -> None:
    generation = pb.SweepGeneration(sampling=inference_pb2.Sampling(max_tokens=2))
    with pytest.raises(InvalidRequestError, match="end with their prompts") as caught:
        events_here(llama, request_of(cell(edges=[1]), generation=generation))
    assert caught.value.field == "generation"


def test_prompts_of_other_lengths_do_not_pair(llama: LoadedModel) -> None:
    pairs = [pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED[:12]))]
    with pytest.raises(InvalidRequestError, match="19 positions are selected in prompt 0 and 12") as caught:
        events_here(llama, request_of(cell(edges=[1]), pairs=pairs))
    assert caught.value.field == "pairs[0]"


def test_too_many_are_refused_with_the_estimate(llama: LoadedModel) -> None:
    request = request_of(to_edge_grid(None, PATCH), limits=pb.SweepLimits(max_patches=100))
    with pytest.raises(ResourceExhaustedError, match="would take about") as caught:
        events_here(llama, request)
    assert caught.value.field == "limits.max_patches"
    request = request_of(to_edge_grid(None, PATCH), limits=pb.SweepLimits(max_seconds=1e-6))
    with pytest.raises(ResourceExhaustedError, match="max_seconds") as caught:
        events_here(llama, request)


def test_numbers_that_are_not_finite_are_refused(llama: LoadedModel) -> None:
    huge = intervention_pb2.Expression(constant=3e38)
    value = pb.SweepValue(
        expression=intervention_pb2.Expression(
            binary=intervention_pb2.BinaryOperation(
                operator=intervention_pb2.BINARY_OPERATOR_MULTIPLY, left=huge, right=huge
            )
        )
    )
    with pytest.raises(MLXIntegrationError, match="not finite"):
        events_here(llama, request_of(pb.EdgeGrid(value=value, each=pb.EachIndex())), ALLOWED)
