"""What a request reads: hooks resolved against a model, the plan of their tensors, the slicing inside the graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2, site_pb2, tensor_pb2
from neuroscope.vocabulary.sites import COMPONENTS, Point, resolve
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.arrays import cast_dtype, wire_dtype
from neuroscope_inference.engine.attention import key_positions
from neuroscope_inference.engine.hook_plan import HookPlan, PointIndex
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.position_range import PositionRange, selected_positions
from neuroscope_inference.engine.reductions.base import Reduction, Shape, TensorPart
from neuroscope_inference.engine.reductions.factory import make_reduction
from neuroscope_inference.engine.results import PendingTensor
from neuroscope_inference.engine.selectors import check_computed, select_heads, select_positions, select_rows

_WITH_KEY_COLUMNS = ("attention_scores", "attention_pattern")


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of the plan."""

    spec: tensor_pb2.TensorSpec
    field: str  # path of the hook in the request, such as hooks[0]
    point: Point
    index: PointIndex
    position_axis: int
    heads: tuple[int, ...]  # empty: all
    head_axis: int
    positions: site_pb2.PositionSelector | None
    steps: range
    rows: frozenset[int] | None
    dtype: mx.Dtype | None
    bytes_per_element: int  # 0 where a position has none of its own
    extents: tuple[int, ...]  # of one position, key columns counted as 1
    reduction: Reduction | None = None
    is_second_output: bool = False  # the further output of the reduction of an earlier read

    @property
    def needs_logits(self) -> bool:
        """Whether its reduction compares with the model's logits."""
        return self.reduction is not None and self.reduction.needs_logits

    def applies_to(self, row: int, step: int) -> bool:
        """Whether the row and step are selected."""
        return step in self.steps and (self.rows is None or row in self.rows)

    def position_bytes(self, columns: int) -> int:
        """Bytes of one position, with that many key columns."""
        elements = 1
        for extent in self.extents:
            elements *= extent
        has_columns = tensor_pb2.AXIS_KEY_POSITION in self.spec.axes
        return elements * self.bytes_per_element * (columns if has_columns else 1)

    def select(self, value: mx.array, position_range: PositionRange) -> tuple[mx.array, int, tuple[int, ...]] | None:
        """The selected part, its first position, and its positions where they are not contiguous; None: no part."""
        first, positions = position_range.first, ()
        if self.positions is not None:
            chosen = selected_positions(self.positions, position_range)
            if not chosen:
                return None
            first = chosen[0]
            local = [position - position_range.first for position in chosen]
            if chosen == list(range(first, first + len(chosen))):
                value = value[(slice(None),) * self.position_axis + (slice(local[0], local[0] + len(local)),)]
            else:
                value, positions = mx.take(value, mx.array(local), axis=self.position_axis), tuple(chosen)
        if self.heads:
            value = mx.take(value, mx.array(self.heads), axis=self.head_axis)
        if self.reduction is not None:
            return value, first, positions
        if self.dtype is not None:
            value = value.astype(self.dtype)
        return mx.contiguous(value), first, positions

    def select_logits(self, logits: mx.array, position_range: PositionRange) -> mx.array:
        """The model's logits at the selected positions."""
        if self.positions is None:
            return logits
        chosen = [position - position_range.first for position in selected_positions(self.positions, position_range)]
        return mx.take(logits, mx.array(chosen), axis=1) if chosen else logits


class CapturePlan:
    """Everything that a request reads from one model.

    Raises (from the constructor):
        UnknownSiteError, UnavailableSiteError: a hook names a site that is not there.
        InvalidRequestError: a selector is out of range, a reduction makes no sense, or a hook is asked for twice.
    """

    def __init__(
        self,
        model: LoadedModel,
        hooks: Sequence[tuple[str, inference_pb2.HookSpec]],
        rows: int,
        stop_before: int | None,
        directions: Sequence[Array | None] = (),
    ) -> None:
        self.model = model
        self.tensors: list[PlannedTensor] = []
        self.stop_before = stop_before
        taken: set[tuple[str, Point]] = set()
        for (field, hook), directed in itertools.zip_longest(hooks, directions):
            kind = hook.reduction.WhichOneof("kind")
            for point in _points(model, hook, field):
                hook_id = hook.hook_id or (f"{point}:{kind}" if kind else str(point))
                if (hook_id, point) in taken:
                    raise InvalidRequestError(f"hook {hook_id!r} asks for {point} twice", field=field)
                taken.add((hook_id, point))
                check_computed(point, stop_before, field)
                read = self._plan_tensor(hook_id, hook, point, field, rows)
                self.tensors += self._reduce(read, hook, directed, f"{field}.reduction")
        self.captures_attention = any(read.point.component in _WITH_KEY_COLUMNS for read in self.tensors)
        """Whether some tensor has key columns."""
        self.captures_logits = any(read.point.component == "logits" or read.needs_logits for read in self.tensors)
        """Whether logits of other positions than the last one may be wanted."""

    def message(self, chunk_positions: int) -> tensor_pb2.TensorPlan:
        """The plan as it is sent."""
        return tensor_pb2.TensorPlan(tensors=[read.spec for read in self.tensors], chunk_positions=chunk_positions)

    def first_captured_position(self, row: int, length: int) -> int:
        """The first position of a prompt that something reads; its length if nothing does."""
        whole = PositionRange(row, 0, 0, length, length)
        read = [read.positions for read in self.tensors if read.applies_to(row, 0)]
        firsts = [
            0 if positions is None else min(selected_positions(positions, whole), default=length) for positions in read
        ]
        return min(firsts, default=length)

    def points_at(self, position_range: PositionRange) -> list[PointIndex]:
        """The points that are read in one forward pass of one row."""
        firing = [read for read in self.tensors if read.applies_to(position_range.row, position_range.step)]
        also = (read.reduction.second_point for read in firing if read.reduction is not None)
        return [*(read.index for read in firing), *(index for index in also if index is not None)]

    def collect(
        self,
        hook_plan: HookPlan | None,
        position_range: PositionRange,
        slot: int | None = None,
        logits: mx.array | None = None,
    ) -> list[PendingTensor]:
        """The selected tensors of a forward pass, lazy. What never fired is simply not among them.

        Args:
            hook_plan: of the forward pass.
            position_range: what it computed in this row.
            slot: the row's place in a batch whose rows are padded on the left; None if it ran alone.
            logits: what the model gave (1, position, vocabulary); None if it stopped before.
        """
        pending: list[PendingTensor] = []
        if hook_plan is None:
            return pending
        for read in self.tensors:
            value = (
                hook_plan.captured.get(read.index) if read.applies_to(position_range.row, position_range.step) else None
            )
            keys: tuple[int, ...] = ()
            if value is not None and slot is not None:
                value = value[slot : slot + 1]
                if read.point.component in _WITH_KEY_COLUMNS:
                    value = value[..., -position_range.end :]
            elif read.point.component in _WITH_KEY_COLUMNS and (
                columns := hook_plan.key_columns.get(read.point.layer or 0)
            ):
                keys = key_positions(columns)
            part = None if value is None or read.is_second_output else read.select(value, position_range)
            if read.reduction is not None:
                own = read.select_logits(logits, position_range) if read.needs_logits and logits is not None else None
                also = _second_input(read, hook_plan, position_range, slot)
                pending += _reduce(read, TensorPart(*part, keys, own, also) if part else None, position_range)
                continue
            if part is None:
                continue
            array, first, positions = part
            pending.append(PendingTensor(read.spec.plan_index, position_range.row, first, array, positions, keys))
        return pending

    def checkpoints(self, row: int) -> Iterator[Callable[[], None]]:
        """What brings the reads of a row back to where they are now, should a chunk have to be computed again."""
        for read in self.tensors:
            if read.reduction is not None:
                yield read.reduction.checkpoint(row)

    def bytes_per_position(self, columns: int) -> int:
        """Bytes that a prefill captures per position, at most; selectors of single positions are left out."""
        return sum(r.position_bytes(columns) for r in self.tensors if r.positions is None and 0 in r.steps)

    def check_positions(self, prompt_lengths: Sequence[int], generated: int) -> None:
        """Refuses positions that no row will ever have.

        Raises:
            InvalidRequestError: names the hook and the position.
        """
        for read in self.tensors:
            if read.positions is None or read.positions.WhichOneof("which") != "list":
                continue
            for row, length in enumerate(prompt_lengths):
                for position in read.positions.list.positions:
                    if not -length <= position < length + generated and (read.rows is None or row in read.rows):
                        raise InvalidRequestError(
                            f"position {position} lies outside prompt {row}, which has {length} tokens"
                            + (f" and at most {generated} generated ones" if generated else ""),
                            field=f"{read.field}.select.positions",
                        )

    def expected(self, rows: int) -> Iterator[tuple[PlannedTensor, int]]:
        """Every tensor and row that the request asked for."""
        for read in self.tensors:
            for row in range(rows):
                if read.rows is None or row in read.rows:
                    yield read, row

    def _reduce(
        self, read: PlannedTensor, hook: inference_pb2.HookSpec, directions: Array | None, field: str
    ) -> Iterator[PlannedTensor]:
        """The entries of the plan that a hook makes at a point."""
        state = self.model.layout.state(read.point)
        shape = Shape(tuple(read.spec.axes), tuple(read.spec.shape))
        reduction = make_reduction(
            hook.reduction, read.point, shape, state.dtype, read.dtype, directions, self.model, field
        )
        if reduction is None:
            yield read
            return
        if reduction.needs_logits and self.stop_before is not None:
            raise InvalidRequestError("a forward pass that stops at a layer has no logits to compare with", field=field)
        for number, output in enumerate(reduction.outputs()):
            spec = tensor_pb2.TensorSpec()
            spec.CopyFrom(read.spec)
            del spec.axes[:], spec.shape[:]
            spec.axes.extend(output.shape.axes)
            spec.shape.extend(output.shape.extents)
            spec.plan_index += number
            spec.dtype, spec.reduced = wire_dtype(output.dtype), output.reduced
            spec.dictionary_id = reduction.dictionary_id
            yield replace(
                read,
                spec=spec,
                bytes_per_element=output.dtype.size if tensor_pb2.AXIS_POSITION in spec.axes else 0,
                extents=tuple(abs(extent) for extent in output.shape.extents),
                reduction=None if number else reduction,
                is_second_output=number > 0,
            )

    def _plan_tensor(
        self, hook_id: str, hook: inference_pb2.HookSpec, point: Point, field: str, rows: int
    ) -> PlannedTensor:
        state = self.model.require_point(point, f"{field}.site.component")
        component = COMPONENTS[point.component]
        head_axis = component.axes.index(tensor_pb2.AXIS_HEAD) if tensor_pb2.AXIS_HEAD in component.axes else -1
        heads = select_heads(hook.select, head_axis, state, point, f"{field}.select.heads")
        dtype = None if not hook.dtype else cast_dtype(hook.dtype, f"{field}.dtype")
        wire = hook.dtype or wire_dtype(state.dtype)
        extents = list(state.axes_extents)
        if heads:
            extents[head_axis] = len(heads)
        for axis, meaning in enumerate(component.axes):
            if meaning in (tensor_pb2.AXIS_POSITION, tensor_pb2.AXIS_KEY_POSITION):
                extents[axis] = -1
        steps = hook.select.steps
        stop = steps.stop if steps.HasField("stop") else 2**31
        if hook.select.HasField("steps") and stop <= steps.start:
            raise InvalidRequestError("the selector names no step", field=f"{field}.select.steps")
        return PlannedTensor(
            spec=tensor_pb2.TensorSpec(
                plan_index=len(self.tensors),
                hook_id=hook_id,
                site=point.to_message(),
                layer_name=hook.site.layer_name or self.model.layout.layer_name(point),
                dtype=wire,
                axes=component.axes,
                shape=extents,
            ),
            field=field,
            point=point,
            index=self.model.layout.index[point],
            position_axis=component.axes.index(tensor_pb2.AXIS_POSITION),
            heads=heads,
            head_axis=head_axis,
            positions=select_positions(hook.select, f"{field}.select.positions"),
            steps=range(steps.start, stop),
            rows=select_rows(hook.select, rows, f"{field}.select.rows"),
            dtype=dtype,
            bytes_per_element=(dtype or state.dtype).size,
            extents=tuple(abs(extent) for extent in extents),
        )


def _points(model: LoadedModel, hook: inference_pb2.HookSpec, field: str) -> list[Point]:
    """Where a hook reads; one of features that does not say it, where their dictionary does."""
    if hook.reduction.HasField("features") and not hook.HasField("site"):
        named = hook.reduction.features.dictionary_id
        return [model.require_dictionary(named, f"{field}.reduction.features.dictionary_id").point]
    return resolve(hook.site, model.layout.num_layers, field=f"{field}.site")


def _second_input(
    read: PlannedTensor, hook_plan: HookPlan, position_range: PositionRange, slot: int | None
) -> mx.array | None:
    """The selected part of the other point that a reduction reads, if it does."""
    index = None if read.reduction is None else read.reduction.second_point
    value = None if index is None else hook_plan.captured.get(index)
    if value is None:
        return None
    part = replace(read, heads=()).select(value if slot is None else value[slot : slot + 1], position_range)
    return None if part is None else part[0]


def _reduce(read: PlannedTensor, part: TensorPart | None, position_range: PositionRange) -> Iterator[PendingTensor]:
    assert read.reduction is not None
    for number, piece in enumerate(read.reduction.reduce(part, position_range.row, ends_step=position_range.ends_step)):
        array = mx.contiguous(piece.array)
        index = read.spec.plan_index + number
        yield PendingTensor(index, position_range.row, piece.first_position, array, piece.positions, (), piece.is_sent)
