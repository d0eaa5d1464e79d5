"""The residual stream and tuned lenses: a part of both clients."""

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
    """What both clients do with the residual stream."""

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
        """Describes the residual stream on prompts: what is written into it, what that does to logits, who reads it.

        Args:
            prompt: one prompt, or several.
            parts: which of `neuroscope.analysis.PARTS`; None: contributions, attribution and lens, and flow where there
                are corrupted prompts.
            answer: the token that logits are attributed to and that lenses look for, an id or a text that is one token,
                or
                one for each prompt; None: what the model finds likeliest.
            other: what it is compared with; None: nothing.
            position: where the answer is predicted, negative from the end.
            top_k: likeliest tokens of lenses; 0: 5.
            tuned_lens: one of this model, beside the logit lens.
            neurons: so many of the strongest, or neurons as (layer, neuron), whose direct effects are told.
            queries: positions whose routes are told; None: all, or the answer's where that is too much.
            by_head: routes of every head, too.
            references: whose mean takes the place of what is ablated; None: the prompts'.
            corrupted: for each prompt one of its length with another answer, for the flow of information.
            least_effect: of an edge of the flow, as a share of the difference of both runs; 0: 0.05.
            tolerance: of what may happen to a write between, for an edge to skip layers; 0: 0.1.
            max_writers: whose paths are followed; 0: 64.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before anything has run.
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
        """Trains a tuned lens (Belrose et al. 2023): a translator of each layer's stream. `result.lens` is it.

        Args:
            texts: what is trained on; the last of them are held out, and the divergence on them is told.
            objective: ridge: regression of the last stream, in closed form; kl: L-BFGS on the divergence of
                predictions,
                from the ridge's on; auto: kl where the vocabulary is small enough and texts are long enough.
            ridge: penalty on a translator's weight, as a share of the mean square of what it reads; 0: 0.001.
            held_out_share: of the texts; 0: 0.2.
            max_iterations: of L-BFGS, for each layer; 0: 50.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before anything has run.
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
