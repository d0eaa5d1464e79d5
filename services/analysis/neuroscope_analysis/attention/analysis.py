"""The run of an attention analysis."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import numpy as np
from numpy.typing import NDArray

from neuroscope.results.labels import RANKED_ROLES
from neuroscope.v1 import attention_pb2 as pb
from neuroscope.v1 import inference_pb2, tensor_pb2
from neuroscope.wire.codec import Event
from neuroscope_analysis.attention import copying_scores
from neuroscope_analysis.attention.ablation_tests import AblationTests, Candidate, Head, RoleCandidates
from neuroscope_analysis.attention.copied_tokens import TokenSample
from neuroscope_analysis.attention.copying_scores import CopyingScores
from neuroscope_analysis.attention.name_movers import NameHeadAnalysis
from neuroscope_analysis.attention.pattern_capture import ATTENTION_PATTERN, AccumulatorT, accumulate_patterns
from neuroscope_analysis.attention.patterns import Floats
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.request import AttentionJob
from neuroscope_analysis.attention.roles import Role
from neuroscope_analysis.attention.sequence_scores import SequenceScores
from neuroscope_analysis.attention.statistics import STATISTICS, PromptStatistics
from neuroscope_analysis.event_tasks import in_one_task
from neuroscope_analysis.progress import ProgressTimer
from neuroscope_analysis.result_arrays import ResultArrays

DIRECT_EFFECT = "direct_effect"
"""The effect of each head's path to the logits on named pairs."""
_NOT_YET = "its test has not been run yet"


class AttentionAnalysis:
    """Runs one analysis.

    Args:
        job: the validated request.
    """

    def __init__(self, job: AttentionJob) -> None:
        self._job = job
        names = [*(STATISTICS if job.prompts else ()), *(role.array_name for role in job.roles)]
        if self._tests_name_heads():
            names.append(DIRECT_EFFECT)
        axes = (tensor_pb2.AXIS_LAYER, tensor_pb2.AXIS_HEAD)
        self._arrays = ResultArrays.of_shape(names, ATTENTION_PATTERN, axes, (len(job.layers), job.head_count))
        self._timer = ProgressTimer()
        self._labels: dict[tuple[int, int, int], pb.HeadLabel] = {}  # by role, layer and head

    async def events(self) -> AsyncGenerator[Event, None]:
        """The plan, partial results and the result."""
        yield pb.AnalyzeAttentionResponse(plan=self._plan())
        async with aclosing(self._prompt_statistics()) as described:
            async for event in described:
                yield event
        if self._job.sequences is not None:
            async with aclosing(in_one_task(self._role_scores(self._job.sequences))) as scored:
                async for event in scored:
                    yield event
        if self._job.named_pairs:
            async with aclosing(self._name_head_scores()) as scored:
                async for event in scored:
                    yield event
        yield pb.AnalyzeAttentionResponse(
            result=pb.AttentionResult(
                labels=self._labels.values(),
                token_count=self._job.model.token_count,
                call_count=self._job.model.call_count,
                elapsed_seconds=self._timer.elapsed_s(),
            )
        )

    def _plan(self) -> pb.AttentionPlan:
        job = self._job
        sequences = job.sequences
        return pb.AttentionPlan(
            model_id=job.model.model_id,
            layers=job.layers,
            head_count=job.head_count,
            arrays=self._arrays.plan,
            prompts=[inference_pb2.TokenIds(ids=tokens.ids) for tokens in job.prompts],
            roles=[
                pb.RolePlan(
                    role=role.role,
                    threshold=job.thresholds[role.role],
                    definition=role.definition,
                    causal_test=f"none: {why}" if (why := self._why_not_tested(role)) else role.causal_test,
                )
                for role in job.roles
            ],
            named_pairs=[pair.to_message() for pair in job.named_pairs],
            sequence_length=0 if sequences is None else sequences.length,
            warnings=list(
                dict.fromkeys([*job.warnings, *(warning for tokens in job.prompts for warning in tokens.warnings)])
            ),
        )

    def _why_not_tested(self, role: Role) -> str:
        return self._job.why_paths_not_tested if role.path_receiver else self._job.why_not_tested

    def _tests_name_heads(self) -> bool:
        return bool(self._job.named_pairs) and not self._job.why_paths_not_tested

    async def _prompt_statistics(self) -> AsyncGenerator[Event, None]:
        """Statistics of each prompt."""
        job = self._job
        count = len(job.prompts)
        for index, tokens in enumerate(job.prompts):
            yield self._progress("reading prompts", index, count)
            found = await self._accumulate(
                tokens.ids,
                lambda ids=tokens.ids: PromptStatistics(ids, len(job.layers), job.head_count),
                f"reading prompt {index + 1} of {count}",
            )
            for frame in self._arrays.frames({name: found.array(name) for name in STATISTICS}, index):
                yield frame
            done = pb.AttentionOfPrompt(prompt=index, token_count=len(tokens))
            yield pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(prompt=done))

    async def _role_scores(self, sequences: RepeatedSequences) -> AsyncGenerator[Event, None]:
        """Scores and labels of roles on random sequences."""
        job, shape = self._job, (len(self._job.layers), self._job.head_count)
        count = len(sequences.ids)
        total: SequenceScores | None = None
        for index, ids in enumerate(sequences.ids):
            yield self._progress("scoring roles", index, count)
            found = await self._accumulate(
                ids,
                lambda index=index: SequenceScores(sequences, index, *shape),
                f"reading random sequence {index + 1} of {count}",
            )
            if total is None:
                total = found
            else:
                total.merge(found)
        assert total is not None
        scores = total.scores()
        roles = [role for role in job.roles if not role.path_receiver]
        copying: CopyingScores | None = None
        if any(role.uses_weights for role in roles):
            yield self._progress("reading weights", 0, 1)
            sample = TokenSample.draw(sequences.token_ids, sequences.seed)
            copying = await copying_scores.copying_scores(job.model, job.layers, job.head_count, sample)
            scores |= {role.role: copying.of_role(role.role)[0] for role in roles if role.uses_weights}
        for frame in self._arrays.frames({role.array_name: scores[role.role] for role in roles}):
            yield frame
        distances = total.peak_distances()
        found = [self._split_by_threshold(role, scores[role.role], distances, copying) for role in roles]
        yield self._scored(found, job.why_not_tested or _NOT_YET)
        if job.why_not_tested:
            return
        async with aclosing(self._tested_labels(AblationTests(job.model, sequences, job.causal_test), found)) as tested:
            async for event in tested:
                yield event

    def _scored(self, found: Sequence[RoleCandidates], reason: str) -> pb.AnalyzeAttentionResponse:
        """The labels by score."""
        labels = [label for each in found for label in each.untested(reason)]
        self._labels |= {(label.role, label.layer, label.head): label for label in labels}
        return pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(scores=pb.ScoredHeads(labels=labels)))

    async def _tested_labels(
        self, tests: AblationTests, found: Sequence[RoleCandidates]
    ) -> AsyncGenerator[Event, None]:
        """Labels in the order of what their tests change: specific roles first, and last the labels of heads that a
        more specific role describes already."""
        ranked = sorted(found, key=lambda each: RANKED_ROLES.index(each.role.name))
        described: set[Head] = set()
        deferred: list[tuple[RoleCandidates, list[Candidate]]] = []
        count, done, began_s = sum(len(each.candidates) for each in found), 0, self._timer.elapsed_s()

        def progress() -> Event:
            remaining_s = (self._timer.elapsed_s() - began_s) / done * (count - done) if done else None
            return self._progress("testing labels", done, count, remaining_s)

        async def tested(of: RoleCandidates, candidates: Sequence[Candidate]) -> AsyncGenerator[Event, None]:
            nonlocal done
            async with aclosing(tests.labels(of, candidates)) as labels:
                async for label in labels:
                    if label is not None:
                        done += 1
                        if label.verdict == pb.CAUSAL_VERDICT_CONFIRMED:
                            described.add((label.layer, label.head))
                        yield self._found(label)
                    yield progress()

        yield progress()
        for each in ranked:
            deferred.append((each, [candidate for candidate in each.candidates if candidate.head in described]))
            now = [candidate for candidate in each.candidates if candidate.head not in described]
            async with aclosing(tested(each, now)) as events:
                async for event in events:
                    yield event
        for each, later in deferred:
            async with aclosing(tested(each, later)) as events:
                async for event in events:
                    yield event

    def _found(self, label: pb.HeadLabel) -> pb.AnalyzeAttentionResponse:
        """A tested label."""
        self._labels[label.role, label.layer, label.head] = label
        return pb.AnalyzeAttentionResponse(partial=pb.AttentionPartial(label=label))

    async def _name_head_scores(self) -> AsyncGenerator[Event, None]:
        """Scores and labels of roles on named pairs."""
        job, count = self._job, len(self._job.named_pairs)
        heads = NameHeadAnalysis(
            job.model,
            job.named_pairs,
            job.layers,
            job.head_count,
            job.causal_test,
            job.why_paths_not_tested,
        )
        for index in range(count):
            yield self._progress("reading named pairs", index, count)
            await heads.read(index)
        roles = sorted(
            (role for role in job.roles if role.path_receiver), key=lambda role: role.role
        )  # name movers first
        yield self._progress("reading weights", 0, 1)
        scores = await heads.scores()
        for frame in self._arrays.frames({role.array_name: scores[role.role] for role in roles}):
            yield frame
        direct = np.full((count, len(job.layers), job.head_count), np.nan)
        if self._tests_name_heads():
            yield self._progress("patching paths", 0, 1)
            direct = await heads.direct_effects()
            for frame in self._arrays.frames({DIRECT_EFFECT: direct.mean(axis=0)}):
                yield frame
        found = [self._split_by_threshold(role, scores[role.role], None, None) for role in roles]
        yield self._scored(found, job.why_paths_not_tested or _NOT_YET)
        for index, each in enumerate(found):
            yield self._progress("testing labels", index, len(roles))
            async for label in heads.labels(each.role, each.threshold, each.candidates, each.others, direct):
                yield self._found(label)

    async def _accumulate(self, ids: Sequence[int], make: Callable[[], AccumulatorT], what: str) -> AccumulatorT:
        """Accumulates the patterns of one prompt."""
        job = self._job
        return await accumulate_patterns(job.model, ids, job.layers, make, what=what)

    def _split_by_threshold(
        self,
        role: Role,
        scores: Floats,
        distances: NDArray[np.int64] | None,
        copying: CopyingScores | None,
    ) -> RoleCandidates:
        """Heads that reach the threshold, highest score first, and the other heads."""
        threshold = self._job.thresholds[role.role]
        candidates: list[Candidate] = []
        others: list[Head] = []
        for place, layer in enumerate(self._job.layers):
            for head, score in enumerate(scores[place].tolist()):
                if math.isnan(score):
                    continue
                offset, comparison = None, None
                if distances is not None and role.role == pb.HEAD_ROLE_POSITIONAL:
                    offset = int(distances[place, head])
                if role.uses_weights and copying is not None:
                    comparison = copying.sample.comparison(float(copying.of_role(role.role)[1][place, head]), role.role)
                if score >= threshold and (comparison is None or comparison.value >= comparison.threshold):
                    candidates.append(Candidate((layer, head), score, offset, comparison))
                else:
                    others.append((layer, head))
        return RoleCandidates(role, threshold, sorted(candidates, key=lambda candidate: -candidate.score), others)

    def _progress(
        self, stage: str, done: int, count: int, remaining_s: float | None = None
    ) -> pb.AnalyzeAttentionResponse:
        return pb.AnalyzeAttentionResponse(progress=self._timer.progress(stage, done, count, remaining_s))
