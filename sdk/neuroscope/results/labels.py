"""Labels of heads, and the evidence for them."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope.v1 import attention_pb2 as pb

_ROLE = "HEAD_ROLE_"
ROLE_NUMBERS = {name.removeprefix(_ROLE).lower(): number for name, number in pb.HeadRole.items() if number}
ROLES = tuple(ROLE_NUMBERS)
"""Names of the roles that heads are scored for."""
_VERDICTS = {
    pb.CAUSAL_VERDICT_CONFIRMED: "confirmed",
    pb.CAUSAL_VERDICT_UNCONFIRMED: "unconfirmed",
    pb.CAUSAL_VERDICT_NOT_TESTED: "not tested",
}
_PROBES = {pb.CAUSAL_PROBE_ABLATED: "ablated", pb.CAUSAL_PROBE_RESTORED: "restored", pb.CAUSAL_PROBE_PATCHED: "patched"}


def role_name(role: pb.HeadRole.ValueType) -> str:
    """Such as previous_token."""
    return pb.HeadRole.Name(role).removeprefix(_ROLE).lower()


@dataclass(frozen=True, slots=True)
class Evidence:
    """One causal test of a label."""

    probe: str
    """`ablated`: the head alone was taken out; `restored`: all heads of the label were, but this one; `patched`: what
    it writes for certain readers was replaced."""
    effect_nats: float
    """Mean change of the role's metric over the random sequences: by ablating the head, or spared by restoring it;
    or what of the logit difference is lost by patching its path."""
    standard_error_nats: float
    """Of that mean."""
    bound_nats: float
    """What the effect had to exceed."""
    bound: str
    """What that is: the least effect, the noise, or the effects of heads without the role."""
    is_passed: bool
    """Whether it did."""


@dataclass(frozen=True, slots=True)
class HeadLabel:
    """A role that a head's pattern has."""

    layer: int
    """From 0."""
    head: int
    """From 0."""
    role: str
    """Such as induction."""
    score: float
    """Of the pattern."""
    threshold: float
    """What the score had to reach."""
    verdict: str
    """`confirmed` by a causal test, `unconfirmed`, or `not tested`."""
    evidence: tuple[Evidence, ...]
    """The tests."""
    reason: str
    """Why there is none; empty where there is."""
    offset: int | None
    """Of a positional head, the distance to what it attends to."""

    def __repr__(self) -> str:
        return f"HeadLabel(layer {self.layer} head {self.head}: {self.role} {self.score:.3f}, {self.verdict})"

    @property
    def is_confirmed(self) -> bool:
        """Whether the head has an effect, and not the pattern alone."""
        return self.verdict == "confirmed"

    @classmethod
    def from_message(cls, label: pb.HeadLabel) -> HeadLabel:
        """As the contract carries it."""
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
                )
                for each in label.evidence
            ),
            reason=label.reason,
            offset=label.offset if label.HasField("offset") else None,
        )
