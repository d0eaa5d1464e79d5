"""Attention results as they come, and what is shown of them.

python -m pytest tests/unit/test_attention_result.py
"""

import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from neuroscope.analysis import AttentionResult
from neuroscope.cli import attention as command
from neuroscope.cli.app import app
from neuroscope.cli.connection import Connection
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.viz import page
from neuroscope_analysis.result_arrays import ResultArrays

LAYERS, HEADS = 6, 4
CONFIRMED, UNCONFIRMED, NOT_TESTED = (
    pb.CAUSAL_VERDICT_CONFIRMED,
    pb.CAUSAL_VERDICT_UNCONFIRMED,
    pb.CAUSAL_VERDICT_NOT_TESTED,
)
FOUND = [
    (pb.HEAD_ROLE_INDUCTION, 4, 1, 0.9, CONFIRMED),
    (pb.HEAD_ROLE_COPYING, 4, 1, 1.0, CONFIRMED),
    (pb.HEAD_ROLE_COPYING, 5, 0, 0.8, UNCONFIRMED),
    (pb.HEAD_ROLE_FIRST_TOKEN_SINK, 5, 0, 0.7, CONFIRMED),
    (pb.HEAD_ROLE_FIRST_TOKEN_SINK, 2, 3, 0.6, UNCONFIRMED),
]


def label(role: Any, layer: int, head: int, score: float, verdict: Any) -> pb.HeadLabel:
    evidence = [pb.CausalEvidence(probe=pb.CAUSAL_PROBE_ABLATED, effect_nats=0.2, bound_nats=0.1, is_passed=True)]
    comparison = pb.NullComparison(statistic="share", value=0.75, null_value=0.001, threshold=0.5)
    return pb.HeadLabel(
        role=role,
        layer=layer,
        head=head,
        score=score,
        verdict=verdict,
        evidence=evidence if verdict == CONFIRMED else [],
        null_comparison=comparison if role == pb.HEAD_ROLE_COPYING else None,
    )


def scored(layers: int = LAYERS, heads: int = HEADS) -> AttentionResult:
    """A result whose scores have come."""
    result = AttentionResult(pb.AnalyzeAttentionRequest())
    roles = (pb.HEAD_ROLE_INDUCTION, pb.HEAD_ROLE_COPYING, pb.HEAD_ROLE_FIRST_TOKEN_SINK)
    names = ["entropy", "induction_score", "copying_score", "first_token_sink_score"]
    axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD)
    arrays = ResultArrays.of_shape(names, "attention_pattern", axes, (layers, heads))
    plan = pb.AttentionPlan(
        model_id="model",
        layers=range(layers),
        head_count=heads,
        arrays=arrays.plan,
        roles=[pb.RolePlan(role=r) for r in roles],
    )
    result.feed(pb.AnalyzeAttentionResponse(plan=plan))
    values = np.random.default_rng(0).uniform(size=(layers, heads))
    for frame in arrays.frames(dict.fromkeys(names, values)):
        result.feed(frame)
    labels = [label(role, layer, head, score, NOT_TESTED) for role, layer, head, score, _ in FOUND]
    partial = pb.AttentionPartial(scores=pb.ScoredHeads(labels=labels))
    result.feed(pb.AnalyzeAttentionResponse(partial=partial))
    return result


def with_tests(result: AttentionResult, count: int | None = None) -> AttentionResult:
    """The result with the labels of so many tests."""
    for each in FOUND[:count]:
        result.feed(pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(label=label(*each))))
    return result


def test_a_tested_label_takes_the_place_of_the_one_by_score() -> None:
    result = scored()
    assert {each.verdict for each in result.labels} == {"not tested"}
    with_tests(result, 2)
    assert [each.verdict for each in result.labels] == ["confirmed"] * 2 + ["not tested"] * 3
    assert result.heads("copying") == [(4, 1)]


def test_the_most_specific_confirmed_role_describes_a_head() -> None:
    best = with_tests(scored()).best_labels
    assert [(each.layer, each.head, each.role, each.is_confirmed) for each in best] == [
        (2, 3, "first_token_sink", False),
        (4, 1, "induction", True),
        (5, 0, "first_token_sink", True),
    ]


def test_tables_have_a_line_for_each_head_label_and_role() -> None:
    result = with_tests(scored())
    assert result.table().row_count == 3
    assert result.label_table().row_count == len(FOUND)
    assert result.summary_table().row_count == 3


@pytest.mark.parametrize(("layers", "heads"), [(LAYERS, HEADS), (80, 64)])
@pytest.mark.parametrize("statistics", [None, "entropy", ["entropy", "induction_score", "copying_score"], "all"])
def test_pictures_fit_a_page_and_can_be_read(layers: int, heads: int, statistics: Any) -> None:
    figure = with_tests(scored(layers, heads)).plot(statistics=statistics)
    width, height = figure.get_size_inches()
    assert width == page.WIDTH
    assert height <= page.HEIGHT
    figure.draw_without_rendering()
    for axes in figure.axes:
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels(), axes.title, axes.xaxis.label):
            assert text.get_fontsize() >= page.POINTS
        ticks = [tick.get_window_extent() for tick in axes.get_xticklabels()]
        assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(ticks))


def test_a_statistic_that_is_none_names_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="nearest: entropy") as caught:
        scored().plot(statistics="entrpy")
    assert caught.value.field == "statistics"


def test_an_interrupted_command_keeps_what_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C after two tests: they are printed and saved."""

    def follow(client: Any, found: AttentionResult, *, is_quiet: bool) -> None:
        vars(found).update(vars(with_tests(scored(), 2)))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_follow", follow)
    monkeypatch.setattr(Connection, "open_analysis", lambda *arguments: nullcontext())
    file = tmp_path / "found.json"
    ended = CliRunner().invoke(app, ["analyze", "attention", "--save", str(file)])
    assert ended.exit_code == 130, ended.output
    assert "3 of 5 labels are not tested" in ended.stderr
    assert "induction" in ended.stdout
    kept = AttentionResult.load(file)
    assert [each.verdict for each in kept.labels] == ["confirmed"] * 2 + ["not tested"] * 3
    assert kept.names == scored().names
