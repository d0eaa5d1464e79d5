"""The analysis of one prompt from one capture: contributions, attribution and lenses, accumulated chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import numpy as np

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.frames import TensorPiece
from neuroscope_analysis.residual import lens
from neuroscope_analysis.residual.activation_chunks import UNREDUCED, ActivationChunk, ChunkAssembler, Floats
from neuroscope_analysis.residual.attribution import DirectLogitAttribution, LogitTarget
from neuroscope_analysis.residual.components import EMBEDDING, RESID_POST, RESID_PRE
from neuroscope_analysis.residual.contributions import ContributionStatistics
from neuroscope_analysis.residual.head_weights import HEAD_OUTPUT, NEURONS, HeadWeights, PostNorm
from neuroscope_analysis.residual.lens import LensReadings
from neuroscope_analysis.residual.lm_head import Doubles, LMHead
from neuroscope_analysis.residual.request import ATTRIBUTION, CONTRIBUTIONS, LENS, ResidualJob

_PROJECTED_BYTES = 8 * 2**20
"""Memory of the vectors of one projection."""


class PromptAnalysis:
    """Analyzes one prompt.

    Args:
        job: the validated request.
        prompt: index of the prompt.
        target: its target.
        heads: heads by layer; empty: no heads.
        end: final norm and unembedding; None: no attribution.
        neurons: by layer, each neuron's write along the targets, and its post norm.
    """

    def __init__(
        self,
        job: ResidualJob,
        prompt: int,
        target: LogitTarget,
        heads: Mapping[int, HeadWeights],
        end: LMHead | None,
        neurons: Mapping[int, tuple[Doubles, PostNorm]],
    ) -> None:
        self._job, self._prompt, self._target = job, prompt, target
        self._heads, self._end, self._neurons = heads, end, neurons
        self._reset()

    async def run(self, what: str) -> None:
        """Captures the prompt."""
        reader = ChunkAssembler(self._consume)

        def fresh() -> Callable[[TensorPiece], Awaitable[None]]:
            self._reset()
            return reader.reset().add

        await self._job.model.capture(
            self._job.prompts[self._prompt].ids,
            self._hooks(),
            fresh,
            what=what,
        )
        await reader.finish()

    def arrays(self) -> dict[str, Floats]:
        """The arrays by name."""
        found: dict[str, Floats] = {}
        if self._contributions is not None:
            found |= self._contributions.result_arrays()
        if self._attribution is not None:
            found |= self._attribution.arrays
        if self._lens is not None:
            found |= self._lens.named_arrays(lens.LOGIT_LENS)
        if self._tuned is not None:
            found |= self._tuned.named_arrays(lens.TUNED_LENS)
        return found

    async def partials(self) -> AsyncGenerator[pb.ResidualPartial, None]:
        """The partial results besides arrays."""
        if self._contributions is not None:
            error = self._contributions.head_error if self._heads else None
            yield pb.ResidualPartial(
                sum=pb.ResidualSum(prompt=self._prompt, error=self._contributions.error, head_error=error)
            )
        model = self._job.model
        if self._attribution is not None:
            texts = await model.token_texts(self._target.tokens)
            chosen = self._attribution.selected_neurons(self._job.request.neurons.strongest, self._job.neurons)
            yield pb.ResidualPartial(attribution=self._attribution.to_message(self._logits, texts, chosen))
        if self._lens is not None:
            seen = [self._lens, *([] if self._tuned is None else [self._tuned])]
            texts = await model.token_texts({self._target.answer}.union(*(each.token_ids() for each in seen)))
            yield pb.ResidualPartial(
                lens=pb.LensReading(
                    prompt=self._prompt,
                    answer_id=self._target.answer,
                    emergence=self._lens.emergence(self._target.position),
                    tuned_emergence=None if self._tuned is None else self._tuned.emergence(self._target.position),
                    texts=[pb.TokenText(token_id=token, text=text) for token, text in sorted(texts.items())],
                )
            )

    def _reset(self) -> None:
        job, length = self._job, len(self._job.prompts[self._prompt])
        layers, answer = job.components.layer_count, self._target.answer
        self._contributions = (
            ContributionStatistics(job.components, self._heads, length) if CONTRIBUTIONS in job.parts else None
        )
        self._attribution = (
            None
            if self._end is None
            else DirectLogitAttribution(
                self._target, job.components, self._heads, self._end, self._neurons, self._prompt
            )
        )
        has_lens = LENS in job.parts
        self._lens = LensReadings(layers, length, job.top_k, answer) if has_lens else None
        self._tuned = LensReadings(layers, length, job.top_k, answer) if job.translators is not None else None
        self._logits: list[float] = []

    def _hooks(self) -> list[Hook]:
        job = self._job
        last, position = job.components.layer_count - 1, [self._target.position]

        def whole(component: str, layer: int | None = None, positions: list[int] | None = None) -> Hook:
            name = f"{component}.{layer}.whole"
            return Hook(component, layer, hook_id=name, positions=positions, dtype="float32")

        found: list[Hook] = []
        if set(job.parts) & {CONTRIBUTIONS, ATTRIBUTION}:
            found += [whole(RESID_PRE, 0)]
            if job.components.embedding_scale is not None:
                found.append(whole(EMBEDDING))
            found += [whole(each.component, each.layer) for each in job.components.written if each.layer >= 0]
            found += [whole(HEAD_OUTPUT, layer) for layer in self._heads]
            found += [
                whole("attn_out", layer) for layer, each in self._heads.items() if each.post_norm.norm is not None
            ]
            if job.translators is None:
                found.append(whole(RESID_POST, last))
        if ATTRIBUTION in job.parts:
            found.append(whole("logits", positions=position))
            for layer, (_, behind) in self._neurons.items():
                found.append(whole(NEURONS, layer, positions=position))
                if behind.norm is not None:
                    found.append(whole("mlp_out", layer, positions=position))
        if LENS in job.parts:
            found += lens.hooks(job.top_k, self._target.answer)
            if job.translators is not None:
                found += [whole(RESID_POST, layer) for layer in range(last + 1)]
                if not set(job.parts) & {CONTRIBUTIONS, ATTRIBUTION}:
                    found.append(whole(RESID_PRE, 0))
        return found

    async def _consume(self, chunk: ActivationChunk) -> None:
        await asyncio.to_thread(self._add, chunk)
        if self._tuned is not None:
            await self._translate(chunk, self._tuned)

    def _add(self, chunk: ActivationChunk) -> None:
        if self._contributions is not None:
            self._contributions.add(chunk)
        if self._attribution is not None:
            self._attribution.add(chunk)
            if ("logits", -1, UNREDUCED) in chunk.pieces:
                logits = chunk.array("logits")[0]
                self._logits = [float(logits[token]) for token in self._target.tokens]
        if self._lens is not None:
            self._lens.add(chunk)

    async def _translate(self, chunk: ActivationChunk, tuned: LensReadings) -> None:
        """Projects translated residual streams, with the model's own prediction as reference."""
        job = self._job
        assert job.translators is not None
        last = job.components.layer_count - 1
        final, at = chunk.array(RESID_POST, last), chunk.positions(RESID_POST, last)
        some = max(1, _PROJECTED_BYTES // final[:1].nbytes)
        for point, (component, layer) in enumerate(lens.stream_points(last + 1)):
            translated = await asyncio.to_thread(job.translators.translate, point, chunk.array(component, layer))
            for first in range(0, len(at), some):
                part = slice(first, first + some)
                seen = await job.model.project(
                    np.ascontiguousarray(translated[part]),
                    "looking through the tuned lens",
                    top_k=job.top_k,
                    tokens=[tuned.answer],
                    reference=final[part],
                )
                tuned.add_projected(point, at[part], seen)
