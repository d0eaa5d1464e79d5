"""Causal tests of labels by ablation, on the random sequences that scored them.

Two tests for each head: it is ablated alone (ablated), and all heads of the role except it are ablated (restored). The
second test finds redundant heads, which the first one misses (McGrath et al. 2023, arXiv:2307.15771). The effect is the
mean change of the role's metric over the sequences, in nats; `significance` has its threshold. Where the metric is
specific to the role, the effect must also exceed that of heads without the role.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from neuroscope.experiments import Metric, cross_entropy, kl_divergence
from neuroscope.interventions import Intervention, edit
from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis.attention.repeated_sequences import RepeatedSequences
from neuroscope_analysis.attention.roles import Role, RoleMetric
from neuroscope_analysis.remote_model import RemoteModel
from neuroscope_analysis.significance import (
    DEFAULT_LEAST_EFFECT,
    DEFAULT_SIGNIFICANCE,
    EffectThreshold,
    MetricChanges,
    robust_upper_bound,
)

Head: TypeAlias = "tuple[int, int]"
"""Layer and head."""
Heads: TypeAlias = "frozenset[Head]"
_MAX_OTHERS = 48
"""Maximum number of ablated heads without the role."""
_MIN_OTHERS = 5
"""Minimum number of heads for a distribution."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A head whose score reaches a role's threshold."""

    head: Head
    score: float
    offset: int | None = None
    """The distance of a positional head."""

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
            **fields,
        )


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
        self._least = wanted.least_effect_nats or DEFAULT_LEAST_EFFECT
        self._significance = wanted.significance or DEFAULT_SIGNIFICANCE
        self._effects: dict[tuple[RoleMetric, bool, Heads], MetricChanges] = {}

    async def labels(
        self, role: Role, threshold: float, candidates: Sequence[Candidate], others: Sequence[Head]
    ) -> AsyncGenerator[pb.HeadLabel, None]:
        """The labels of a role with the evidence of their tests.

        Args:
            role: the role.
            threshold: the minimum score.
            candidates: heads that reach it.
            others: heads that do not.
        """
        if not candidates:
            return
        compared = _sample(others) if role.compares_with_others and len(others) >= _MIN_OTHERS else []
        group = frozenset(candidate.head for candidate in candidates)
        alone = {head: frozenset({head}) for head in (*group, *compared)}
        spared = {head: group - {head} for head in group} if len(group) > 1 else {}
        changes = await self._ablation_effects(role, [*alone.values(), group, *spared.values()])
        beyond = robust_upper_bound([changes[alone[head]].mean() for head in compared])
        tests = len(alone) - len(compared) + len(spared)
        bounds = EffectThreshold(self._least, self._significance / tests, beyond, len(compared))
        for candidate in candidates:
            head = candidate.head
            evidence = [bounds.evidence(pb.CAUSAL_PROBE_ABLATED, changes[alone[head]])]
            if head in spared:
                restored = changes[group] - changes[spared[head]]
                evidence.append(bounds.evidence(pb.CAUSAL_PROBE_RESTORED, restored))
            is_confirmed = any(each.is_passed for each in evidence)
            verdict = pb.CAUSAL_VERDICT_CONFIRMED if is_confirmed else pb.CAUSAL_VERDICT_UNCONFIRMED
            yield candidate.label(role, threshold, verdict, evidence=evidence)

    async def _ablation_effects(self, role: Role, wanted: Sequence[Heads]) -> dict[Heads, MetricChanges]:
        """The change of the metric when each group of heads is ablated; results are cached."""
        known = {heads: self._effects.get((role.metric, role.zero_ablated, heads)) for heads in wanted}
        missing = [heads for heads, changes in known.items() if changes is None]
        if missing:
            ablation = self._model.client.ablate(self._sequences.ids, model_id=self._model.model_id)
            if not role.zero_ablated:
                ablation = ablation.references(self._sequences.references)
            for number, heads in enumerate(missing):
                ablation = ablation.cell(*self._interventions(role, heads), name=str(number))
            what = f"ablating heads that look like {role.name}"
            result = await self._model.sweep(ablation.scored_by(self._metric(role.metric)), what)
            effects = np.asarray(result["cells"].effects().values, np.float64).reshape(-1, len(missing))
            for number, heads in enumerate(missing):
                self._effects[role.metric, role.zero_ablated, heads] = effects[:, number]
        return {heads: self._effects[role.metric, role.zero_ablated, heads] for heads in wanted}

    def _interventions(self, role: Role, heads: Heads) -> list[Intervention]:
        by_layer: dict[int, list[int]] = {}
        for layer, head in sorted(heads):
            by_layer.setdefault(layer, []).append(head)
        mean_row = 3 + len(self._sequences.references)  # the row of a sweep with the references' mean at each position
        return [
            edit("head_output", layer, 0.0, heads=of_layer)
            if role.zero_ablated
            else edit("head_output", layer, lambda act: act.row(mean_row), heads=of_layer)
            for layer, of_layer in by_layer.items()
        ]

    def _metric(self, measure: RoleMetric) -> Metric:
        match measure:
            case RoleMetric.REPETITION:
                return cross_entropy().at(*self._sequences.predictable)
            case RoleMetric.REPEATED_OUTPUT:
                return kl_divergence().at(*self._sequences.second_block)
            case RoleMetric.OUTPUT:
                return kl_divergence().at(*range(self._sequences.length))
            case RoleMetric.LOGIT_DIFFERENCE:
                raise AssertionError("named pairs have a test of their own")


def _sample(others: Sequence[Head]) -> list[Head]:
    """Heads without the role, evenly spaced over the layers."""
    step = max(1, -(-len(others) // _MAX_OTHERS))
    return list(others)[::step]
