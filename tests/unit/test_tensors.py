"""neuroscope.tensors: one table of element types."""

import ml_dtypes
import numpy as np
import pytest

from neuroscope.errors import DataConversionError
from neuroscope.tensors import dtype_name, numpy_dtype, parse_dtype
from neuroscope.v1 import tensor_pb2 as pb

TYPES = [dtype for dtype in pb.DataType.values() if dtype != pb.DATA_TYPE_UNSPECIFIED]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_of_the_contract_has_a_numpy_type_and_a_name(dtype):
    name = dtype_name(dtype)
    assert parse_dtype(name) == dtype
    assert parse_dtype(name.upper()) == dtype
    assert numpy_dtype(dtype).name == name


def test_bfloat16_is_that_of_ml_dtypes():
    assert numpy_dtype(pb.DATA_TYPE_BFLOAT16) == np.dtype(ml_dtypes.bfloat16)
    assert numpy_dtype(pb.DATA_TYPE_BFLOAT16).itemsize == 2


def test_no_name_is_unspecified():
    assert parse_dtype("") == pb.DATA_TYPE_UNSPECIFIED


def test_unknown_names_list_the_nearest():
    with pytest.raises(DataConversionError, match="did you mean float16") as caught:
        parse_dtype("float_16", field="hooks[0].dtype")
    assert caught.value.field == "hooks[0].dtype"
    assert "bfloat16" in caught.value.valid


def test_unspecified_has_no_numpy_type():
    with pytest.raises(DataConversionError):
        numpy_dtype(pb.DATA_TYPE_UNSPECIFIED)
