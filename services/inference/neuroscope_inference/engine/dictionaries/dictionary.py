"""A dictionary as functions of activations, inside the model's graph: features of an activation, and back.

Shapes: d_in and d_out are the widths of the sites, heads joined; F the features. Activations are in their site's axes,
(rows, positions, ...), features (rows, positions, F).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.dictionaries.configuration import CONSTANT_NORM, LAYER_NORM
from neuroscope_inference.engine.hook_plan import PointIndex

_EPSILON = 1e-5  # SAELens' of its layer norm


@dataclass(frozen=True, slots=True)
class NormalisedInput:
    """What is encoded, (rows, positions, d_in), and what brings a reconstruction back: times scale, plus shift."""

    inputs: mx.array
    scale: mx.array | None = None  # (rows, positions, 1)
    shift: mx.array | None = None  # (rows, positions, 1)


@dataclass(frozen=True, slots=True)
class Dictionary:
    """A loaded dictionary.

    Args:
        description: as it is sent.
        point: where it reads.
        output: where it writes; `point` but for a transcoder.
        index: of the point it reads.
        output_index: of the point it writes.
        weights: by SAELens' names, in one type.
        normalisation: of what is encoded.
        subtracts_bias: whether b_dec is subtracted from what is encoded.
    """

    description: pb.Dictionary
    point: Point
    output: Point
    index: PointIndex
    output_index: PointIndex
    weights: Mapping[str, mx.array]
    normalisation: str
    subtracts_bias: bool

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes to another site than it reads."""
        return self.index != self.output_index

    @property
    def feature_count(self) -> int:
        """F."""
        return self.description.feature_count

    def check_features(self, features: Sequence[int], field: str) -> list[int]:
        """Features that there are.

        Raises:
            InvalidRequestError: one is out of range, or named twice.
        """
        for index, feature in enumerate(features):
            if feature >= self.feature_count:
                raise InvalidRequestError(
                    f"feature {feature} is out of range: dictionary {self.description.dictionary_id!r} has features "
                    f"0 to {self.feature_count - 1}",
                    field=f"{field}[{index}]",
                )
        if len(set(features)) < len(features):
            raise InvalidRequestError("a feature is named twice", field=field)
        return list(features)

    def encode(self, x: mx.array, features: Sequence[int] = ()) -> mx.array:
        """Features of an activation of the site that it reads, float32.

        Args:
            x: (rows, positions, ...), of any type.
            features: which; empty: all.
        """
        inputs = self._normalise(x).inputs
        match self.description.architecture:
            case pb.DICTIONARY_ARCHITECTURE_TOPK:
                found = _keep_largest(self._linear(inputs, "b_enc"), self.description.top_k)
                return mx.take(found, mx.array(list(features)), axis=-1) if features else found
            case pb.DICTIONARY_ARCHITECTURE_GATED:
                gate = self._linear(inputs, "b_gate", features)
                magnitudes = (gate - self._row("b_gate", features)) * mx.exp(self._row("r_mag", features))
                magnitudes = magnitudes + self._row("b_mag", features)
                return mx.where(gate > 0, mx.maximum(magnitudes, 0), 0)
            case pb.DICTIONARY_ARCHITECTURE_JUMPRELU:
                z = self._linear(inputs, "b_enc", features)
                return mx.where(z > self._row("threshold", features), mx.maximum(z, 0), 0)
            case _:
                return mx.maximum(self._linear(inputs, "b_enc", features), 0)

    def decode(self, features: mx.array, x: mx.array) -> mx.array:
        """The reconstruction of all features (rows, positions, d_out), float32.

        Args:
            features: (rows, positions, F).
            x: the activation that they are of.
        """
        written = (features.astype(self._dtype) @ self.weights["W_dec"]).astype(mx.float32)
        written = written + self.weights["b_dec"].astype(mx.float32)
        if "W_skip" in self.weights:
            written = written + (join_heads(x).astype(self._dtype) @ self.weights["W_skip"].T).astype(mx.float32)
        scaled = self._normalise(x)
        if scaled.scale is not None:
            written = written * scaled.scale
        return written if scaled.shift is None else written + scaled.shift

    def decode_change(self, change: mx.array, x: mx.array, features: Sequence[int] = ()) -> mx.array:
        """What a change of features adds to the output (rows, positions, d_out), float32.

        Args:
            change: (rows, positions, features).
            x: the activation of the site that it reads.
            features: which are changed; empty: all.
        """
        rows = self.weights["W_dec"]
        if features:
            rows = mx.take(rows, mx.array(list(features)), axis=0)
        added = change @ rows.astype(mx.float32)
        scale = self._normalise(x).scale
        return added if scale is None else added * scale

    def feature_gradient(self, gradient: mx.array, x: mx.array) -> mx.array:
        """The gradient by each feature (rows, positions, F), float32, were it added to the output.

        Args:
            gradient: of something by the output (rows, positions, ...).
            x: the activation of the site that it reads.
        """
        found = join_heads(gradient).astype(mx.float32) @ self.weights["W_dec"].astype(mx.float32).T
        scale = self._normalise(x).scale
        return found if scale is None else found * scale

    @property
    def _dtype(self) -> mx.Dtype:
        return self.weights["W_enc"].dtype

    def _normalise(self, x: mx.array) -> NormalisedInput:
        inputs = join_heads(x).astype(mx.float32)
        scale: mx.array | None = None
        shift: mx.array | None = None
        if self.normalisation == LAYER_NORM:
            mean, deviation = inputs.mean(axis=-1, keepdims=True), mx.std(inputs, axis=-1, keepdims=True, ddof=1)
            inputs, shift, scale = (inputs - mean) / (deviation + _EPSILON), mean, deviation
        elif self.normalisation == CONSTANT_NORM:
            length = mx.linalg.norm(inputs, axis=-1, keepdims=True) / inputs.shape[-1] ** 0.5
            inputs, scale = inputs / length, length
        inputs = inputs.astype(self._dtype)
        if self.subtracts_bias:
            inputs = inputs - self.weights["b_dec"]
        return NormalisedInput(inputs, scale, shift)

    def _linear(self, inputs: mx.array, bias: str, features: Sequence[int] = ()) -> mx.array:
        columns = self.weights["W_enc"]
        if features:
            columns = mx.take(columns, mx.array(list(features)), axis=1)
        return (inputs @ columns).astype(mx.float32) + self._row(bias, features)

    def _row(self, name: str, features: Sequence[int] = ()) -> mx.array:
        row = self.weights[name].astype(mx.float32)
        return mx.take(row, mx.array(list(features))) if features else row


def join_heads(x: mx.array) -> mx.array:
    """An activation with its heads joined, (rows, positions, width)."""
    return x if x.ndim == 3 else x.reshape(*x.shape[:2], -1)


def _keep_largest(z: mx.array, k: int) -> mx.array:
    """The k largest of the last axis where they are above 0; 0 elsewhere."""
    places = mx.argpartition(-z, k - 1, axis=-1)[..., :k]
    kept = mx.maximum(mx.take_along_axis(z, places, axis=-1), 0)
    return mx.put_along_axis(mx.zeros_like(z), places, kept, axis=-1)
