"""Hooks, captured tensors and their forms in `neuroscope.rest`.  Run: python -m pytest tests/unit/test_rest_forms.py"""

import sys
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from neuroscope import errors
from neuroscope.rest import ActivationHookSpec, CapturedActivation, DataFormat, DataSerializer, join
from neuroscope.vocabulary import torch_arrays
from neuroscope.vocabulary.sites import Point

DTYPES = ["float32", "float16", "bfloat16", "int32", "uint8", "bool"]


def activation(data: Any, dtype: str = "float32", component: str = "residual", **changes: Any) -> CapturedActivation:
    fields: dict[str, Any] = {"hook_id": "h", "layer_name": "transformer.h.1", "is_input": False} | changes
    array = np.asarray(data)
    return CapturedActivation(component=component, shape=list(array.shape), dtype=dtype, data=data, **fields)


def sample(dtype: str) -> CapturedActivation:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    return activation(np.array([[[0, 1, 2.5], [100, 3.140625, 1]]]).astype(kind), dtype)


class TestHook:
    def test_an_id_is_made_of_layer_and_component(self) -> None:
        assert ActivationHookSpec("transformer.h.5", "residual").hook_id == "transformer.h.5_residual"
        assert ActivationHookSpec("", "logits").hook_id == "logits"
        assert ActivationHookSpec("transformer.h.5", "residual", "mine").hook_id == "mine"

    def test_the_rest_form_and_back(self) -> None:
        spec = ActivationHookSpec("transformer.h.5", "mlp", "m", capture_input=True, capture_output=False)
        told = spec.to_api_format()
        assert set(told) == {"layer_name", "component", "hook_id", "capture_input", "capture_output"}
        assert ActivationHookSpec.from_api_format(told) == spec
        assert ActivationHookSpec.from_api_format({"component": "key"}) == ActivationHookSpec("", "key")

    def test_what_is_no_hook(self) -> None:
        with pytest.raises(errors.InvalidRequestError, match="capture_output"):
            ActivationHookSpec("blocks.1", "mlp", capture_output=False)
        with pytest.raises(errors.InvalidRequestError, match="component"):
            ActivationHookSpec.from_api_format({"layer_name": "blocks.1"})
        with pytest.raises(errors.InvalidRequestError, match="laier"):
            ActivationHookSpec.from_api_format({"component": "key", "laier": 1})

    def test_it_knows_its_sides(self) -> None:
        spec = ActivationHookSpec("transformer.h.1", "residual", capture_input=True)
        assert spec.side_of(Point("resid_pre", 1)) is True
        assert spec.side_of(Point("resid_post", 1)) is False
        assert spec.side_of(Point("resid_post", 2)) is None


class TestCaptured:
    def test_data_take_the_form_that_they_are_said_to_have(self) -> None:
        captured = activation([[1, 2], [3, 4]], "bfloat16")
        assert captured.data.dtype == ml_dtypes.bfloat16
        assert captured.metadata == {}

    @pytest.mark.parametrize(
        ("shape", "dtype", "data"),
        [
            ([2, 3], "float32", [[1, 2], [3, 4]]),
            ([2, 2], "float32", np.zeros((2, 2), np.float16)),
            ([2], "float32", [[1, 2], [3]]),
            ([2], "float32", "no base64!"),
            ([2], "float32", "AAAA"),
            ([1], "float32", ["x"]),
            ([1], "float33", [1]),
            ([1], "int32", [2**40]),
        ],
    )
    def test_data_that_do_not_fit(self, shape: list[int], dtype: str, data: Any) -> None:
        with pytest.raises(errors.DataConversionError):
            CapturedActivation("h", "", "residual", shape, dtype, False, data)

    def test_a_key_is_missing(self) -> None:
        with pytest.raises(errors.DataConversionError, match="has no shape"):
            CapturedActivation.from_api_format({"hook_id": "h", "layer_name": "", "component": "key"})

    def test_pieces_are_joined_along_positions(self) -> None:
        pieces = [activation(np.full((1, count, 2), count, np.float32)) for count in (3, 1)]
        joined = join(pieces)
        assert joined.shape == [1, 4, 2]
        np.testing.assert_array_equal(joined.data[0, :, 0], [3, 3, 3, 1])

    @pytest.mark.parametrize(("component", "filled"), [("attention_pattern", 0), ("attention_scores", "least")])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_keys_that_an_earlier_query_had_not(self, component: str, filled: Any, dtype: str) -> None:
        kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
        pieces = [activation(np.ones((1, 2, 1, keys), kind), dtype, component) for keys in (2, 3)]
        joined = join(pieces)
        assert joined.shape == [1, 2, 2, 3]
        assert joined.data[0, 0, 0, 2] == (ml_dtypes.finfo(kind).min if filled == "least" else 0)

    def test_points_do_not_mix(self) -> None:
        one = np.zeros((1, 1, 1), np.float32)
        with pytest.raises(errors.DataConversionError, match="several points"):
            join([activation(one), activation(one, layer_name="transformer.h.2")])
        with pytest.raises(errors.DataConversionError, match="nothing"):
            join([])


class TestSerializer:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("form", ["numpy", "list", "base64"])
    def test_there_and_back_to_the_bit(self, dtype: str, form: str) -> None:
        before = sample(dtype)
        before.metadata = {"step": 3}
        told = DataSerializer(form).serialize(before)
        assert told["format"] == form
        after = DataSerializer().deserialize(told)
        assert after.data.dtype == before.data.dtype
        np.testing.assert_array_equal(after.data, before.data)
        assert (after.hook_id, after.shape, after.metadata) == ("h", [1, 2, 3], {"step": 3})

    def test_metadata_only_has_no_data(self) -> None:
        told = DataSerializer("metadata-only").serialize(sample("float32"))
        assert "data" not in told
        with pytest.raises(errors.DataConversionError, match="no data"):
            DataSerializer().deserialize(told)

    def test_what_json_lacks_falls_back(self) -> None:
        broken = activation(np.array([1, np.nan], np.float32))
        with pytest.raises(errors.DataConversionError, match="nan"):
            DataSerializer("list").serialize(broken)
        told = DataSerializer("list", fallback="base64").serialize_all({"h": [broken]})
        assert told["h"][0]["format"] == "base64"
        np.testing.assert_array_equal(DataSerializer().deserialize_all(told)["h"][0].data, broken.data)

    def test_an_unknown_format(self) -> None:
        with pytest.raises(errors.DataConversionError, match="valid: numpy, list, base64, torch, metadata-only"):
            DataSerializer("pickle")
        assert {str(form) for form in DataFormat} >= {"numpy", "base64", "metadata-only"}


class TestTorch:
    """torch is no dependency; what is checked here is which of its functions are called, with which bits."""

    def test_without_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        assert not torch_arrays.is_tensor(np.zeros(1))
        with pytest.raises(errors.DataConversionError, match="pip install torch"):
            sample("float32").to_torch()

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_with_a_stand_in(self, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
        monkeypatch.setitem(sys.modules, "torch", stand_in())  # type: ignore[arg-type]
        before = sample(dtype)
        tensor: Any = before.to_torch()
        assert isinstance(tensor, Tensor)
        assert tensor.dtype == dtype
        tensor.array[...] = tensor.array  # its memory is its own, and can be written to
        given: Any = tensor
        after = CapturedActivation("h", "", "residual", before.shape, dtype, False, given)
        assert after.data.dtype == before.data.dtype
        np.testing.assert_array_equal(after.data, before.data)


class Tensor:
    """As much of torch.Tensor as is used. Like torch it has no numpy of bfloat16."""

    def __init__(self, array: np.ndarray, dtype: str) -> None:
        self.array, self.dtype = array, dtype

    def detach(self) -> "Tensor":
        return self

    cpu = contiguous = detach

    def view(self, dtype: str) -> "Tensor":
        return Tensor(self.array, dtype)

    def numpy(self) -> np.ndarray:
        if self.dtype == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self.array


def stand_in() -> SimpleNamespace:
    def from_numpy(array: np.ndarray) -> Tensor:
        if array.dtype == ml_dtypes.bfloat16:
            raise TypeError("can't convert np.ndarray of type ml_dtypes.bfloat16")
        assert array.flags.writeable
        return Tensor(array, array.dtype.name)

    return SimpleNamespace(Tensor=Tensor, from_numpy=from_numpy, bfloat16="bfloat16", int16="int16")
