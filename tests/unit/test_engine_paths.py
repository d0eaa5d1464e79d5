"""Path patching against forward passes that freeze everything by hooks, on every family.

python -m pytest tests/unit/test_engine_paths.py
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError, MLXIntegrationError
from neuroscope.sites import Point
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.paths.proof import why_no_paths
from tests.support.freezing import hooked, path_patched
from tests.support.loaded import load_here
from tests.support.random_models import FAMILIES, make_model
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
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_here(make_model(request.param, tmp_path_factory.mktemp("families") / request.param))


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
    found = np.zeros((len(SENDERS), len(RECEIVERS)))
    for row, sent in enumerate(SENDERS):
        point = Point(sent.site.component, sent.site.layer)
        _, other = hooked(model, CORRUPTED, {}, [point])
        source = (point, other[point], sent.heads.together.indices, [p % 20 for p in sent.positions.indices])
        for column, read in enumerate(RECEIVERS):
            nodes = [
                (
                    end
                    if node.site.component == "logits"
                    else Point(node.site.component, node.site.layer, node.site.side == site_pb2.SIDE_INPUT),
                    list(node.heads),
                    [p % 20 for p in node.positions.indices],
                )
                for node in read.nodes
            ]
            logits = path_patched(model, CLEAN, source, nodes, recompute_mlps=recompute_mlps)
            found[row, column] = logits[-1, ANSWER] - logits[-1, OTHER]
    return found


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
