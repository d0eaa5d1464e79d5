"""Path patching against forward passes that freeze everything by hooks, on every family.

python -m pytest tests/integration/test_engine_paths.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.support import why_no_paths
from tests.support.freezing import hooked, path_patched
from tests.support.loaded import load_here
from tests.support.random_models import FAMILIES
from tests.support.sweeping import EACH, events_here, one_by_one, prompt, sweep_here, together, values_of

_RANDOM = np.random.default_rng(7)
CLEAN = [0, *_RANDOM.integers(5, 500, 19).tolist()]  # longer than the windows of 16
CORRUPTED = [0, *_RANDOM.integers(5, 500, 19).tolist()]
TOLERANCE = 1e-5  # of the largest value
ANSWER, OTHER = 7, 9
METRIC = pb.Metric(
    logit_difference=pb.LogitDifference(answers=[pb.TokenChoice(id=ANSWER)], others=[pb.TokenChoice(id=OTHER)])
)
PATCH = pb.SweepValue(other_run=pb.OtherRun())


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, family_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return family_model(request.param)


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> LoadedModel:
    return load_here(llama_dir)


def sender(component: str, layer: int | None = None, **fields: Any) -> pb.PathSender:
    return pb.PathSender(site=site_pb2.Site(component=component, layer=layer), **fields)


def receiver(component: str, layer: int | None = None, **fields: Any) -> pb.PathReceiver:
    side = site_pb2.SIDE_INPUT if component == "mlp_out" else site_pb2.SIDE_UNSPECIFIED
    return pb.PathReceiver(site=site_pb2.Site(component=component, layer=layer, side=side), **fields)


def entry(*nodes: pb.PathReceiver, name: str = "") -> pb.PathReceivers:
    return pb.PathReceivers(nodes=nodes, name=name)


def request_of(*paths: pb.PathGrid, **fields: Any) -> pb.RunSweepRequest:
    fields.setdefault("pairs", [pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED))])
    fields.setdefault("edited_run", pb.SWEPT_RUN_CLEAN)
    fields.setdefault("metric", METRIC)
    return pb.RunSweepRequest(paths=paths, **fields)


def grid(senders: list[pb.PathSender], receivers: list[pb.PathReceivers], **fields: Any) -> pb.PathGrid:
    fields.setdefault("value", PATCH)
    return pb.PathGrid(senders=senders, receivers=receivers, **fields)


SENDERS = [
    sender("resid_pre", 0),
    sender("head_output", 0, heads=together(1)),
    sender("head_output", 1, heads=together(0), positions=pb.Indices(indices=[3, -2])),
    sender("attn_out", 1),
    sender("mlp_out", 0),
]
RECEIVERS = [
    entry(receiver("q_proj", 2, heads=[1])),
    entry(receiver("k_proj", 3, heads=[0])),
    entry(receiver("value", 2, heads=[0], positions=pb.Indices(indices=[1, 3, 18]))),
    entry(receiver("mlp_out", 2)),
    entry(receiver("logits")),
    entry(receiver("q_proj", 2, heads=[0, 3]), receiver("value", 3), receiver("mlp_out", 2), name="all of it"),
]


def expected(model: LoadedModel, *, recompute_mlps: bool) -> np.ndarray[Any, Any]:
    """By the plain way, (senders, receivers); every sender gets what the corrupted run has."""
    end = Point("resid_post", model.layout.num_layers - 1)
    paths = [
        [
            (
                end
                if node.site.component == "logits"
                else Point(node.site.component, node.site.layer, node.site.side == site_pb2.SIDE_INPUT),
                list(node.heads),
                [p % 20 for p in node.positions.indices],
            )
            for node in read.nodes
        ]
        for read in RECEIVERS
    ]
    points = [Point(sent.site.component, sent.site.layer) for sent in SENDERS]
    _, other = hooked(model, CORRUPTED, {}, points)
    found: list[list[float]] = []
    for point, sent in zip(points, SENDERS, strict=True):
        source = (point, other[point], sent.heads.together.indices, [p % 20 for p in sent.positions.indices])
        runs = path_patched(model, CLEAN, source, paths, recompute_mlps=recompute_mlps)
        found.append([float(logits[-1, ANSWER] - logits[-1, OTHER]) for logits in runs])
    return np.array(found)


# ------------------------------------------------------------------------------------------------ of every family


@pytest.mark.parametrize("recompute_mlps", [False, True], ids=["frozen", "recomputed"])
def test_paths_are_those_of_frozen_forward_passes(model: LoadedModel, recompute_mlps: bool) -> None:
    assert why_no_paths(model) == ""
    events = events_here(model, request_of(grid(SENDERS, RECEIVERS, recompute_mlps=recompute_mlps)))
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    found = values_of(events).reshape(len(SENDERS), len(RECEIVERS))
    wanted = expected(model, recompute_mlps=recompute_mlps)
    logits, _ = hooked(model, CLEAN, {}, [])
    scale = float(mx.abs(logits.astype(mx.float32)).max())
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * scale)
    effects = np.abs(wanted - baseline.clean)
    assert (effects.max(axis=1) > 20 * TOLERANCE * scale).all(), "paths of some sender do nothing: nothing is tested"


# ------------------------------------------------------------------------------------------------ what else there is


def test_every_way_gives_the_same(llama: LoadedModel) -> None:
    request = request_of(grid(SENDERS, RECEIVERS))
    plain = sweep_here(llama, request, method=pb.SWEEP_METHOD_PLAIN)
    for method in (pb.SWEEP_METHOD_LAYERS, pb.SWEEP_METHOD_LAYERS_AND_POSITIONS):
        np.testing.assert_allclose(sweep_here(llama, request, method=method), plain, atol=1e-5)


def test_one_path_of_all_senders_is_the_other_run(llama: LoadedModel) -> None:
    """Everything that is written, read by the logits one sender at a time, adds up to the other run's stream."""
    direction = np.random.default_rng(5).standard_normal(128).astype(np.float32)
    from neuroscope.experiments import projection

    senders = [sender("resid_pre", 0), sender("head_output", heads=EACH), sender("mlp_out")]
    request = request_of(grid(senders, [entry(receiver("logits"))]), metric=projection(direction).message)
    events = events_here(llama, request)
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    effects = values_of(events)[0] - baseline.clean
    assert len(effects) == 1 + 4 * 8 + 4
    assert effects.sum() == pytest.approx(baseline.corrupted - baseline.clean, rel=1e-3)


@pytest.mark.parametrize(
    "value",
    [
        pb.SweepValue(constant=0),
        pb.SweepValue(mean=pb.MeanOfReferences()),
        pb.SweepValue(resample=pb.ResampleReference(seed=4)),
        pb.SweepValue(noise=intervention_pb2.Noise(seed=1, standard_deviation=0.5)),
    ],
    ids=lambda value: value.WhichOneof("value"),
)
def test_senders_take_every_value(llama: LoadedModel, value: pb.SweepValue) -> None:
    paths = grid([sender("mlp_out", 0)], [entry(receiver("q_proj", 2)), entry(receiver("logits"))], value=value)
    request = request_of(paths, pairs=[pb.PromptPair(clean=prompt(CLEAN))], references=[prompt(CORRUPTED)])
    events = events_here(llama, request)
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    assert (np.abs(values_of(events)[0] - baseline.clean) > 1e-4).all()
    if value.WhichOneof("value") == "constant":
        point = Point("mlp_out", 0)
        _, seen = hooked(llama, CLEAN, {}, [point])
        zero = (point, mx.zeros_like(seen[point]), (), ())
        (logits,) = path_patched(llama, CLEAN, zero, [[(Point("q_proj", 2), (), ())]])
        assert values_of(events)[0, 0] == pytest.approx(logits[-1, ANSWER] - logits[-1, OTHER], abs=1e-5)


def test_open_layers_are_those_that_reach(llama: LoadedModel) -> None:
    paths = grid([sender("head_output", heads=EACH), sender("mlp_out")], [entry(receiver("q_proj", 2, heads=[3]))])
    shape = events_here(llama, request_of(paths))[0].plan.grids[0]
    assert shape.component == "paths"
    assert [axis.name for axis in shape.axes] == ["sender", "receiver"]
    assert list(shape.axes[0].labels) == [f"a{layer}.h{head}" for layer in (0, 1) for head in range(8)] + ["m0", "m1"]
    assert list(shape.axes[1].labels) == ["a2.h3<q>"]


LOGITS = entry(receiver("logits"))
QUERIES = entry(receiver("q_proj", 1))


@pytest.mark.parametrize(
    ("paths", "field", "said"),
    [
        (grid([], [LOGITS]), "paths[0].senders", "begins with a sender"),
        (grid([sender("mlp_out")], []), "paths[0].receivers", "ends with a receiver"),
        (grid([sender("mlp_out")], [entry()]), "paths[0].receivers[0].nodes", "no receiver"),
        (grid([sender("mlp_out", 1)], [QUERIES]), "paths[0].senders[0]", "m1 writes behind what a1<q> reads"),
        (grid([sender("head_output", 3)], [LOGITS, QUERIES]), "paths[0].senders[0]", "receivers[1]"),
        (grid([sender("mlp_out")], [entry(receiver("q_proj", 0))]), "paths[0].senders[0]", "no path leads"),
        (
            grid([sender("head_output", 0, heads=one_by_one(8))], [LOGITS]),
            "paths[0].senders[0].heads",
            "heads 0 to 7",
        ),
        (
            grid([sender("mlp_out", 0)], [entry(receiver("k_proj", 1, heads=[5]))]),
            "paths[0].receivers[0].nodes[0].heads",
            "k_proj",
        ),
        (grid([sender("mlp_out", 0, heads=EACH)], [LOGITS]), "paths[0].senders[0].heads", "no heads"),
        (grid([sender("resid_post", 0)], [LOGITS]), "paths[0].senders[0].site.component", "sends no path"),
        (grid([sender("embedding")], [LOGITS]), "paths[0].senders[0].site.component", "resid_pre of layer 0"),
        (grid([sender("resid_pre", 2)], [LOGITS]), "paths[0].senders[0].site.component", "layer 0"),
        (grid([sender("mlp_out", 0)], [entry(receiver("attn_out", 2))]), "paths[0].receivers[0]", "receives no path"),
        (grid([sender("mlp_out", 0)], [entry(receiver("q_proj"))]), "paths[0].receivers[0]", "layer of q_proj"),
        (
            grid([sender("mlp_out", 0)], [entry(receiver("logits"), receiver("q_proj", 2))]),
            "paths[0].receivers[0].nodes[0]",
            "entry of their own",
        ),
        (
            grid([sender("mlp_out", 0)], [entry(receiver("q_proj", 2), receiver("q_proj", 2, heads=[1]))]),
            "paths[0].receivers[0].nodes[1]",
            "twice",
        ),
        (grid([sender("mlp_out", 0)], [LOGITS], value=None), "paths[0].value", "missing"),
        (
            grid([sender("mlp_out", 0, positions=pb.Indices(indices=[20]))], [LOGITS]),
            "paths[0].senders",
            "position 20",
        ),
        (
            grid(
                [sender("mlp_out", 0, positions=pb.Indices(indices=[2]))],
                [entry(receiver("logits", positions=pb.Indices(indices=[3])))],
            ),
            "paths[0].receivers[0]",
            "other positions",
        ),
    ],
)
def test_what_is_no_path_is_refused(llama: LoadedModel, paths: pb.PathGrid, field: str, said: str) -> None:
    with pytest.raises(MLXIntegrationError) as caught:
        events_here(llama, request_of(paths))
    assert caught.value.grpc_status.name == "INVALID_ARGUMENT"
    assert caught.value.field.startswith(field), caught.value
    assert said in str(caught.value)


def test_prompts_of_other_lengths_do_not_pair(llama: LoadedModel) -> None:
    pairs = [pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED[:12]))]
    with pytest.raises(InvalidRequestError, match="20 positions are selected in prompt 0 and 12") as caught:
        events_here(llama, request_of(grid([sender("mlp_out", 0)], [LOGITS]), pairs=pairs))
    assert caught.value.field == "paths[0].senders.positions"
