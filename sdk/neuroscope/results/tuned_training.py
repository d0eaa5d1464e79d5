"""The result of training a tuned lens: the lens, and its quality on held-out texts."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neuroscope.display import show
from neuroscope.errors import InvalidRequestError, StreamingError
from neuroscope.results.result import AnalysisResult
from neuroscope.results.tuned_lens import TunedLens
from neuroscope.v1 import tuned_lens_pb2 as pb
from neuroscope.vocabulary import prompts
from neuroscope.vocabulary.counts import counted
from neuroscope.vocabulary.prompts import PromptLike

if TYPE_CHECKING:
    from rich.table import Table

OBJECTIVES = {
    "auto": pb.TUNED_LENS_OBJECTIVE_UNSPECIFIED,
    "ridge": pb.TUNED_LENS_OBJECTIVE_RIDGE,
    "kl": pb.TUNED_LENS_OBJECTIVE_KL,
}
"""Training objectives by name."""


@dataclass(frozen=True, slots=True)
class TunedLayer:
    """Quality of one translator on held-out tokens: mean KL(model || lens) in nats."""

    point: int
    """0 for the stream before the first layer, 1 for the stream after it, ..."""
    held_out_kl_before: float
    """KL of the logit lens."""
    held_out_kl_after: float
    """KL of the tuned lens."""
    held_out_kl_ridge: float
    """KL of the ridge regression's translator."""
    iterations: int
    """Steps of L-BFGS; 0 if the ridge regression's translator was kept."""


class TunedLensResult(
    AnalysisResult[pb.TrainTunedLensRequest, pb.TunedLensPlan, pb.TrainTunedLensResponse, pb.TunedLensEnd]
):
    """The result of a training. `result.lens` is the lens, which has its own `save` and `load`.

    Args:
        request: the request of the training.
    """

    rpc = "TrainTunedLens"
    noun = "a training of a tuned lens"
    request_type = pb.TrainTunedLensRequest
    response_type = pb.TrainTunedLensResponse

    def __init__(self, request: pb.TrainTunedLensRequest) -> None:
        super().__init__(request)
        self.layers: list[TunedLayer] = []
        """Translators, from the embedding up."""

    def _on_partial(self, response: pb.TrainTunedLensResponse) -> None:
        self.layers.append(_layer(response.partial))

    def _on_result(self, end: pb.TunedLensEnd) -> None:
        self.layers = [_layer(each) for each in end.layers]

    @property
    def lens(self) -> TunedLens:
        """The lens, with the translators received so far.

        Raises:
            StreamingError: no translator was received.
        """
        plan = self._require_plan()
        weight, bias = self.names.index("weight"), self.names.index("bias")
        points = sorted(row for index, row in self._tensors if index == bias)
        if not points:
            raise StreamingError("no translator was received")
        objective = {number: name for name, number in OBJECTIVES.items()}[plan.objective]
        return TunedLens(
            plan.model_id,
            {mark.name: mark.norm for mark in plan.marks},
            {point: self._tensors[weight, point] for point in points},
            {point: self._tensors[bias, point] for point in points},
            {
                "objective": objective,
                "ridge": plan.ridge,
                "texts_sha256": plan.texts_sha256,
                "training_token_count": plan.training_token_count,
                "held_out_token_count": plan.held_out_token_count,
                "held_out_kl": {
                    str(each.point): {"before": each.held_out_kl_before, "after": each.held_out_kl_after}
                    for each in self.layers
                },
            },
        )

    def table(self) -> Table:
        """A line for each translator."""
        return show(self, "table")

    def __repr__(self) -> str:
        if self.plan is None:
            return "TunedLensResult(not begun)"
        return (
            f"TunedLensResult({self.plan.model_id}: {len(self.layers)} of {self.plan.point_count} translators, "
            f"{counted(self.plan.training_token_count, 'token')}{'' if self.end else ', not complete'})"
        )


def _layer(message: pb.TunedLayer) -> TunedLayer:
    return TunedLayer(
        message.point,
        message.held_out_kl_before,
        message.held_out_kl_after,
        message.held_out_kl_ridge,
        message.iterations,
    )


def training_request(
    texts: PromptLike,
    *,
    objective: str,
    ridge: float,
    held_out_share: float,
    max_iterations: Any,
    model_id: str,
    bos: bool | None,
) -> pb.TrainTunedLensRequest:
    """The request; arguments are those of `AnalysisClient.train_tuned_lens`.

    Raises:
        InvalidRequestError: an argument is invalid.
    """
    if objective not in OBJECTIVES:
        raise InvalidRequestError(f"there is no objective {objective!r}", field="objective", valid=tuple(OBJECTIVES))
    steps = operator.index(max_iterations)
    if not 0 <= steps < 2**32:
        raise InvalidRequestError(f"steps are counted from 0, not {steps}", field="max_iterations")
    return pb.TrainTunedLensRequest(
        model_id=model_id,
        texts=prompts.to_messages(texts, bos),
        objective=OBJECTIVES[objective],
        ridge=ridge,
        held_out_share=held_out_share,
        max_iterations=steps,
    )
