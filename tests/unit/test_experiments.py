"""neuroscope.experiments: sweeps as they are written, and results as they are read; no service runs."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError, StreamingError, UnknownSiteError
from neuroscope.experiments import (
    EACH,
    Experiment,
    Metric,
    SweepResult,
    cross_entropy,
    kl_divergence,
    log_prob,
    logit_diff,
    mean,
    other_run,
    prob,
    projection,
    rank,
    resample,
    together,
)
from neuroscope.experiments.baselines import Baselines
from neuroscope.experiments.patching import Patching, ablation, patching
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2

METRIC = logit_diff(" Mary", " John")


def given(experiment: Experiment, **how: Any) -> tuple[Experiment, dict[str, Any]]:
    return experiment, how


def begun(clean: Any = "a b", corrupted: Any = "a c", into: str = "corrupted") -> Patching[Any]:
    return patching(clean, corrupted, given, into=into, model_id="m", bos=None)


def request_of(written: Patching[Any], metric: Metric = METRIC) -> pb.RunSweepRequest:
    return written.run(metric)[0].request


def test_a_sentence_is_a_request() -> None:
    request = request_of(begun().residual().heads(layers=[1, -1], positions=-1).neurons(2, [0, 5], value=0))
    stream, heads, neurons = request.grids
    assert (request.model_id, request.edited_run) == ("m", pb.SWEPT_RUN_CORRUPTED)
    assert (stream.site.component, stream.positions.WhichOneof("cells")) == ("resid_pre", "each")
    assert stream.value.HasField("other_run")
    assert not stream.HasField("heads")
    assert (list(heads.layers), heads.heads.WhichOneof("cells")) == ([1, -1], "each")
    assert list(heads.positions.together.indices) == [-1]
    assert (list(neurons.layers), list(neurons.units.one_by_one.indices)) == ([2], [0, 5])
    assert neurons.value.constant == 0
    assert request.metric.logit_difference.answers[0].text == " Mary"


def test_a_beginning_can_be_used_twice() -> None:
    beginning = begun()
    assert len(request_of(beginning.residual()).grids) == len(request_of(beginning.heads()).grids) == 1


def test_arguments_of_the_run_go_on() -> None:
    _, how = begun().residual().run(METRIC, progress=True)
    assert how == {"progress": True}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (other_run(), "other_run"),
        (1, "constant"),
        (mean(by_position=True), "mean"),
        (resample(3), "resample"),
        (np.ones(4, np.float32), "expression"),
        (lambda act: 2 * act, "expression"),
    ],
)
def test_values(value: Any, kind: str) -> None:
    (grid,) = request_of(begun().mlps(value=value)).grids
    assert grid.value.WhichOneof("value") == kind


def test_ablation_edits_the_clean_run() -> None:
    request = request_of(ablation(["a", "b"], given, value=0.0, model_id="", bos=None).heads().references("c"))
    assert request.edited_run == pb.SWEPT_RUN_CLEAN
    assert [pair.HasField("corrupted") for pair in request.pairs] == [False, False]
    assert request.grids[0].value.WhichOneof("value") == "constant"
    assert request.references[0].text == "c"


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        (METRIC, "logit_difference"),
        (log_prob(3), "log_probability"),
        (prob([3, " a"]), "probability"),
        (rank(np.int64(3)), "rank"),  # type: ignore[arg-type]
        (kl_divergence(), "kl_divergence"),
        (cross_entropy(), "cross_entropy"),
        (projection(np.ones(4)), "projection"),
    ],
)
def test_metrics(metric: Metric, kind: str) -> None:
    assert metric.name == kind
    changed = metric.at(-1, 2).normalised()
    assert list(changed.message.positions) == [-1, 2]
    assert changed.message.normalised
    assert not metric.message.positions  # a value does not change


MISTAKES = {
    "another run": (lambda: begun(into="both"), "into"),
    "unequal batches": (lambda: begun(["a", "b"], ["c"]), "corrupted"),
    "another word than each": (lambda: begun().heads(heads="all"), "heads"),  # type: ignore[arg-type]
    "no indices": (lambda: begun().heads(heads=[]), "heads"),
    "indices that are none": (lambda: begun().heads(layers=["a"]), "layers"),  # type: ignore[list-item]
    "together nothing": (lambda: begun().heads(positions=together()), "positions"),
    "another place in the stream": (lambda: begun().residual(where="after"), "where"),  # type: ignore[arg-type]
    "another method": (lambda: begun().residual().run(METRIC, method="magic"), "method"),
    "a token that is none": (lambda: prob(-1), "metric.answer"),
    "a truth as a token": (lambda: prob(True), "metric.answer"),
    "heads in a value": (lambda: begun().mlps(value=lambda act: act.heads[3]), "value"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_their_argument(name: str) -> None:
    write, field = MISTAKES[name]
    with pytest.raises(InvalidRequestError) as caught:
        write()  # type: ignore[no-untyped-call]
    assert caught.value.field == field


def test_an_unknown_component_names_its_neighbours() -> None:
    with pytest.raises(UnknownSiteError, match="resid_pre"):
        begun().site("resid_per")


def test_an_experiment_is_json(tmp_path: Path) -> None:
    experiment = begun([[1, 2]], [[1, 3]]).residual().scored_by(METRIC.normalised())
    assert Experiment.from_json(experiment.to_json()) == experiment
    experiment.save(tmp_path / "e.json")
    assert Experiment.load(tmp_path / "e.json") == experiment
    assert "1 pair, resid_pre, logit_difference" in repr(experiment)


@pytest.mark.parametrize("value", [{"grids": 3}, {"nothing": 1}, {"pairs": [{"clean": {"text": 5}}]}])
def test_what_is_no_experiment(value: Any) -> None:
    with pytest.raises(InvalidRequestError):
        Experiment.from_json(value)


def test_a_file_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.json").write_text("hello")
    for name in ("list.json", "text.json", "nowhere.json"):
        with pytest.raises(InvalidRequestError):
            Experiment.load(tmp_path / name)
        with pytest.raises(InvalidRequestError):
            SweepResult.load(tmp_path / name)


# ------------------------------------------------------------------------------------------------ results


def plan(pairs: int = 1) -> pb.SweepPlan:
    def axis(name: str, count: int) -> pb.GridAxis:
        return pb.GridAxis(name=name, indices=range(count))

    tokens = pb.PairTokens(clean=inference_pb2.TokenIds(ids=[1, 2]), corrupted=inference_pb2.TokenIds(ids=[1, 3]))
    return pb.SweepPlan(
        cell_count=8,
        grids=[
            pb.GridShape(component="resid_pre", axes=[axis("layer", 2), axis("position", 3)]),
            pb.GridShape(first_cell=6, axes=[pb.GridAxis(name="cell", indices=[0, 1], labels=["one", "two"])]),
        ],
        edited_run=pb.SWEPT_RUN_CORRUPTED,
        pairs=[tokens] * pairs,
    )


def filled(pairs: int = 1, *, until: int | None = None) -> SweepResult:
    result = SweepResult(begun().residual().scored_by(METRIC))
    result.feed(pb.RunSweepResponse(plan=plan(pairs)))
    for pair in range(pairs):
        baseline = pb.PairBaseline(pair=pair, clean=10.0 + pair, corrupted=2.0)
        result.feed(pb.RunSweepResponse(baseline=baseline))
    numbers = list(range(8 * pairs))[::-1][:until]
    values = pb.SweepValues(patches=numbers, values=[float(number) for number in numbers])
    result.feed(pb.RunSweepResponse(values=values))
    if until is None:
        result.feed(pb.RunSweepResponse(end=pb.SweepEnd(patches_done=len(numbers))))
        result.finish()
    return result


def test_values_lie_where_their_patches_say() -> None:
    result = filled()
    assert result.names == ["resid_pre", "cells"]
    np.testing.assert_array_equal(result["resid_pre"], np.arange(6).reshape(2, 3))
    assert result["cells"].coords == {"cell": ["one", "two"]}
    assert result["cells"].sel(cell="two").values == 7
    assert result["resid_pre"].sel(layer=1, position=[0, 2]).values.tolist() == [3, 5]
    assert result.edited_tokens == [1, 3]


def test_scales() -> None:
    scores = filled()["resid_pre"]
    assert scores.normalised().values[0, 2] == 0  # as the corrupted run, which scores 2
    assert scores.normalised().sel(layer=1, position=2).values == pytest.approx(3 / 8)
    assert scores.effects().values[0, 2] == 0
    assert scores.top(1) == [({"layer": 1, "position": 2}, 5.0)]
    assert scores.normalised().normalised().is_normalised


def test_pairs_are_an_axis_and_each_has_its_scale() -> None:
    scores = filled(2)["resid_pre"]
    assert scores.dims == ("pair", "layer", "position")
    np.testing.assert_allclose(scores.normalised().values[1], (scores.values[1] - 2) / 9)
    assert scores.sel(pair=1).normalised().dims == ("layer", "position")
    np.testing.assert_allclose(scores.sel(pair=1).normalised(), scores.normalised().values[1])
    assert scores.mean("pair").sizes == {"layer": 2, "position": 3}


def test_a_result_that_is_incomplete_asks_for_the_rest(tmp_path: Path) -> None:
    result = filled(until=5)
    assert not result.is_complete
    with pytest.raises(StreamingError):
        result.finish()
    assert list(result.request().done_patches) == [3, 4, 5, 6, 7]
    result.save(tmp_path / "r.json")
    kept = SweepResult.load(tmp_path / "r.json")
    assert list(kept.request().done_patches) == [3, 4, 5, 6, 7]
    kept.feed(pb.RunSweepResponse(plan=plan()))
    kept.feed(pb.RunSweepResponse(values=pb.SweepValues(patches=[0, 1, 2], values=[0.0, 1.0, 2.0])))
    assert kept.is_complete
    with pytest.raises(StreamingError, match="another sweep"):
        kept.feed(pb.RunSweepResponse(plan=plan(2)))


def test_questions_that_have_no_answer() -> None:
    result = filled()
    for ask in (
        lambda: result["nothing"],
        lambda: result.scores,
        lambda: result["cells"].sel(layer=0),
        lambda: result["cells"].sel(cell="three"),
        lambda: SweepResult(result.experiment)["resid_pre"],
    ):
        with pytest.raises(InvalidRequestError):
            ask()


def test_tables_and_pictures(tmp_path: Path) -> None:
    from neuroscope.viz.tables import as_text

    result = filled(2)
    assert "resid_pre" in as_text(result.table())
    assert "position" in as_text(result["resid_pre"].table())
    for name in result.names:
        result[name].plot(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_a_dataframe_or_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = filled()["resid_pre"]

    class Pandas:
        DataFrame = dict

    monkeypatch.setattr(importlib, "import_module", lambda name: Pandas)
    assert scores.to_dataframe() == {
        "layer": [0, 0, 0, 1, 1, 1],
        "position": [0, 1, 2, 0, 1, 2],
        "value": pytest.approx(np.arange(6)),
    }

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InvalidRequestError, match="pandas"):
        scores.to_dataframe()


def test_each_is_a_word() -> None:
    assert EACH == "each"


def test_baselines_are_as_many_as_pairs() -> None:
    kept = Baselines(2)
    kept.feed(pb.PairBaseline(pair=1, clean=2.5))
    value = kept.to_json()
    assert value == {"clean": [None, 2.5], "corrupted": [None, None]}
    assert Baselines.from_json(value, 2).to_json() == value
    with pytest.raises(InvalidRequestError, match="not as many") as refused:
        Baselines.from_json(value | {"corrupted": [1.0]}, 2)
    assert refused.value.field == "corrupted"
