"""Features of a dictionary in place of the activation that it reads."""

from __future__ import annotations

import mlx.core as mx

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary, join_heads
from neuroscope_inference.engine.hook_plan import PointIndex
from neuroscope_inference.engine.reductions.base import Output, ReducedPiece, Reduction, Shape, TensorPart
from neuroscope_inference.engine.reductions.top_k import largest

_NO_FEATURE = -1


class Features(Reduction):
    """The most active features, chosen or all features, how many are active, and what the reconstruction misses."""

    def __init__(
        self,
        shape: Shape,
        dtype: mx.Dtype,
        wanted: mx.Dtype | None,
        dictionary: Dictionary,
        message: inference_pb2.FeatureReduction,
    ) -> None:
        super().__init__(shape, dtype, wanted)
        self.dictionary_id = dictionary.description.dictionary_id
        self._dictionary = dictionary
        self._count = message.top_count
        self._features = list(message.features)
        self._all = message.all
        self._l0 = message.l0
        self._error = message.error

    @classmethod
    def from_message(
        cls,
        shape: Shape,
        dtype: mx.Dtype,
        wanted: mx.Dtype | None,
        message: inference_pb2.FeatureReduction,
        dictionary: Dictionary,
        point: Point,
        field: str,
    ) -> Features:
        """Checks what is asked for.

        Raises:
            UnavailableSiteError: the hook is not where the dictionary reads.
            InvalidRequestError: nothing is asked for, a feature is out of range, or the hook selects heads.
        """
        name = dictionary.description.dictionary_id
        if point != dictionary.point:
            raise UnavailableSiteError(
                f"dictionary {name!r} reads {dictionary.point}, not {point}", field=f"{field}.dictionary_id"
            )
        if shape.axes[2] == tensor_pb2.AXIS_HEAD and shape.width != dictionary.description.input_width:
            raise InvalidRequestError(f"dictionary {name!r} reads all heads together: select none", field=field)
        if not (message.top_count or message.features or message.all or message.l0 or message.error):
            raise InvalidRequestError(
                "the features are asked for nothing: top_count, features, all, l0 or error", field=field
            )
        if message.features and message.all:
            raise InvalidRequestError("some features and all of them are one too many", field=f"{field}.all")
        if message.top_count > dictionary.feature_count:
            raise InvalidRequestError(
                f"dictionary {name!r} has {dictionary.feature_count} features", field=f"{field}.top_count"
            )
        dictionary.check_features(message.features, f"{field}.features")
        return cls(shape, dtype, wanted, dictionary, message)

    @property
    def second_point(self) -> PointIndex | None:
        """Of a transcoder whose error is wanted, the point that it writes to."""
        dictionary = self._dictionary
        return dictionary.output_index if self._error and dictionary.is_transcoder else None

    def outputs(self) -> list[Output]:
        """What was asked for, in the order of the contract."""
        values = self.wanted or mx.float32
        at_positions = Shape(self.shape.axes[:2], self.shape.extents[:2])
        found: list[Output] = []
        if self._count:
            shape = at_positions.and_then(tensor_pb2.AXIS_RANK, self._count)
            found += [
                Output(tensor_pb2.REDUCED_TOP_FEATURES, shape, values),
                Output(tensor_pb2.REDUCED_TOP_FEATURES_INDICES, shape, mx.int32),
            ]
        if self._features or self._all:
            count = len(self._features) or self._dictionary.feature_count
            shape = at_positions.and_then(tensor_pb2.AXIS_FEATURE, count)
            found.append(Output(tensor_pb2.REDUCED_FEATURES, shape, values))
        if self._l0:
            found.append(Output(tensor_pb2.REDUCED_FEATURES_L0, at_positions, mx.int32))
        if self._error:
            found += [
                Output(tensor_pb2.REDUCED_FEATURES_SQUARED_ERROR, at_positions, values),
                Output(tensor_pb2.REDUCED_FEATURES_SQUARED_NORM, at_positions, values),
            ]
        return found

    def reduce(self, part: TensorPart | None, row: int, *, ends_step: bool) -> list[ReducedPiece]:
        """The entries of the part."""
        if part is None:
            return []
        x = part.array
        needs_all = self._count or self._all or self._l0 or self._error
        features = self._dictionary.encode(x, () if needs_all else self._features)
        found: list[mx.array] = []
        if self._count:
            values, indices = largest(features, self._count)
            found += [values, mx.where(values > 0, indices.astype(mx.int32), _NO_FEATURE)]
        if self._all:
            found.append(features)
        elif self._features:
            found.append(mx.take(features, mx.array(self._features), axis=-1) if needs_all else features)
        if self._l0:
            found.append((features > 0).sum(axis=-1))
        if self._error:
            target = join_heads(x if part.second_input is None else part.second_input).astype(mx.float32)
            missed = target - self._dictionary.decode(features, x)
            found += [mx.square(missed).sum(axis=-1), mx.square(target).sum(axis=-1)]
        return [
            ReducedPiece(array.astype(output.dtype), part.first_position, part.positions)
            for array, output in zip(found, self.outputs(), strict=True)
        ]
