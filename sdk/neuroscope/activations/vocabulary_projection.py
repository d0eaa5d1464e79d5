"""Vectors projected to the vocabulary through the model's final norm and unembedding, computed by the service.

The logit lens (nostalgebraist 2020) for arbitrary vectors: rows of W_out, directions, residual streams from a file.

    seen = client.project(weights.W_out[3][:100], norm=False, top_k=5)
    seen.top_token_ids[7]                          the likeliest tokens of the eighth vector
    seen.texts[int(seen.top_token_ids[7, 0])]
    seen.table()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuroscope.display import Displayable, show
from neuroscope.errors import InvalidRequestError, StreamingError
from neuroscope.interventions.expressions import to_reference
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import tensors
from neuroscope.vocabulary.tensors import Array
from neuroscope.vocabulary.token_choice import token_choice
from neuroscope.wire.codec import Event, Frame
from neuroscope.wire.frames import FrameReader

if TYPE_CHECKING:
    from rich.table import Table

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
Reference: TypeAlias = "int | np.integer[Any] | VectorsLike | None"
"""Reference of the KL divergence: a row of the vectors, another vector, or one vector for each."""
VectorsLike: TypeAlias = "ArrayLike | tensor_pb2.TensorReference"
"""An array-like, a torch tensor, the id of an upload, or a reference."""
_TOP, _TOP_IDS = tensor_pb2.REDUCED_LENS_TOP_K, tensor_pb2.REDUCED_LENS_TOP_K_TOKENS
_ASKED, _RANK = tensor_pb2.REDUCED_LENS_LOG_PROBABILITY, tensor_pb2.REDUCED_LENS_RANK
_KL, _NORMALIZER = tensor_pb2.REDUCED_LENS_KL, tensor_pb2.REDUCED_LENS_LOG_NORMALIZER
_ENTROPY = tensor_pb2.REDUCED_LENS_ENTROPY


@dataclass(frozen=True, slots=True, eq=False)
class VocabularyProjection(Displayable):
    """Predictions of vectors. The first axes are those of the vectors without the last."""

    model_id: str
    requested_token_ids: tuple[int, ...]
    """Ids of the requested tokens."""
    top_token_ids: Int32Array
    """(..., k), likeliest first."""
    top_log_probabilities: Float32Array
    """Natural logarithms (..., k)."""
    log_probabilities: Float32Array
    """Natural logarithms (..., requested tokens)."""
    ranks: Int32Array
    """Number of likelier tokens (..., requested tokens)."""
    kl: Float32Array | None
    """KL(reference || vector) in nats (...); None without a reference."""
    log_normalizers: Float32Array
    """Log normalisers of the logits (...)."""
    entropies: Float32Array
    """Entropies in nats (...)."""
    texts: Mapping[int, str] = field(default_factory=dict[int, str])
    """Text of every token id in the results."""

    def __repr__(self) -> str:
        sizes = f"vectors {self.shape}, top {self.top_token_ids.shape[-1]}"
        return f"VocabularyProjection({self.model_id}: {sizes}; table() shows them)"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the vectors without the last axis."""
        return self.log_normalizers.shape

    @property
    def top_probabilities(self) -> Float32Array:
        """(..., k), likeliest first."""
        return np.exp(self.top_log_probabilities)

    @property
    def top_logits(self) -> Float32Array:
        """(..., k), likeliest first."""
        return self.top_log_probabilities + self.log_normalizers[..., None]

    @property
    def logits(self) -> Float32Array:
        """(..., requested tokens)."""
        return self.log_probabilities + self.log_normalizers[..., None]

    def table(self) -> Table:
        """Likeliest tokens, ranks of the requested tokens and KL divergence for each vector."""
        return show(self, "table")


def to_request(
    vectors: VectorsLike,
    *,
    top_k: int,
    tokens: Sequence[str | SupportsIndex],
    norm: bool,
    reference: Reference,
    model_id: str,
) -> pb.ProjectToVocabularyRequest:
    """The request of a projection.

    Raises:
        InvalidRequestError: top_k or a token is invalid.
        DataConversionError: the reference is not a vector.
    """
    if top_k < 0:
        raise InvalidRequestError(f"so many likeliest tokens there are not: {top_k}", field="top_k")
    request = pb.ProjectToVocabularyRequest(
        model_id=model_id,
        vectors=to_reference(to_vectors(vectors)),
        without_norm=not norm,
        top_k=top_k,
        tokens=[token_choice(token, f"tokens[{index}]") for index, token in enumerate(tokens)],
    )
    if reference is None:
        return request
    if isinstance(reference, (int, np.integer)):
        if not 0 <= reference < 2**32:
            raise InvalidRequestError(f"rows of vectors are counted from 0, not {reference}", field="reference")
        request.reference_row = int(cast("int", reference))
    else:
        vector: Any = reference
        request.reference_vector.CopyFrom(to_reference(to_vectors(vector)))
    return request


class ProjectionStream:
    """Receives the stream of a projection."""

    def __init__(self) -> None:
        self.plan: pb.ProjectionPlan | None = None
        self.end: pb.ProjectionEnd | None = None
        self._reader: FrameReader | None = None
        self._pieces: dict[int, list[NDArray[Any]]] = {}

    def feed(self, event: Event) -> None:
        """Processes an event of the stream.

        Raises:
            StreamingError: the event belongs to another kind of call.
            ChecksumError: a tensor was damaged on the way.
        """
        if isinstance(event, Frame):
            if self._reader is None:
                raise StreamingError("results came before the plan")
            for piece in self._reader.read(event):
                self._pieces.setdefault(piece.spec.reduced, []).append(np.array(piece.array[0]))
            return
        if not isinstance(event, pb.ProjectToVocabularyResponse):
            raise StreamingError("this is no stream of a projection")
        if event.HasField("plan"):
            self.plan, self._reader = event.plan, FrameReader(event.plan.tensors)
        elif event.HasField("end"):
            self.end = event.end

    def shown_token_ids(self) -> list[int]:
        """Every token id in the results.

        Raises:
            StreamingError: the stream ended too early.
        """
        plan = self._finished()
        found = self._joined(_TOP_IDS)
        return sorted({*map(int, np.unique(found)), *plan.token_ids} if found is not None else {*plan.token_ids})

    def result(self, texts: Mapping[int, str]) -> VocabularyProjection:
        """The results, after the end of the stream.

        Raises:
            StreamingError: the stream ended too early.
        """
        plan = self._finished()
        shape = tuple(plan.shape)
        none, asked = (*shape, 0), tuple(plan.token_ids)

        def found(reduced: tensor_pb2.Reduced.ValueType, otherwise: Any) -> Any:
            joined = self._joined(reduced)
            return otherwise if joined is None else joined.reshape((*shape, *joined.shape[1:]))

        return VocabularyProjection(
            model_id=plan.model_id,
            requested_token_ids=asked,
            top_token_ids=found(_TOP_IDS, np.zeros(none, np.int32)),
            top_log_probabilities=found(_TOP, np.zeros(none, np.float32)),
            log_probabilities=found(_ASKED, np.zeros(none, np.float32)),
            ranks=found(_RANK, np.zeros(none, np.int32)),
            kl=found(_KL, None),
            log_normalizers=found(_NORMALIZER, np.zeros(shape, np.float32)),
            entropies=found(_ENTROPY, np.full(shape, np.nan, np.float32)),
            texts=texts,
        )

    def _joined(self, reduced: tensor_pb2.Reduced.ValueType) -> NDArray[Any] | None:
        pieces = self._pieces.get(reduced)
        return None if pieces is None else np.concatenate(pieces)

    def _finished(self) -> pb.ProjectionPlan:
        if self.plan is None or self.end is None:
            raise StreamingError("the projection ended before its last message")
        return self.plan


INLINE_BYTES = 2**20
"""Larger arrays are uploaded first."""
UPLOAD_TTL_S = 600.0
"""How long the service keeps uploads."""


def to_vectors(vectors: VectorsLike) -> Array | tensor_pb2.TensorReference:
    """Vectors as a reference, or as an array to send or upload.

    Raises:
        DataConversionError: the values are not finite numbers.
    """
    if isinstance(vectors, str):
        return tensor_pb2.TensorReference(tensor_id=vectors)
    if isinstance(vectors, tensor_pb2.TensorReference):
        return vectors
    array = tensors.to_array(vectors, field="vectors")
    return array.astype(np.float32) if array.dtype.kind in "iu" else array
