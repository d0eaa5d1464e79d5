"""Corrupted runs that edits make, against forward passes with hooks, on every family; causal tracing's noise.

python -m pytest tests/integration/test_engine_corruptions.py
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions.expressions import tensor
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.corruption import find_token_positions
from tests.support.attributing import attribute_here
from tests.support.freezing import Put, hooked, replaced
from tests.support.loaded import load_here
from tests.support.random_models import FAMILIES
from tests.support.sweeping import EACH, events_here, one_by_one, prompt, sweep_here, values_of

_RANDOM = np.random.default_rng(13)
CLEAN = [0, *_RANDOM.integers(5, 500, 19).tolist()]
TOLERANCE = 1e-5
ANSWER, OTHER = 7, 9
METRIC = pb.Metric(
    logit_difference=pb.LogitDifference(answers=[pb.TokenChoice(id=ANSWER)], others=[pb.TokenChoice(id=OTHER)])
)
PATCH = pb.SweepValue(other_run=pb.OtherRun())
SHIFTED = [Point("embedding"), Point("attn_out", 1), Point("resid_post", 1), Point("resid_pre", 3), Point("mlp_out", 3)]
AT = [2, 3, 15]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, family_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return family_model(request.param)


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> LoadedModel:
    return load_here(llama_dir)


def shifts(model: LoadedModel) -> dict[Point, Any]:
    width = model.description.d_model
    return {
        point: np.random.default_rng(at).standard_normal((1, 3, width)).astype(np.float32)
        for at, point in enumerate(SHIFTED)
    }


def corruptions(model: LoadedModel) -> list[intervention_pb2.Intervention]:
    """What each point has and a tensor, at some positions."""
    found: list[intervention_pb2.Intervention] = []
    for point, numbers in shifts(model).items():
        select = site_pb2.Selector()
        select.positions.list.positions.extend(AT)
        added = intervention_pb2.BinaryOperation(
            operator=intervention_pb2.BINARY_OPERATOR_ADD,
            left=intervention_pb2.Expression(activation=intervention_pb2.Activation()),
            right=tensor(numbers).message,
        )
        value = intervention_pb2.Expression(binary=added)
        found.append(intervention_pb2.Intervention(site=point.to_message(), select=select, value=value))
    return found


def corrupting(model: LoadedModel) -> dict[Point, Put]:
    """The same as hooks."""

    def shifting(numbers: Any) -> Put:
        def put(passing: mx.array) -> mx.array:
            whole = np.zeros(passing.shape, np.float32)
            whole[:, AT] = numbers
            return passing + mx.array(whole).astype(passing.dtype)

        return put

    return {point: shifting(numbers) for point, numbers in shifts(model).items()}


def after(first: Put | None, then: Put) -> Put:
    return then if first is None else lambda passing: then(first(passing))


def request_of(*grids: pb.SweepGrid, **fields: Any) -> pb.RunSweepRequest:
    return pb.RunSweepRequest(grids=grids, metric=METRIC, **fields)


def grid(site: str, **fields: Any) -> pb.SweepGrid:
    return pb.SweepGrid(site=site_pb2.Site(component=site), value=PATCH, **fields)


def scored(logits: mx.array) -> float:
    return scalar(logits[-1, ANSWER] - logits[-1, OTHER])


def test_cells_restore_what_edits_corrupt(model: LoadedModel) -> None:
    positions = [0, 3, 18]  # before, at and behind what is corrupted
    axis = one_by_one(*positions)
    sites = ("resid_pre", "attn_out", "resid_post", "mlp_out", "head_output")
    there = [site for site in sites if not model.layout.state(Point(site, 1)).reason]
    pair = pb.PromptPair(clean=prompt(CLEAN), corruptions=corruptions(model))
    events = events_here(model, request_of(*(grid(site, positions=axis) for site in there), pairs=[pair]))
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    logits, _ = hooked(model, CLEAN, {}, [])
    scale = max(1.0, scalar(mx.abs(logits).max()))
    corrupted, _ = hooked(model, CLEAN, corrupting(model), [])
    assert baseline.clean == pytest.approx(scored(logits), abs=TOLERANCE * scale)
    assert baseline.corrupted == pytest.approx(scored(corrupted), abs=TOLERANCE * scale)
    assert abs(baseline.corrupted - baseline.clean) > 100 * TOLERANCE * scale
    wanted: list[float] = []
    points = [Point(site, layer) for site in there for layer in range(model.layout.num_layers)]
    _, seen = hooked(model, CLEAN, {}, points)
    for point in points:
        for position in positions:
            puts = corrupting(model)
            puts[point] = after(puts.get(point), replaced(seen[point], (), [position]))
            wanted.append(scored(hooked(model, CLEAN, puts, [])[0]))
    np.testing.assert_allclose(values_of(events)[0], wanted, atol=TOLERANCE * scale)


def test_every_way_and_both_runs(llama: LoadedModel) -> None:
    pair = pb.PromptPair(clean=prompt(CLEAN), corruptions=corruptions(llama))
    for run in (pb.SWEPT_RUN_CORRUPTED, pb.SWEPT_RUN_CLEAN):
        grids = [grid("resid_pre", positions=EACH), grid("mlp_out"), grid("embedding", positions=EACH)]
        request = request_of(*grids, pairs=[pair], edited_run=run)
        plain = sweep_here(llama, request, method=pb.SWEEP_METHOD_PLAIN)
        for method in (pb.SWEEP_METHOD_LAYERS, pb.SWEEP_METHOD_LAYERS_AND_POSITIONS):
            np.testing.assert_allclose(sweep_here(llama, request, method=method), plain, atol=2e-5)
        assert np.ptp(plain) > 0.1


def test_windows_edit_their_layers_together(llama: LoadedModel) -> None:
    pair = pb.PromptPair(clean=prompt(CLEAN), corruptions=corruptions(llama))
    last = one_by_one(-1)
    found = sweep_here(llama, request_of(grid("mlp_out", positions=last, layer_window=3), pairs=[pair]))[0]
    cells: list[pb.SweepCell] = []
    for layers in ((0, 1), (0, 1, 2), (1, 2, 3), (2, 3)):
        select = site_pb2.Selector()
        select.positions.list.positions.append(-1)
        clean = intervention_pb2.Expression(other_row=intervention_pb2.OtherRow(row=0))
        edits = [
            intervention_pb2.Intervention(site=Point("mlp_out", layer).to_message(), select=select, value=clean)
            for layer in layers
        ]
        cells.append(pb.SweepCell(interventions=edits))
    np.testing.assert_allclose(found, sweep_here(llama, request_of(pairs=[pair], cells=cells))[0], atol=1e-5)
    even = sweep_here(llama, request_of(grid("mlp_out", positions=last, layer_window=2), pairs=[pair]))[0]
    first = sweep_here(llama, request_of(grid("mlp_out", positions=last, layers=[0]), pairs=[pair]))[0]
    assert even[0] == pytest.approx(first[0], abs=1e-5)  # layer 0 and the one below, which there is not


def test_noise_is_seeded_and_measured_in_the_embeddings_own_deviation(llama: LoadedModel) -> None:
    text = "the quick brown fox"
    (ids,) = [llama.tokenize(inference_pb2.Prompt(text=text), "prompt").ids]
    places = find_token_positions(llama, ids, "quick brown", "subject")

    def embedding_of(seed: int, deviation: float) -> Any:
        """Of the corrupted run, by a projection of the stream on each axis: here by its clean run patched whole."""
        noise = pb.SubjectNoise(subject="quick brown", seed=seed, standard_deviation=deviation)
        pairs = [pb.PromptPair(clean=inference_pb2.Prompt(text=text), noise=noise)]
        events = events_here(llama, request_of(grid("mlp_out", layers=[0]), pairs=pairs))
        return next(event.baseline for event in events if event.HasField("baseline"))

    one, again, other = embedding_of(1, 3), embedding_of(1, 3), embedding_of(2, 3)
    assert one.corrupted == again.corrupted != other.corrupted
    assert one.clean == other.clean != one.corrupted
    assert embedding_of(1, 0).corrupted == one.corrupted  # 3 by default
    assert abs(embedding_of(1, 1e-4).corrupted - one.clean) < 0.01
    assert 0 < len(places) < len(ids)


def test_noise_has_the_deviation_that_is_asked_for(llama: LoadedModel) -> None:
    from neuroscope_inference.engine.position_range import PositionRange
    from neuroscope_inference.engine.sweeps.corruption import Corruptions, subject_noise
    from neuroscope_inference.engine.sweeps.pair import Corruption, Pair

    point, text = Point("embedding"), "the quick brown fox jumps"
    ids = llama.tokenize(inference_pb2.Prompt(text=text), "prompt").ids
    message = pb.SubjectNoise(subject="quick brown fox", seed=3, standard_deviation=2)
    edit = subject_noise(message, llama, ids, "noise")
    places = list(edit.select.positions.list.positions)
    plan = Corruptions(llama, lambda reference, path: np.zeros(1)).plan(
        Pair(0, ids, ids, (), 1, [Corruption(edit, "noise")])
    )
    assert plan is not None
    _, seen = hooked(llama, ids, {}, [point])
    edits, _ = plan.edits_for(PositionRange(1, 0, 0, len(ids), len(ids)))
    ((edit_of_row,),) = edits.values()
    own, noisy = np.array(seen[point][0]), np.array(edit_of_row.apply(seen[point])[0])
    changed = np.flatnonzero((own != noisy).any(axis=-1)).tolist()
    assert changed == places
    ratio = (noisy - own)[places].std(axis=-1) / own[places].std(axis=-1)
    assert ratio == pytest.approx(2, rel=0.25)  # of 128 draws each


def test_texts_go_on_from_corrupted_runs(llama: LoadedModel) -> None:
    """Restoring the embeddings gives the clean run's text."""
    sampling = inference_pb2.Sampling(max_tokens=4, ignore_eos=True)
    pair = pb.PromptPair(clean=prompt(CLEAN), corruptions=corruptions(llama)[:1])
    generation = pb.SweepGeneration(sampling=sampling)
    events = events_here(llama, request_of(grid("embedding"), pairs=[pair], generation=generation))
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    (text,) = [text for event in events for text in event.values.texts]
    assert text == baseline.clean_text != baseline.corrupted_text


@pytest.mark.parametrize(
    ("pair", "field", "said"),
    [
        (
            pb.PromptPair(clean=inference_pb2.Prompt(text="the fox"), noise=pb.SubjectNoise(subject="cat")),
            "pairs[0].noise.subject",
            "not in the prompt",
        ),
        (
            pb.PromptPair(clean=inference_pb2.Prompt(text="fox fox"), noise=pb.SubjectNoise(subject="fox")),
            "pairs[0].noise.subject",
            "2 times",
        ),
        (
            pb.PromptPair(clean=inference_pb2.Prompt(text="fox"), noise=pb.SubjectNoise()),
            "pairs[0].noise.subject",
            "empty",
        ),
        (
            pb.PromptPair(
                clean=inference_pb2.Prompt(text="fox"), noise=pb.SubjectNoise(subject="fox", standard_deviation=-1)
            ),
            "pairs[0].noise.standard_deviation",
            "not negative",
        ),
        (
            pb.PromptPair(
                clean=prompt(CLEAN),
                corruptions=[
                    intervention_pb2.Intervention(
                        site=Point("mlp_out", 1).to_message(),
                        select=site_pb2.Selector(rows=[0]),
                        value=intervention_pb2.Expression(constant=0),
                    )
                ],
            ),
            "pairs[0].corruptions[0].select.rows",
            "which run",
        ),
        (
            pb.PromptPair(
                clean=prompt(CLEAN),
                corruptions=[intervention_pb2.Intervention(site=Point("mlp_out", 9).to_message())],
            ),
            "pairs[0].corruptions[0].site.layer",
            "out of range",
        ),
    ],
)
def test_what_corrupts_nothing_is_refused(llama: LoadedModel, pair: pb.PromptPair, field: str, said: str) -> None:
    with pytest.raises(Exception, match=said) as caught:
        events_here(llama, request_of(grid("mlp_out"), pairs=[pair]))
    assert getattr(caught.value, "field", "") == field


def test_attributions_take_prompts_alone(llama: LoadedModel) -> None:
    pair = pb.PromptPair(clean=prompt(CLEAN), corruptions=corruptions(llama))
    request = pb.AttributeRequest(pairs=[pair], metric=METRIC, nodes=pb.NodeAttribution())
    with pytest.raises(InvalidRequestError, match="sweeps alone"):
        attribute_here(llama, request)
