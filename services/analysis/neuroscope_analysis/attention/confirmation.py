"""Whether heads that have a role's pattern have an effect, on the random sequences that gave their scores.

Each head is ablated alone, and all heads of the role are ablated but for it: where several heads do the same, each can
be spared, and the first test alone would find none of them (McGrath et al. 2023, arXiv:2307.15771). An effect is the
mean over the sequences of what that changes of the role's metric, in nats. It counts if it exceeds all of

    the least effect            what a request calls something
    noise                       t * standard error, at the significance over all tests of the role (Bonferroni)
    heads without the role      median + 3 robust standard deviations of their effects, where the metric is the role's
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import special  # pyright: ignore[reportMissingTypeStubs]

from neuroscope.experiments import Metric, cross_entropy, kl_divergence
from neuroscope.interventions import Intervention, edit
from neuroscope.v1 import attention_pb2 as pb
from neuroscope_analysis.attention.roles import Measure, Role
from neuroscope_analysis.attention.sequences import RepeatedBlocks
from neuroscope_analysis.upstream import InspectedModel

Head: TypeAlias = "tuple[int, int]"
"""Layer and head."""
Heads: TypeAlias = "frozenset[Head]"
Changes: TypeAlias = "NDArray[np.float64]"
"""Of a metric, by sequence."""
_OTHERS = 48
"""Heads without the role that are ablated at most."""
_FEWEST_OTHERS = 5
"""Of fewer heads there is no distribution."""
_ROBUST_DEVIATIONS = 3.0
_MAD_TO_DEVIATION = 1.4826
_LEAST_EFFECT_NATS, _SIGNIFICANCE = 0.01, 0.01


@dataclass(frozen=True, slots=True)
class Candidate:
    """A head whose score reaches a role's threshold."""

    head: Head
    score: float
    offset: int | None = None
    """Of a positional head."""


class Confirmation:
    """Tests labels.

    Args:
        model: what runs.
        sequences: the prompts.
        wanted: what counts as an effect.
    """

    def __init__(self, model: InspectedModel, sequences: RepeatedBlocks, wanted: pb.CausalTest) -> None:
        self._model = model
        self._sequences = sequences
        self._least = wanted.least_effect_nats or _LEAST_EFFECT_NATS
        self._significance = wanted.significance or _SIGNIFICANCE
        self._known: dict[tuple[Measure, bool, Heads], Changes] = {}

    async def labels(
        self, role: Role, threshold: float, candidates: Sequence[Candidate], others: Sequence[Head]
    ) -> AsyncGenerator[pb.HeadLabel, None]:
        """The labels of a role, each with what its tests say.

        Args:
            role: the role.
            threshold: what the scores reached.
            candidates: heads that reached it.
            others: heads that did not.
        """
        if not candidates:
            return
        compared = _sample(others) if role.against_others and len(others) >= _FEWEST_OTHERS else []
        group = frozenset(candidate.head for candidate in candidates)
        alone = {head: frozenset({head}) for head in (*group, *compared)}
        spared = {head: group - {head} for head in group} if len(group) > 1 else {}
        changes = await self._changes(role, [*alone.values(), group, *spared.values()])
        beyond = _upper([changes[alone[head]].mean() for head in compared])
        tests = len(alone) - len(compared) + len(spared)
        bounds = _Bounds(self._least, self._significance / tests, beyond, len(compared))
        for candidate in candidates:
            head = candidate.head
            evidence = [bounds.held_against(pb.CAUSAL_PROBE_ABLATED, changes[alone[head]])]
            if head in spared:
                restored = changes[group] - changes[spared[head]]
                evidence.append(bounds.held_against(pb.CAUSAL_PROBE_RESTORED, restored))
            is_confirmed = any(each.is_passed for each in evidence)
            yield pb.HeadLabel(
                layer=head[0],
                head=head[1],
                role=role.role,
                score=candidate.score,
                threshold=threshold,
                verdict=pb.CAUSAL_VERDICT_CONFIRMED if is_confirmed else pb.CAUSAL_VERDICT_UNCONFIRMED,
                evidence=evidence,
                offset=candidate.offset,
            )

    async def _changes(self, role: Role, wanted: Sequence[Heads]) -> dict[Heads, Changes]:
        """What ablating each group of heads changes; groups that were ablated before are not ablated again."""
        known = {heads: self._known.get((role.measure, role.is_zeroed, heads)) for heads in wanted}
        missing = [heads for heads, changes in known.items() if changes is None]
        if missing:
            ablation = self._model.client.ablate(self._sequences.ids, model_id=self._model.model_id)
            if not role.is_zeroed:
                ablation = ablation.references(self._sequences.references)
            for number, heads in enumerate(missing):
                ablation = ablation.cell(*self._edits(role, heads), name=str(number))
            what = f"ablating heads that look like {role.name}"
            result = await self._model.sweep(ablation.scored_by(self._metric(role.measure)), what)
            effects = np.asarray(result["cells"].effects().values, np.float64).reshape(-1, len(missing))
            for number, heads in enumerate(missing):
                self._known[role.measure, role.is_zeroed, heads] = effects[:, number]
        return {heads: self._known[role.measure, role.is_zeroed, heads] for heads in wanted}

    def _edits(self, role: Role, heads: Heads) -> list[Intervention]:
        by_layer: dict[int, list[int]] = {}
        for layer, head in sorted(heads):
            by_layer.setdefault(layer, []).append(head)
        mean_row = 3 + len(self._sequences.references)  # of a sweep's cells: the references' mean at each position
        return [
            edit("head_output", layer, 0.0, heads=of_layer)
            if role.is_zeroed
            else edit("head_output", layer, lambda act: act.row(mean_row), heads=of_layer)
            for layer, of_layer in by_layer.items()
        ]

    def _metric(self, measure: Measure) -> Metric:
        match measure:
            case Measure.REPETITION:
                return cross_entropy().at(*self._sequences.predictable)
            case Measure.REPEATED_OUTPUT:
                return kl_divergence().at(*self._sequences.second)
            case Measure.OUTPUT:
                return kl_divergence().at(*range(self._sequences.length))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What an effect must exceed."""

    least: float
    significance: float
    """Of one test."""
    beyond: float
    """What effects of heads without the role rarely exceed."""
    other_count: int

    def held_against(self, probe: pb.CausalProbe.ValueType, changes: Changes) -> pb.CausalEvidence:
        """The evidence of one test."""
        error = float(changes.std(ddof=1) / np.sqrt(len(changes)))
        t = float(cast("Any", special).stdtrit(len(changes) - 1, 1 - self.significance))
        bounds = {
            "the least effect": self.least,
            "noise over the sequences": t * error,
            f"effects of {self.other_count} heads without the role": self.beyond,
        }
        largest = max(bounds, key=lambda name: bounds[name])
        effect = float(changes.mean())
        return pb.CausalEvidence(
            probe=probe,
            effect_nats=effect,
            standard_error_nats=error,
            bound_nats=bounds[largest],
            bound=largest,
            is_passed=effect > bounds[largest],
        )


def _sample(others: Sequence[Head]) -> list[Head]:
    """Heads without the role, evenly over the layers."""
    step = max(1, -(-len(others) // _OTHERS))
    return list(others)[::step]


def _upper(effects: Sequence[float]) -> float:
    """What an effect of the same distribution rarely exceeds; 0 where there is no distribution."""
    if not effects:
        return 0.0
    middle = float(np.median(effects))
    deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(np.asarray(effects) - middle)))
    return middle + _ROBUST_DEVIATIONS * deviation
