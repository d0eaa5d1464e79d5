"""Runs of single prompts, whole: unedited, with what other runs need of them kept, or with the edits of one patch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS
from neuroscope_inference.engine import memory
from neuroscope_inference.engine.caches import Cache
from neuroscope_inference.engine.forward import max_chunk_positions
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.cell_plan import CellPlan
from neuroscope_inference.engine.sweeps.hook_plans import build_hook_plan
from neuroscope_inference.engine.sweeps.output_reader import OutputReader


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left.

    Args:
        end: at the metric's positions (1, positions, width); None where there are none.
        points: activations (1, ...) of the whole prompt, by point.
        cache: keys and values.
        seconds: how long it took.
    """

    output: mx.array | None
    activations: dict[PointIndex, mx.array]
    cache: Cache
    seconds: float


def run(
    model: LoadedModel,
    reader: OutputReader,
    tokens: Sequence[int],
    row: int,
    places: Sequence[int],
    cache: Cache,
    points: Iterable[PointIndex] = (),
    plan: CellPlan | None = None,
) -> RunResult:
    """Runs one prompt as a capture does: the model's own forward pass, in chunks.

    Args:
        model: what runs.
        reader: of the end.
        tokens: of the prompt.
        row: by which edits know the prompt.
        places: positions at which the end is wanted, ascending.
        cache: empty; it is filled.
        points: what is kept.
        plan: what is edited.

    Raises:
        DataConversionError: an edit made numbers that are not finite.
        OutOfMemoryError: it takes more memory than there is.
    """
    started = time.perf_counter()
    points, length, layout = list(points), len(tokens), model.layout
    chunk = length if any(_has_columns(model, point) for point in points) else max_chunk_positions()
    pieces: dict[PointIndex, list[mx.array]] = {point: [] for point in points}
    ends: list[mx.array] = []
    call: Any = model.network
    for first in range(0, length, chunk):
        position_range = PositionRange(row, 0, first, min(chunk, length - first), length)
        hook_plan, outcomes = build_hook_plan(
            layout, [*points, *reader.points], [] if plan is None else [plan], position_range
        )
        local = [place - first for place in places if first <= place < position_range.end]
        take = reader.prepare(hook_plan, local, edits_logits=plan is not None and plan.edits_logits) if local else None
        with memory.limited(0):
            with layout.active_hooks.activate(hook_plan):
                logits: mx.array = call(mx.array([list(tokens[first : position_range.end])]), cache=cache)
            if take is not None:
                ends.append(take(logits))
            for point in points:
                pieces[point].append(hook_plan.captured[point])
            mx.eval(
                [held[-1] for held in pieces.values()],
                ends[-1:],
                [o.arrays for o in outcomes],
                [c.state for c in cache],
            )
        for outcome in outcomes:
            outcome.check()
    end = _concatenate(ends) if ends else None
    kept = {point: _concatenate(held) for point, held in pieces.items()}
    mx.eval(end, kept)
    return RunResult(end, kept, cache, time.perf_counter() - started)


def _has_columns(model: LoadedModel, point: PointIndex) -> bool:
    return tensor_pb2.AXIS_KEY_POSITION in COMPONENTS[model.layout.states[point].point.component].axes


def _concatenate(pieces: Sequence[mx.array]) -> mx.array:
    """Pieces of successive positions."""
    return pieces[0] if len(pieces) == 1 else mx.concatenate(list(pieces), axis=1)
