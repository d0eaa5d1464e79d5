"""A tensor in JSON that people write: a nested list of numbers, bytes, or where the service has it already."""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from neuroscope.errors import DataConversionError
from neuroscope.interventions import expressions
from neuroscope.interventions.expressions import Expression
from neuroscope.vocabulary.strict_model import INVALID, StrictModel, Text
from neuroscope.vocabulary.tensors import Array, numpy_dtype, parse_dtype, to_array

_Uint32 = Annotated[int, Field(ge=0, lt=2**32)]


class UploadedTensor(StrictModel):
    """A tensor that was uploaded to the inference service."""

    tensor_id: Text = Field(min_length=1)
    """The id that PutTensor answered."""


class CapturedTensor(StrictModel):
    """A tensor of a capture that the inference service keeps."""

    capture_id: Text = Field(min_length=1)
    plan_index: _Uint32 = 0
    """Entry of the capture's plan."""
    step: _Uint32 = 0
    row: _Uint32 = 0


class EncodedTensor(StrictModel):
    """A tensor as bytes."""

    dtype: Text = Field(examples=["float32"])
    """float32, float16, bfloat16, ..."""
    shape: list[Annotated[int, Field(ge=1)]] = Field(max_length=16)
    """Extents, outermost first."""
    data: Text
    """Row-major little-endian bytes in base64."""

    @model_validator(mode="after")
    def _fits(self) -> EncodedTensor:
        try:
            self.array()
        except DataConversionError as error:
            raise PydanticCustomError(INVALID, "{why}", {"why": error.message, "param": error.field}) from None
        return self

    def array(self) -> Array:
        """The numbers.

        Raises:
            DataConversionError: `dtype`, `shape` and `data` do not fit together.
        """
        dtype = numpy_dtype(parse_dtype(self.dtype))
        try:
            data = b64decode(self.data, validate=True)
        except ValueError:
            raise DataConversionError("the bytes are not base64", field="data") from None
        if len(data) != math.prod(self.shape) * dtype.itemsize:
            raise DataConversionError(f"{len(data)} bytes are no {dtype.name} of shape {self.shape}", field="data")
        return np.frombuffer(data, dtype).reshape(self.shape)


def _form(value: Any) -> str:
    if isinstance(value, Mapping):
        return next((f"<{name}>" for name in ("tensor_id", "capture_id", "data") if name in value), "<tensor_id>")
    return "<numbers>" if isinstance(value, list) else "<number>"


TensorForm: TypeAlias = Annotated[
    Annotated[list[Any], Tag("<numbers>")]
    | Annotated[UploadedTensor, Tag("<tensor_id>")]
    | Annotated[CapturedTensor, Tag("<capture_id>")]
    | Annotated[EncodedTensor, Tag("<data>")],
    Discriminator(
        _form, custom_error_type=INVALID, custom_error_message="A tensor is a list of numbers or an object with its id"
    ),
]
"""An array of numbers as nested lists, or an object that says where the tensor is."""

TensorOrNumber: TypeAlias = Annotated[
    Annotated[float, Tag("<number>")]
    | Annotated[list[Any], Tag("<numbers>")]
    | Annotated[UploadedTensor, Tag("<tensor_id>")]
    | Annotated[CapturedTensor, Tag("<capture_id>")]
    | Annotated[EncodedTensor, Tag("<data>")],
    Discriminator(_form),
]
"""The same, or one number."""


def to_expression(form: float | list[Any] | UploadedTensor | CapturedTensor | EncodedTensor) -> Expression:
    """The tensor as an edit refers to it.

    Raises:
        DataConversionError: a list holds something other than finite numbers, or rows of different lengths.
    """
    match form:
        case UploadedTensor():
            return expressions.tensor(form.tensor_id)
        case CapturedTensor():
            return expressions.captured(form.capture_id, form.plan_index, step=form.step, row=form.row)
        case EncodedTensor():
            return expressions.tensor(form.array())
        case list():
            array = to_array(form, field="value")
            if array.dtype.kind == "b":
                raise DataConversionError("a tensor is a list of numbers, not of true and false", field="value")
            return expressions.tensor(array)
        case _:
            return expressions.to_expression(form)
