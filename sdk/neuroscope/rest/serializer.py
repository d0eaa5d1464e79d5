"""Activations as dictionaries in several forms, and back.

| format | `data` |
|---|---|
| numpy | the array |
| list | a nested list of numbers, as REST sends it; what JSON lacks (NaN, infinity) cannot be said |
| base64 | little-endian bytes, in the form that REST takes for the tensors of edits |
| torch | a torch tensor, where torch is installed |
| metadata-only | there is none |
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np

from neuroscope.errors import DataConversionError
from neuroscope.rest.captured import CapturedActivation
from neuroscope.vocabulary import torch_arrays
from neuroscope.vocabulary.tensors import Array, check_finite


class DataFormat(StrEnum):
    """Forms of an activation's data."""

    NUMPY = "numpy"
    LIST = "list"
    BASE64 = "base64"
    TORCH = "torch"
    METADATA_ONLY = "metadata-only"


class DataSerializer:
    """Converts captured activations.

    Args:
        format: of what `serialize` gives.
        fallback: format to take where the first one cannot carry a tensor; None: that is an error.

    Raises:
        DataConversionError: there is no such format.
    """

    def __init__(self, format: str = DataFormat.NUMPY, fallback: str | None = None) -> None:
        self.format = _parse(format, "format")
        self.fallback = None if fallback is None else _parse(fallback, "fallback")

    def serialize(self, activation: CapturedActivation) -> dict[str, Any]:
        """An activation as a dictionary; `format` in it says in which form its data are.

        Raises:
            DataConversionError: the format cannot carry it, nor can the fallback.
        """
        try:
            return _write(activation, self.format)
        except DataConversionError:
            if self.fallback is None:
                raise
            return _write(activation, self.fallback)

    def deserialize(self, data: Mapping[str, Any]) -> CapturedActivation:
        """The activation of a dictionary in any form that has its data.

        Raises:
            DataConversionError: it has none, or they do not fit.
        """
        return CapturedActivation.from_api_format(data)

    def serialize_all(self, activations: Mapping[str, Sequence[CapturedActivation]]) -> dict[str, list[dict[str, Any]]]:
        """Activations by hook id."""
        return {hook_id: [self.serialize(one) for one in several] for hook_id, several in activations.items()}

    def deserialize_all(self, data: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[CapturedActivation]]:
        """What `serialize_all` gave, or the `activations` of a REST answer."""
        return {hook_id: [self.deserialize(one) for one in several] for hook_id, several in data.items()}


def _write(activation: CapturedActivation, format: DataFormat) -> dict[str, Any]:
    told: dict[str, Any] = {
        "hook_id": activation.hook_id,
        "layer_name": activation.layer_name,
        "component": activation.component,
        "shape": list(activation.shape),
        "dtype": activation.dtype,
        "is_input": activation.is_input,
        "metadata": dict(activation.metadata),
        "format": str(format),
    }
    match format:
        case DataFormat.NUMPY:
            told["data"] = activation.data
        case DataFormat.LIST:
            told["data"] = _list(activation)
        case DataFormat.BASE64:
            told["data"] = base64.b64encode(_little_endian(activation.data).tobytes()).decode()
        case DataFormat.TORCH:
            told["data"] = torch_arrays.to_torch(activation.data)
        case DataFormat.METADATA_ONLY:
            pass
    return told


def _list(activation: CapturedActivation) -> list[Any]:
    array = activation.data
    if array.size:
        check_finite(array, field=f"activations[{activation.hook_id!r}].data")
    narrow = array.dtype.kind not in "fiub"  # bfloat16: the same numbers as float32
    return (array.astype(np.float32) if narrow else array).tolist()


def _little_endian(array: Array) -> Array:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _parse(name: str, field: str) -> DataFormat:
    try:
        return DataFormat(name)
    except ValueError:
        valid = tuple(map(str, DataFormat))
        raise DataConversionError(
            f"there is no format {name!r}; valid: {', '.join(valid)}", field=field, valid=valid
        ) from None
