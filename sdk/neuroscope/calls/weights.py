"""Weights, and what vectors predict: a part of both clients."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from neuroscope.activations.vocabulary_projection import (
    INLINE_BYTES,
    UPLOAD_TTL_S,
    ProjectionStream,
    Reference,
    VectorsLike,
    VocabularyProjection,
    to_request,
    to_vectors,
)
from neuroscope.base_client.call import CallFlow, Stream
from neuroscope.base_client.client_method import client_method, client_stream
from neuroscope.base_client.progress import ByteListener, byte_listener
from neuroscope.calls import requests
from neuroscope.calls.logit_lens import texts_of
from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import weights_pb2 as pb
from neuroscope.vocabulary.tensors import parse_dtype
from neuroscope.weights.weights import Weights
from neuroscope.wire.rpc import RPCS
from neuroscope.wire.weight_reader import WeightReader

LIMIT_BYTES = 4 * 2**30
"""Weights that are read at once, at most, unless the caller says otherwise."""
CONTENTS = {
    "values": pb.WEIGHTS_CONTENT_VALUES,
    "plan": pb.WEIGHTS_CONTENT_PLAN,
    "summaries": pb.WEIGHTS_CONTENT_SUMMARIES,
}
_SPAN = "weights"
_RPC = RPCS["ReadWeights"]


class WeightCalls:
    """What both clients do with weights and vectors."""

    @client_method
    def weights(
        self,
        *names: str,
        layers: SupportsIndex | Sequence[SupportsIndex] = (),
        heads: SupportsIndex | Sequence[SupportsIndex] = (),
        experts: SupportsIndex | Sequence[SupportsIndex] = (),
        dtype: str = "float32",
        content: str = "values",
        limit_bytes: int = LIMIT_BYTES,
        model_id: str = "",
        progress: ByteListener = False,
    ) -> CallFlow[Weights]:
        """The model's weights as numpy arrays with named axes, oriented as x @ W.

        Args:
            names: such as W_Q, "ln1.w", or groups: embedding, unembedding, norms, attention, qk, ov, mlp, experts;
                none: all that the model has.
            layers: one or several; none: all.
            heads: one or several, and the key/value heads that they attend with; none: all.
            experts: one or several; none: all.
            dtype: float32, float16 or bfloat16; empty: the model's own. Quantised weights are dequantised.
            content: values, or the plan alone, or the plan and summaries (norm, mean, deviation of each).
            limit_bytes: refuses to read more than that.
            model_id: empty: the one loaded first.
            progress: as in `capture`.

        Raises:
            InvalidRequestError: a name means nothing, a layer or head is out of range, or it is more than
                `limit_bytes`.
            UnavailableSiteError: the model does not have the weight; says why, and what it has.
        """
        request = reading(names, layers, heads, experts, dtype, content, model_id)
        weights = Weights()

        def heard(event: pb.ReadWeightsResponse | None) -> None:
            if event is not None and event.HasField("plan"):
                _check_limit(weights, content, limit_bytes)
            report(weights.received_bytes)

        with byte_listener(progress, "reading weights") as report:
            yield from _events(weights, request).each(heard)
        return weights.finish()

    @client_stream
    def weight_events(self, weights: Weights, request: pb.ReadWeightsRequest) -> Stream[pb.ReadWeightsResponse | None]:
        """Reads weights; every message as it comes, and None for every piece of a tensor, once `weights` holds it."""
        return _events(weights, request)

    @client_stream
    def weight_bytes(self, state: WeightReader, request: pb.ReadWeightsRequest) -> Stream[memoryview]:
        """The bytes of one weight as they come; an empty part says that the plan is there.

        Args:
            state: gets the plan.
            request: of `reading`; one that names a single weight of one layer.
        """
        return Stream(_SPAN, _RPC, request, lambda event: (state.feed(event) or memoryview(b""),), state.finish)

    @client_method
    def project(
        self,
        vectors: VectorsLike,
        *,
        top_k: int = 10,
        tokens: Sequence[str | SupportsIndex] = (),
        norm: bool = True,
        reference: Reference = None,
        model_id: str = "",
    ) -> CallFlow[VocabularyProjection]:
        """What vectors predict, through the model's own final norm and unembedding, softcap and scale included.

        Args:
            vectors: (..., d_model): an array, the id of an upload, or a reference to a tensor of a kept capture.
            top_k: so many likeliest tokens; 0: none.
            tokens: tokens whose logits, log-probabilities and ranks are wanted: ids, or texts of one token each.
            norm: False leaves out the final norm, for directions that are no residual stream.
            reference: a row of the vectors, another vector, or one for each, from whose distribution the divergence is
                taken.
            model_id: empty: the one loaded first.

        Raises:
            DataConversionError: the vectors are not as wide as the residual stream.
            InvalidRequestError: nothing is asked for, or a token is none of the model's.
            UnavailableSiteError: the model's end cannot be applied by itself; says why.
        """
        given = to_vectors(vectors)
        if isinstance(given, np.ndarray) and given.nbytes > INLINE_BYTES:
            given = yield from requests.put_tensor(given, UPLOAD_TTL_S)
        request = to_request(given, top_k=top_k, tokens=tokens, norm=norm, reference=reference, model_id=model_id)
        projecting = ProjectionStream()
        yield Stream("project", RPCS["ProjectToVocabulary"], request, lambda event: (projecting.feed(event),))
        return projecting.result((yield from texts_of(projecting.shown_token_ids(), model_id)))


def reading(
    names: Sequence[str],
    layers: SupportsIndex | Sequence[SupportsIndex],
    heads: SupportsIndex | Sequence[SupportsIndex],
    experts: SupportsIndex | Sequence[SupportsIndex],
    dtype: str,
    content: str,
    model_id: str,
) -> pb.ReadWeightsRequest:
    """A reading of weights as the contract carries it.

    Raises:
        InvalidRequestError: there is no such content, or an index is no number.
        DataConversionError: there is no such element type.
    """
    if content not in CONTENTS:
        raise InvalidRequestError(f"there is no content {content!r}", field="content", valid=CONTENTS)
    return pb.ReadWeightsRequest(
        model_id=model_id,
        names=names,
        layers=_numbers(layers, "layers"),
        heads=_numbers(heads, "heads"),
        experts=_numbers(experts, "experts"),
        dtype=parse_dtype(dtype),
        content=CONTENTS[content],
    )


def _events(weights: Weights, request: pb.ReadWeightsRequest) -> Stream[pb.ReadWeightsResponse | None]:
    return Stream(_SPAN, _RPC, request, lambda event: (weights.feed(event),))


def _numbers(given: SupportsIndex | Sequence[SupportsIndex], field: str) -> list[int]:
    listed: list[Any] = [given] if np.ndim(given) == 0 else list(given)  # type: ignore[arg-type]
    try:
        numbers = [operator.index(each) for each in listed]
    except TypeError:
        raise InvalidRequestError(f"{field} are whole numbers, not {given!r}", field=field) from None
    for number in numbers:
        if not -(2**31) <= number < 2**31:
            raise InvalidRequestError(f"{field}: {number} is out of range", field=field)
    return numbers


def _check_limit(weights: Weights, content: str, limit_bytes: int) -> None:
    if content == "values" and weights.nbytes > limit_bytes:
        raise InvalidRequestError(
            f"these weights are {weights.nbytes / 1e9:,.2f} GB, and limit_bytes allows {limit_bytes / 1e9:,.2f}: ask "
            "for fewer names, layers or heads, for float16, or raise the limit",
            field="limit_bytes",
        )
