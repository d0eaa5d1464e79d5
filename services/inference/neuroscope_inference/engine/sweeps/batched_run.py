"""Patches of one pair as rows of one forward pass that computes only what their edits can change.

Below the layer that it edits a row is the unedited run, so it enters the batch there: the batch is a triangle. Before
the first position that any of them edits the keys and values are those of the unedited run. The model's own code runs
all that is left; nothing of an architecture is written again here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from neuroscope_inference.engine import caches, memory
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange
from neuroscope_inference.engine.sweeps.cell_plan import CellPlan
from neuroscope_inference.engine.sweeps.hook_plans import build_hook_plan
from neuroscope_inference.engine.sweeps.output_reader import OutputReader
from neuroscope_inference.engine.sweeps.prefix_cache import FullCache, PrefixCache
from neuroscope_inference.engine.sweeps.triangular_batch import TriangularBatch


@dataclass(frozen=True, slots=True)
class PatchRow:
    """A patch that is ready to run.

    Args:
        plan: its edits, with what they ask of other runs.
        boundary: where it enters.
    """

    plan: CellPlan
    boundary: int


@dataclass(frozen=True, slots=True)
class BaseRun:
    """The run that the rows of a batch are edits of.

    Args:
        tokens: of the prompt.
        row: by which edits know it.
        streams: the residual stream before each block and behind the last one (1, positions, d_model).
        cache: keys and values of all positions; None: the positions of a batch begin with the first one.
        cuts_tail: whether the last block may be computed for the wanted positions alone.
    """

    tokens: Sequence[int]
    row: int
    streams: Sequence[mx.array]
    cache: Sequence[FullCache] | None
    cuts_tail: bool = False


def run_batch(
    model: LoadedModel, reader: OutputReader, base: BaseRun, rows: Sequence[PatchRow], first: int, places: Sequence[int]
) -> mx.array:
    """The ends of the rows (rows, places, width), in the order of the rows, evaluated.

    Args:
        model: what runs.
        reader: of the ends.
        base: the unedited run.
        rows: the patches.
        first: the first position that is computed; 0 without a cache.
        places: positions of the ends, ascending, none before the first.

    Raises:
        DataConversionError: an edit made numbers that are not finite.
        OutOfMemoryError: it takes more memory than there is.
    """
    order = sorted(range(len(rows)), key=lambda index: rows[index].boundary)
    end = places[-1] + 1  # nobody asks for what lies behind
    position_range = PositionRange(base.row, 0, first, end - first, len(base.tokens))
    boundaries = [rows[index].boundary for index in order]
    last = model.layout.num_layers - 1
    cuts_tail = base.cuts_tail and base.cache is not None and not any(_edits_last_block(row.plan, last) for row in rows)
    tail = places[0] if cuts_tail else first  # the first position of what the last block writes
    streams = {b: base.streams[b][:, first:end] for b in set(boundaries) if b >= 0}
    flow = TriangularBatch(streams, boundaries, (last, end - tail))
    local = [place - tail for place in places]
    plans = [rows[index].plan for index in order]
    hook_plan, outcomes = build_hook_plan(model.layout, reader.points, plans, position_range, boundaries, local)
    hook_plan.row_schedule = flow
    take = reader.prepare(hook_plan, local, edits_logits=any(row.plan.edits_logits for row in rows))
    call: Any = model.network
    cache: caches.Cache
    if base.cache is None:
        cache = caches.new_cache(model.network)
    else:
        cache = [PrefixCache(whole, first) for whole in base.cache]
    tokens = mx.broadcast_to(mx.array([list(base.tokens[first:end])]), (flow.token_rows, end - first))
    with memory.limited(0):
        with model.layout.active_hooks.activate(hook_plan):
            logits: mx.array = call(tokens, cache=cache)
        del cache
        ends = take(logits)
        mx.eval(ends, [outcome.arrays for outcome in outcomes])
    for outcome in outcomes:
        outcome.check()
    return ends[mx.argsort(mx.array(order))]


def _edits_last_block(plan: CellPlan, last: int) -> bool:
    """Whether an edit lies behind the last block's input: it is then applied at positions of the whole pass."""
    return any(
        point.component not in ("embedding", "resid_pre") and (point.layer is None or point.layer == last)
        for point in plan.points
    )
