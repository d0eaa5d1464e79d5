"""Every way to run a sweep gives the plain way's numbers, on every family.

python -m pytest tests/integration/test_engine_sweeps.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps import pair_runner, patch_batches
from neuroscope_inference.engine.sweeps.cells import EditExtent
from neuroscope_inference.engine.sweeps.fastest_method import fastest_method
from neuroscope_inference.engine.sweeps.request import SweepLimits
from tests.support.loaded import load_here
from tests.support.plain_mlx import load_plain, plain_logits
from tests.support.random_models import FAMILIES
from tests.support.sweeping import EACH, events_here, one_by_one, prompt, sweep_here, together, values_of

_RANDOM = np.random.default_rng(3)
CLEAN = [0, *_RANDOM.integers(5, 500, 19).tolist()]  # longer than the windows of 16
CORRUPTED = [0, *_RANDOM.integers(5, 500, 19).tolist()]
REFERENCES = [[0, *_RANDOM.integers(5, 500, length).tolist()] for length in (19, 19, 7)]
TOLERANCE = 1e-5  # of the largest logit difference of a sweep
ANSWER, OTHER = 7, 9
METRIC = pb.Metric(
    logit_difference=pb.LogitDifference(answers=[pb.TokenChoice(id=ANSWER)], others=[pb.TokenChoice(id=OTHER)])
)
PATCH = pb.SweepValue(other_run=pb.OtherRun())
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_output", "mlp_neurons")
FAST = (pb.SWEEP_METHOD_LAYERS, pb.SWEEP_METHOD_LAYERS_AND_POSITIONS)
WITHOUT_PREFIXES = {"llama4"}  # its caches drop what a chunk of attention no longer sees


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, family_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return family_model(request.param)


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> LoadedModel:
    return load_here(llama_dir)


def request_of(*grids: pb.SweepGrid, metric: pb.Metric = METRIC, **fields: Any) -> pb.RunSweepRequest:
    fields.setdefault("pairs", [pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED))])
    return pb.RunSweepRequest(grids=grids, metric=metric, **fields)


def grid(site: str, **fields: Any) -> pb.SweepGrid:
    fields = {"positions": one_by_one(0, 3, 12, 18, 19), "value": PATCH} | fields
    return pb.SweepGrid(site=site_pb2.Site(component=site), **fields)


def agrees(model: LoadedModel, request: pb.RunSweepRequest, *, methods: tuple[int, ...] = FAST) -> Any:
    """The plain way's values, once the other ways have given them."""
    plain = sweep_here(model, request, method=pb.SWEEP_METHOD_PLAIN)
    for method in methods:
        fast = sweep_here(model, request, method=method)
        assert np.abs(fast - plain).max() <= TOLERANCE * max(1.0, np.abs(plain).max()), method
    return plain


# ------------------------------------------------------------------------------------------------ of every family


def test_every_way_gives_the_plain_ways_numbers(model: LoadedModel) -> None:
    places = one_by_one(0, 12, 19)  # the first, one amidst, the last
    grids = [grid(site, positions=places) for site in SITES if not model.layout.state(Point(site, 1)).reason]
    assert len(grids) >= 4
    best = fastest_method(model)
    has_no_prefix = model.description.model_id in WITHOUT_PREFIXES
    assert best.kind == (FAST[0] if has_no_prefix else FAST[1]), best.reason
    assert bool(best.reason) == has_no_prefix
    plain = agrees(model, request_of(*grids), methods=FAST[: 1 if has_no_prefix else 2])
    assert np.ptp(plain) > 0.1


def test_heads_agree_at_all_positions_and_at_one(model: LoadedModel) -> None:
    places = (None, together(-1))
    grids = [grid("head_output", layers=[1, 3], heads=EACH, positions=positions) for positions in places]
    plain = agrees(model, request_of(*grids), methods=(fastest_method(model).kind,))
    assert np.ptp(plain) > 0.01


def test_unedited_runs_are_the_same_whatever_the_way(model: LoadedModel) -> None:
    """To the last bit, and those of mlx-lm."""
    baselines = set[tuple[float, float]]()
    for method in (pb.SWEEP_METHOD_PLAIN, fastest_method(model).kind):
        events = events_here(model, request_of(grid("resid_pre", layers=[0]), method=method))
        (found,) = [event.baseline for event in events if event.HasField("baseline")]
        baselines.add((found.clean, found.corrupted))
    assert len(baselines) == 1
    plain, _ = load_plain(model.folder)
    for tokens, value in zip((CLEAN, CORRUPTED), *baselines, strict=True):
        logits = np.array(plain_logits(plain, tokens)[0, -1].astype(mx.float32))
        assert value == pytest.approx(logits[ANSWER] - logits[OTHER], abs=TOLERANCE * float(np.abs(logits).max()))


# ------------------------------------------------------------------------------------------------ values and metrics

METRICS = {
    "log_probability": pb.Metric(log_probability=pb.LogProbability(answers=[pb.TokenChoice(id=ANSWER)])),
    "probability": pb.Metric(probability=pb.Probability(answers=[pb.TokenChoice(id=ANSWER)]), positions=[-2]),
    "rank": pb.Metric(rank=pb.Rank(answers=[pb.TokenChoice(id=ANSWER)])),
    "kl_divergence": pb.Metric(kl_divergence=pb.KlDivergence(), positions=[-1, 12]),
    "cross_entropy": pb.Metric(cross_entropy=pb.CrossEntropy()),
    "normalised": pb.Metric(logit_difference=METRIC.logit_difference, normalised=True),
}


def expected_scores(logits: Any, clean: Any, tokens: list[int]) -> dict[str, Any]:
    """Of one run's logits (positions, vocabulary), by numpy in float64."""

    def log_softmax(x: Any) -> Any:
        x = x - x.max(axis=-1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    own, its = log_softmax(logits), log_softmax(clean)
    divergence = (np.exp(its) * (its - own)).sum(axis=-1)
    return {
        "log_probability": own[-1, ANSWER],
        "probability": np.exp(own[-2, ANSWER]),
        "rank": (logits[-1] > logits[-1, ANSWER]).sum(),
        "kl_divergence": (divergence[-1] + divergence[12]) / 2,
        "cross_entropy": -np.mean([own[place, tokens[place + 1]] for place in range(len(tokens) - 1)]),
    }


def test_metrics_are_those_of_numpy(llama: LoadedModel) -> None:
    plain, _ = load_plain(llama.folder)
    runs = [np.array(plain_logits(plain, tokens)[0], np.float64) for tokens in (CLEAN, CORRUPTED)]
    wanted = [expected_scores(run, runs[0], ids) for run, ids in zip(runs, (CLEAN, CORRUPTED), strict=True)]
    for name, metric in METRICS.items():
        if name != "normalised":
            events = events_here(llama, request_of(grid("resid_pre", layers=[0]), metric=metric))
            (found,) = [event.baseline for event in events if event.HasField("baseline")]
            assert found.clean == pytest.approx(wanted[0][name], rel=1e-4, abs=1e-6), name
            assert found.corrupted == pytest.approx(wanted[1][name], rel=1e-4, abs=1e-6), name


def test_a_sum_of_metrics_is_that_of_their_values(llama: LoadedModel) -> None:
    from neuroscope.experiments import Metric, kl_divergence, log_prob, logit_diff

    parts = [logit_diff(ANSWER, OTHER), log_prob(ANSWER), kl_divergence()]
    whole = 2.0 * parts[0] - parts[1] + parts[2] * 0.5
    found = [sweep_here(llama, request_of(grid("mlp_out"), metric=part.message)) for part in [*parts, whole]]
    np.testing.assert_allclose(found[3], 2 * found[0] - found[1] + 0.5 * found[2], atol=1e-4)
    agrees(llama, request_of(grid("mlp_out"), metric=whole.at(-1, -3).normalised().message))
    term = pb.WeightedMetric(weight=1, metric=METRIC)
    for terms, said in (
        ([], "at least one"),
        ([pb.WeightedMetric(weight=float("inf"), metric=METRIC)], "finite"),
        ([pb.WeightedMetric(weight=1)], "missing"),
        ([pb.WeightedMetric(weight=1, metric=parts[0].at(-1).message)], "of all its terms"),
        ([pb.WeightedMetric(weight=1, metric=whole.message)], "no sum itself"),
        ([term, pb.WeightedMetric(weight=1, metric=pb.Metric(cross_entropy=pb.CrossEntropy()))], "names its positions"),
    ):
        metric = Metric(pb.Metric(weighted_sum=pb.WeightedSum(terms=terms)))
        with pytest.raises(InvalidRequestError, match=said):
            sweep_here(llama, request_of(grid("mlp_out"), metric=metric.message))


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_agrees(llama: LoadedModel, name: str) -> None:
    agrees(llama, request_of(grid("resid_pre"), grid("mlp_out"), metric=METRICS[name]))


def test_a_projection_agrees_and_is_a_dot_product(llama: LoadedModel) -> None:
    from neuroscope.experiments import projection

    direction = np.random.default_rng(5).standard_normal(128).astype(np.float32)
    metric = projection(direction).message
    agrees(llama, request_of(grid("resid_pre"), metric=metric))
    whole = sweep_here(llama, request_of(grid("resid_post", layers=[-1], positions=None), metric=metric))
    events = events_here(llama, request_of(grid("resid_post", layers=[-1], positions=None), metric=metric))
    assert whole[0, 0] == pytest.approx(events[1].baseline.clean, rel=1e-5)  # the other run's stream, put there whole


@pytest.mark.parametrize(
    "value",
    [
        pb.SweepValue(constant=0),
        pb.SweepValue(mean=pb.MeanOfReferences()),
        pb.SweepValue(resample=pb.ResampleReference(seed=4)),
        pb.SweepValue(noise=intervention_pb2.Noise(seed=1, standard_deviation=0.5)),
        pb.SweepValue(
            expression=intervention_pb2.Expression(
                clamp=intervention_pb2.Clamp(
                    operand=intervention_pb2.Expression(activation=intervention_pb2.Activation()), minimum=0
                )
            )
        ),
    ],
    ids=lambda value: value.WhichOneof("value"),
)
def test_every_value_agrees(llama: LoadedModel, value: pb.SweepValue) -> None:
    references = [prompt(ids) for ids in REFERENCES[:2]]
    grids = [grid("head_output", heads=one_by_one(1, 6), value=value), grid("resid_post", value=value)]
    assert np.ptp(agrees(llama, request_of(*grids, references=references))) > 0.01


def test_a_mean_is_that_of_all_tokens(llama: LoadedModel) -> None:
    """The mean at the first layer's MLP, put at one position, equals the same numbers as a tensor."""
    from neuroscope.interventions.expressions import tensor
    from tests.support.loaded import capture_here

    seen = [capture_here(llama, ids)[Point("mlp_out", 0)][0] for ids in REFERENCES]
    mean = np.concatenate(seen).mean(axis=0, dtype=np.float64).astype(np.float32)
    by_mean = grid("mlp_out", layers=[0], value=pb.SweepValue(mean=pb.MeanOfReferences()))
    by_tensor = grid("mlp_out", layers=[0], value=pb.SweepValue(expression=tensor(mean).message))
    found = sweep_here(llama, request_of(by_mean, by_tensor, references=[prompt(ids) for ids in REFERENCES]))
    np.testing.assert_allclose(found[0, :5], found[0, 5:], atol=1e-5)


def test_units_are_edited_alone(llama: LoadedModel) -> None:
    """All neurons together are the whole; one that is put where it was changes nothing."""
    zero = pb.SweepValue(constant=0)
    whole = grid("mlp_neurons", layers=[2], positions=None, value=zero)
    every = grid("mlp_neurons", layers=[2], positions=None, units=together(*range(320)), value=zero)
    some = grid("mlp_neurons", layers=[2], positions=None, units=one_by_one(0, 5, -1), value=zero)
    found = agrees(llama, request_of(whole, every, some))[0]
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert len({round(float(value), 4) for value in found}) > 3


def test_cells_of_several_edits_agree(llama: LoadedModel) -> None:
    def edit(component: str, layer: int, position: int) -> intervention_pb2.Intervention:
        select = site_pb2.Selector()
        select.positions.list.positions.append(position)
        other = intervention_pb2.Expression(other_row=intervention_pb2.OtherRow(row=0))
        site = site_pb2.Site(component=component, layer=layer)
        return intervention_pb2.Intervention(site=site, select=select, value=other)

    cells = [
        pb.SweepCell(name="two layers", interventions=[edit("resid_pre", 3, 5), edit("mlp_out", 1, 9)]),
        pb.SweepCell(interventions=[edit("attn_out", 3, -1), edit("resid_post", 3, -1)]),
        pb.SweepCell(interventions=[edit("embedding", 0, 4)]),
        pb.SweepCell(interventions=[edit("final_norm", 0, -1)]),
        pb.SweepCell(interventions=[edit("logits", 0, -1)]),
        pb.SweepCell(interventions=[edit("value", 2, 3), edit("q_proj", 3, -1), edit("key", 3, 1)]),
        pb.SweepCell(interventions=[edit("attention_pattern", 3, -1)]),
    ]
    for cell in cells[2:5]:
        cell.interventions[0].site.ClearField("layer")
    found = agrees(llama, request_of(cells=cells))[0]
    events = events_here(llama, request_of(cells=cells))
    assert list(events[0].plan.grids[0].axes[0].labels)[:2] == ["two layers", "cell 1"]
    assert found[4] == pytest.approx(events[1].baseline.clean, abs=1e-5)  # the clean run's logits


def test_patching_everything_gives_the_other_run(llama: LoadedModel) -> None:
    events = events_here(llama, request_of(grid("resid_pre", layers=[0], positions=None)))
    assert values_of(events)[0, 0] == pytest.approx(events[1].baseline.clean, abs=1e-5)


def test_the_clean_run_can_be_the_one_that_is_edited(llama: LoadedModel) -> None:
    request = request_of(grid("resid_pre", layers=[0], positions=None), edited_run=pb.SWEPT_RUN_CLEAN)
    events = events_here(llama, request)
    assert values_of(events)[0, 0] == pytest.approx(events[1].baseline.corrupted, abs=1e-5)


def test_pairs_of_other_lengths(llama: LoadedModel) -> None:
    short = pb.PromptPair(clean=prompt(CLEAN[:9]), corrupted=prompt(CORRUPTED[:12]))
    pairs = [pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED)), short]
    found = agrees(llama, request_of(grid("resid_pre", positions=one_by_one(-1, -4)), pairs=pairs))
    assert found.shape == (2, 8)


# ------------------------------------------------------------------------------------------------ how it runs


def test_what_is_done_is_not_run_again(llama: LoadedModel) -> None:
    request = request_of(grid("resid_pre"))
    whole = sweep_here(llama, request)
    rest = sweep_here(llama, request, done_patches=[0, 7])
    assert np.flatnonzero(np.isnan(rest)).tolist() == [0, 7]
    np.testing.assert_allclose(np.delete(rest, [0, 7]), np.delete(whole, [0, 7]), atol=1e-5)


def test_rows_keep_to_the_memory_that_they_may_take(llama: LoadedModel) -> None:
    request = request_of(grid("head_output", heads=EACH, positions=None))
    one = events_here(llama, request, SweepLimits(64, 1000, 1))
    assert one[-1].end.most_rows == 1
    some = events_here(llama, request)
    assert some[-1].end.most_rows > 1
    assert some[0].plan.batch_bytes <= 2**28
    np.testing.assert_allclose(values_of(one), values_of(some), atol=1e-5)


def test_events_come_in_order(llama: LoadedModel) -> None:
    events = events_here(llama, request_of(grid("resid_pre")))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["plan", "baseline"]
    assert kinds[-1] == "end"
    assert {"values", "progress"} == set(kinds[2:-1])
    done = [event.progress.patches_done for event in events if event.HasField("progress")]
    assert done == sorted(done)
    assert done[-1] == events[-1].end.patches_done == events[0].plan.patch_count == 20
    shape = events[0].plan.grids[0]
    assert [(axis.name, list(axis.indices)) for axis in shape.axes] == [
        ("layer", [0, 1, 2, 3]),
        ("position", [0, 3, 12, 18, 19]),
    ]


def test_short_memory_halves_a_batch(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from neuroscope_inference.engine.memory import OutOfMemoryError

    run_batch = pair_runner.run_batch

    def short(*args: Any, **kwargs: Any) -> Any:
        if len(args[3]) > 2:
            raise OutOfMemoryError("no room")
        return run_batch(*args, **kwargs)

    request = request_of(grid("resid_pre"))
    whole = sweep_here(llama, request)
    monkeypatch.setattr(pair_runner, "run_batch", short)
    events = events_here(llama, request)
    assert events[-1].end.most_rows <= 2
    np.testing.assert_allclose(values_of(events), whole, atol=1e-5)


def test_groups_share_a_batch_only_where_that_saves_work(llama: LoadedModel) -> None:
    costs = patch_batches.Costs(llama, 1)
    assert costs.row(EditExtent(0, 0), 20) > costs.row(EditExtent(2, 0), 20) > costs.row(EditExtent(3, 16), 4)
    assert costs.plain(20) > costs.row(EditExtent(0, 0), 20)


def test_a_model_that_breaks_an_assumption_runs_one_by_one(llama_dir: Path) -> None:
    """Here a block that mixes rows."""
    model = load_here(llama_dir)
    block = model.layout.blocks[2].module
    hooked: Any = block._neuroscope_hook

    def mixing(module: Any, call: Any, args: Any, kwargs: Any) -> Any:
        out = hooked(module, call, args, kwargs)
        return out - out.mean(axis=0, keepdims=True) if out.shape[0] > 1 else out

    object.__setattr__(block, "_neuroscope_hook", mixing)
    method = fastest_method(model)
    assert method.kind == pb.SWEEP_METHOD_PLAIN
    assert "off by" in method.reason
    events = events_here(model, request_of(grid("resid_pre", layers=[1])))
    assert events[0].plan.method == pb.SWEEP_METHOD_PLAIN
    assert events[0].plan.reason == method.reason
