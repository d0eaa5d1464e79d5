"""Libraries are compared only where they compute the same: logits and residual streams, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.peers.contestants import Contestant
from tests.support.compare import describe_difference

TOLERANCE = 1e-4
"""Largest difference, to the largest entry of a tensor."""


class DisagreementError(AssertionError):
    """Libraries that compute different things; the message names library and tensor, and the entry furthest off."""


def require_agreement(contestants: Sequence[Contestant], ids: Sequence[int]) -> None:
    """Compares what every library sees of a prompt with what the last of them sees.

    Raises:
        DisagreementError: of the first library and tensor that are off, or of a tensor that is missing.
    """
    *others, reference = contestants
    expected = reference.arrays("observe", ids=list(ids))
    for other in {other.name: other for other in others if other.name != reference.name}.values():
        found = other.arrays("observe", ids=list(ids))
        if found.keys() != expected.keys() and found.keys() != {"logits"}:
            raise DisagreementError(f"{other.name} shows {sorted(found)}, {reference.name} {sorted(expected)}")
        for name, tensor in found.items():
            if problem := describe_difference(name, tensor, expected[name], tolerance=TOLERANCE):
                raise DisagreementError(f"{other.name} is not {reference.name}: {problem}")


def require_same(what: str, found: dict[str, object]) -> None:
    """Raises DisagreementError unless every library found the same."""
    (first, expected), *others = found.items()
    for name, value in others:
        if value != expected:
            raise DisagreementError(f"{what}: {name} has {value!r}, {first} {expected!r}")
