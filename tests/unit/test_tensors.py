"""neuroscope.vocabulary.tensors: one table of element types."""

import ml_dtypes
import numpy as np
import pytest

from neuroscope.errors import DataConversionError
from neuroscope.v1 import tensor_pb2 as pb
from neuroscope.vocabulary.tensors import (
    check_finite,
    dtype_name,
    from_message,
    numpy_dtype,
    parse_dtype,
    to_array,
    to_message,
)

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


@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_survive_a_request(dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(numpy_dtype(dtype))
    back = from_message(to_message(to_array(array)))
    assert back.dtype == (np.float32 if array.dtype == np.float64 else array.dtype)
    assert np.array_equal(back, array)
    assert not back.flags.writeable


def test_arrays_are_made_of_what_numpy_takes():
    assert to_array(3.5).shape == ()
    assert to_array([[1, 2], [3, 4]]).shape == (2, 2)
    strided = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    assert to_array(strided).flags.c_contiguous
    assert np.array_equal(to_array(strided.astype(">f4")), strided)


class Unreadable:
    def __array__(self, *arguments, **options):
        raise RuntimeError("requires grad")


@pytest.mark.parametrize("value", ["text", b"bytes", None, object(), 1j, [1, "a"], Unreadable()])
def test_what_is_no_array(value):
    with pytest.raises(DataConversionError) as caught:
        to_array(value, field="direction")
    assert caught.value.field == "direction"


def test_an_unfinite_value_is_found_in_any_type():
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        with pytest.raises(DataConversionError, match=r"at \[1, 0\] that is nan"):
            check_finite(np.array([[0, 1], [np.nan, np.inf]], dtype))
    check_finite(np.arange(3))


def test_a_malformed_message_is_said():
    with pytest.raises(DataConversionError, match=r"tensor\(3\) is malformed"):
        from_message(pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[3], data=b"1234"))
