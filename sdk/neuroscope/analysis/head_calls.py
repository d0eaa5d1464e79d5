"""Methods that compare heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neuroscope.analysis.base_client import run
from neuroscope.analysis.head_requests import Layers, comparison_request, composition_request, interactions_request
from neuroscope.base_client.call import CallFlow
from neuroscope.base_client.client_method import client_method
from neuroscope.base_client.progress import AnalysisListener
from neuroscope.datasets.pairs import PairLike
from neuroscope.results.comparison import AttentionComparison
from neuroscope.results.composition import CompositionResult
from neuroscope.results.interactions import InteractionGraph
from neuroscope.vocabulary.prompts import Prompt


class HeadCalls:
    """Methods that compare heads."""

    @client_method
    def compare_attention(
        self,
        first: Prompt,
        second: Prompt,
        *,
        layers: Layers = None,
        alignment: str = "auto",
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[AttentionComparison]:
        """Compares the attention patterns of two prompts, head by head.

        Args:
            first: the first prompt.
            second: the second prompt.
            layers: None: every layer that has attention patterns.
            alignment: positions (of prompts of equal length), tokens (their longest common subsequence; attention to
                other tokens is summed), or auto: positions if the lengths are equal.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: True shows a bar; a function is called with every `AnalysisProgress`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before the first run.
        """
        request = comparison_request(first, second, layers=layers, alignment=alignment, model_id=model_id, bos=bos)
        return (yield from run(AttentionComparison(request), progress))

    @client_method
    def measure_composition(
        self,
        *,
        layers: Layers = None,
        seed: int = 0,
        random_pairs: int = 0,
        model_id: str = "",
        progress: AnalysisListener = False,
    ) -> CallFlow[CompositionResult]:
        """Measures by their weights how much of each earlier head's output each head can read (Elhage et al. 2021).

        Args:
            layers: at least two; None: every layer that has such weights.
            seed: seed of the random heads for the null distribution.
            random_pairs: number of pairs of random heads; 0: 64.
            model_id: empty: the one loaded first.
            progress: as in `compare_attention`.

        Raises:
            InvalidRequestError, UnavailableSiteError: before the first run.
        """
        request = composition_request(layers=layers, seed=seed, random_pairs=random_pairs, model_id=model_id)
        return (yield from run(CompositionResult(request), progress))

    @client_method
    def map_interactions(
        self,
        pairs: Iterable[PairLike] | None = None,
        *,
        layers: Layers = None,
        seed: int = 0,
        sequences: int = 0,
        block_length: int = 0,
        token_ids: Sequence[int] = (),
        least_effect: float = 0.0,
        false_discovery_rate: float = 0.0,
        every_head: bool = False,
        model_id: str = "",
        bos: bool | None = None,
        progress: AnalysisListener = False,
    ) -> CallFlow[InteractionGraph]:
        """Finds which heads read the output of which others, by path patching (Wang et al. 2022).

        Args:
            pairs: prompts with and without a behaviour, answer and other token, as `neuroscope.datasets.pairs` reads
                them; at least two, better eight. None: random sequences of a repeated block.
            layers: None: all.
            seed: seed of these sequences.
            sequences: number of sequences; 0: 16.
            block_length: tokens per block; 0: 24, or as many as the model allows.
            token_ids: tokens to draw from; none: the vocabulary without special tokens.
            least_effect: minimum effect, in logits or nats; 0: 0.01.
            false_discovery_rate: false discovery rate (Benjamini & Hochberg 1995); 0: 0.01.
            every_head: also tests heads whose whole output has no effect when it is replaced.
            model_id: empty: the one loaded first.
            bos: as in `Client.tokenize`.
            progress: as in `compare_attention`.

        Raises:
            InvalidRequestError, UnavailableSiteError, ContextLengthError: before the first run.
        """
        request = interactions_request(
            pairs,
            layers=layers,
            seed=seed,
            sequences=sequences,
            block_length=block_length,
            token_ids=token_ids,
            least_effect=least_effect,
            false_discovery_rate=false_discovery_rate,
            every_head=every_head,
            model_id=model_id,
            bos=bos,
        )
        return (yield from run(InteractionGraph(request), progress))
