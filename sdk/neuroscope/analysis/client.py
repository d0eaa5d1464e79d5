"""The clients of the analysis service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

from neuroscope.analysis.attention import AttentionResult
from neuroscope.analysis.attention_request import attention_request
from neuroscope.analysis.circuit_calls import AsyncCircuitCalls, CircuitCalls
from neuroscope.analysis.head_calls import AsyncHeadCalls, HeadCalls
from neuroscope.analysis.pairs import PairLike
from neuroscope.analysis.progress import AnalysisListener
from neuroscope.analysis.residual import ResidualResult
from neuroscope.analysis.residual_request import AnswerTokens, residual_request
from neuroscope.analysis.tuned_lens import TunedLens
from neuroscope.analysis.tuned_training import TunedLensResult, training_request
from neuroscope.prompts import PromptLike

DEFAULT_ANALYSIS_TARGET = "127.0.0.1:50052"


class AnalysisClient(CircuitCalls, HeadCalls):
    """Calls an analysis service. Thread-safe.

    Args:
        target: `host:port`, `unix:path`, or `local` for engine and analyses in this process.
        options: those of `neuroscope.Client`: transport, timeout_s, tls, token.

    Every method raises errors of `neuroscope.errors`; NeuroScopeIntegrationError where no service answers, or where
    the inference service behind it does not.
    """

    def __init__(self, target: str = DEFAULT_ANALYSIS_TARGET, **options: Any) -> None:
        super().__init__(target, **options)

    def analyze_attention(
        self,
        prompt: PromptLike | None = None,
        *,
        layers: SupportsIndex | Iterable[SupportsIndex] | None = None,
        roles: str | Iterable[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
        seed: int = 0,
        sequences: int = 0,
        block_length: int = 0,
        token_ids: Sequence[int] = (),
        test: bool = True,
        least_effect_nats: float = 0.0,
        significance: float = 0.0,
        named_pairs: Iterable[PairLike] | None = None,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> AttentionResult:
        """Describes every attention head: statistics on prompts, scores of known roles, labels tested by ablation.

        Args:
            prompt: whose patterns are described, or several; None: roles alone.
            layers: None: every layer that has attention patterns.
            roles: which of `neuroscope.analysis.ROLES` are scored; None: all; none of them: statistics alone.
            thresholds: by role, the score from which a head gets the label, in place of the default.
            seed: of the random sequences that roles are scored and tested on.
            sequences: how many; 0: 16.
            block_length: tokens of a block, which comes twice in a sequence; 0: 24, or what the model allows.
            token_ids: what they are drawn from; none: the vocabulary without special tokens.
            test: whether labels are tested by ablation.
            least_effect_nats: least change of a role's metric that counts; 0: 0.01.
            significance: chance of taking noise for an effect, over all tests of a role; 0: 0.01.
            named_pairs: pairs of prompts with two names, as `neuroscope.analysis.pairs` reads them, that name movers
                and S-inhibition heads are scored and tested on; None: these roles are left out.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before anything has run.
        """
        request = attention_request(
            prompt,
            layers=layers,
            roles=roles,
            thresholds=thresholds,
            seed=seed,
            sequences=sequences,
            block_length=block_length,
            token_ids=token_ids,
            test=test,
            least_effect_nats=least_effect_nats,
            significance=significance,
            named_pairs=named_pairs,
            model_id=model_id,
            bos=bos,
        )
        return self.run(AttentionResult(request), progress)

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
    ) -> ResidualResult:
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
        return self.run(ResidualResult(request), progress)

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
    ) -> TunedLensResult:
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
        return self.run(TunedLensResult(request), progress)


class AsyncAnalysisClient(AsyncCircuitCalls, AsyncHeadCalls):
    """Calls an analysis service, on one event loop. Arguments and errors are those of `AnalysisClient`."""

    def __init__(self, target: str = DEFAULT_ANALYSIS_TARGET, **options: Any) -> None:
        super().__init__(target, **options)

    async def analyze_attention(
        self,
        prompt: PromptLike | None = None,
        *,
        layers: SupportsIndex | Iterable[SupportsIndex] | None = None,
        roles: str | Iterable[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
        seed: int = 0,
        sequences: int = 0,
        block_length: int = 0,
        token_ids: Sequence[int] = (),
        test: bool = True,
        least_effect_nats: float = 0.0,
        significance: float = 0.0,
        named_pairs: Iterable[PairLike] | None = None,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> AttentionResult:
        """Describes every attention head; as `AnalysisClient.analyze_attention`."""
        request = attention_request(
            prompt,
            layers=layers,
            roles=roles,
            thresholds=thresholds,
            seed=seed,
            sequences=sequences,
            block_length=block_length,
            token_ids=token_ids,
            test=test,
            least_effect_nats=least_effect_nats,
            significance=significance,
            named_pairs=named_pairs,
            model_id=model_id,
            bos=bos,
        )
        return await self.run(AttentionResult(request), progress)

    async def analyze_residual_stream(
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
    ) -> ResidualResult:
        """Describes the residual stream on prompts; as `AnalysisClient.analyze_residual_stream`."""
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
        return await self.run(ResidualResult(request), progress)

    async def train_tuned_lens(
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
    ) -> TunedLensResult:
        """Trains a tuned lens; as `AnalysisClient.train_tuned_lens`."""
        request = training_request(
            texts,
            objective=objective,
            ridge=ridge,
            held_out_share=held_out_share,
            max_iterations=max_iterations,
            model_id=model_id,
            bos=bos,
        )
        return await self.run(TunedLensResult(request), progress)
