"""Which patches run together, and what that costs.

Work is counted in positions x blocks: a row that enters at block b of L with n positions costs n (L - b), and so does
the head, converted by the number of its parameters. Reading the weights costs a batch as much as a few positions, so
rows whose first positions lie close together share a batch that begins with the earliest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.sweeps.cells import EditExtent
from neuroscope_inference.engine.sweeps.patch import Patch

_BATCH_POSITIONS = 8.0
"""What a batch costs besides its rows: as much as this many positions."""


@dataclass(frozen=True, slots=True)
class PatchBatch:
    """Patches of one pair that run together.

    Args:
        patches: at least one.
        first: the first position that is computed.
        work: in positions x blocks.
        nbytes: memory besides the weights, about.
    """

    patches: Sequence[Patch]
    first: int
    work: float
    nbytes: int


class Costs:
    """What rows cost on a model.

    Args:
        model: the model.
        places: positions whose ends are wanted.
        length: of the prompt.
        new_tokens: that every row goes on with, which reads the prompt once more.
    """

    def __init__(self, model: LoadedModel, places: int, length: int = 0, new_tokens: int = 0) -> None:
        description, layout = model.description, model.layout
        self.layers = layout.num_layers
        self._places = places
        head = description.vocab_size * description.d_model
        of_blocks = max(description.parameter_count - head, description.d_model)
        self._head = head * self.layers / of_blocks
        self._widths = 10 * description.d_model + 4 * _mlp_width(model)
        self._heads = max(description.num_heads, 1)
        self._keys = 2 * max(description.num_kv_heads, 1) * max(description.d_head, 1)
        self._vocabulary = description.vocab_size
        self._read = length + new_tokens if new_tokens else 0
        self._new_tokens = new_tokens

    @property
    def continued(self) -> float:
        """Work of what one row goes on with."""
        return self._read * self.layers + self._head * self._new_tokens

    def plain(self, length: int) -> float:
        """Work of one whole forward pass."""
        return (length + _BATCH_POSITIONS) * self.layers + self._head * self._places

    def row(self, extent: EditExtent, positions: int) -> float:
        """Work of one row."""
        blocks = self.layers - max(extent.boundary, 0) + extent.work
        return max(positions, 0) * blocks + self._head * self._places + self.continued

    def batch(self, boundary: int) -> float:
        """Work of a batch besides its rows."""
        steps = _BATCH_POSITIONS * self.layers * (self._new_tokens + 1) if self._new_tokens else 0
        return _BATCH_POSITIONS * (self.layers - max(boundary, 0)) + 1 + steps

    def nbytes(self, positions: int, end: int, position_bytes: int = 0) -> int:
        """Memory of one row at its widest; `position_bytes` are of a position besides what the blocks take."""
        positions, end = max(positions, self._read, 0), max(end, self._read)
        scores = 2 * self._heads * positions * end
        elements = positions * self._widths + scores + end * self._keys + 3 * self._places * self._vocabulary
        return 4 * elements + positions * position_bytes


@dataclass(slots=True)
class Throughput:
    """How fast work is done, as far as is known."""

    seconds_per_work: float
    work: float = 0.0
    seconds: float = 0.0

    def add(self, work: float, seconds: float) -> None:
        """Learns from a submission."""
        self.work += work
        self.seconds += seconds
        self.seconds_per_work = self.seconds / self.work

    def seconds_for(self, work: float) -> float:
        """How long work will take."""
        return work * self.seconds_per_work


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a submission may be.

    Args:
        nbytes: memory.
        pace: what is known of it when a submission is made up.
        seconds: how long one may take, by that.
        first_seconds: how long the first one may take, so that something is seen soon.
    """

    nbytes: int
    pace: Throughput
    seconds: float
    first_seconds: float


def single_batches(patches: Sequence[Patch], costs: Costs, length: int) -> Iterator[PatchBatch]:
    """A submission for every patch: the plain way."""
    for patch in patches:
        work = costs.plain(length) + length * patch.extent.work + costs.continued
        yield PatchBatch([patch], 0, work, costs.nbytes(length, length, patch.extent.position_bytes))


def plan_batches(
    patches: Sequence[Patch], costs: Costs, end: int, limits: BatchLimits, *, reuses_positions: bool
) -> Iterator[PatchBatch]:
    """Submissions of the patches of one pair, each made up when it is asked for: by then the pace is better known.

    Args:
        patches: in any order.
        costs: on the model.
        end: one after the last position that is computed.
        limits: of each.
        reuses_positions: whether a batch may begin behind the first position.
    """
    longest_s = limits.first_seconds
    for first, group in _groups(patches, costs, reuses_positions=reuses_positions):
        positions = end - first
        held: list[Patch] = []
        work, nbytes = 0.0, 0
        for patch in sorted(group, key=lambda patch: -patch.extent.boundary):  # the cheap ones first
            more = costs.row(patch.extent, positions)
            total = work + more + costs.batch(patch.extent.boundary)
            row_bytes = costs.nbytes(positions, end, patch.extent.position_bytes)
            if held and (nbytes + row_bytes > limits.nbytes or limits.pace.seconds_for(total) > longest_s):
                yield _make_batch(held, first, work, nbytes, costs)
                held, work, nbytes, longest_s = [], 0.0, 0, limits.seconds
            held.append(patch)
            work += more
            nbytes += row_bytes
        yield _make_batch(held, first, work, nbytes, costs)
        longest_s = limits.seconds


def halve(submission: PatchBatch) -> list[PatchBatch]:
    """Two submissions in place of one for which memory ran short; none if it has but one patch."""
    count = len(submission.patches)
    if count == 1:
        return []
    parts = submission.patches[: count // 2], submission.patches[count // 2 :]
    return [PatchBatch(part, submission.first, submission.work / 2, submission.nbytes // 2) for part in parts]


def _make_batch(held: Sequence[Patch], first: int, work: float, nbytes: int, costs: Costs) -> PatchBatch:
    lowest = min(patch.extent.boundary for patch in held)
    return PatchBatch(list(held), first, work + costs.batch(lowest), nbytes)


def _groups(patches: Sequence[Patch], costs: Costs, *, reuses_positions: bool) -> Iterator[tuple[int, Sequence[Patch]]]:
    """Patches that share their company and their first computed position. A group joins the one before it where that
    saves work."""
    by_company: dict[bytes, list[Patch]] = {}
    for patch in patches:
        by_company.setdefault(patch.batch_key, []).append(patch)
    for alike in by_company.values():
        if reuses_positions:
            yield from _by_position(alike, costs)
        else:
            yield 0, alike


def _by_position(patches: Sequence[Patch], costs: Costs) -> Iterator[tuple[int, Sequence[Patch]]]:
    by_first: dict[int, list[Patch]] = {}
    for patch in patches:
        by_first.setdefault(patch.extent.first, []).append(patch)
    start: int | None = None
    held: list[Patch] = []
    for first in sorted(by_first):
        group = by_first[first]
        if start is not None:
            more = sum(costs.row(p.extent, first - start) - costs.row(p.extent, 0) for p in group)
            if more > costs.batch(min(p.extent.boundary for p in group)):
                yield start, held
                start, held = None, []
        start = first if start is None else start
        held += group
    if start is not None:
        yield start, held


def _mlp_width(model: LoadedModel) -> int:
    widths = [
        state.axes_extents[-1]
        for state in model.layout.states
        if state.point.component == "mlp_neurons" and not state.reason
    ]
    return max(widths, default=4 * model.description.d_model)
