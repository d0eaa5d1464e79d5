"""One prompt, read once: contributions, attribution and lenses, summed up chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import numpy as np

from neuroscope.v1 import residual_pb2 as pb
from neuroscope.vocabulary.hooks import Hook
from neuroscope.wire.frames import TensorPiece
from neuroscope_analysis.residual import lens
from neuroscope_analysis.residual.attribution import Asked, Attribution
from neuroscope_analysis.residual.chunks import WHOLE, Chunk, ChunkReader, Floats
from neuroscope_analysis.residual.components import EMBEDDING, ENTERS, STREAM
from neuroscope_analysis.residual.contributions import StreamSums
from neuroscope_analysis.residual.end import Doubles, ModelEnd
from neuroscope_analysis.residual.lens import LensSums
from neuroscope_analysis.residual.request import ATTRIBUTION, CONTRIBUTIONS, LENS, ResidualWork
from neuroscope_analysis.residual.writers import HEAD_OUTPUT, NEURONS, Behind, LayerHeads

_PROJECTED_BYTES = 8 * 2**20
"""Translated streams of one call."""


class PromptReading:
    """Reads one prompt.

    Args:
        work: what is to be done.
        prompt: which.
        asked: of it.
        heads: by layer; empty: they are left out.
        end: of the model; None: logits are not attributed.
        neurons: by layer, what each writes along the logits.
    """

    def __init__(
        self,
        work: ResidualWork,
        prompt: int,
        asked: Asked,
        heads: Mapping[int, LayerHeads],
        end: ModelEnd | None,
        neurons: Mapping[int, tuple[Doubles, Behind]],
    ) -> None:
        self._work, self._prompt, self._asked = work, prompt, asked
        self._heads, self._end, self._neurons = heads, end, neurons
        self._begin()

    async def run(self, chunk_budget_bytes: int, what: str) -> None:
        """Reads it."""
        reader = ChunkReader(self._use)

        def fresh() -> Callable[[TensorPiece], Awaitable[None]]:
            self._begin()
            return reader.begin().add

        await self._work.model.read(
            self._work.prompts[self._prompt].ids,
            self._hooks(),
            fresh,
            chunk_budget_bytes=chunk_budget_bytes,
            what=what,
        )
        await reader.finish()

    def arrays(self) -> dict[str, Floats]:
        """What was found, by name."""
        found: dict[str, Floats] = {}
        if self._sums is not None:
            found |= self._sums.found()
        if self._attribution is not None:
            found |= self._attribution.arrays
        if self._lens is not None:
            found |= self._lens.named(lens.LOGIT_LENS)
        if self._tuned is not None:
            found |= self._tuned.named(lens.TUNED_LENS)
        return found

    async def partials(self) -> AsyncGenerator[pb.ResidualPartial, None]:
        """What was found besides arrays."""
        if self._sums is not None:
            error = self._sums.head_error if self._heads else None
            yield pb.ResidualPartial(sum=pb.ResidualSum(prompt=self._prompt, error=self._sums.error, head_error=error))
        model = self._work.model
        if self._attribution is not None:
            texts = await model.texts(self._asked.tokens)
            chosen = self._attribution.chosen_neurons(self._work.request.neurons.strongest, self._work.neurons)
            yield pb.ResidualPartial(attribution=self._attribution.told(self._logits, texts, chosen))
        if self._lens is not None:
            seen = [self._lens, *([] if self._tuned is None else [self._tuned])]
            texts = await model.texts({self._asked.answer}.union(*(each.token_ids() for each in seen)))
            yield pb.ResidualPartial(
                lens=pb.LensReading(
                    prompt=self._prompt,
                    answer_id=self._asked.answer,
                    emergence=self._lens.emergence(self._asked.position),
                    tuned_emergence=None if self._tuned is None else self._tuned.emergence(self._asked.position),
                    texts=[pb.TokenText(token_id=token, text=text) for token, text in sorted(texts.items())],
                )
            )

    def _begin(self) -> None:
        work, length = self._work, len(self._work.prompts[self._prompt])
        layers, answer = work.components.layer_count, self._asked.answer
        self._sums = StreamSums(work.components, self._heads, length) if CONTRIBUTIONS in work.parts else None
        self._attribution = (
            None
            if self._end is None
            else Attribution(self._asked, work.components, self._heads, self._end, self._neurons, self._prompt)
        )
        has_lens = LENS in work.parts
        self._lens = LensSums(layers, length, work.top_k, answer) if has_lens else None
        self._tuned = LensSums(layers, length, work.top_k, answer) if work.translators is not None else None
        self._logits: list[float] = []

    def _hooks(self) -> list[Hook]:
        work = self._work
        last, position = work.components.layer_count - 1, [self._asked.position]

        def whole(component: str, layer: int | None = None, positions: list[int] | None = None) -> Hook:
            name = f"{component}.{layer}.whole"
            return Hook(component, layer, hook_id=name, positions=positions, dtype="float32")

        found: list[Hook] = []
        if set(work.parts) & {CONTRIBUTIONS, ATTRIBUTION}:
            found += [whole(ENTERS, 0)]
            if work.components.embedding_scale is not None:
                found.append(whole(EMBEDDING))
            found += [whole(each.component, each.layer) for each in work.components.written if each.layer >= 0]
            found += [whole(HEAD_OUTPUT, layer) for layer in self._heads]
            found += [whole("attn_out", layer) for layer, each in self._heads.items() if each.behind.norm is not None]
            if work.translators is None:
                found.append(whole(STREAM, last))
        if ATTRIBUTION in work.parts:
            found.append(whole("logits", positions=position))
            for layer, (_, behind) in self._neurons.items():
                found.append(whole(NEURONS, layer, positions=position))
                if behind.norm is not None:
                    found.append(whole("mlp_out", layer, positions=position))
        if LENS in work.parts:
            found += lens.hooks(work.top_k, self._asked.answer)
            if work.translators is not None:
                found += [whole(STREAM, layer) for layer in range(last + 1)]
                if not set(work.parts) & {CONTRIBUTIONS, ATTRIBUTION}:
                    found.append(whole(ENTERS, 0))
        return found

    async def _use(self, chunk: Chunk) -> None:
        await asyncio.to_thread(self._add, chunk)
        if self._tuned is not None:
            await self._translate(chunk, self._tuned)

    def _add(self, chunk: Chunk) -> None:
        if self._sums is not None:
            self._sums.add(chunk)
        if self._attribution is not None:
            self._attribution.add(chunk)
            if ("logits", -1, WHOLE) in chunk.pieces:
                logits = chunk.of("logits")[0]
                self._logits = [float(logits[token]) for token in self._asked.tokens]
        if self._lens is not None:
            self._lens.add(chunk)

    async def _translate(self, chunk: Chunk, tuned: LensSums) -> None:
        """Shows translated streams through the model's end, beside what the model itself predicts."""
        work = self._work
        assert work.translators is not None
        last = work.components.layer_count - 1
        final, at = chunk.of(STREAM, last), chunk.positions(STREAM, last)
        some = max(1, _PROJECTED_BYTES // final[:1].nbytes)
        for point, (component, layer) in enumerate(lens.stream_points(last + 1)):
            translated = await asyncio.to_thread(work.translators.translated, point, chunk.of(component, layer))
            for first in range(0, len(at), some):
                part = slice(first, first + some)
                seen = await work.model.project(
                    np.ascontiguousarray(translated[part]),
                    "looking through the tuned lens",
                    top_k=work.top_k,
                    tokens=[tuned.answer],
                    reference=final[part],
                )
                tuned.put(point, at[part], seen)
