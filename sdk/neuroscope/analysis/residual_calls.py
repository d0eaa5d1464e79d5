"""Methods for the residual stream and tuned lenses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsIndex

from neuroscope.analysis.base_client import run
from neuroscope.analysis.residual_requests import AnswerTokens, residual_request
from neuroscope.base_client.call import CallFlow
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.progress import AnalysisListener
from neuroscope.results.residual import ResidualResult
from neuroscope.results.tuned_lens import TunedLens
from neuroscope.results.tuned_training import TunedLensResult, training_request
from neuroscope.vocabulary.prompts import PromptLike


class ResidualCalls:
    """Methods for the residual stream and tuned lenses."""

    @client_method
    def analyze_residual_stream(
        self,
        prompt: PromptLike,
        *,
        parts: str | Iterable[str] | None = None,
        answer: AnswerTokens = None,
        other: AnswerTokens = None,
        position: SupportsIndex = -1,
        top_k: int = 0,
        tuned_lens: TunedLens | None = None,
        neurons: int | Iterable[tuple[int, int]] = 0,
        queries: SupportsIndex | Iterable[SupportsIndex] | None = None,
        by_head: bool = False,
        references: PromptLike | None = None,
        corrupted: PromptLike | None = None,
        least_effect: float = 0.0,
        tolerance: float = 0.0,
        max_writers: int = 0,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[ResidualResult]:
        """Describes the residual stream on prompts: contributions, effects on logits, predictions, routing and paths.

        Args:
            prompt: one prompt, or several.
            parts: a selection of `neuroscope.analysis.PARTS`; None: contributions, attribution and lens, and flow with
                corrupted prompts.
            answer: the token whose logit is attributed and that lenses look for, an id or a text of one token, or one
                for each prompt; None: the model's top prediction.
            other: the token whose logit is subtracted; None: none.
            position: position where the answer is predicted, negative from the end.
            top_k: number of top tokens of lenses; 0: 5.
            tuned_lens: a tuned lens of this model, in addition to the logit lens.
            neurons: the number of strongest neurons, or neurons as (layer, neuron), to attribute.
            queries: positions whose routes are reported; None: all, or the answer's if all are too many.
            by_head: also reports the routes of each head.
            references: prompts for the mean of ablation; None: the prompts themselves.
            corrupted: for each prompt a corrupted one of the same length with another answer, for the flow.
            least_effect: minimum effect of an edge of the flow, as a share of the runs' difference; 0: 0.05.
            tolerance: tolerated change of an output on its way, for an edge that skips layers; 0: 0.1.
            max_writers: maximum number of writers whose paths are tested; 0: 64.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before the first run.
        """
        request = residual_request(
            prompt,
            parts=parts,
            answer=answer,
            other=other,
            position=position,
            top_k=top_k,
            tuned_lens=tuned_lens,
            neurons=neurons,
            queries=queries,
            by_head=by_head,
            references=references,
            corrupted=corrupted,
            least_effect=least_effect,
            tolerance=tolerance,
            max_writers=max_writers,
            model_id=model_id,
            bos=bos,
        )
        return (yield from run(ResidualResult(request), progress))

    @client_method
    def train_tuned_lens(
        self,
        texts: PromptLike,
        *,
        objective: str = "auto",
        ridge: float = 0.0,
        held_out_share: float = 0.0,
        max_iterations: int = 0,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[TunedLensResult]:
        """Trains a tuned lens (Belrose et al. 2023): a translator for each layer. `result.lens` is the lens.

        Args:
            texts: training texts; the last of them are held out to measure the divergence.
            objective: ridge: regression of the last stream, in closed form; kl: L-BFGS on the divergence of
                predictions, starting from ridge; auto: kl if the vocabulary is small and the texts long enough.
            ridge: penalty on a translator's weight, as a share of the mean square of its input; 0: 0.001.
            held_out_share: share of held-out texts; 0: 0.2.
            max_iterations: maximum number of L-BFGS steps per layer; 0: 50.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before the first run.
        """
        request = training_request(
            texts,
            objective=objective,
            ridge=ridge,
            held_out_share=held_out_share,
            max_iterations=max_iterations,
            model_id=model_id,
            bos=bos,
        )
        return (yield from run(TunedLensResult(request), progress))
