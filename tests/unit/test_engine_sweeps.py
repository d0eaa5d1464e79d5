"""Every way to run a sweep gives the plain way's numbers, on every family.

python -m pytest tests/unit/test_engine_sweeps.py
"""

import numpy as np
import pytest

from neuroscope.sites import Point
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import site_pb2
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.proof import fastest
from tests.support.loaded import load_here
from tests.support.random_models import FAMILIES, make_model
from tests.support.sweeping import one_by_one, prompt, sweep_here

_RANDOM = np.random.default_rng(3)
CLEAN = [0, *_RANDOM.integers(5, 500, 19).tolist()]  # longer than the windows of 16
CORRUPTED = [0, *_RANDOM.integers(5, 500, 19).tolist()]
TOLERANCE = 1e-5
METRIC = pb.Metric(logit_difference=pb.LogitDifference(answers=[pb.TokenChoice(id=7)], others=[pb.TokenChoice(id=9)]))
PATCH = pb.SweepValue(other_run=pb.OtherRun())
SITES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "head_output", "mlp_neurons")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_here(make_model(request.param, tmp_path_factory.mktemp("families") / request.param))


def request_of(*grids: pb.SweepGrid, metric: pb.Metric = METRIC) -> pb.RunSweepRequest:
    pair = pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED))
    return pb.RunSweepRequest(pairs=[pair], grids=grids, metric=metric)


def grid(site: str, **fields: object) -> pb.SweepGrid:
    fields = {"positions": one_by_one(0, 3, 12, 18, 19), "value": PATCH} | fields
    return pb.SweepGrid(site=site_pb2.Site(component=site), **fields)  # type: ignore[arg-type]


def test_every_way_gives_the_plain_ways_numbers(model: LoadedModel) -> None:
    grids = [grid(site) for site in SITES if not model.layout.state(Point(site, 1)).reason]
    request = request_of(*grids)
    best = fastest(model)
    plain = sweep_here(model, request, method=pb.SWEEP_METHOD_PLAIN)
    assert np.ptp(plain) > 0.1
    for method in range(pb.SWEEP_METHOD_LAYERS, best.kind + 1):
        fast = sweep_here(model, request, method=method)
        assert np.abs(fast - plain).max() <= TOLERANCE, method
