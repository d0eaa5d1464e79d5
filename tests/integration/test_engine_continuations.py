"""What the runs of a sweep go on with, against whole forward passes without caches, token by token, on every family.

python -m pytest tests/integration/test_engine_continuations.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, intervention_pb2, site_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.arrays import scalar
from neuroscope_inference.engine.model import LoadedModel
from tests.support.freezing import hooked, replaced
from tests.support.loaded import load_here
from tests.support.random_models import FAMILIES
from tests.support.sweeping import events_here, one_by_one, prompt, together

_RANDOM = np.random.default_rng(11)
CLEAN = [0, *_RANDOM.integers(5, 500, 13).tolist()]
CORRUPTED = [0, *_RANDOM.integers(5, 500, 13).tolist()]
NEW = 6  # beyond the windows of 16
METRIC = pb.Metric(kl_divergence=pb.KlDivergence())
ZERO = pb.SweepValue(constant=0)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, family_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return family_model(request.param)


@pytest.fixture(scope="module")
def llama(llama_dir: Path) -> LoadedModel:
    return load_here(llama_dir)


def generation(edited: pb.EditedTokens.ValueType = pb.EDITED_TOKENS_UNSPECIFIED, **sampling: Any) -> pb.SweepGeneration:
    sampling = {"max_tokens": NEW, "ignore_eos": True} | sampling
    return pb.SweepGeneration(sampling=inference_pb2.Sampling(**sampling), edited_tokens=edited)


def request_of(*grids: pb.SweepGrid, **fields: Any) -> pb.RunSweepRequest:
    fields.setdefault("pairs", [pb.PromptPair(clean=prompt(CLEAN))])
    fields.setdefault("generation", generation())
    return pb.RunSweepRequest(grids=grids, metric=METRIC, **fields)


def grid(site: str, **fields: Any) -> pb.SweepGrid:
    fields.setdefault("value", ZERO)
    return pb.SweepGrid(site=site_pb2.Site(component=site), **fields)


def tokens_of(events: Sequence[pb.RunSweepResponse]) -> list[list[int]]:
    """Of every patch."""
    found: dict[int, list[int]] = {}
    for event in events:
        for patch, text in zip(event.values.patches, event.values.texts, strict=True):
            found[patch] = list(text.token_ids)
    return [found[patch] for patch in sorted(found)]


def greedy(model: LoadedModel, tokens: Sequence[int], point: Point, heads: Sequence[int], *, prompt_only: bool) -> Any:
    """Tokens of a model whose heads write nothing, a whole forward pass each."""
    read = list(tokens)
    for _ in range(NEW):

        def silent(passing: mx.array) -> mx.array:
            at = range(len(tokens)) if prompt_only else range(passing.shape[1])
            return replaced(mx.zeros_like(passing), heads, list(at))(passing)

        logits, _ = hooked(model, read, {point: silent} if heads else {}, [])
        read.append(int(scalar(logits[-1].argmax())))
    return read[len(tokens) :]


@pytest.mark.parametrize("prompt_only", [False, True], ids=["generated", "prompt"])
def test_texts_are_those_of_whole_forward_passes(model: LoadedModel, prompt_only: bool) -> None:
    chosen = pb.EDITED_TOKENS_PROMPT if prompt_only else pb.EDITED_TOKENS_GENERATED
    together_all = together(*range(model.description.num_heads))
    grids = [
        grid("head_output", layers=[0, 1], heads=together_all),
        grid("head_output", layers=[1], heads=one_by_one(0, 1)),
    ]
    events = events_here(model, request_of(*grids, generation=generation(chosen)))
    heads = list(range(model.description.num_heads))
    wanted = [
        greedy(model, CLEAN, Point("head_output", layer), which, prompt_only=prompt_only)
        for layer, which in ((0, heads), (1, heads), (1, [0]), (1, [1]))
    ]
    assert tokens_of(events) == wanted
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    unedited = greedy(model, CLEAN, Point("head_output", 0), (), prompt_only=True)
    assert list(baseline.clean_text.token_ids) == unedited
    assert any(tokens != unedited for tokens in wanted), "no edit changes a text: nothing is tested"


def test_what_has_the_prompt_alone_edits_the_prompt_alone(llama: LoadedModel) -> None:
    """The other run's residual stream everywhere: its own text follows, and only the prompt could be edited."""
    patch = pb.SweepValue(other_run=pb.OtherRun())
    pairs = [pb.PromptPair(clean=prompt(CLEAN), corrupted=prompt(CORRUPTED))]
    events = events_here(llama, request_of(grid("resid_pre", layers=[0], value=patch), pairs=pairs))
    (baseline,) = [event.baseline for event in events if event.HasField("baseline")]
    assert tokens_of(events) == [list(baseline.clean_text.token_ids)]
    assert list(baseline.corrupted_text.token_ids) != list(baseline.clean_text.token_ids)


def test_a_mean_goes_on_with_generated_tokens(llama: LoadedModel) -> None:
    """As the same numbers in a tensor do."""
    from neuroscope.interventions.expressions import tensor

    point = Point("mlp_out", 1)
    _, seen = hooked(llama, CORRUPTED, {}, [point])
    numbers = np.array(seen[point][0].astype(mx.float32)).mean(axis=0, dtype=np.float64).astype(np.float32)
    mean = pb.SweepValue(mean=pb.MeanOfReferences())
    same = pb.SweepValue(expression=tensor(numbers).message)
    grids = [grid("mlp_out", layers=[1], value=value) for value in (mean, same)]
    by_mean, by_tensor = tokens_of(events_here(llama, request_of(*grids, references=[prompt(CORRUPTED)])))
    assert by_mean == by_tensor
    of_prompt = generation(pb.EDITED_TOKENS_PROMPT)
    events = events_here(llama, request_of(*grids, references=[prompt(CORRUPTED)], generation=of_prompt))
    assert tokens_of(events)[0] == tokens_of(events)[1] != by_mean


def test_single_cells_go_on_where_they_select_all(llama: LoadedModel) -> None:
    zero = intervention_pb2.Expression(constant=0)
    site = site_pb2.Site(component="mlp_out", layer=0)
    first = site_pb2.Selector()
    first.positions.range.stop = len(CLEAN)
    edits = [
        intervention_pb2.Intervention(site=site, value=zero),
        intervention_pb2.Intervention(site=site, value=zero, select=first),
    ]
    cells = [pb.SweepCell(interventions=[edit]) for edit in edits]
    every, prompt_alone = tokens_of(events_here(llama, request_of(cells=cells)))
    of_prompt = generation(pb.EDITED_TOKENS_PROMPT)
    assert tokens_of(events_here(llama, request_of(cells=cells, generation=of_prompt))) == [prompt_alone] * 2
    assert every != prompt_alone
    assert every == tokens_of(events_here(llama, request_of(grid("mlp_out", layers=[0]))))[0]


def test_draws_are_seeded_and_the_same_for_all(llama: LoadedModel) -> None:
    nothing = pb.SweepValue(expression=intervention_pb2.Expression(activation=intervention_pb2.Activation()))
    request = request_of(grid("mlp_out", value=nothing), generation=generation(temperature=1.0, seed=5))
    found = tokens_of(events_here(llama, request))
    assert len({tuple(tokens) for tokens in found}) == 1
    other = request_of(grid("mlp_out", value=nothing), generation=generation(temperature=1.0, seed=6))
    assert tokens_of(events_here(llama, other))[0] != found[0]
    assert found[0] == tokens_of(events_here(llama, request))[0]


def test_what_ends_a_text(llama: LoadedModel) -> None:
    events = events_here(llama, request_of(grid("mlp_out", layers=[0])))
    (tokens,) = tokens_of(events)
    ended = generation(stop_token_ids=[tokens[2]])
    (text,) = [
        text
        for event in events_here(llama, request_of(grid("mlp_out", layers=[0]), generation=ended))
        for text in event.values.texts
    ]
    assert list(text.token_ids) == tokens[: tokens.index(tokens[2]) + 1]
    assert text.finish_reason == inference_pb2.FINISH_REASON_STOP
    assert events[2].values.texts[0].finish_reason == inference_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (generation(max_tokens=0), "generation.sampling.max_tokens"),
        (generation(temperature=-1), "generation.sampling.temperature"),
        (generation(rows_per_prompt=2), "generation.sampling.rows_per_prompt"),
        (generation(top_logprobs=2), "generation.sampling.top_logprobs"),
        (generation(logit_bias={9999: 1.0}), "generation.sampling.logit_bias[9999]"),
        (generation(7), "generation.edited_tokens"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_generation_is_refused(llama: LoadedModel, message: pb.SweepGeneration, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        events_here(llama, request_of(grid("mlp_out"), generation=message))
    assert caught.value.field == field
