"""Requests for searches and evaluations of circuits, from plain Python values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from neuroscope.circuits import METHODS, Circuit
from neuroscope.datasets import Dataset
from neuroscope.errors import InvalidRequestError, nearest
from neuroscope.experiments.metrics import Metric
from neuroscope.v1 import circuit_pb2 as pb
from neuroscope.v1 import experiment_pb2

GRANULARITIES = {
    "": pb.CIRCUIT_GRANULARITY_UNSPECIFIED,
    "edges": pb.CIRCUIT_GRANULARITY_EDGE,
    "nodes": pb.CIRCUIT_GRANULARITY_NODE,
}
"""What is chosen; empty: what the method scores."""
RUNS = {
    "": experiment_pb2.SWEPT_RUN_UNSPECIFIED,
    "clean": experiment_pb2.SWEPT_RUN_CLEAN,
    "corrupted": experiment_pb2.SWEPT_RUN_CORRUPTED,
}
Number = TypeVar("Number", bound=int)
_EXTENTS = ("size", "count", "threshold", "faithfulness")


def discovery_request(
    pairs: Dataset,
    *,
    metric: Metric | None,
    method: str,
    size: float | None,
    count: int | None,
    threshold: float | None,
    faithfulness: float | None,
    granularity: str,
    steps: int,
    into: str,
    prune: bool,
    test: bool,
    significance: float,
    least_effect: float,
    evaluation: pb.EvaluationOptions,
    name: str,
    model_id: str,
) -> pb.DiscoverCircuitRequest:
    """The request; arguments are those of `AnalysisClient.discover_circuit`.

    Raises:
        InvalidRequestError: a name means nothing, a number is out of its range, or several extents are given.
    """
    if not 0 <= steps < 2**32:
        raise InvalidRequestError(f"steps is a whole number from 0, not {steps}", field="steps")
    search = pb.CircuitSearch(
        method=_named(METHODS, method, "method"),
        granularity=_named(GRANULARITIES, granularity, "granularity"),
        steps=steps,
        edited_run=_named(RUNS, into, "into"),
        keep_dangling=not prune,
        effect_test=pb.EffectTest(skip=not test, significance=significance, least_effect=least_effect),
    )
    given = dict(zip(_EXTENTS, (size, count, threshold, faithfulness), strict=True))
    stated = {extent: value for extent, value in given.items() if value is not None}
    if len(stated) > 1:
        raise InvalidRequestError(f"a circuit has one of {', '.join(stated)}", field=", ".join(stated))
    for extent, value in stated.items():
        _check(extent, value)
        setattr(search, extent, value)
    return pb.DiscoverCircuitRequest(
        model_id=model_id,
        pairs=pairs.messages(),
        metric=(metric or pairs.metric()).message,
        dataset=pairs.description_message(),
        search=search,
        evaluation=evaluation,
        name=name,
    )


def evaluation_request(
    circuit: Circuit, pairs: Dataset, *, metric: Metric | None, evaluation: pb.EvaluationOptions, model_id: str
) -> pb.EvaluateCircuitRequest:
    """The request; arguments are those of `AnalysisClient.evaluate_circuit`."""
    return pb.EvaluateCircuitRequest(
        model_id=model_id,
        pairs=pairs.messages(),
        metric=(metric or pairs.metric()).message,
        dataset=pairs.description_message(),
        circuit=circuit.message,
        evaluation=evaluation,
    )


def evaluation_options(
    *,
    skip: bool = False,
    curve: bool,
    curve_sizes: Sequence[float],
    completeness: bool,
    minimality: bool,
    minimality_bound: float,
    resample_count: int | None = None,
) -> pb.EvaluationOptions:
    """What is measured; sizes of a curve ask for one.

    Raises:
        InvalidRequestError: a size, the bound or the number of resamples is out of its range.
    """
    if resample_count is not None and not 0 <= resample_count < 2**32:
        raise InvalidRequestError(
            f"resample_count is a whole number from 0, not {resample_count}", field="resample_count"
        )
    for index, size in enumerate(curve_sizes):
        if not 0 < size <= 1:
            raise InvalidRequestError(f"a size is above 0 and at most 1, not {size}", field=f"curve_sizes[{index}]")
    if not math.isfinite(minimality_bound) or minimality_bound < 0:
        raise InvalidRequestError(f"a bound is a number from 0, not {minimality_bound}", field="minimality_bound")
    return pb.EvaluationOptions(
        skip=skip,
        curve=curve or bool(curve_sizes),
        curve_sizes=curve_sizes,
        completeness=completeness,
        minimality=minimality,
        minimality_bound=minimality_bound,
        resample_count=resample_count,
    )


def _named(numbers: Mapping[str, Number], name: str, field: str) -> Number:
    if name not in numbers:
        close = nearest(name, [each for each in numbers if each])
        raise InvalidRequestError(
            f"there is no {field} {name!r}; nearest: {', '.join(close)}", field=field, valid=close
        )
    return numbers[name]


def _check(extent: str, value: float) -> None:
    if extent == "threshold":
        if not math.isfinite(value) or value < 0:
            raise InvalidRequestError(f"a threshold is a number from 0, not {value}", field=extent)
    elif extent == "count":
        if not 0 < value < 2**32:
            raise InvalidRequestError(f"a count is a number from 1, not {value}", field=extent)
    elif not 0 < value <= 1:
        raise InvalidRequestError(f"{extent} is above 0 and at most 1, not {value}", field=extent)
