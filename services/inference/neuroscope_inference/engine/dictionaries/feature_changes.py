"""Edits of features, as functions of the activation that they are written to.

x' = x + sum over features of (new - old) W_dec[feature]: what the dictionary misses of x stays as it is (Marks et al.
2024, arXiv:2403.19647; SAELens' error term), unless the reconstruction is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from neuroscope.errors import InvalidRequestError
from neuroscope.v1 import intervention_pb2 as pb
from neuroscope_inference.engine.dictionaries.dictionary import Dictionary

OtherRows = Callable[[int], mx.array]
"""From a row of the request to what it has in the place of the activation that is encoded."""


@dataclass(frozen=True, slots=True)
class FeatureChange:
    """One change of some features.

    Args:
        features: which; empty: all.
        message: what becomes of them.
    """

    features: Sequence[int]
    message: pb.FeatureEdit

    def apply(self, old: mx.array, other: Callable[[int], mx.array]) -> mx.array:
        """The features after it; `other` are those of another row."""
        match self.message.WhichOneof("change"):
            case "value":
                return mx.full(old.shape, self.message.value, old.dtype)
            case "factor":
                return old * self.message.factor
            case "added":
                return old + self.message.added
            case _:
                return other(self.message.other_row)


@dataclass(frozen=True, slots=True)
class FeatureChanges:
    """The changes of an edit, in their order.

    Args:
        dictionary: whose features.
        changes: one after the other.
        reconstructs: whether the reconstruction takes the place of the activation.
    """

    dictionary: Dictionary
    changes: Sequence[FeatureChange]
    reconstructs: bool

    @classmethod
    def from_message(cls, message: pb.FeatureEdits, dictionary: Dictionary, path: str) -> FeatureChanges:
        """Checks the changes.

        Raises:
            InvalidRequestError: a feature is out of range, a change is missing or not finite, or there is none.
        """
        if not message.edits and not message.reconstructs:
            raise InvalidRequestError("no feature is changed", field=f"{path}.edits")
        changes: list[FeatureChange] = []
        for index, edit in enumerate(message.edits):
            field = f"{path}.edits[{index}]"
            kind = edit.WhichOneof("change")
            if kind is None:
                raise InvalidRequestError(
                    "what becomes of the features is missing: value, factor, added or other_row", field=f"{field}.value"
                )
            if not math.isfinite(getattr(edit, kind)):
                raise InvalidRequestError(f"{getattr(edit, kind)} is not a finite number", field=f"{field}.{kind}")
            if kind == "other_row" and dictionary.is_transcoder:
                raise InvalidRequestError(
                    "features of another row are not taken by transcoders, whose input is at another site",
                    field=f"{field}.other_row",
                )
            changes.append(FeatureChange(dictionary.check_features(edit.features, f"{field}.features"), edit))
        return cls(dictionary, changes, message.reconstructs)

    @property
    def other_rows(self) -> set[int]:
        """Rows whose features are taken."""
        messages = (change.message for change in self.changes)
        return {message.other_row for message in messages if message.WhichOneof("change") == "other_row"}

    def apply(self, x: mx.array, source: mx.array, others: OtherRows) -> mx.array:
        """The edited activation, float32, of the shape of x.

        Args:
            x: the activation of the site that the dictionary writes (1, positions, ...), float32.
            source: that of the site that it reads.
            others: of other rows.
        """
        touched = self._touched()
        old = self.dictionary.encode(source, touched)
        new = old
        for change in self.changes:
            changed = change.apply(new, lambda row: self.dictionary.encode(others(row), touched))
            new = mx.where(self._mask(change, touched), changed, new) if change.features else changed
        if self.reconstructs:
            return self.dictionary.decode(new, source).reshape(x.shape)
        return x + self.dictionary.decode_change(new - old, source, touched).reshape(x.shape)

    def _touched(self) -> Sequence[int]:
        """Features that are looked at; empty: all."""
        if self.reconstructs or any(not change.features for change in self.changes):
            return ()
        return sorted({feature for change in self.changes for feature in change.features})

    def _mask(self, change: FeatureChange, touched: Sequence[int]) -> mx.array:
        chosen = set(change.features)
        return mx.array([feature in chosen for feature in touched or range(self.dictionary.feature_count)])
