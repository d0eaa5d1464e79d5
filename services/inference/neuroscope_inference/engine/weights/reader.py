"""Weights on their way out: the plan, then each tensor in parts that are made as they are sent."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.wire.frames import PACKED_BYTES, OutgoingTensor, TensorPart
from neuroscope_inference.engine.arrays import buffer, cast_dtype, scalar, wire_dtype
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.results import PortionResult, StepResult
from neuroscope_inference.engine.weights.catalogue import WeightCatalogue, missing_weights
from neuroscope_inference.engine.weights.notes import weight_notes
from neuroscope_inference.engine.weights.selection import SelectedWeight, check_names, select_weights

Event: TypeAlias = "pb.ReadWeightsResponse | StepResult | PortionResult | None"
PART_BYTES = 16 * 2**20
"""What is made of a large tensor at a time."""
ArraySlice: TypeAlias = "tuple[slice, ...]"


@dataclass(frozen=True, slots=True)
class WeightsReader:
    """A checked request.

    Args:
        model: whose weights are read.
        request: what is asked for.
        dtype: of what is sent; None: each weight's own.
    """

    model: LoadedModel
    request: pb.ReadWeightsRequest
    dtype: mx.Dtype | None

    def run(self) -> Iterator[Event]:
        """What is sent; for the engine's thread.

        Raises:
            InvalidRequestError, UnavailableSiteError: as `selection.chosen`.
        """
        if self.model.weights is None:
            self.model.weights = WeightCatalogue(self.model.layout)
        tensors = select_weights(self.request, self.model.weights)
        plan = self._plan(self.model.weights, tensors)
        yield pb.ReadWeightsResponse(plan=plan)
        started, count, sent_bytes = time.perf_counter(), 0, 0
        if self.request.content == pb.WEIGHTS_CONTENT_SUMMARIES:
            for index, tensor in enumerate(tensors):
                yield pb.ReadWeightsResponse(summary=self._summary(index, tensor))
        elif self.request.content != pb.WEIGHTS_CONTENT_PLAN:
            for event in self._values(tensors):
                sent_bytes += event.nbytes
                yield event
            count = len(tensors)
        elapsed = time.perf_counter() - started
        yield pb.ReadWeightsResponse(
            end=pb.WeightsEnd(tensor_count=count, length_bytes=sent_bytes, elapsed_seconds=elapsed)
        )

    def _values(self, tensors: Sequence[SelectedWeight]) -> Iterator[StepResult | PortionResult]:
        """Small tensors some at a time, large ones alone and in portions."""
        small: list[OutgoingTensor] = []
        for index, tensor in enumerate(tensors):
            array = tensor.make()
            dtype = self.dtype or array.dtype
            nbytes = array.size * dtype.size
            if nbytes <= PACKED_BYTES:
                part = _evaluated(array, dtype)
                small.append(OutgoingTensor(index, 0, part.shape, 0, buffer(part)))
                if sum(each.data.nbytes for each in small) >= PACKED_BYTES:
                    yield _to_step_result(small)
                    small = []
                continue
            if small:
                yield _to_step_result(small)
                small = []
            offset = 0
            mx.eval(array)  # once, where it has to be dequantised
            for place in array_slices(array.shape, dtype.size):
                data = buffer(_evaluated(array[place], dtype))
                yield PortionResult(0, TensorPart(index, 0, array.shape, offset, nbytes, data))
                offset += data.nbytes
        if small:
            yield _to_step_result(small)

    def _summary(self, index: int, tensor: SelectedWeight) -> pb.WeightSummary:
        array = tensor.make()
        mx.eval(array)
        total = squares = largest = 0.0
        for place in array_slices(array.shape, mx.float32.size):
            part = array[place].astype(mx.float32)
            total += scalar(part.sum())
            squares += scalar(mx.square(part).sum())
            largest = max(largest, scalar(mx.abs(part).max()))
        mean = total / array.size
        return pb.WeightSummary(
            plan_index=index,
            norm=math.sqrt(squares),
            mean=mean,
            standard_deviation=math.sqrt(max(squares / array.size - mean * mean, 0.0)),
            largest=largest,
        )

    def _plan(self, catalogue: WeightCatalogue, tensors: Sequence[SelectedWeight]) -> pb.WeightsPlan:
        layout, facts = self.model.layout, catalogue.facts
        layers = sorted({tensor.weight.layer for tensor in tensors if tensor.weight.layer is not None})
        names = {(tensor.weight.name.removesuffix(".w"), tensor.weight.layer) for tensor in tensors}
        shape = layout.head_shape
        plan = pb.WeightsPlan(
            model_id=self.model.description.model_id,
            layers=[self._layer(catalogue, layer) for layer in layers],
            norms=[
                pb.WeightNorm(name=name, layer=layer, is_centred=norm.is_centred, epsilon=norm.epsilon)
                for (name, layer), norm in catalogue.norms.items()
                if (name, layer) in names
            ],
            embedding_scale=facts.embedding_scale,
            logit_scale=facts.head.scale if facts.head is not None else 0.0,
            logit_softcap=facts.head.softcap if facts.head is not None else None,
            is_tied=facts.head is not None and facts.head.is_tied,
            missing=[pb.MissingWeight(name=name, reason=reason) for name, reason in missing_weights(catalogue)],
            layer_count=layout.num_layers,
            head_count=shape.heads,
            key_value_head_count=shape.kv_heads,
            expert_count=catalogue.expert_count,
        )
        plan.notes.extend(weight_notes(plan, tensors))
        for index, tensor in enumerate(tensors):
            self._describe(plan, index, tensor)
        return plan

    def _describe(self, plan: pb.WeightsPlan, index: int, tensor: SelectedWeight) -> None:
        weight, array = tensor.weight, tensor.make()
        dtype = self.dtype or array.dtype
        spec = tensor_pb2.TensorSpec(
            plan_index=index,
            hook_id=weight.name,
            layer_name=self.model.layout.path_of(weight.module),
            dtype=wire_dtype(dtype),
            axes=weight.axes,
            shape=array.shape,
        )
        spec.site.component = weight.name
        if weight.layer is not None:
            spec.site.layer = weight.layer
        plan.tensors.tensors.append(spec)
        extents = dict(zip(weight.axes, array.shape, strict=True))
        plan.weights.append(
            pb.Weight(
                plan_index=index,
                heads=tensor.indices(tensor_pb2.AXIS_HEAD, extents.get(tensor_pb2.AXIS_HEAD, 0)),
                experts=tensor.indices(tensor_pb2.AXIS_EXPERT, extents.get(tensor_pb2.AXIS_EXPERT, 0)),
                source=weight.source,
            )
        )
        plan.length_bytes += array.size * dtype.size

    def _layer(self, catalogue: WeightCatalogue, layer: int) -> pb.WeightsLayer:
        facts, block = catalogue.facts.layers[layer], self.model.layout.blocks[layer]
        activation = facts.neurons.activation if facts.neurons is not None else ""
        if block.experts is not None:
            activation = type(block.experts.get("activation", None)).__name__ if "activation" in block.experts else ""
        return pb.WeightsLayer(
            layer=layer,
            is_rotary=facts.is_rotary,
            has_query_norm=facts.is_normed,
            score_scale=facts.score_scale,
            score_softcap=facts.score_softcap,
            contribution_scale=block.contribution_scale,
            activation=activation,
        )


def parse_reading(request: pb.ReadWeightsRequest, model: LoadedModel) -> WeightsReader:
    """The reading of a request, checked as far as it can be away from the engine's thread.

    Raises:
        InvalidRequestError: a name means nothing, or the contract has no such content.
        DataConversionError: weights are not sent in that type.
    """
    check_names(request)
    if request.content not in pb.WeightsContent.values():
        raise InvalidRequestError(f"the contract has no content {request.content}", field="content")
    return WeightsReader(model, request, cast_dtype(request.dtype, "dtype") if request.dtype else None)


def array_slices(shape: Sequence[int], itemsize: int, part_bytes: int = PART_BYTES) -> Iterator[ArraySlice]:
    """Where the parts of an array are: contiguous in row-major order, and of at most so many bytes."""
    nbytes = math.prod(shape) * itemsize
    if nbytes <= part_bytes or not shape:
        yield (slice(None),) * len(shape)
        return
    row = nbytes // shape[0]
    if row <= part_bytes:
        step = max(1, part_bytes // row)
        for first in range(0, shape[0], step):
            yield slice(first, first + step), *itertools.repeat(slice(None), len(shape) - 1)
        return
    for index in range(shape[0]):
        for place in array_slices(shape[1:], itemsize, part_bytes):
            yield slice(index, index + 1), *place


def _evaluated(array: mx.array, dtype: mx.Dtype) -> mx.array:
    part = mx.contiguous(array.astype(dtype))
    mx.eval(part)
    return part


def _to_step_result(tensors: list[OutgoingTensor]) -> StepResult:
    return StepResult(0, tensors, sum(tensor.data.nbytes for tensor in tensors))
