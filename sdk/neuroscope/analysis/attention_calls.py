"""Attention heads and their roles: a part of both clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

from neuroscope.analysis.attention_requests import attention_request
from neuroscope.analysis.base_client import run
from neuroscope.base_client.call import CallFlow
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.progress import AnalysisListener
from neuroscope.datasets.pairs import PairLike
from neuroscope.results.attention import AttentionResult
from neuroscope.vocabulary.prompts import PromptLike


class AttentionCalls:
    """What both clients do with attention."""

    @client_method
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
        complete: bool = False,
        named_pairs: Iterable[PairLike] | None = None,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[AttentionResult]:
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
            complete: tests every label in every way on every sequence, instead of ending a test once its result is
                clear.
            named_pairs: pairs of prompts with two names, as `neuroscope.datasets.pairs` reads them, that name movers
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
            complete=complete,
            named_pairs=named_pairs,
            model_id=model_id,
            bos=bos,
        )
        return (yield from run(AttentionResult(request), progress))
