"""Given vectors through the model's own end: likeliest tokens, chosen ones, and the divergence from a reference."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import DataConversionError, InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import experiment_pb2 as pb
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.vocabulary.sites import Point
from neuroscope_inference.engine.arrays import from_numpy, wire_dtype
from neuroscope_inference.engine.expression import ResolveTensor
from neuroscope_inference.engine.model import LoadedModel
from neuroscope_inference.engine.reductions.base import Shape, TensorPart
from neuroscope_inference.engine.reductions.lens import Lens
from neuroscope_inference.engine.results import PendingTensor, StepResult
from neuroscope_inference.tensor_checks import to_float32

Event: TypeAlias = "pb.ProjectToVocabularyResponse | StepResult"
_STREAM = (tensor_pb2.AXIS_BATCH, tensor_pb2.AXIS_POSITION, tensor_pb2.AXIS_D_MODEL)
_CHUNK_BYTES = 64 * 2**20
_ARRAYS = 3
"""Arrays as wide as the vocabulary that one vector takes at a time."""


@dataclass(frozen=True, slots=True)
class VocabularyProjection:
    """A checked request.

    Args:
        model: whose end it is.
        vectors: (count, d_model), float32.
        shape: that the vectors came in, but for the last axis.
        lens: what is made of them.
        token_ids: of the tokens that are asked for.
        reference: (1, d_model), whose distribution the others are compared with, or (count, d_model), one for each;
            None:
            they are not.
        is_normed: whether the final norm is left out.
    """

    model: LoadedModel
    vectors: NDArray[np.float32]
    shape: tuple[int, ...]
    lens: Lens
    token_ids: list[int]
    reference: NDArray[np.float32] | None
    is_normed: bool

    def run(self) -> Iterator[Event]:
        """What is sent; for the engine's thread."""
        started = time.perf_counter()
        yield pb.ProjectToVocabularyResponse(plan=self._plan())
        count, common = len(self.vectors), None
        if self.reference is not None and len(self.reference) == 1:
            common = self._logits(self.reference)
            mx.eval(common)
        chunk = max(1, _CHUNK_BYTES // (4 * _ARRAYS * self.model.description.vocab_size))
        for first in range(0, count, chunk):
            logits = common
            if self.reference is not None and common is None:
                logits = self._logits(self.reference[first : first + chunk])
            part = TensorPart(from_numpy(self.vectors[None, first : first + chunk]), first, (), (), logits)
            pieces = self.lens.reduce(part, 0, ends_step=first + chunk >= count)
            pending = [
                PendingTensor(index, 0, piece.first_position, mx.contiguous(piece.array), (), ())
                for index, piece in enumerate(pieces)
            ]
            mx.eval([each.array for each in pending])
            yield StepResult.from_pending(0, pending)
        elapsed = time.perf_counter() - started
        yield pb.ProjectToVocabularyResponse(end=pb.ProjectionEnd(vector_count=count, elapsed_seconds=elapsed))

    def _logits(self, reference: NDArray[np.float32]) -> mx.array:
        """Of reference vectors (count, d_model): (1, count, vocabulary)."""
        dtype = self.model.layout.state(_last(self.model)).dtype
        return self.model.unembedding(from_numpy(reference[None]).astype(dtype), is_normed=self.is_normed)

    def _plan(self) -> pb.ProjectionPlan:
        specs = [
            tensor_pb2.TensorSpec(
                plan_index=index,
                hook_id="vectors",
                dtype=wire_dtype(output.dtype),
                axes=output.shape.axes,
                shape=output.shape.extents,
                reduced=output.reduced,
            )
            for index, output in enumerate(self.lens.outputs())
        ]
        return pb.ProjectionPlan(
            model_id=self.model.description.model_id,
            tensors=tensor_pb2.TensorPlan(tensors=specs),
            shape=self.shape,
            token_ids=self.token_ids,
        )


def parse_projection(
    request: pb.ProjectToVocabularyRequest, model: LoadedModel, resolve: ResolveTensor
) -> VocabularyProjection:
    """The projection that a request asks for. Nothing has run when it raises.

    Raises:
        InvalidRequestError: nothing is asked for, a token or a row is not there, or a reference to a tensor is empty.
        DataConversionError: the vectors are not as wide as the residual stream, or no numbers that float32 holds.
        UnavailableSiteError: the model's end cannot be applied by itself; says why.
    """
    if reason := model.capabilities.why_no_lens:
        raise UnavailableSiteError(
            f"there is no lens of {model.description.model_id}: {reason}", field="vectors", valid=()
        )
    reference = request.WhichOneof("reference")
    if not request.top_k and not request.tokens and reference is None:
        raise InvalidRequestError(
            "nothing is asked for: top_k, tokens, reference_row or reference_vector", field="top_k"
        )
    if request.top_k > model.description.vocab_size:
        raise InvalidRequestError(f"the vocabulary has {model.description.vocab_size} tokens", field="top_k")
    vectors, shape = _vectors(request.vectors, model, resolve, "vectors")
    token_ids = [model.resolve_token(choice, f"tokens[{index}]") for index, choice in enumerate(request.tokens)]
    compared = None
    match reference:
        case "reference_row":
            if request.reference_row >= len(vectors):
                raise InvalidRequestError(
                    f"row {request.reference_row} is out of range: there are {len(vectors)} vectors",
                    field="reference_row",
                )
            compared = vectors[request.reference_row][None]
        case "reference_vector":
            compared, _ = _vectors(request.reference_vector, model, resolve, "reference_vector")
            if len(compared) not in (1, len(vectors)):
                raise DataConversionError(
                    f"a reference is one vector, or one for each of the {len(vectors)}, not {len(compared)}",
                    field="reference_vector",
                )
        case _:
            pass
    state = model.layout.state(_last(model))
    message = inference_pb2.LensReduction(
        top_k=request.top_k, token_ids=token_ids, kl=compared is not None, log_normalizer=True, entropy=True
    )
    is_normed = request.without_norm
    lens = Lens.from_message(
        Shape(_STREAM, (1, -1, vectors.shape[1])),
        state.dtype,
        None,
        message,
        lambda x: model.unembedding(x, is_normed=is_normed),
        model.description.vocab_size,
        state.point,
        "vectors",
    )
    return VocabularyProjection(model, vectors, shape, lens, token_ids, compared, is_normed)


def _vectors(
    reference: tensor_pb2.TensorReference, model: LoadedModel, resolve: ResolveTensor, field: str
) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """Vectors (count, d_model), and the shape that they came in but for the last axis."""
    array, width = resolve(reference, field), model.layout.state(_last(model)).axes_extents[-1]
    if array.ndim == 0 or array.shape[-1] != width:
        raise DataConversionError(
            f"residual vectors of {model.description.model_id} have {width} entries along their last axis, "
            f"these have the shape {list(array.shape)}",
            field=field,
        )
    return to_float32(array, "vectors", field).reshape(-1, width), array.shape[:-1]


def _last(model: LoadedModel) -> Point:
    """Where the stream is read that the final norm reads."""
    return Point("resid_post", model.layout.num_layers - 1)
