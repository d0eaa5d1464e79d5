"""Which reduction a hook asks for."""

from __future__ import annotations

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import Array
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.reductions.base import Reduction, Shape
from neuroscope_inference.engine.reductions.features import Features
from neuroscope_inference.engine.reductions.lens import Lens
from neuroscope_inference.engine.reductions.mean import MeanOverPositions
from neuroscope_inference.engine.reductions.norm import L2Norm
from neuroscope_inference.engine.reductions.projection import Projection
from neuroscope_inference.engine.reductions.top_k import TopK


def make_reduction(
    message: inference_pb2.Reduction,
    point: Point,
    shape: Shape,
    dtype: mx.Dtype,
    wanted: mx.Dtype | None,
    directions: Array | None,
    model: LoadedModel,
    field: str,
) -> Reduction | None:
    """The reduction of a hook; None if it has none.

    Args:
        message: the hook's reduction.
        point: where it reads.
        shape: of the selected tensor, before the reduction.
        dtype: its element type.
        wanted: type to cast the result to.
        directions: of a projection, resolved.
        model: that is read.
        field: the reduction's path in the request.

    Raises:
        InvalidRequestError: it makes no sense at that point, or its argument is wrong.
        UnknownIdError, UnavailableSiteError: a dictionary is not there, or not of that point.
        DataConversionError: directions cannot be used.
    """
    kind = message.WhichOneof("kind")
    if point.component == "attention_scores" and kind in ("mean", "norm"):
        raise InvalidRequestError(
            f"masked scores hold the lowest number there is, so they have no {kind}; reduce attention_pattern",
            field=field,
        )
    match kind:
        case None:
            return None
        case "mean":
            return MeanOverPositions(shape, dtype, wanted)
        case "norm":
            return L2Norm(shape, dtype, wanted)
        case "top_k":
            return TopK.from_message(shape, dtype, wanted, message.top_k.k, point, f"{field}.top_k")
        case "projection":
            if shape.axes[-1] == tensor_pb2.AXIS_KEY_POSITION:
                raise InvalidRequestError(
                    f"the last axis of {point} counts keys, and has no directions", field=f"{field}.projection"
                )
            assert directions is not None
            return Projection.from_message(shape, dtype, wanted, directions, point, f"{field}.projection")
        case "lens":
            size = model.description.vocab_size
            return Lens.from_message(
                shape, dtype, wanted, message.lens, model.unembedding, size, point, f"{field}.lens"
            )
        case "features":
            asked = message.features
            dictionary = model.require_dictionary(asked.dictionary_id, f"{field}.features.dictionary_id")
            return Features.from_message(shape, dtype, wanted, asked, dictionary, point, f"{field}.features")
