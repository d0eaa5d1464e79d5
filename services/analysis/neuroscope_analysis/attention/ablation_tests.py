"""Causal tests of labels by ablation, on the random sequences that scored them.

Two tests for each head: it is ablated alone (ablated); where that does not confirm the label, all heads of the role
except it are ablated (restored), which finds redundant heads (McGrath et al. 2023, arXiv:2307.15771). The effect is the
mean change of the role's metric over the sequences, in nats; `sequential_test` says when enough sequences have been
run. Where the metric is specific to the role, the effect must also exceed that of heads without the role.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from neuroscope.experiments import Metric, SweepResult, cross_entropy, kl_divergence
from neuroscope.interventions import Intervention, edit
from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.roles import Role, RoleMetric
from neuroscope_analysis.attention.sequential_test import SequentialTest, looks
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.significance import (
    DEFAULT_LEAST_EFFECT,
    DEFAULT_SIGNIFICANCE,
    MetricChanges,
    robust_upper_bound,
)

Head: TypeAlias = "tuple[int, int]"
"""Layer and head."""
Heads: TypeAlias = "frozenset[Head]"
_MAX_OTHERS = 16
"""Maximum number of ablated heads without the role."""
_MIN_OTHERS = 5
"""Minimum number of heads for a distribution."""
_OTHERS_SEQUENCES = 4
"""Maximum number of sequences for the effects of heads without the role."""
_MAX_REFERENCES = 8
"""Maximum number of sequences whose mean replaces a head's output."""
_MAX_RESTORED = 10
"""Without more heads than these at once, little is left of a model that one head could restore."""
_BATCH = 48
"""Labels that are tested together."""
_MEASURED_POSITIONS = 8
"""Positions of a sequence that are measured."""


class Ablation(NamedTuple):
    """How heads are ablated and what is measured; the effects of a head are shared by all roles with the same."""

    metric: RoleMetric
    zero_ablated: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A head whose score reaches a role's threshold."""

    head: Head
    score: float
    offset: int | None = None
    """The distance of a positional head."""
    null_comparison: pb.NullComparison | None = None

    def label(self, role: Role, threshold: float, verdict: pb.CausalVerdict.ValueType, **fields: Any) -> pb.HeadLabel:
        """The label of this head; `fields` are evidence or the reason why there is none."""
        layer, head = self.head
        return pb.HeadLabel(
            layer=layer,
            head=head,
            role=role.role,
            score=self.score,
            threshold=threshold,
            verdict=verdict,
            offset=self.offset,
            null_comparison=self.null_comparison,
            **fields,
        )


@dataclass(frozen=True, slots=True)
class RoleCandidates:
    """The heads of one role.

    Args:
        role: the role.
        threshold: the minimum score.
        candidates: heads that reach it, highest score first.
        others: heads that do not.
    """

    role: Role
    threshold: float
    candidates: Sequence[Candidate]
    others: Sequence[Head]

    def label(self, candidate: Candidate, verdict: pb.CausalVerdict.ValueType, **fields: Any) -> pb.HeadLabel:
        """The label of a candidate."""
        return candidate.label(self.role, self.threshold, verdict, **fields)

    def untested(self, reason: str) -> list[pb.HeadLabel]:
        """All labels, without a test."""
        return [self.label(each, pb.CAUSAL_VERDICT_NOT_TESTED, reason=reason) for each in self.candidates]


class AblationTests:
    """Tests labels.

    Args:
        model: the model.
        sequences: the prompts.
        wanted: minimum effect and significance.
    """

    def __init__(self, model: RemoteModel, sequences: RepeatedSequences, wanted: pb.CausalTest) -> None:
        self._model = model
        self._sequences = sequences
        self._references = sequences.references[:_MAX_REFERENCES]
        self._least = wanted.least_effect_nats or DEFAULT_LEAST_EFFECT
        self._significance = wanted.significance or DEFAULT_SIGNIFICANCE
        self._is_complete = wanted.complete
        self._effects: dict[tuple[Ablation, Heads], MetricChanges] = {}  # by sequence, of the first ones
        self._bounds: dict[pb.HeadRole.ValueType, tuple[float, int]] = {}

    async def labels(
        self, found: RoleCandidates, tested: Sequence[Candidate]
    ) -> AsyncGenerator[pb.HeadLabel | None, None]:
        """The labels of candidates with the evidence of their tests; None while a sweep goes on.

        Args:
            found: the heads of the role.
            tested: the candidates whose labels are wanted now.
        """
        if not tested:
            return
        if found.role.role not in self._bounds:
            async with aclosing(self._measure_others(found)) as waiting:
                async for _ in waiting:
                    yield None
        for first in range(0, len(tested), _BATCH):
            batch = tested[first : first + _BATCH]
            evidence: dict[Head, list[pb.CausalEvidence]] = {each.head: [] for each in batch}
            for probe in self._probes(found):
                heads = [head for head, seen in evidence.items() if self._is_complete or not _is_confirmed(seen)]
                async with aclosing(self._tested(found, probe, heads)) as results:
                    async for result in results:
                        if result is None:
                            yield None
                        else:
                            evidence[result[0]].append(result[1])
            for candidate in batch:
                seen = evidence[candidate.head]
                verdict = pb.CAUSAL_VERDICT_CONFIRMED if _is_confirmed(seen) else pb.CAUSAL_VERDICT_UNCONFIRMED
                yield found.label(candidate, verdict, evidence=seen)

    def _probes(self, found: RoleCandidates) -> list[pb.CausalProbe.ValueType]:
        can_restore = 1 < len(found.candidates) <= _MAX_RESTORED
        return [pb.CAUSAL_PROBE_ABLATED, *([pb.CAUSAL_PROBE_RESTORED] if can_restore else [])]

    async def _tested(
        self, found: RoleCandidates, probe: pb.CausalProbe.ValueType, heads: Sequence[Head]
    ) -> AsyncGenerator[tuple[Head, pb.CausalEvidence] | None, None]:
        """The evidence of one test for each head; a test ends at the first look that decides it."""
        ablation = _ablation(found.role)
        group = frozenset(candidate.head for candidate in found.candidates)
        count = len(self._sequences.ids)
        at = [count] if self._is_complete else looks(count)
        beyond, other_count = self._bounds[found.role.role]
        tests = len(group) * len(self._probes(found))
        test = SequentialTest(self._least, self._significance / tests / len(at), beyond, other_count)
        is_divergence = probe == pb.CAUSAL_PROBE_ABLATED and ablation.metric is not RoleMetric.REPETITION
        undecided = list(heads)
        for sequence_count in at:
            if not undecided:
                return
            wanted = [frozenset({head}) for head in undecided]
            if probe == pb.CAUSAL_PROBE_RESTORED:
                wanted = [group, *(group - one for one in wanted)]
            async with aclosing(self._measure(found.role, ablation, wanted, sequence_count)) as waiting:
                async for _ in waiting:
                    yield None
            changes = np.stack([self._effects[ablation, one][:sequence_count] for one in wanted], axis=1)
            if probe == pb.CAUSAL_PROBE_RESTORED:
                changes = changes[:, :1] - changes[:, 1:]
            is_last = sequence_count == at[-1]
            decided = np.ones(len(undecided), np.bool_) if is_last else test.decided(changes, positive=is_divergence)
            for index in np.flatnonzero(decided):
                yield undecided[index], test.evidence(probe, changes[:, index], is_last=is_last)
            undecided = [head for head, is_decided in zip(undecided, decided, strict=True) if not is_decided]

    async def _measure_others(self, found: RoleCandidates) -> AsyncGenerator[None, None]:
        """The bound from heads without the role; yields while a sweep goes on."""
        compares = found.role.compares_with_others and len(found.others) >= _MIN_OTHERS
        compared = _sample(found) if compares else []
        count = len(self._sequences.ids) if self._is_complete else min(_OTHERS_SEQUENCES, len(self._sequences.ids))
        ablation, alone = _ablation(found.role), [frozenset({head}) for head in compared]
        async with aclosing(self._measure(found.role, ablation, alone, count)) as waiting:
            async for _ in waiting:
                yield
        effects = [float(self._effects[ablation, one][:count].mean()) for one in alone]
        self._bounds[found.role.role] = robust_upper_bound(effects), len(compared)

    async def _measure(
        self, role: Role, ablation: Ablation, wanted: Sequence[Heads], count: int
    ) -> AsyncGenerator[None, None]:
        """Measures the change of the metric on the first sequences when each group of heads is ablated; yields while a
        sweep goes on. What is known is not run again."""
        known = {heads: len(self._effects.get((ablation, heads), ())) for heads in wanted}
        for done in sorted(set(known.values())):
            missing = [heads for heads, length in known.items() if length == done < count]
            if not missing:
                continue
            sequences = self._sequences.ids[done:count]
            sweep = self._model.client.ablate(sequences, model_id=self._model.model_id)
            if not ablation.zero_ablated:
                sweep = sweep.references(self._references)
            for number, heads in enumerate(missing):
                sweep = sweep.cell(*self._interventions(ablation, heads), name=str(number))
            result = SweepResult(sweep.scored_by(self._metric(ablation.metric)), warns=False)
            events = self._model.sweep_events(result, f"ablating heads that look like {role.name}")
            async with aclosing(events):
                async for _ in events:
                    yield
            result.finish()
            effects = np.asarray(result["cells"].effects().values, np.float64).reshape(-1, len(missing))
            for number, heads in enumerate(missing):
                before = self._effects.get((ablation, heads), np.zeros(0))
                self._effects[ablation, heads] = np.concatenate([before, effects[:, number]])

    def _interventions(self, ablation: Ablation, heads: Heads) -> list[Intervention]:
        by_layer: dict[int, list[int]] = {}
        for layer, head in sorted(heads):
            by_layer.setdefault(layer, []).append(head)
        # Rows of a sweep: clean, corrupted and own run, the references, then their mean at each position.
        mean_row = 3 + len(self._references)
        # The role of a duplicate-token head lies there, so that what comes before is computed once for all heads.
        positions = [*self._sequences.second_block] if ablation.metric is RoleMetric.REPEATED_OUTPUT else None
        return [
            edit("head_output", layer, 0.0, heads=of_layer, positions=positions)
            if ablation.zero_ablated
            else edit("head_output", layer, lambda act: act.row(mean_row), heads=of_layer, positions=positions)
            for layer, of_layer in by_layer.items()
        ]

    def _metric(self, measure: RoleMetric) -> Metric:
        match measure:
            case RoleMetric.REPETITION:
                return cross_entropy().at(*_spread(self._sequences.predictable))
            case RoleMetric.REPEATED_OUTPUT:
                return kl_divergence().at(*_spread(self._sequences.second_block))
            case RoleMetric.OUTPUT:
                # In the second block induction makes predictions certain, and other heads change little.
                return kl_divergence().at(*_spread(self._sequences.first_block))
            case RoleMetric.LOGIT_DIFFERENCE:
                raise AssertionError("named pairs are tested by path patching")


def _ablation(role: Role) -> Ablation:
    return Ablation(role.metric, role.zero_ablated)


def _is_confirmed(evidence: Sequence[pb.CausalEvidence]) -> bool:
    return any(each.is_passed for each in evidence)


def _spread(positions: range) -> range:
    """Some of the positions, evenly spaced."""
    return positions[:: max(1, -(-len(positions) // _MEASURED_POSITIONS))]


def _sample(found: RoleCandidates) -> list[Head]:
    """Heads without the role, evenly spaced over the layers; of two roles mostly the same, which are measured once."""
    others = set(found.others)
    every = sorted(others | {candidate.head for candidate in found.candidates})
    step = max(1, -(-len(every) // _MAX_OTHERS))
    return [head for head in every[::step] if head in others]
