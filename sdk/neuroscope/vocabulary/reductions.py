"""Reductions of a capture before it is sent, as users write them and as results are named.

    Hook("resid_post", reduce="mean")                      mean over a step's positions, all chunks together
    Hook("resid_post", reduce="norm")                      L2 norm over the last axis
    Hook("logits", reduce={"top_k": 10})                   largest elements of the last axis, and their indices
    Hook("resid_post", reduce={"project": directions})     dot products with directions (count, width)
    Hook("resid_post", reduce={"lens": {"top_k": 5}})      the likeliest tokens behind the final norm and unembedding;
                                                           also "token_ids": [...], "kl": True, "entropy": True, and
                                                           "next_token_ids": [...], one for each position; of
                                                           logits too
    Hook("", reduce={"features": {"dictionary_id": "sae", "top_count": 8}})
                                                           features of a dictionary, where it reads; also
                                                           "features": [...], "all": True, "l0": True, "error": True

Directions are an array, the id of an uploaded tensor, or a `TensorReference`. Results are float32 unless the hook names
a dtype; the values of a top_k have the type of the tensor, the indices int32. In a cache the result is found under the
name of the point, and next to the tensor itself under that name and the reduction's:

    cache["resid_post:norm", 5]  cache["logits:top_k"]  cache["logits:top_k_indices"]
    cache["resid_post:lens_top_k_tokens", 5]  cache["resid_post:lens_kl", 5]
    cache["resid_post:top_features", 5]  cache["resid_post:top_features_indices", 5]
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from google.protobuf.message import Message

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.tensors import Array, parse_dtype

Reduce: TypeAlias = "str | Mapping[str, Any] | inference_pb2.Reduction | None"

_Parts = TypeVar("_Parts", bound=Message)

FORMS = ("mean", "norm", "top_k", "project", "lens", "features")
NAMES: dict[tensor_pb2.Reduced.ValueType, str] = {
    value: name.removeprefix("REDUCED_").lower()
    for name, value in tensor_pb2.Reduced.items()
    if value != tensor_pb2.REDUCED_UNSPECIFIED
}
"""What a plan's entry holds, as it is written behind a point's name."""


def to_message(reduce: Reduce) -> inference_pb2.Reduction | None:
    """The reduction as the contract carries it.

    Raises:
        InvalidRequestError: it has none of the forms.
    """
    match reduce:
        case None | "":
            return None
        case inference_pb2.Reduction():
            return reduce
        case "mean":
            return inference_pb2.Reduction(mean=inference_pb2.MeanReduction())
        case "norm":
            return inference_pb2.Reduction(norm=inference_pb2.NormReduction())
        case Mapping() if len(reduce) == 1:
            ((name, value),) = reduce.items()
            if name == "top_k":
                return inference_pb2.Reduction(top_k=inference_pb2.TopKReduction(k=_count(value)))
            if name == "project":
                return inference_pb2.Reduction(
                    projection=inference_pb2.ProjectionReduction(directions=_directions(value))
                )
            if name == "lens":
                return inference_pb2.Reduction(lens=_parts(inference_pb2.LensReduction, value, "lens"))
            if name == "features":
                features = _parts(inference_pb2.FeatureReduction, value, "features")
                return inference_pb2.Reduction(features=features)
        case _:
            pass
    raise InvalidRequestError(
        'a reduction is "mean", "norm", {"top_k": k}, {"project": directions}, {"lens": {...}} or {"features": {...}}, '
        f"not {reduce!r}",
        field="reduce",
        valid=FORMS,
    )


def split_name(name: str) -> tuple[str, str]:
    """A name in a cache, and the reduction behind it; empty where it names none."""
    before, colon, reduced = name.rpartition(":")
    return (before, reduced) if colon and reduced in NAMES.values() else (name, "")


def _count(k: Any) -> int:
    try:
        return operator.index(k)
    except TypeError:
        raise InvalidRequestError(f"top_k takes a whole number, not {k!r}", field="reduce.top_k") from None


def _parts(kind: type[_Parts], value: Any, name: str) -> _Parts:
    known = tuple(kind.DESCRIPTOR.fields_by_name)
    if not isinstance(value, Mapping) or not set(cast("Mapping[Any, Any]", value)) <= set(known):
        raise InvalidRequestError(
            f"{name} takes {', '.join(known)}, not {value!r}", field=f"reduce.{name}", valid=known
        )
    try:
        return kind(**cast("Mapping[str, Any]", value))
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{name} cannot be asked for {value!r}: {error}", field=f"reduce.{name}") from None


def _directions(value: Any) -> tensor_pb2.TensorReference:
    match value:
        case tensor_pb2.TensorReference():
            return value
        case str():
            return tensor_pb2.TensorReference(tensor_id=value)
        case _:
            return tensor_pb2.TensorReference(inline=_inline(np.asarray(value)))


def _inline(array: Array) -> tensor_pb2.Tensor:
    if array.dtype.kind == "O":
        raise InvalidRequestError("directions are an array of numbers (count, width)", field="reduce.project")
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return tensor_pb2.Tensor(dtype=parse_dtype(array.dtype.name), shape=array.shape, data=array.tobytes())
