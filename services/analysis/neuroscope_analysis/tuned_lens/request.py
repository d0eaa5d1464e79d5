"""Validation of requests to train tuned lenses."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np

from neuroscope.errors import InvalidRequestError, UnavailableSiteError
from neuroscope.v1 import tuned_lens_pb2 as pb
from neuroscope.vocabulary.model_info import Tokens
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.residual import lm_head
from neuroscope_analysis.residual.translators import weight_marks
from neuroscope_analysis.settings import AnalysisSettings

RIDGE, KL = pb.TUNED_LENS_OBJECTIVE_RIDGE, pb.TUNED_LENS_OBJECTIVE_KL
_DEFAULT_RIDGE, _DEFAULT_HELD_OUT_SHARE, _DEFAULT_ITERATIONS = 1e-3, 0.2, 50
_MAX_LOGITS = 8 * 2**20
"""Maximum number of logits of one L-BFGS iteration."""
_SAMPLE_BYTES = 64 * 2**20
"""Maximum memory of the sample for L-BFGS."""
_MIN_TOKENS_PER_DIMENSION = 4
"""Minimum number of tokens for each dimension; with fewer, ridge regression is better."""
_MAX_ITERATIONS = 1000


@dataclass(slots=True)
class TrainingJob:
    """A validated request."""

    model: RemoteModel
    training: list[Tokens]
    held_out: list[Tokens]
    objective: pb.TunedLensObjective.ValueType
    ridge: float
    iterations: int
    sample: int
    """Size of the sample for L-BFGS, in tokens."""
    points_per_pass: int
    marks: list[pb.WeightMark]
    texts_sha256: str
    warnings: list[str] = field(default_factory=list[str])

    @property
    def point_count(self) -> int:
        """Number of translators: before the first layer and after each layer except the last."""
        return self.model.info.model.num_layers


async def validate(request: pb.TrainTunedLensRequest, model: RemoteModel, settings: AnalysisSettings) -> TrainingJob:
    """Validates a request against its model.

    Raises:
        InvalidRequestError, UnavailableSiteError, ContextLengthError: `field` is the offending field.
    """
    if request.objective not in pb.TunedLensObjective.values():
        raise InvalidRequestError(f"there is no objective of number {request.objective}", field="objective")
    if not math.isfinite(request.ridge) or request.ridge < 0:
        raise InvalidRequestError("a penalty is a number from 0", field="ridge")
    if not 0 <= request.held_out_share < 1:
        raise InvalidRequestError("a share of the texts lies between 0 and 1", field="held_out_share")
    if request.max_iterations > _MAX_ITERATIONS:
        raise InvalidRequestError(f"at most {_MAX_ITERATIONS} steps", field="max_iterations")
    if len(request.texts) < 2:
        raise InvalidRequestError("one text at least is trained on, and one held out", field="texts")
    described = model.info.model
    streams = set(model.layers("resid_post"))
    if missing := sorted(set(range(described.num_layers)) - streams):
        raise UnavailableSiteError(
            f"the stream behind layer {missing[0]} of {model.model_id} cannot be read", field="model_id"
        )
    texts = await model.tokenize_prompts(request.texts, "texts")
    count = min(len(texts) - 1, max(1, round((request.held_out_share or _DEFAULT_HELD_OUT_SHARE) * len(texts))))
    training, held_out = texts[:-count], texts[-count:]
    tokens = sum(map(len, training))
    if tokens <= described.d_model:
        raise InvalidRequestError(
            f"a translator of {model.model_id} has {described.d_model} inputs: {tokens} tokens to train on are too few",
            field="texts",
        )
    warnings: list[str] = []
    points = described.num_layers + 1
    sample = min(tokens, _MAX_LOGITS // described.vocab_size, _SAMPLE_BYTES // (4 * described.d_model * points))
    objective = await _objective(request, model, settings, sample, warnings)
    of_point = 8 * (described.d_model + 1) * (2 * described.d_model + 1)
    return TrainingJob(
        model=model,
        training=training,
        held_out=held_out,
        objective=objective,
        ridge=request.ridge or _DEFAULT_RIDGE,
        iterations=request.max_iterations or _DEFAULT_ITERATIONS,
        sample=sample if objective == KL else 0,
        points_per_pass=max(1, settings.weights_budget_bytes // of_point),
        marks=await weight_marks(model),
        texts_sha256=_digest(texts),
        warnings=warnings,
    )


async def _objective(
    request: pb.TrainTunedLensRequest,
    model: RemoteModel,
    settings: AnalysisSettings,
    sample: int,
    warnings: list[str],
) -> pb.TunedLensObjective.ValueType:
    """The objective: KL if it is affordable."""
    if request.objective == RIDGE:
        return RIDGE
    width = model.info.model.d_model
    why = await lm_head.why_unavailable(model, settings.weights_budget_bytes)
    if not why and sample < _MIN_TOKENS_PER_DIMENSION * width:
        why = (
            f"KL would be minimised over {sample} tokens, which are few for {width} inputs: the vocabulary is large, "
            "or the texts are short"
        )
    if not why:
        return KL
    if request.objective == KL:
        raise InvalidRequestError(why, field="objective")
    warnings.append(f"translators are found by ridge regression: {why}")
    return RIDGE


def _digest(texts: list[Tokens]) -> str:
    found = hashlib.sha256()
    for tokens in texts:
        found.update(np.asarray(tokens.ids, np.uint32).tobytes())
        found.update(b"\xff" * 8)
    return found.hexdigest()
