"""A loaded dictionary: hooks that read its features, and edits of its features."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex, TypeAlias

from neuroscope.errors import InvalidRequestError
from neuroscope.interventions import Intervention
from neuroscope.v1 import dictionary_pb2 as pb
from neuroscope.v1 import intervention_pb2
from neuroscope.vocabulary import selection
from neuroscope.vocabulary.hooks import Hook
from neuroscope.vocabulary.selection import Positions, Steps
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import dtype_name

FeatureIndices: TypeAlias = "SupportsIndex | Iterable[SupportsIndex]"


class Dictionary:
    """A loaded dictionary.

    Args:
        description: the service's description.
    """

    def __init__(self, description: pb.Dictionary) -> None:
        self.description = description

    @property
    def dictionary_id(self) -> str:
        """Id of the dictionary in requests."""
        return self.description.dictionary_id

    @property
    def point(self) -> Point:
        """The point that it reads."""
        return Point.from_message(self.description.site)

    @property
    def output(self) -> Point:
        """The point that it writes, where features are edited. For autoencoders, the point that it reads."""
        return Point.from_message(self.description.output_site)

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes to another point than it reads."""
        return self.point != self.output

    @property
    def feature_count(self) -> int:
        """Number of features."""
        return self.description.feature_count

    @property
    def architecture(self) -> str:
        """standard, jumprelu, topk or gated."""
        name = pb.DictionaryArchitecture.Name(self.description.architecture)
        return name.removeprefix("DICTIONARY_ARCHITECTURE_").lower()

    def hook(
        self,
        top: int = 0,
        *,
        features: FeatureIndices = (),
        all: bool = False,
        l0: bool = False,
        error: bool = False,
        positions: Positions = None,
        steps: Steps = None,
        dtype: str = "",
        hook_id: str = "",
    ) -> Hook:
        """A hook that reads features in captures and generations.

        Args:
            top: number of most active features at each position, as values and indices; indices are -1 if fewer are
                active.
            features: features whose activations to read.
            all: reads the activations of all features.
            l0: reads the number of active features.
            error: reads the squared norms of the reconstruction error and of the activation.
            positions, steps, dtype: as in `Hook`.
            hook_id: name in results; empty for the dictionary's id.
        """
        asked = {"dictionary_id": self.dictionary_id, "top_count": top, "features": to_features(features)}
        return Hook(
            self.point.component,
            self.point.layer,
            is_input=self.point.is_input,
            hook_id=hook_id or self.dictionary_id,
            positions=positions,
            steps=steps,
            dtype=dtype,
            reduce={"features": {**asked, "all": all, "l0": l0, "error": error}},
        )

    def clamp(self, features: FeatureIndices, value: float, **select: Any) -> Intervention:
        """Sets features to a value at every selected position. Keyword arguments are those of `edit`."""
        return self.edit([intervention_pb2.FeatureEdit(features=to_features(features), value=value)], **select)

    def ablate(self, features: FeatureIndices, **select: Any) -> Intervention:
        """Sets features to 0."""
        return self.clamp(features, 0.0, **select)

    def scale(self, features: FeatureIndices, factor: float, **select: Any) -> Intervention:
        """Multiplies features by a number."""
        return self.edit([intervention_pb2.FeatureEdit(features=to_features(features), factor=factor)], **select)

    def add(self, features: FeatureIndices, coefficient: float, **select: Any) -> Intervention:
        """Adds a number to features, that is, a multiple of their decoder directions to the activation."""
        return self.edit([intervention_pb2.FeatureEdit(features=to_features(features), added=coefficient)], **select)

    def reconstruct(self, **select: Any) -> Intervention:
        """Replaces the activation with its reconstruction."""
        return self.edit((), reconstructs=True, **select)

    def edit(
        self,
        edits: Sequence[intervention_pb2.FeatureEdit],
        *,
        reconstructs: bool = False,
        positions: Positions = None,
        steps: Steps = None,
        rows: Sequence[int] = (),
        intervention_id: str = "",
    ) -> Intervention:
        """An edit with several changes, applied in order. An empty list of features means all features.

        Args:
            edits: the changes.
            reconstructs: drops the reconstruction error.
            positions, steps, rows, intervention_id: as in `neuroscope.interventions.edit`.

        Raises:
            InvalidRequestError: there are no changes, or a number is not finite.
        """
        changed = intervention_pb2.FeatureEdits(
            dictionary_id=self.dictionary_id, edits=edits, reconstructs=reconstructs
        )
        return Intervention(
            intervention_pb2.Intervention(
                intervention_id=intervention_id,
                site=self.description.output_site,
                select=selection.to_selector((), positions, steps, rows),
                value=intervention_pb2.Expression(features=changed),
            )
        )

    def scored(self, *, by_position: bool = True) -> str:
        """The name of its features in `Client.attribute(sites=[...])`."""
        return f"features={self.dictionary_id}:{'position,' if by_position else ''}unit"

    def __repr__(self) -> str:
        where = f"{self.point} -> {self.output}" if self.is_transcoder else str(self.point)
        return (
            f"{type(self).__name__}({self.dictionary_id!r}, {where} of {self.description.model_id}, "
            f"{self.architecture}, {self.feature_count} features, {dtype_name(self.description.dtype)})"
        )


def to_features(features: FeatureIndices) -> list[int]:
    """Indices of features as a list.

    Raises:
        InvalidRequestError: an index is not a whole number from 0.
    """
    try:
        listed = [operator.index(f) for f in (features if isinstance(features, Iterable) else (features,))]
    except TypeError:
        raise InvalidRequestError(f"features are whole numbers, not {features!r}", field="features") from None
    if any(not 0 <= feature < 2**32 for feature in listed):
        raise InvalidRequestError(f"features count from 0: {listed}", field="features")
    return listed
