"""An analysis of attention from its request to its result, as the events of its stream."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.arrays import NamedArrays
from neuroscope_analysis.attention import circuits
from neuroscope_analysis.attention.confirmation import Candidate, Confirmation, Head
from neuroscope_analysis.attention.name_heads import NameHeads
from neuroscope_analysis.attention.patterns import Floats
from neuroscope_analysis.attention.reading import PATTERN, Taker, summed
from neuroscope_analysis.attention.request import AttentionWork
from neuroscope_analysis.attention.roles import Role
from neuroscope_analysis.attention.scores import SequenceScores
from neuroscope_analysis.attention.sequences import RepeatedBlocks
from neuroscope_analysis.attention.statistics import STATISTICS, PromptStatistics
from neuroscope_analysis.progress import Clock

DIRECT_EFFECT = "direct_effect"
"""What each head's path to the logits is worth on named pairs."""


class AttentionAnalysis:
    """Runs one analysis.

    Args:
        work: what is to be done.
        chunk_budget_bytes: patterns of one chunk of a prompt.
    """

    def __init__(self, work: AttentionWork, chunk_budget_bytes: int) -> None:
        self._work = work
        self._chunk_budget_bytes = chunk_budget_bytes
        names = [*(STATISTICS if work.prompts else ()), *(role.array for role in work.roles)]
        if self._names_are_tested():
            names.append(DIRECT_EFFECT)
        axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD)
        self._arrays = NamedArrays.alike(names, PATTERN, axes, (len(work.layers), work.heads))
        self._clock = Clock()
        self._labels: list[pb.HeadLabel] = []

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, then what is found, then the result."""
        yield pb.AnalyzeAttentionResponse(plan=self._plan())
        async with aclosing(self._describe()) as described:
            async for event in described:
                yield event
        if self._work.sequences is not None:
            async with aclosing(self._score(self._work.sequences)) as scored:
                async for event in scored:
                    yield event
        if self._work.named_pairs:
            async with aclosing(self._score_names()) as scored:
                async for event in scored:
                    yield event
        yield pb.AnalyzeAttentionResponse(
            result=pb.AttentionResult(
                labels=self._labels,
                token_count=self._work.model.token_count,
                call_count=self._work.model.call_count,
                elapsed_seconds=self._clock.elapsed_s(),
            )
        )

    def _plan(self) -> pb.AttentionPlan:
        work = self._work
        sequences = work.sequences
        return pb.AttentionPlan(
            model_id=work.model.model_id,
            layers=work.layers,
            head_count=work.heads,
            arrays=self._arrays.plan,
            prompts=[inference_pb2.TokenIds(ids=tokens.ids) for tokens in work.prompts],
            roles=[
                pb.RolePlan(
                    role=role.role,
                    threshold=work.thresholds[role.role],
                    definition=role.definition,
                    causal_test=f"none: {why}" if (why := self._why_not_tested(role)) else role.test,
                )
                for role in work.roles
            ],
            named_pairs=[pair.to_message() for pair in work.named_pairs],
            sequence_length=0 if sequences is None else sequences.length,
            warnings=list(
                dict.fromkeys([*work.warnings, *(warning for tokens in work.prompts for warning in tokens.warnings)])
            ),
        )

    def _why_not_tested(self, role: Role) -> str:
        return self._work.why_no_paths if role.path_to else self._work.why_not_tested

    def _names_are_tested(self) -> bool:
        return bool(self._work.named_pairs) and not self._work.why_no_paths

    async def _describe(self) -> AsyncGenerator[Event, None]:
        """Statistics of every prompt."""
        work = self._work
        count = len(work.prompts)
        for index, tokens in enumerate(work.prompts):
            yield self._progress("reading prompts", index, count)
            found = await self._summed(
                tokens.ids,
                lambda ids=tokens.ids: PromptStatistics(ids, len(work.layers), work.heads),
                f"reading prompt {index + 1} of {count}",
            )
            for frame in self._arrays.frames({name: found.array(name) for name in STATISTICS}, index):
                yield frame
            done = pb.AttentionOfPrompt(prompt=index, token_count=len(tokens))
            yield pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(prompt=done))

    async def _score(self, sequences: RepeatedBlocks) -> AsyncGenerator[Event, None]:
        """Scores and labels of every role."""
        work, shape = self._work, (len(self._work.layers), self._work.heads)
        count = len(sequences.ids)
        total: SequenceScores | None = None
        for index, ids in enumerate(sequences.ids):
            yield self._progress("scoring roles", index, count)
            found = await self._summed(
                ids,
                lambda index=index: SequenceScores(sequences, index, *shape),
                f"reading random sequence {index + 1} of {count}",
            )
            if total is None:
                total = found
            else:
                total.absorb(found)
        assert total is not None
        scores = total.scores()
        roles = [role for role in work.roles if not role.path_to]
        if any(role.by_weights for role in roles):
            yield self._progress("reading weights", 0, 1)
            copying = await circuits.copying_scores(work.model, work.layers, work.heads)
            scores |= {pb.HEAD_ROLE_COPYING: copying, pb.HEAD_ROLE_SUPPRESSION: -copying}
        for frame in self._arrays.frames({role.array: scores[role.role] for role in roles}):
            yield frame
        tests = None if work.why_not_tested else Confirmation(work.model, sequences, work.causal_test)
        for index, role in enumerate(roles):
            yield self._progress("testing labels", index, len(roles))
            threshold = work.thresholds[role.role]
            candidates, others = self._split(role, scores[role.role], threshold, total.distances())
            async for label in _tested(tests, role, threshold, candidates, others, work.why_not_tested):
                self._labels.append(label)
                yield pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(label=label))

    async def _score_names(self) -> AsyncGenerator[Event, None]:
        """Scores and labels of the roles that named pairs tell."""
        work, count = self._work, len(self._work.named_pairs)
        heads = NameHeads(
            work.model,
            work.named_pairs,
            work.layers,
            work.heads,
            self._chunk_budget_bytes,
            work.causal_test,
            work.why_no_paths,
        )
        for index in range(count):
            yield self._progress("reading named pairs", index, count)
            await heads.read(index)
        roles = sorted((role for role in work.roles if role.path_to), key=lambda role: role.role)  # name movers first
        yield self._progress("reading weights", 0, 1)
        scores = await heads.scores()
        for frame in self._arrays.frames({role.array: scores[role.role] for role in roles}):
            yield frame
        direct = np.full((count, len(work.layers), work.heads), np.nan)
        if self._names_are_tested():
            yield self._progress("patching paths", 0, 1)
            direct = await heads.direct_effects()
            for frame in self._arrays.frames({DIRECT_EFFECT: direct.mean(axis=0)}):
                yield frame
        for index, role in enumerate(roles):
            yield self._progress("testing labels", index, len(roles))
            threshold = work.thresholds[role.role]
            candidates, others = self._split(role, scores[role.role], threshold, None)
            async for label in heads.labels(role, threshold, candidates, others, direct):
                self._labels.append(label)
                yield pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(label=label))

    async def _summed(self, ids: Sequence[int], make: Callable[[], Taker], what: str) -> Taker:
        """The sums over the patterns of one prompt."""
        work, budget = self._work, self._chunk_budget_bytes
        return await summed(work.model, ids, work.layers, make, chunk_budget_bytes=budget, what=what)

    def _split(
        self, role: Role, scores: Floats, threshold: float, distances: NDArray[np.int64] | None
    ) -> tuple[list[Candidate], list[Head]]:
        """Heads that reach the threshold, strongest first, and those that do not."""
        candidates: list[Candidate] = []
        others: list[Head] = []
        for place, layer in enumerate(self._work.layers):
            for head, score in enumerate(scores[place].tolist()):
                if score >= threshold:
                    offset = None
                    if distances is not None and role.role == pb.HEAD_ROLE_POSITIONAL:
                        offset = int(distances[place, head])
                    candidates.append(Candidate((layer, head), score, offset))
                elif not math.isnan(score):
                    others.append((layer, head))
        return sorted(candidates, key=lambda candidate: -candidate.score), others

    def _progress(self, stage: str, done: int, count: int) -> pb.AnalyzeAttentionResponse:
        return pb.AnalyzeAttentionResponse(progress=self._clock.progress(stage, done, count))


async def _tested(
    tests: Confirmation | None,
    role: Role,
    threshold: float,
    candidates: Sequence[Candidate],
    others: Sequence[Head],
    why_not: str,
) -> AsyncGenerator[pb.HeadLabel, None]:
    if tests is not None:
        async with aclosing(tests.labels(role, threshold, candidates, others)) as labels:
            async for label in labels:
                yield label
        return
    for candidate in candidates:
        yield pb.HeadLabel(
            layer=candidate.head[0],
            head=candidate.head[1],
            role=role.role,
            score=candidate.score,
            threshold=threshold,
            verdict=pb.CAUSAL_VERDICT_NOT_TESTED,
            reason=why_not,
            offset=candidate.offset,
        )
