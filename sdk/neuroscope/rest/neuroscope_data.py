"""Activations as NeuroScope takes them in: one JSON document, for every hook id a list of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from neuroscope.errors import DataConversionError
from neuroscope.rest.captured import CapturedActivation
from neuroscope.rest.serializer import DataFormat, DataSerializer

FORMAT_VERSION = "1.0"
_SERIALIZER = DataSerializer(DataFormat.LIST, fallback=DataFormat.BASE64)


@dataclass(frozen=True, slots=True)
class NeuroScopeData:
    """A document for NeuroScope. Tensors are nested lists; one with NaN or infinity is base64, as its `format` says."""

    format_version: str
    model_info: dict[str, Any]
    """What is known of the model; at least `model_id`."""
    activation_data: dict[str, list[dict[str, Any]]] = field(repr=False)
    """By hook id, in the order captured: the keys of REST, and `layer`, the layer's number or null."""
    metadata: dict[str, Any]
    conversion_timestamp: datetime

    @classmethod
    def of(
        cls,
        activations: Mapping[str, Sequence[CapturedActivation]],
        *,
        model_info: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> NeuroScopeData:
        """The document of activations."""
        told = {
            hook_id: [{**_SERIALIZER.serialize(one), "layer": one.point.layer} for one in several]
            for hook_id, several in activations.items()
        }
        return cls(FORMAT_VERSION, dict(model_info), told, dict(metadata), datetime.now(UTC))

    def to_json(self) -> str:
        """The document as text."""
        return json.dumps(
            {
                "format_version": self.format_version,
                "model_info": self.model_info,
                "activation_data": self.activation_data,
                "metadata": self.metadata,
                "conversion_timestamp": self.conversion_timestamp.isoformat(),
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> NeuroScopeData:
        """The document of a text.

        Raises:
            DataConversionError: it is none of this format.
        """
        try:
            told = json.loads(text)
            version = told["format_version"]
            if version != FORMAT_VERSION:
                raise DataConversionError(f"format version {version!r} is not {FORMAT_VERSION}", field="format_version")
            when = datetime.fromisoformat(told["conversion_timestamp"])
            return cls(version, told["model_info"], told["activation_data"], told["metadata"], when)
        except (ValueError, KeyError, TypeError) as error:
            raise DataConversionError(f"this is no document of NeuroScope: {error!r}", field="text") from None

    def activations(self) -> dict[str, list[CapturedActivation]]:
        """The tensors, to the bit those of the conversion."""
        return _SERIALIZER.deserialize_all(self.activation_data)
