"""torch tensors in and out, with torch itself: skipped where it is not installed, and it is in no extra.

Run: pip install torch==2.13.0, then python -m pytest tests/unit/test_torch_arrays.py
"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from neuroscope import add, errors, replace
from neuroscope.rest import CapturedActivation, DataSerializer
from neuroscope.vocabulary import prompts, tensors

torch: Any = pytest.importorskip("torch", reason="torch is not installed")

DTYPES = ["float32", "float16", "bfloat16", "float64", "int8", "int32", "int64", "uint8", "uint16", "uint32", "bool"]


def sample(dtype: str) -> np.ndarray:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    return np.array([[[0, 1, 2.5], [100, 3.140625, 1]]]).astype(kind)


def captured(data: Any, dtype: str, shape: list[int]) -> CapturedActivation:
    return CapturedActivation("h", "blocks.1", "residual", shape, dtype, False, data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back_to_the_bit(dtype: str) -> None:
    array = sample(dtype)
    before = captured(array, dtype, [1, 2, 3])
    tensor = before.to_torch()
    assert tensor.dtype == getattr(torch, dtype)
    for given in (tensor, DataSerializer("torch").serialize(before)["data"]):
        after = captured(given, dtype, [1, 2, 3])
        assert after.data.dtype == array.dtype
        np.testing.assert_array_equal(after.data, array)
    tensor.zero_()  # its memory is its own
    np.testing.assert_array_equal(before.data, array)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_of_any_kind_are_taken(dtype: str) -> None:
    kind = getattr(torch, dtype)
    turned = torch.arange(6, dtype=kind).reshape(1, 2, 3).transpose(1, 2)
    np.testing.assert_array_equal(captured(turned, dtype, [1, 3, 2]).data, [[[0, 3], [1, 4], [2, 5]]])
    assert captured(torch.ones(2, dtype=kind, requires_grad=True), dtype, [2]).data.tolist() == [1, 1]
    assert captured(torch.tensor(1.0, dtype=kind), dtype, []).data.shape == ()
    assert captured(torch.ones(0, 3, dtype=kind), dtype, [0, 3]).data.shape == (0, 3)


def test_a_type_that_nothing_carries() -> None:
    with pytest.raises(errors.DataConversionError):
        captured(torch.ones(2).to(torch.float8_e4m3fn), "float32", [2])
    with pytest.raises(errors.DataConversionError):
        tensors.to_array(torch.ones(2).to(torch.float8_e4m3fn))
    with pytest.raises(errors.DataConversionError):
        captured(torch.ones(2).to_sparse(), "float32", [2])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_edits_and_uploads_take_them(dtype: str) -> None:
    direction = torch.ones(4, dtype=getattr(torch, dtype), requires_grad=True)
    assert tensors.to_array(direction).dtype == sample(dtype).dtype
    for made in (add("resid_post", 1, direction), replace("resid_post", 1, direction)):
        assert made == type(made).from_json(made.to_json())


def test_token_ids_are_a_prompt() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert prompts.to_messages(ids) == prompts.to_messages(ids.tolist())
    assert prompts.to_messages(ids[0]) == prompts.to_messages([1, 2, 3])
    assert prompts.token_ids(ids[0]) == [1, 2, 3]
