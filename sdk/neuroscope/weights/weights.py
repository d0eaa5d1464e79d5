"""The weights read from a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError, StreamingError, nearest
from neuroscope.v1 import tensor_pb2
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.tensors import Array, numpy_dtype
from neuroscope.weights import file as weights_file
from neuroscope.weights.factored_matrix import FactoredMatrix
from neuroscope.weights.keys import WeightKey, axis_name, key_of
from neuroscope.weights.names import OF_KEY_VALUE_HEADS
from neuroscope.weights.weight_array import WeightArray
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FrameReader

if TYPE_CHECKING:
    from rich.table import Table

_LAYER, _HEAD, _KEY_VALUE_HEAD, _EXPERT = "layer", "head", "key_value_head", "expert"


class Weights(Displayable):
    """Weights of one model by name: `weights.W_Q`, `weights["ln1.w"]`, with layers stacked along the first axis.

    Without values, there is only the plan: names, shapes, sources.
    """

    def __init__(self) -> None:
        self._plan: pb.WeightsPlan | None = None
        self._reader: FrameReader | None = None
        self._stacks: dict[str, Array] = {}
        self._alone: dict[WeightKey, Array] = {}
        self._ended = False
        self.received_bytes = 0
        """Bytes of received tensors."""
        self.summaries: dict[WeightKey, pb.WeightSummary] = {}
        """Summary of each weight, if requested."""

    # Receiving.

    def feed(self, event: Event) -> pb.ReadWeightsResponse | None:
        """Processes an event of the stream. Returns the message, or None for tensor frames.

        Raises:
            StreamingError: the event belongs to another kind of call.
            ChecksumError: a tensor was damaged on the way.
        """
        if isinstance(event, Frame):
            if self._reader is None:
                raise StreamingError("weights came before their plan")
            for piece in self._reader.read(event):
                self._put(key_of(piece.spec), piece.array if piece.is_joined else np.array(piece.array))
            self.received_bytes += event.nbytes
            return None
        if not isinstance(event, pb.ReadWeightsResponse):
            raise StreamingError("this is no stream of weights")
        match event.WhichOneof("event"):
            case "plan":
                self._on_plan(event.plan)
            case "summary":
                self.summaries[key_of(self.plan.tensors.tensors[event.summary.plan_index])] = event.summary
            case "end":
                self._ended = True
            case _:
                pass
        return event

    def finish(self) -> Weights:
        """The weights, after the end of the stream.

        Raises:
            StreamingError: the stream ended too early.
        """
        if not self._ended:
            raise StreamingError("the weights ended before their last tensor")
        return self

    # Access.

    @property
    def plan(self) -> pb.WeightsPlan:
        """The service's plan.

        Raises:
            StreamingError: it was not received.
        """
        if self._plan is None:
            raise StreamingError("the weights' plan has not come")
        return self._plan

    @property
    def model_id(self) -> str:
        """Id of the model."""
        return self.plan.model_id

    @property
    def names(self) -> list[str]:
        """Names of the weights, in the order of the plan."""
        return list(dict.fromkeys(spec.hook_id for spec in self.plan.tensors.tensors))

    @property
    def places(self) -> list[WeightKey]:
        """Key (name, layer) of every weight."""
        return [key_of(spec) for spec in self.plan.tensors.tensors]

    @property
    def notes(self) -> list[str]:
        """Operations between these matrices and the model's activations."""
        return list(self.plan.notes)

    @property
    def missing(self) -> dict[str, str]:
        """The other weights of the vocabulary, and why the model does not have them."""
        return {each.name: each.reason for each in self.plan.missing}

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return self.plan.length_bytes

    def layer(self, layer: int) -> pb.WeightsLayer:
        """Properties of a layer: scale of scores, rotary embedding, activation function.

        Raises:
            InvalidRequestError: nothing was read from the layer.
        """
        counted = layer + self.plan.layer_count if layer < 0 else layer
        for facts in self.plan.layers:
            if facts.layer == counted:
                return facts
        raise InvalidRequestError(
            f"nothing was read of layer {layer}", field="layer", valid=[str(facts.layer) for facts in self.plan.layers]
        )

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, name: str) -> WeightArray:
        """A weight in all layers that were read.

        Raises:
            InvalidRequestError: the weight was not read, or its shape differs between layers (use `of`).
        """
        specs = self._specs(name)
        if name not in self._stacks:
            if self._is_ragged(specs):
                raise InvalidRequestError(
                    f"layers have {name} in different shapes: take them one by one, of({name!r}, layer)", field=name
                )
            raise InvalidRequestError(f"{name} was asked for without its values", field=name)
        weight = self.plan.weights[specs[0].plan_index]
        head = _KEY_VALUE_HEAD if name in OF_KEY_VALUE_HEADS else _HEAD
        dims = [head if dim == _HEAD else dim for dim in map(axis_name, specs[0].axes)]
        coords: dict[str, Sequence[int]] = {}
        if specs[0].site.HasField("layer"):
            dims.insert(0, _LAYER)
            coords[_LAYER] = [spec.site.layer for spec in specs]
        for dim, numbers in ((head, weight.heads), (_EXPERT, weight.experts)):
            if numbers and dim in dims:
                coords[dim] = list(numbers)
        counts = {
            _LAYER: self.plan.layer_count,
            _HEAD: self.plan.head_count,
            _KEY_VALUE_HEAD: self.plan.key_value_head_count,
            _EXPERT: max(self.plan.expert_count, len(weight.experts)),
        }
        return WeightArray(name, self._stacks[name], tuple(dims), coords, {dim: counts[dim] for dim in coords})

    def __getattr__(self, name: str) -> WeightArray:
        if name.startswith("__") or self.__dict__.get("_plan") is None or name not in self.names:
            near = ", ".join(nearest(name, self.names)) if self.__dict__.get("_plan") is not None else ""
            raise AttributeError(f"{name} was not read" + (f"; nearest: {near}" if near else ""))
        return self[name]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self.names if name.isidentifier())]

    def of(self, name: str, layer: int | None = None) -> NDArray[Any]:
        """A weight of one layer, or a weight without a layer.

        Raises:
            InvalidRequestError: the weight was not read.
        """
        counted = layer + self.plan.layer_count if layer is not None and layer < 0 else layer
        if (name, counted) in self._alone:
            return self._alone[name, counted]
        self._specs(name)
        valid = [str(each) for known, each in self.places if known == name]
        raise InvalidRequestError(f"{name} was not read of layer {layer}", field="layer", valid=valid)

    def key_value_head(self, head: int) -> int:
        """The key/value head of a head."""
        counted = head + self.plan.head_count if head < 0 else head
        return counted * self.plan.key_value_head_count // self.plan.head_count

    def qk(self, layer: int | None = None, head: int | None = None) -> FactoredMatrix:
        """W_Q @ W_K^T of a head (d_model, d_model): x @ qk @ y is an unscaled score if no operation is in between (see
        `notes`). Without a layer or head: of all that were read (layer, head, d_model, d_model).
        """
        queries, keys = self._heads("W_Q", layer, head), self._heads("W_K", layer, head)
        return FactoredMatrix(queries, keys.swapaxes(-1, -2))

    def ov(self, layer: int | None = None, head: int | None = None) -> FactoredMatrix:
        """W_V @ W_O of a head (d_model, d_model): x @ ov is the output of attending to x. Otherwise as `qk`."""
        return FactoredMatrix(self._heads("W_V", layer, head), self._heads("W_O", layer, head))

    @property
    def QK(self) -> FactoredMatrix:  # as in TransformerLens
        """`qk` of all layers and heads."""
        return self.qk()

    @property
    def OV(self) -> FactoredMatrix:  # as in TransformerLens
        """`ov` of all layers and heads."""
        return self.ov()

    def normed(self, name: str, x: NDArray[Any], layer: int | None = None) -> NDArray[Any]:
        """Applies a norm to a stream (..., d_model).

        Args:
            name: ln1, ln1_post, ln2, ln2_post or final_norm.
            x: the stream.
            layer: the layer; None for final_norm.

        Raises:
            InvalidRequestError: the weight was not read.
        """
        weight = self.of(f"{name}.w", layer).astype(np.float32)
        counted = layer + self.plan.layer_count if layer is not None and layer < 0 else layer
        (norm,) = (
            norm
            for norm in self.plan.norms
            if (norm.name, norm.layer if norm.HasField("layer") else None) == (name, counted)
        )
        x = x - x.mean(axis=-1, keepdims=True) if norm.is_centred else x
        x = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + norm.epsilon) * weight
        bias = self._alone.get((f"{name}.b", counted))
        return x if bias is None else x + bias.astype(np.float32)

    def table(self) -> Table:
        """Names, layers, shapes and sizes; with summaries, also norms."""
        return show(self, "table")

    def __repr__(self) -> str:
        if self._plan is None:
            return "Weights()"
        return f"Weights({self.model_id}, {counted(len(self.places), 'tensor')}, {self.nbytes / 1e6:,.1f} MB)"

    # Files.

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file: tensors are named W_Q.5 (name and layer), the plan is metadata.

        Raises:
            InvalidRequestError: there are no values.
        """
        if len(self._alone) != len(self.places):
            raise InvalidRequestError("weights that were asked for without their values are not saved", field="path")
        weights_file.write(path, self.plan, self._alone)

    @classmethod
    def load(cls, path: str | Path) -> Weights:
        """Reads a file written by `save`.

        Raises:
            DataConversionError: the file has other content.
        """
        weights = cls()
        with weights_file.read(path) as (plan, arrays):
            weights._on_plan(plan)
            for place, array in arrays.items():
                weights._put(place, np.array(array))
        weights._ended = True
        return weights

    # Internal.

    def _on_plan(self, plan: pb.WeightsPlan) -> None:
        self._plan, self._reader = plan, FrameReader(plan.tensors)

    def _specs(self, name: str) -> list[tensor_pb2.TensorSpec]:
        found = [spec for spec in self.plan.tensors.tensors if spec.hook_id == name]
        if found:
            return found
        near = ", ".join(nearest(name, self.names))
        reason = f": {why}" if (why := self.missing.get(name)) else f"; nearest: {near}" if near else ""
        raise InvalidRequestError(f"{name!r} was not read{reason}", field="name", valid=self.names)

    def _is_ragged(self, specs: Sequence[tensor_pb2.TensorSpec]) -> bool:
        return any((list(spec.shape), spec.dtype) != (list(specs[0].shape), specs[0].dtype) for spec in specs)

    def _put(self, place: WeightKey, array: Array) -> None:
        """Stores a tensor, stacked with other layers if their shapes agree."""
        name, layer = place
        specs = self._specs(name)
        if layer is None:
            self._stacks[name] = self._alone[place] = array
        elif self._is_ragged(specs):
            self._alone[place] = array
        else:
            if name not in self._stacks:
                self._stacks[name] = np.empty((len(specs), *array.shape), numpy_dtype(specs[0].dtype))
            index = [spec.site.layer for spec in specs].index(layer)
            self._stacks[name][index] = array
            self._alone[place] = self._stacks[name][index]

    def _heads(self, name: str, layer: int | None, head: int | None) -> NDArray[np.floating[Any]]:
        """A weight by head, in float32 or wider; key/value heads are repeated for each head."""
        array = self[name]
        layers: Any = slice(None) if layer is None else layer
        heads: Any = self._heads_of_queries() if head is None else head
        if name in OF_KEY_VALUE_HEADS:
            shared = [self.key_value_head(each) for each in (heads if head is None else [heads])]
            heads = shared if head is None else shared[0]
        found = array[layers, heads]
        return found.astype(np.float32) if found.dtype.itemsize < 4 else found  # type: ignore[return-value]

    def _heads_of_queries(self) -> list[int]:
        for name in ("W_Q", "W_O"):
            if name in self:
                return list(self[name].coords[_HEAD])
        return list(range(self.plan.head_count))
