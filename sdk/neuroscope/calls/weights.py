"""Methods of both clients for weights and projections to the vocabulary."""

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
"""Default limit of the bytes of one call."""
CONTENTS = {
    "values": pb.WEIGHTS_CONTENT_VALUES,
    "plan": pb.WEIGHTS_CONTENT_PLAN,
    "summaries": pb.WEIGHTS_CONTENT_SUMMARIES,
}
_SPAN = "weights"
_RPC = RPCS["ReadWeights"]


class WeightCalls:
    """Methods for weights and projections to the vocabulary."""

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
            names: such as W_Q or "ln1.w", or groups: embedding, unembedding, norms, attention, qk, ov, mlp, experts;
                none: all.
            layers: one or several; none: all.
            heads: one or several, and the key/value heads that they attend with; none: all.
            experts: one or several; none: all.
            dtype: float32, float16 or bfloat16; empty: the model's own. Quantised weights are dequantised.
            content: values, the plan alone, or the plan with summaries (norm, mean, standard deviation).
            limit_bytes: maximum number of bytes.
            model_id: empty: the one loaded first.
            progress: as in `capture`.

        Raises:
            InvalidRequestError: a name is unknown, a layer or head is out of range, or the weights exceed
                `limit_bytes`.
            UnavailableSiteError: the model does not have the weight; the message says why.
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
        """Reads weights; yields each message, and None for each piece of a tensor, after `weights` has it."""
        return _events(weights, request)

    @client_stream
    def weight_bytes(self, state: WeightReader, request: pb.ReadWeightsRequest) -> Stream[memoryview]:
        """Streams the bytes of one weight; an empty part follows the plan.

        Args:
            state: receives the plan.
            request: from `reading`, for a single weight of one layer.
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
        """Projects vectors to the vocabulary by the model's final norm and unembedding, including softcap and scale.

        Args:
            vectors: (..., d_model): an array, the id of an upload, or a reference to a tensor of a stored capture.
            top_k: number of top tokens; 0: none.
            tokens: tokens whose logits, log-probabilities and ranks are returned: ids, or texts of one token each.
            norm: False omits the final norm, for directions.
            reference: a row of the vectors, another vector, or one for each; adds the divergence from its prediction.
            model_id: empty: the one loaded first.

        Raises:
            DataConversionError: the vectors are not as wide as the residual stream.
            InvalidRequestError: the request has no output, or a token is unknown.
            UnavailableSiteError: the final norm and unembedding cannot be applied alone; the message says why.
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
    """The request for weights.

    Raises:
        InvalidRequestError: the content is unknown, or an index is not an integer.
        DataConversionError: the element type is unknown.
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
        raise InvalidRequestError(f"{field} must be integers, not {given!r}", field=field) from None
    for number in numbers:
        if not -(2**31) <= number < 2**31:
            raise InvalidRequestError(f"{field}: {number} is out of range", field=field)
    return numbers


def _check_limit(weights: Weights, content: str, limit_bytes: int) -> None:
    if content == "values" and weights.nbytes > limit_bytes:
        raise InvalidRequestError(
            f"these weights have {weights.nbytes / 1e9:,.2f} GB, and limit_bytes allows {limit_bytes / 1e9:,.2f}: "
            "request fewer names, layers or heads, use float16, or raise the limit",
            field="limit_bytes",
        )
