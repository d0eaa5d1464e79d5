"""Role labels of attention heads, with the evidence for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from neuroscope.v1 import attention_pb2 as pb

_ROLE = "HEAD_ROLE_"
ROLE_NUMBERS = {name.removeprefix(_ROLE).lower(): number for name, number in pb.HeadRole.items() if number}
ROLES = tuple(ROLE_NUMBERS)
"""Names of the roles that heads are scored for."""
RANKED_ROLES = (
    "name_mover",
    "s_inhibition",
    "induction",
    "previous_token",
    "duplicate_token",
    "positional",
    "copying",
    "suppression",
    "uniform",
    "first_token_sink",
)
"""Roles from the most to the least specific; of several confirmed roles of a head the first one describes it."""
_VERDICTS = {
    pb.CAUSAL_VERDICT_CONFIRMED: "confirmed",
    pb.CAUSAL_VERDICT_UNCONFIRMED: "unconfirmed",
    pb.CAUSAL_VERDICT_NOT_TESTED: "not tested",
}
_PROBES = {pb.CAUSAL_PROBE_ABLATED: "ablated", pb.CAUSAL_PROBE_RESTORED: "restored", pb.CAUSAL_PROBE_PATCHED: "patched"}


def role_name(role: pb.HeadRole.ValueType) -> str:
    """The name of a role, such as previous_token."""
    return pb.HeadRole.Name(role).removeprefix(_ROLE).lower()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One causal test of a label."""

    probe: str
    """`ablated`: only this head was ablated. `restored`: all heads with the role were ablated except this one.
    `patched`: the path from this head to certain readers was patched."""
    effect_nats: float
    """Mean change of the role's metric over random sequences when the head is ablated, or the change that restoring it
    prevents; for `patched`, the loss of logit difference."""
    standard_error_nats: float
    """Standard error of the mean."""
    bound_nats: float
    """The value that the effect had to exceed."""
    bound: str
    """Kind of the bound: the least effect, the noise, or the effects of heads without the role."""
    is_passed: bool
    """Whether the effect exceeds the bound."""
    sequence_count: int
    """Number of sequences or pairs that it was measured on."""


@dataclass(frozen=True, slots=True)
class NullComparison:
    """A second measure of a role beside what chance gives of it."""

    statistic: str
    """What is measured, and what the null is."""
    value: float
    """Its value."""
    null_value: float
    """The value by chance."""
    threshold: float
    """Least value for the label."""


@dataclass(frozen=True, slots=True)
class HeadLabel:
    """The role of a head by its attention pattern."""

    layer: int
    """From 0."""
    head: int
    """From 0."""
    role: str
    """Name of the role, such as induction."""
    score: float
    """Score of the pattern."""
    threshold: float
    """Least score for the label."""
    verdict: str
    """`confirmed` by a causal test, `unconfirmed`, or `not tested`."""
    evidence: tuple[Evidence, ...]
    """Causal tests."""
    reason: str
    """Why the label was not tested; empty if it was."""
    offset: int | None
    """Distance to the attended position, for positional heads."""
    null_comparison: NullComparison | None
    """For roles by weights: the share of tokens that the head copies or suppresses, beside chance."""

    def __repr__(self) -> str:
        return f"HeadLabel(layer {self.layer} head {self.head}: {self.role} {self.score:.3f}, {self.verdict})"

    @property
    def is_confirmed(self) -> bool:
        """Whether a causal test confirms the role."""
        return self.verdict == "confirmed"

    @classmethod
    def from_message(cls, label: pb.HeadLabel) -> HeadLabel:
        """From the contract's message."""
        return cls(
            layer=label.layer,
            head=label.head,
            role=role_name(label.role),
            score=label.score,
            threshold=label.threshold,
            verdict=_VERDICTS[label.verdict],
            evidence=tuple(
                Evidence(
                    _PROBES[each.probe],
                    each.effect_nats,
                    each.standard_error_nats,
                    each.bound_nats,
                    each.bound,
                    each.is_passed,
                    each.sequence_count,
                )
                for each in label.evidence
            ),
            reason=label.reason,
            offset=label.offset if label.HasField("offset") else None,
            null_comparison=_null_comparison(label.null_comparison) if label.HasField("null_comparison") else None,
        )


def best_labels(labels: Iterable[HeadLabel]) -> list[HeadLabel]:
    """The label that describes each head, by layer and head: the most specific confirmed one, else the most specific
    one."""
    found: dict[tuple[int, int], HeadLabel] = {}
    for label in sorted(labels, key=_precedence):
        found.setdefault((label.layer, label.head), label)
    return [found[head] for head in sorted(found)]


def _precedence(label: HeadLabel) -> tuple[bool, int, float]:
    return not label.is_confirmed, RANKED_ROLES.index(label.role), -label.score


def _null_comparison(message: pb.NullComparison) -> NullComparison:
    return NullComparison(message.statistic, message.value, message.null_value, message.threshold)
